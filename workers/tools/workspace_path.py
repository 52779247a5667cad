"""What a workspace path may be: the same rule as pam_private.path_fault, said before the database is asked."""

import re
import unicodedata

from workers.tools.failures import ToolRefused

MAX_CHARACTERS = 400
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def fault(path: str) -> str | None:
    """Why a path is no workspace path, or None."""
    if not path:
        return "The path is empty."
    if len(path) > MAX_CHARACTERS:
        return f"The path is longer than {MAX_CHARACTERS} characters."
    if _CONTROL.search(path):
        return "The path holds a control character or a backslash."
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):
        return "The path holds half a character (a lone surrogate)."
    if path[0] in "/~" or re.match(r"[A-Za-z]:", path):
        return "Workspace paths are relative: leave out the leading /, ~ or drive."
    parts = path.split("/")
    if "." in parts or ".." in parts:
        return "The path holds . or .. as a part: name the file from the workspace root."
    if "" in parts:
        return "The path holds an empty part."
    if path != unicodedata.normalize("NFC", path):
        return "The path is not in Unicode's composed form (NFC)."
    if re.match(r"\.pam(/|\Z)", path, re.IGNORECASE | re.ASCII):
        return "Paths below .pam/ are PAM's own."
    return None


def checked(path: str) -> str:
    """The path, if it is one. Raises ToolRefused with the reason."""
    why = fault(path)
    if why:
        raise ToolRefused(f"{why} Only files of the workspace can be reached.")
    return path
