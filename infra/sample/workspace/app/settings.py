"""What the service is told from outside, read once at the start."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where the database is and what signs the access tokens."""

    database_url: str
    jwt_secret: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises KeyError, naming the variable that is missing."""
        return cls(
            database_url=environment["TRACKER_DATABASE_URL"],
            jwt_secret=environment["TRACKER_JWT_SECRET"],
        )
