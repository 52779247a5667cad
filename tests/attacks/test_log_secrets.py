"""Attacks on the redaction of log lines: secrets shown, guessed by searching, and lines that hold the reader up."""

import time
from pathlib import Path

import pytest

from tests.logs.journal import THEIRS, Journal, line
from workers.logs.lines import read_line
from workers.logs.query import Condition, Operator
from workers.logs.redaction import REDACTED


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path)
    made.write(line("mine"), line("their secret plan", org=THEIRS, reason="confidential"))
    return made


SECRETS = {
    "a key of OpenAI": "sk-proj-abcdef0123456789ABCDEF",
    "a token of Supabase": "sbp_0123456789abcdef0123456789abcdef",
    "a secret key of Supabase": "sb_secret_0123456789abcdefghij",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "a connection string": "hunter2canary",
    "a key of AWS": "AKIAIOSFODNN7EXAMPLE",
    "a token of GitHub": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "a key of Stripe": "sk_live_0123456789abcdef",
    "a webhook's secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "a private key": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    "a bearer": "dGhpcyBpcyBhIHRva2Vu0123",
    "a password by its name": "correcthorse",
    "a password in a text": "batterystaple",
    "a nested one": "deepcanary77",
}


def leaky() -> str:
    s = SECRETS
    return line(
        "leak",
        a=f"key {s['a key of OpenAI']} and {s['a token of Supabase']}, {s['a secret key of Supabase']}",
        b=s["a JSON web token"],
        c=f"postgres://app:{s['a connection string']}@db.test:5432/x",
        d=[s["a key of AWS"], {"x": s["a token of GitHub"]}],
        e=" ".join((s["a key of Stripe"], s["a webhook's secret"])),
        f=f"-----BEGIN RSA PRIVATE KEY-----\n{s['a private key']}\n-----END RSA PRIVATE KEY-----",
        g=f"authorization: Bearer {s['a bearer']}",
        db_password=s["a password by its name"],
        h=f"login failed, password={s['a password in a text']}, retry",
        credentials={"inner": {"value": s["a nested one"]}},
    )


async def test_secrets_in_lines_are_not_shown(journal: Journal) -> None:
    journal.write(leaky())
    text = next(found.text for found in (await journal.find()).lines if "leak" in found.text)
    shown = {what for what, secret in SECRETS.items() if secret in text}
    assert shown == set()
    assert REDACTED in text


async def test_a_secret_is_not_guessed_letter_by_letter(journal: Journal) -> None:
    journal.write(leaky())
    for secret in SECRETS.values():
        for guess in (secret[:4], secret[-4:], secret):
            assert "leak" not in await journal.events(text=guess) or guess in REDACTED
    assert await journal.events(conditions=(Condition("db_password", Operator.GT, "a"),)) == []
    assert await journal.events(conditions=(Condition("db_password", Operator.CONTAINS, "horse"),)) == []
    assert await journal.events(conditions=(Condition("credentials.inner.value", Operator.EQ, "deepcanary77"),)) == []


async def test_a_secret_as_the_name_of_a_field_is_not_shown(journal: Journal) -> None:
    journal.write(line("odd", **{SECRETS["a key of OpenAI"]: 1}))
    assert SECRETS["a key of OpenAI"] not in str(await journal.find())


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" + "a" * 90_000,
        "a@" * 45_000,
        "x://" * 20_000,
        "password=" * 9_000,
        "-----BEGIN PRIVATE KEY-----" * 3_000,
        "a-" * 45_000,
        "bearer " * 12_000,
    ],
)
def test_no_line_makes_the_redaction_run_for_ever(text: str) -> None:
    began = time.process_time()
    assert read_line(line("x", told=text)) is not None
    assert time.process_time() - began < 2
