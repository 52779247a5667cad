"""A team at work while things break: a person with an organisation, and runs of twelve steps, every one accepted."""

import asyncio
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path

from infra.chaos.outside import OutsideLedger
from infra.cli.person import CommandFailed, Person, Refused
from infra.local.facts import StackFacts
from workers.tools import CARD_TOOLS

SCRIPTS = Path(__file__).parent / "scripts"  # the stack's scripted model must know them
STEPS = 12
OUTSIDE_STEPS = (3, 7, 11)  # those that reach the outside ledger
_ACCEPTED_SECONDS = 120.0
_PAUSE_SECONDS = 0.3
_DEFINITION = {"instructions": "You take your steps.", "tools": list(CARD_TOOLS)}


@dataclass(frozen=True)
class Team:
    """Signed in, with an agent that needs nobody's word for the outside ledger."""

    person: Person
    org_id: str
    ledger: OutsideLedger

    @classmethod
    async def found(cls, facts: StackFacts, ledger: OutsideLedger) -> "Team":
        """Sign up, make an organisation, import the agent, allow the ledger. Raises CommandFailed."""
        person = await Person.sign_up(
            facts.url,
            facts.publishable_key,
            email=f"{uuid.uuid4().hex}@example.com",
            password=secrets.token_urlsafe(16),
        )
        org_id = str((await person.call("create_organization", name="Team"))["org_id"])
        await person.call("import_agent", org_id=org_id, name="stepper", definition=_DEFINITION, source="# card")
        await person.call("allow_host", org_id=org_id, host=ledger.url.removeprefix("http://"))
        await person.call(
            "set_policy", org_id=org_id, role="owner", tool="*", effect="external", consent_after_untrusted="never"
        )
        # Far more than is ever used: so that every step is reserved and settled.
        await person.call("set_budget", org_id=org_id, period="month", max_cost_usd=1000, max_steps=1_000_000)
        return cls(person, org_id, ledger)

    async def start(self, name: str) -> str:
        """Start the run of this name, asking under one key until an answer comes; answers its id.

        Raises CommandFailed when it is refused, or nobody answers for two minutes.
        """
        message = f"Please take twelve steps as {name}, with the ledger at {self.ledger.url}"
        deadline = asyncio.get_running_loop().time() + _ACCEPTED_SECONDS
        while True:
            try:
                answer = await self.person.call(
                    "start_run", org_id=self.org_id, agent="stepper", message=message, idempotency_key=name
                )
                return str(answer["run_id"])
            except Refused:
                raise
            except CommandFailed:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
