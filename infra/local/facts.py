"""What is known about a stack: its secrets, which stay, and the addresses of the one that runs."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

KEY_FILE = "keys.json"


@dataclass(frozen=True)
class Secrets:
    """Made once for a state folder, kept in a file that only its owner reads."""

    jwt_secret: str
    publishable_key: str
    secret_key: str
    owner_password: str
    lite_password: str
    worker_password: str
    agent_password: str
    sweeper_password: str
    redis_password: str
    upstash_token: str
    webhook_secret: str

    @classmethod
    def keep(cls, file: Path) -> "Secrets":
        """Read the file, or make it."""
        if file.exists():
            return cls(**json.loads(file.read_text()))
        made = {field.name: secrets.token_urlsafe(32) for field in fields(cls)}
        made["publishable_key"] = f"sb_publishable_{secrets.token_urlsafe(24)}"
        made["secret_key"] = f"sb_secret_{secrets.token_urlsafe(24)}"
        write_private(file, made)
        return cls(**made)


@dataclass(frozen=True)
class ModelChoice:
    """Which model the workers use. The key is never written down."""

    name: str
    url: str | None
    key: str

    @property
    def is_rehearsal(self) -> bool:
        """Whether a script plays the model."""
        return self.name.startswith("rehearsal")

    def __repr__(self) -> str:
        return f"ModelChoice({self.name!r}, {self.url!r})"


@dataclass(frozen=True)
class StackFacts:
    """Addresses and keys of a stack that runs. `environment()` is what a hosted project's .env would say."""

    state: str
    supervisor_pid: int
    url: str
    api_url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    admin_dsn: str
    owner_dsn: str
    worker_dsn: str
    agent_dsn: str
    sweeper_dsn: str
    redis_url: str
    upstash_url: str
    upstash_token: str
    webhook_secret: str
    rehearsal_url: str
    model: str
    model_url: str

    @property
    def key_file(self) -> str:
        """Where the keys lie that seal connections; workers alone read it."""
        return str(Path(self.state) / KEY_FILE)

    @classmethod
    def read(cls, file: Path) -> "StackFacts | None":
        """The facts of the running stack, or None while there is none."""
        try:
            return cls(**json.loads(file.read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Put the facts down for others of the same user."""
        write_private(file, asdict(self))

    def environment(self) -> dict[str, str]:
        """The product's settings, under the names that a hosted project uses."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "SUPABASE_JWT_SECRET": self.jwt_secret,
            "PAM_DATABASE_URL": self.worker_dsn,
            "PAM_AGENT_DATABASE_URL": self.agent_dsn,
            "PAM_SWEEPER_DATABASE_URL": self.sweeper_dsn,
            "REDIS_URL": self.redis_url,
            "UPSTASH_REDIS_REST_URL": self.upstash_url,
            "UPSTASH_REDIS_REST_TOKEN": self.upstash_token,
            "PAM_WEBHOOK_SECRET": self.webhook_secret,
            "PAM_FILES_FOLDER": str(Path(self.state) / "files"),
            "PAM_KEY_FILE": str(Path(self.state) / "keys.json"),
        }


def write_private(file: Path, content: Any) -> None:
    """Write JSON that only its owner may read, in one step: a crash leaves the old file or the new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        json.dump(content, handle, indent=1)
    half.replace(file)
