from hypothesis import given
from hypothesis import strategies as st

from later.backends.rabbitmq.names import Names

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,100}", fullmatch=True)


@given(NAMES, NAMES)
def test_queue_names_of_different_apps_never_meet(namespace: str, queue: str) -> None:
    names = Names(f"x{namespace}")
    assert names.of(queue) == f"x{namespace}:{queue}"
    assert ":" not in names.dead
