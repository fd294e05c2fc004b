"""Counts what code does instead of how long it takes: the same on every machine, busy or idle."""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def bytecodes(call: Callable[[], object]) -> Counter[CodeType]:
    """How many bytecode instructions `call` executes in this thread, by the code that holds them.

    What is written in C or Rust counts as the one instruction that calls it. The figure depends on the version of
    Python, and on nothing else.
    """
    counts: Counter[CodeType] = Counter()

    def entered(frame: FrameType, _event: str, _arg: Any) -> Callable[[FrameType, str, Any], Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code

        def step(_frame: FrameType, event: str, _arg: Any) -> Any:
            if event == "opcode":
                counts[code] += 1
            return step

        return step

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what others have it call would be counted here
    sys.settrace(entered)
    try:
        call()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return counts


def told(counts: Counter[CodeType], items: int, most: int = 15) -> str:
    """A table for people: what one of `items` costs, and where."""
    lines = [f"{counts.total() / items:8.1f} in all"]
    lines += [
        f"{count / items:8.1f} {code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"
        for code, count in counts.most_common(most)
    ]
    return "\n".join(lines)
