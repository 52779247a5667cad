"""What each function is told, read once from the environment at its root; none gets more than it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.kernel.errors import SettingMissing
from workers.kernel.settings import required


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """The API holds no key that opens more than the caller's own token does."""

    supabase_url: str
    publishable_key: str = field(repr=False)
    jwt_secret: str | None = field(default=None, repr=False)
    allowed_origins: tuple[str, ...] = ()
    hold_events: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str], *, hold_events: bool) -> "ApiSettings":
        """Raises SettingMissing for the first setting that is absent or cannot be meant."""
        url = required(environment, "SUPABASE_URL", "the project's URL, https://<ref>.supabase.co").rstrip("/")
        if not url.startswith(("https://", "http://")):
            raise SettingMissing("SUPABASE_URL must begin with https:// (http:// on your own machine)")
        origins = tuple(environment.get("PAM_ALLOWED_ORIGINS", "").replace(",", " ").split())
        for origin in origins:
            if not origin.startswith(("https://", "http://")) or origin.count("/") != 2 or "*" in origin:
                raise SettingMissing(f"PAM_ALLOWED_ORIGINS: {origin} is no origin, write https://app.example.com")
        return cls(
            supabase_url=url,
            publishable_key=required(environment, "SUPABASE_PUBLISHABLE_KEY", "the key sb_publishable_…"),
            jwt_secret=environment.get("SUPABASE_JWT_SECRET", "").strip() or None,
            allowed_origins=origins,
            hold_events=hold_events,
        )


@dataclass(frozen=True, kw_only=True)
class HookSettings:
    """The hook may check a signature and write to the queue."""

    redis_url: str = field(repr=False)
    webhook_secret: str = field(repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "HookSettings":
        """Raises SettingMissing for the first setting that is absent."""
        secret = required(environment, "PAM_WEBHOOK_SECRET", "the secret that `pam install` gave the database")
        if len(secret) < 16:
            raise SettingMissing("PAM_WEBHOOK_SECRET is shorter than 16 characters: take a random one")
        return cls(
            redis_url=required(environment, "REDIS_URL", "Upstash's or your own Redis, rediss://"),
            webhook_secret=secret,
        )


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The sweep may call the sweeping verb and write to the queue."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "SweepSettings":
        """Raises SettingMissing for the first setting that is absent."""
        return cls(
            database_url=required(environment, "PAM_SWEEPER_DATABASE_URL", "the login pam_sweeper"),
            redis_url=required(environment, "REDIS_URL", "Upstash's or your own Redis, rediss://"),
        )
