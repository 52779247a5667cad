"""Where a command works: on the embedded stack, or on a hosted project that the environment or .env names."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.cli.person import CommandFailed, Person
from infra.local.attach import StackFailed, running_stack
from infra.local.facts import ModelChoice, Secrets, StackFacts
from infra.local.stack import ROOT, StackOptions

SCRIPTS = ROOT / "infra" / "sample" / "scripts"
LOCAL_EMAIL = "you@example.com"
DEFAULT_MODEL = "gpt-5-mini"
DEFAULT_MODEL_URL = "https://api.openai.com/v1"

Progress = Callable[[str], None]


def read_dotenv(file: Path) -> dict[str, str]:
    """NAME=value lines of a .env file; quotes around a value are taken off. Raises CommandFailed with the line."""
    found: dict[str, str] = {}
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, sign, value = text.partition("=")
        if not sign or not name.strip().isidentifier():
            raise CommandFailed(f"{file}:{number}: expected NAME=value")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        found[name.strip()] = value
    return found


def environment() -> dict[str, str]:
    """The process's environment over the .env of the current folder."""
    return {**read_dotenv(Path.cwd() / ".env"), **os.environ}


def home() -> Path:
    """Where PAM keeps what it fetched and its stack's state: PAM_HOME, else .pam in the checkout."""
    return Path(os.environ.get("PAM_HOME") or ROOT / ".pam").resolve()


def chosen_model(env: dict[str, str]) -> ModelChoice | None:
    """The model that the environment names, or None: then a script plays it."""
    key = env.get("OPENAI_API_KEY", "").strip()
    if not key:
        return None
    return ModelChoice(
        env.get("PAM_MODEL", "").strip() or DEFAULT_MODEL,
        env.get("OPENAI_BASE_URL", "").strip() or DEFAULT_MODEL_URL,
        key,
    )


def stack_options(env: dict[str, str], *, fresh: bool = False) -> StackOptions:
    """The embedded stack of this checkout. `fresh` starts over; it is refused while the stack is used."""
    state = home() / "stack"
    if fresh:
        _start_over(state)
    return StackOptions(state=state, home=home(), model=chosen_model(env), scripts=(SCRIPTS,))


def _start_over(state: Path) -> None:
    import shutil

    from infra.local.locks import FileLock
    from infra.local.postgres import lay_out
    from infra.local.supervisor import clear_leftovers

    locks = [FileLock(file=state / name) for name in ("users.lock", "supervisor.lock")]
    try:
        if not all(lock.try_exclusive() for lock in locks):
            raise CommandFailed("the stack is running: end the commands that use it (Ctrl-C), then try --fresh again")
        clear_leftovers(state)
        data = lay_out(state).data
        for leftover in (data, data.with_name(data.name + ".password"), *state.iterdir()):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif leftover.suffix != ".lock":
                leftover.unlink(missing_ok=True)
    finally:
        for lock in locks:
            lock.release()


@dataclass(frozen=True)
class Place:
    """Where people sign in, and whether it is the embedded stack."""

    url: str
    publishable_key: str
    stack: StackFacts | None
    env: dict[str, str]

    async def person(self) -> Person:
        """Whoever works here: the local person of the stack, or PAM_EMAIL and PAM_PASSWORD on a hosted project."""
        if self.stack is None:
            email, password = self.env.get("PAM_EMAIL", ""), self.env.get("PAM_PASSWORD", "")
            if not (email and password):
                raise CommandFailed(
                    "set PAM_EMAIL and PAM_PASSWORD (an account of the project) in .env or the environment"
                )
            return await Person.sign_in(self.url, self.publishable_key, email=email, password=password)
        password = Secrets.keep(Path(self.stack.state) / "secrets.json").owner_password
        try:
            return await Person.sign_in(self.url, self.publishable_key, email=LOCAL_EMAIL, password=password)
        except CommandFailed:
            return await Person.sign_up(self.url, self.publishable_key, email=LOCAL_EMAIL, password=password)

    async def organization(self, person: Person) -> str:
        """The organisation to work in: PAM_ORG_ID, else the person's first, else a new one on the embedded stack."""
        wanted = self.env.get("PAM_ORG_ID", "").strip()
        found = await person.select("organizations", "id,name,created_at")
        if wanted:
            if wanted not in {row["id"] for row in found}:
                raise CommandFailed("PAM_ORG_ID names no organisation that you belong to")
            return wanted
        if len(found) > 1 and self.stack is None:
            names = ", ".join(f"{row['id']} ({row['name']})" for row in found)
            raise CommandFailed(f"you belong to several organisations, set PAM_ORG_ID to one of: {names}")
        if found:
            return str(min(found, key=lambda row: str(row["created_at"]))["id"])
        return str((await person.call("create_organization", name="My organisation"))["org_id"])


@asynccontextmanager
async def place(env: dict[str, str], *, progress: Progress) -> AsyncIterator[Place]:
    """The hosted project that SUPABASE_URL names, else the embedded stack. Raises CommandFailed."""
    url, key = env.get("SUPABASE_URL", "").strip().rstrip("/"), env.get("SUPABASE_PUBLISHABLE_KEY", "").strip()
    if url:
        if not key:
            raise CommandFailed(
                "SUPABASE_URL is set, SUPABASE_PUBLISHABLE_KEY is not: copy it from the project's API settings"
            )
        yield Place(url, key, None, env)
        return
    options = stack_options(env)
    try:
        async with running_stack(options, progress=progress) as facts:
            check_model(facts, options.model)
            yield Place(facts.url, facts.publishable_key, facts, env)
    except StackFailed as error:
        raise CommandFailed(str(error)) from error


def check_model(facts: StackFacts, wanted: ModelChoice | None) -> None:
    """A running stack keeps the model it was started with. Raises CommandFailed when another is wanted."""
    name = wanted.name if wanted else "rehearsal"
    if facts.model != name or (wanted and wanted.url and facts.model_url != wanted.url):
        raise CommandFailed(
            f"the running stack uses the model {facts.model}, and {name} is wanted: "
            "end the commands that use it (Ctrl-C), then try again"
        )
