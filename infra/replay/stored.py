"""Makes a recording of what a project stores of a run, read as the person who is signed in."""

from typing import Any

from infra.cli.person import CommandFailed, Person
from infra.replay.recording import Recording, RecordingRefused, built
from workers.kernel.ledger.events import Event
from workers.kernel.ledger.runs import AgentDefinition, Run
from workers.kernel.ledger.tool_calls import CallEffect

_CALL = "id,step,place,call_id,tool,arguments,effect,status,result,origin,cost_usd,started_at"
_STEP = "position,model,input_sha256,finish,input_tokens,cached_input_tokens,output_tokens,is_estimated,cost_usd"
_APPROVAL = "id,kind,status,why,shown,facts,needs_role,is_four_eyes,expires_at,edited_arguments,note"


async def recorded(person: Person, run_id: str) -> Recording:
    """The recording of a run that has ended or waits. Raises CommandFailed or RecordingRefused."""
    rows = await person.select("runs", id=run_id)
    if not rows:
        raise CommandFailed(f"there is no run {run_id} that you may see: `pam ask` prints a run's id")
    run = Run.model_validate(rows[0])
    if run.status in ("queued", "running"):
        raise RecordingRefused(f"the run is {run.status}: `pam watch {run_id}` shows it to its end, then replay it")
    mine = {"org_id": str(run.org_id), "run_id": run_id}
    steps = [row async for row in person.select_all("steps", _STEP, by="position", **mine)]
    calls = [row async for row in person.select_all("tool_calls", _CALL, by="id", **mine)]
    approvals = [row async for row in person.select_all("approvals", _APPROVAL, by="id", **mine)]
    steered = await _steered(person, run)
    wrote, said = await _messages(person, run, {id for id, _ in steered})
    pauses, end = await _ends(person, run)
    return built(
        run=run,
        agent=await _agent(person, run),
        said=said,
        steps=[{**row, **wrote.get(row["position"], {}), "cost_usd": str(row["cost_usd"])} for row in steps],
        calls=[_call(row) for row in sorted(calls, key=lambda row: (row["step"], row["place"]))],
        approvals=approvals,
        pauses=pauses,
        end=end,
        steered=[told for _, told in steered],
    )


def _call(row: dict[str, Any]) -> dict[str, Any]:
    told = {**row, "is_started": row["started_at"] is not None, "cost_usd": str(row["cost_usd"])}
    del told["started_at"]
    if row["effect"] == CallEffect.PAUSE and row["status"] not in ("succeeded", "failed", "refused"):
        told["result"] = None  # what a person answered, and no worker read
    return told


async def _agent(person: Person, run: Run) -> AgentDefinition:
    which: dict[str, Any] = {"org_id": str(run.org_id), "agent_id": str(run.agent_id), "version": run.agent_version}
    versions = await person.select("agent_versions", "definition", **which)
    names = await person.select("agents", "name", org_id=str(run.org_id), id=str(run.agent_id))
    if not (versions and names):
        raise RecordingRefused("the run's agent is not stored any more")
    return AgentDefinition.model_validate(
        {**versions[0]["definition"], "name": names[0]["name"], "version": run.agent_version}
    )


async def _steered(person: Person, run: Run) -> list[tuple[str, dict[str, Any]]]:
    """What people said to the run on its way, by the message's id, where its log says that it took it."""
    which: dict[str, Any] = {"run_id": str(run.id), "type": ["STEP_FINISHED", "CUSTOM"]}
    steps, found = 0, []
    async for row in person.select_all("events", "seq,type,payload,created_at", by="seq", **which):
        event = Event.model_validate(row)
        steps += event.type == "STEP_FINISHED"
        if event.payload.get("name") == "pam.steered":
            value = event.payload["value"]
            found.append((value["messageId"], {"content": value["content"], "before_step": steps + 1}))
    return found


async def _messages(
    person: Person, run: Run, steered: set[str]
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """What the run's model wrote, by step; and what it found in its thread, as read_conversation tells it."""
    thread = {"org_id": str(run.org_id), "thread_id": str(run.thread_id)}
    columns = "id,run_id,step,position,role,content"
    rows = [row async for row in person.select_all("messages", columns, by="position", **thread)]
    mine = [row for row in rows if row["run_id"] == str(run.id)]
    wrote = {row["step"]: {"message_id": row["id"], "text": row["content"]} for row in mine if row["step"] is not None}
    first = min((row["position"] for row in mine if row["step"] is not None), default=None)
    last = first - 1 if first is not None else max((row["position"] for row in mine), default=0)
    before = [row for row in rows if row["position"] <= last and row["id"] not in steered]
    others = sorted({row["run_id"] for row in before if row["role"] == "assistant" and row["run_id"]})
    acted = set()
    for place in range(0, len(others), 50):
        some = {"org_id": str(run.org_id), "run_id": others[place : place + 50]}
        acted |= {
            (row["run_id"], row["step"])
            async for row in person.select_all("tool_calls", "id,run_id,step", by="id", **some)
        }
    return wrote, [
        {"role": row["role"], "content": row["content"]}
        for row in before
        if row["role"] == "user" or (row["run_id"], row["step"]) not in acted
    ]


async def _ends(person: Person, run: Run) -> tuple[list[list[str]], dict[str, Any] | None]:
    """The calls that each pause asked about, and the run's end, from the events that close a part of its log."""
    columns = "seq,type,payload,created_at"
    which: dict[str, Any] = {"run_id": str(run.id), "type": ["RUN_FINISHED", "RUN_ERROR"]}
    pauses: list[list[str]] = []
    end = None
    async for row in person.select_all("events", columns, by="seq", **which):
        event = Event.model_validate(row)
        if event.is_terminal:
            text = event.payload.get("message") or (event.payload.get("result") or {}).get("text", "")
            end = {"status": run.status, "reason": run.reason, "text": text}
            continue
        asked = [one["id"] for one in event.payload["outcome"]["interrupts"]]
        if not any(id in known for id in asked for known in pauses):  # a reminder asks about the same again
            pauses.append(asked)
    return pauses, end
