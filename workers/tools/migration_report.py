"""What people and models read of a schema change: findings, who could read what, the diff, locks, time."""

from collections.abc import Iterator
from typing import Any

from workers.kernel.ledger.schema_changes import SchemaChange

MAX_FINDINGS = 60


def report_text(change: SchemaChange) -> str:
    """The whole report, the most important first: what an approver must not overlook stands at the top."""
    return "\n".join(_lines(change))


def is_cut(change: SchemaChange) -> bool:
    """Whether the report holds less than the change does."""
    return bool(change.report.get("difference", {}).get("is_cut"))


def _lines(change: SchemaChange) -> Iterator[str]:
    yield f"{change.path} · {change.status.value} · sha256 {change.sql_sha256}"
    if change.failure:
        yield f"Why: {change.failure}"
    for rule, reason in change.acknowledged.items():
        yield f"ACKNOWLEDGED by the proposer: {rule}: {reason}"
    report = change.report
    yield from _findings(report.get("findings") or change.findings)
    told = report.get("difference")
    if told:
        yield "\nWho could read and write what, before → after:"
        yield from _listed(told["access"], "nobody's rights change")
        yield "\nSchema (+ comes, ~ changes, - goes):"
        yield from _listed(told["schema"], "nothing changes")
        if is_cut(change):
            yield "(cut: there is more than is listed, so nobody can be asked to approve it: split the change)"
    if report.get("bodies"):
        yield "\nFunctions, whole: read what they do."
        yield from report["bodies"]
    for place in report.get("places", ()):
        yield from _place(place)
    if report.get("singly"):
        yield "\nRun singly, outside a transaction, when it is applied:"
        yield from (f"  {statement}" for statement in report["singly"])


def _findings(findings: list[dict[str, Any]]) -> Iterator[str]:
    order = sorted(findings, key=lambda finding: finding["severity"] != "error")
    for finding in order[:MAX_FINDINGS]:
        where = f"statement {finding['statement']}: " if finding.get("statement") else ""
        yield f"{finding['severity'].upper()} [{finding['rule']}] {where}{finding['message']}"
    if len(order) > MAX_FINDINGS:
        yield f"({len(order) - MAX_FINDINGS} findings more)"
    if not findings:
        yield "The lint found nothing."


def _listed(lines: list[str], nothing: str) -> Iterator[str]:
    yield from (f"  {line}" for line in lines) if lines else (f"  {nothing}",)


_PLACES = {
    "rebuild": "On a rebuild of the schema without rows",
    "target": "On the project itself, rolled back",
}


def _place(place: dict[str, Any]) -> Iterator[str]:
    name = _PLACES[place["place"]]
    if "skipped" in place:
        yield f"\n{name}: not tried, {place['skipped']}."
        return
    yield f"\n{name}, {sum(ran['seconds'] for ran in place['ran']):.3f} s:"
    for ran in place["ran"]:
        locks = f" · locks {', '.join(ran['locks'])}" if ran["locks"] else ""
        rows = f" · {ran['rows']} rows" if ran["rows"] is not None else ""
        yield f"  {ran['number']}. {ran['tag']} · {ran['seconds']:.3f} s{rows}{locks}"
