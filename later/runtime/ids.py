"""New ids: UUID version 7, so that they sort by time and index well."""

from uuid_utils import uuid7


def new_id() -> str:
    return str(uuid7())
