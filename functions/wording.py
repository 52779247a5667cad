"""Text that people send: what Postgres cannot hold is refused before it gets there."""

from typing import Annotated

from pydantic import AfterValidator


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("the text holds a NUL or half of a surrogate pair")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Line = Annotated[str, AfterValidator(_storable)]
Wording = Annotated[Line, AfterValidator(_said)]
