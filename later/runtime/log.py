"""The one logger of the runtime. As a library `later` configures nothing; worker processes show it on stderr."""

import logging
from typing import Final

log: Final = logging.getLogger("later")


def show_log() -> None:
    """Write the log to stderr, unless the app has configured logging. To be called after the app was imported."""
    if logging.getLogger().handlers or log.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s [%(process)d] %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
