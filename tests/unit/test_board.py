"""What a board says about a process, also about one that was killed."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest

from later.core.errors import InvalidName
from later.runtime.board import Board


def test_a_new_board_is_empty() -> None:
    assert Board(3).running() == []


def test_it_has_what_started_and_has_not_ended() -> None:
    board = Board(3)
    board.started(0, ("a", 1))
    board.started(2, ("c", 2**62))
    board.started(1, ("b", 3))
    board.ended(1)

    assert board.running() == [("a", 1), ("c", 2**62)]


def test_a_slot_is_used_again() -> None:
    board = Board(1)
    board.started(0, ("x" * 100, 1))
    board.ended(0)
    board.started(0, ("y", 2))

    assert board.running() == [("y", 2)]


def test_an_id_may_have_100_characters() -> None:
    board = Board(1)
    board.started(0, ("x" * 100, 1))

    assert board.running() == [("x" * 100, 1)]


def test_an_id_that_cannot_be_shown_leaves_no_record() -> None:
    board = Board(1)
    board.started(0, ("whole", 1))
    board.ended(0)

    with pytest.raises(InvalidName):
        board.started(0, ("half \ud800", 2))

    assert board.running() == []


def test_it_survives_the_death_of_the_process_that_wrote() -> None:
    spawn = multiprocessing.get_context("spawn")
    board = Board(2)
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_write_and_die, args=(board, theirs))
    process.start()
    theirs.close()

    assert ours.poll(30)
    assert board.running() == [("a-job", 7)]  # while it lives
    process.join(30)
    ours.close()

    assert process.exitcode == -signal.SIGKILL
    assert board.running() == [("a-job", 7)]


def _write_and_die(board: Board, connection: Connection) -> None:
    board.started(0, ("ended", 1))
    board.started(1, ("a-job", 7))
    board.ended(0)
    connection.send_bytes(b"written")
    os.kill(os.getpid(), signal.SIGKILL)
