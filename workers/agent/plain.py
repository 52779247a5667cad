"""Text from outside as Postgres, JSON and AG-UI can keep it."""


def plain(text: str) -> str:
    """The text with `?` for half a character and U+FFFD for NUL, one for one: offsets stay."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
