"""Options and arguments that several commands share. Imports nothing heavy: the top-level help needs it."""

from typing import Final

import click

APP_HELP: Final = (
    "The app, like shop.tasks:jobs or app.py. Otherwise: LATER_APP, or `app` under [tool.later] in ./pyproject.toml."
)

app_option: Final = click.option("-A", "--app", metavar="APP", help=APP_HELP)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
