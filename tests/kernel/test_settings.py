"""The worker's settings: what opens this machine to a call, and that nothing else does."""

import pytest

from workers.kernel.settings import WorkerSettings

NEEDED = (
    "PAM_DATABASE_URL", "PAM_AGENT_DATABASE_URL", "REDIS_URL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN",
    "OPENAI_API_KEY", "PAM_FILES_FOLDER", "PAM_KEY_FILE",
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "opens"), [(None, False), ("", False), ("0", False), ("true", False), ("2", False), ("1", True)]
)
def test_this_machine_is_reached_by_one_word_alone(value: str | None, opens: bool) -> None:
    told = {**dict.fromkeys(NEEDED, "x"), **({} if value is None else {"PAM_OUTBOUND_LOOPBACK": value})}
    assert WorkerSettings.read(told).may_reach_loopback is opens
