"""Somebody at a terminal whose organisation has the agent `engineer`, and the runs that timelines and replays are of."""

from pathlib import Path

from infra.local.facts import StackFacts
from tests.cli.test_workspace import Desk
from tests.support.database import DEFINITION
from tests.support.house import Engineer

# Reads side by side, a write, a failure, a refusal, arguments that do not fit, and a silence.
WORKS = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    say: "I look around, and write."
    call:
      - {file_list: {}}
      - {redis_get: {key: NAME}}
      - {file_write: {path: NAME.txt, content: "one"}}
      - {file_read: {path: nowhere.txt}}
      - {fly: {to: "the moon"}}
  - expect: {role: tool}
    call: [{file_read: {path: NAME.txt}}, {file_write: {path: "", content: 1}}]
  - {expect: {role: tool}, say: ""}
  - expect: {role: system}
    say: "That is how it is."
"""
ASKS = """
name: NAME
when: NAME
turns:
  - expect: {role: user, tools: [ask_person]}
    say: "I look first, and then I ask."
    call: [{file_list: {}}, {ask_person: {question: "Which \\x1B[2Jcolour?"}}]
  - expect: {role: tool, result_of: ask_person, contains: ["The person answered: teal"]}
    say: "Teal it is."
"""
QUICK = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Done."}]
"""


async def desk_of(stack: StackFacts, folder: Path) -> Desk:
    """A desk with the agent."""
    desk = await Desk.sit(stack, folder)
    card = {"name": "engineer", "definition": DEFINITION, "source": "# card"}
    await desk.person.call("import_agent", org_id=desk.org_id, **card)
    return desk


def engineer(desk: Desk) -> Engineer:
    """Whoever sits at the desk, as somebody who asks."""
    return Engineer(desk.person, desk.org_id)


async def be_cautious(desk: Desk, *, on: bool = True) -> None:
    """Let a person be asked before a file is written."""
    policy = {"org_id": desk.org_id, "role": "owner", "tool": "file_write", "effect": "write"}
    asks = {"consent": "ask", "consent_after_untrusted": "ask", "decided_by": "developer"}
    await desk.person.call("set_policy" if on else "reset_policy", **policy, **(asks if on else {}))
