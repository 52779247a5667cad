"""Settings of the worker, read once from the environment by its main(); nothing below reads the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from workers.kernel.errors import SettingMissing


def required(environment: Mapping[str, str], name: str, source: str) -> str:
    """The value of a setting. Raises SettingMissing with where it comes from."""
    value = environment.get(name, "").strip()
    if not value:
        raise SettingMissing(f"{name} is not set: {source}")
    return value


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know. Holds secrets: never log it."""

    database_url: str
    agent_database_url: str
    redis_url: str
    upstash_url: str
    upstash_token: str
    model: str
    model_key: str
    model_url: str | None
    files_bucket: str | None = None
    files_folder: Path | None = None
    kms_key_ids: tuple[str, ...] = ()
    key_file: Path | None = None
    lease_seconds: int = 20
    sweep_seconds: float = 5
    pulse_seconds: float = 0.5
    max_runs: int = 100
    may_reach_loopback: bool = False
    log_folder: str | None = None
    log_group: str | None = None
    log_region: str | None = None
    tool_models: tuple[str, ...] = ()
    fallback_models: tuple[str, ...] = ()
    pam_home: str | None = None

    def __repr__(self) -> str:
        return f"WorkerSettings(model={self.model!r})"

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "WorkerSettings":
        """Raises SettingMissing for the first setting that is absent."""
        bucket = environment.get("PAM_FILES_BUCKET", "").strip() or None
        in_folder = "a folder for what files held, with PAM_KEY_FILE; in production a bucket: PAM_FILES_BUCKET"
        return cls(
            database_url=required(environment, "PAM_DATABASE_URL", "the login pam_worker, printed by `pam install`"),
            agent_database_url=required(
                environment, "PAM_AGENT_DATABASE_URL", "the login pam_agent_sql, printed by `pam install`"
            ),
            redis_url=required(environment, "REDIS_URL", "Upstash's or your own Redis, as redis:// or rediss://"),
            upstash_url=required(environment, "UPSTASH_REDIS_REST_URL", "the REST face of the same Redis"),
            upstash_token=required(environment, "UPSTASH_REDIS_REST_TOKEN", "the token of the REST face"),
            model=environment.get("PAM_MODEL", "").strip() or "gpt-5-mini",
            model_key=required(environment, "OPENAI_API_KEY", "the key of the model's provider"),
            model_url=environment.get("OPENAI_BASE_URL", "").strip() or None,
            files_bucket=bucket,
            files_folder=None if bucket else Path(required(environment, "PAM_FILES_FOLDER", in_folder)),
            **_keys(environment),
            lease_seconds=_whole(environment, "PAM_LEASE_SECONDS", cls.lease_seconds),
            sweep_seconds=_whole(environment, "PAM_SWEEP_SECONDS", int(cls.sweep_seconds)),
            max_runs=_whole(environment, "PAM_MAX_RUNS", 100, of="runs at once"),
            # For the embedded stack alone: lets api_call reach localhost where an organisation allows it.
            may_reach_loopback=environment.get("PAM_OUTBOUND_LOOPBACK", "").strip() == "1",
            log_folder=environment.get("PAM_LOG_FOLDER", "").strip() or None,
            log_group=environment.get("PAM_LOG_GROUP", "").strip() or None,
            log_region=environment.get("AWS_REGION", "").strip() or None,
            tool_models=_listed(environment, "PAM_TOOL_MODELS"),
            fallback_models=_listed(environment, "PAM_FALLBACK_MODELS"),
            pam_home=environment.get("PAM_HOME", "").strip() or None,
        )


def _listed(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, environment.get(name, "").split(","))))


def _keys(environment: Mapping[str, str]) -> dict[str, Any]:
    """What seals connections: keys of AWS KMS in production, a file elsewhere, or nothing; never both."""
    names = environment.get("PAM_KMS_KEY_ID", "")
    key_ids = tuple(name for name in map(str.strip, names.split(",")) if name)
    file = environment.get("PAM_KEY_FILE", "").strip()
    if key_ids and file:
        raise SettingMissing("PAM_KMS_KEY_ID and PAM_KEY_FILE are both set: keep the one that seals your connections")
    return {"kms_key_ids": key_ids, "key_file": Path(file) if file else None}


def _whole(environment: Mapping[str, str], name: str, default: int, *, of: str = "seconds") -> int:
    value = environment.get(name, "").strip() or str(default)
    if not value.isdigit() or int(value) < 1:
        raise SettingMissing(f"{name} must be a whole number of {of} above 0, not {value!r}")
    return int(value)


def money_limit(environment: Mapping[str, str], default: str = "0.50") -> Decimal:
    """PAM_MAX_COST_USD: the ceiling of one run in dollars."""
    value = environment.get("PAM_MAX_COST_USD", "").strip() or default
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise SettingMissing(f"PAM_MAX_COST_USD must be dollars such as 0.50, not {value!r}") from None
    if not 0 < amount <= 100:
        raise SettingMissing("PAM_MAX_COST_USD must lie above 0 and be at most 100")
    return amount
