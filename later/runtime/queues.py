"""Which queues a server works, as the user said it."""

from collections.abc import Mapping, Sequence

from later.core.errors import ConfigError, InvalidOption
from later.core.names import check_name
from later.core.registry import Registry


def check_queues(
    queues: Sequence[str] | Mapping[str, int] | None, registry: Registry
) -> tuple[str, ...] | dict[str, int]:
    """The queues in strict order, or with weights; all of the declaration, in its order, for None.

    Raises InvalidName, InvalidOption, ConfigError.
    """
    if queues is None:
        return tuple(dict.fromkeys(job_type.queue for job_type in registry))
    if isinstance(queues, str) or not isinstance(queues, Sequence | Mapping):
        raise ConfigError(f'queues is {queues!r}: give a list of names, like ["default"], or names with weights')
    names = [check_name("queue", name) for name in queues]
    if not names:
        raise ConfigError("queues is empty: name at least one, or leave it out for all")
    if len(set(names)) < len(names):
        raise ConfigError(f"queues names one twice: {', '.join(names)}")
    if not isinstance(queues, Mapping):
        return tuple(names)
    for name, weight in queues.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            raise InvalidOption(f"the weight {weight!r} of queue {name} is not a whole number of 1 or more")
    return dict(queues)


def check_slots(slots: int) -> int:
    """Raises InvalidOption."""
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 10_000:
        raise InvalidOption(f"slots {slots!r} is not a whole number from 1 to 10000")
    return slots
