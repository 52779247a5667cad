"""`doctor`: what is missing, and how to mend it."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.cli.doctor_hosted import look_at_project
from infra.cli.doctor_machine import look_at_machine, look_at_sandbox, look_at_stack


async def run_doctor(env: dict[str, str], *, console: Console) -> dict[str, Any]:
    """Look at this machine, and at the hosted project when the environment names one, else at the embedded stack."""
    is_hosted = bool(env.get("SUPABASE_URL"))
    findings = [*look_at_machine(), await look_at_sandbox(is_needed=not is_hosted)]
    findings += await look_at_project(env) if is_hosted else look_at_stack(env)
    for finding in findings:
        mark = "[green]✔[/green]" if finding.is_well else "[red]✘[/red]"
        console.print(f"{mark} {escape(finding.name)}: {escape(finding.seen)}", soft_wrap=True)
        if not finding.is_well:
            console.print(f"    {escape(finding.mend)}", style="yellow", soft_wrap=True)
    return {"ok": all(f.is_well for f in findings), "findings": [vars(f) for f in findings]}
