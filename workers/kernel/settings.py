"""Settings of the worker, read once from the environment by its main(); nothing below reads the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

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
    lease_seconds: int = 30
    sweep_seconds: float = 10
    pulse_seconds: float = 1
    pam_home: str | None = None

    def __repr__(self) -> str:
        return f"WorkerSettings(model={self.model!r})"

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "WorkerSettings":
        """Raises SettingMissing for the first setting that is absent."""
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
            lease_seconds=_whole(environment, "PAM_LEASE_SECONDS", 30),
            sweep_seconds=_whole(environment, "PAM_SWEEP_SECONDS", 10),
            pam_home=environment.get("PAM_HOME", "").strip() or None,
        )


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "").strip() or str(default)
    if not value.isdigit() or int(value) < 1:
        raise SettingMissing(f"{name} must be a whole number of seconds above 0, not {value!r}")
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
