"""What `doctor` answers with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do when it is not well."""

    name: str
    is_well: bool
    seen: str
    mend: str = ""
