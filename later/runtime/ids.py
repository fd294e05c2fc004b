"""New ids: UUID version 7, so that they sort by time and index well."""


def new_id() -> str:
    # Imported here because a program that only inspects jobs makes no ids.
    from uuid_utils import uuid7

    return str(uuid7())
