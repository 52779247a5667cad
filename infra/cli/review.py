"""What a reviewer reads about a push: the commit's message, and a description in Markdown."""

from typing import Any

from infra.cli.plain_text import plain

MAX_TITLE, MAX_LINES, MAX_LINE = 72, 4, 200


def message_of(given: str | None, paths: list[str], about: dict[str, Any], *, me: str) -> str:
    """A title line, and who asked for what below it, quoted so that nothing in it is a trailer of Git's."""
    title = plain(given or _title(paths)).strip()
    first, _, rest = title.partition("\n")
    body = [rest.strip()] if rest.strip() else []
    for run in about["runs"]:
        body.append(f"Run {run['run_id']}, asked by {_who(run['asker'], me)}:\n" + _quoted(run["question"]))
    for one in about["people"]:
        body.append(f"Written by {_who(one['user_id'], me)} without a run: {_listed(one['paths'])}")
    return "\n\n".join([first[: 10 * MAX_TITLE], *body]) + "\n"


def description(
    branch: str, base: str, added: list[str], modified: list[str], about: dict[str, Any], *, me: str, title: str
) -> str:
    """For the request to merge: what changed, by file, and which runs wrote it, with their questions and answers."""
    count = len(added) + len(modified)
    lines = [f"# {plain(title).splitlines()[0]}", "", f"Branch `{branch}` upon `{base}`: {count} files.", ""]
    lines += [f"- added `{path}`" for path in added] + [f"- changed `{path}`" for path in modified]
    for run in about["runs"]:
        lines += [
            "",
            f"## Run {run['run_id']}",
            "",
            f"Asked by {_who(run['asker'], me)}:",
            "",
            _quoted(run["question"]),
        ]
        lines += ["", "Answered:", "", _quoted(run["answer"])] if run["answer"] else []
        lines += ["", f"Wrote {_listed(run['paths'])}."]
    for one in about["people"]:
        lines += ["", f"Written by {_who(one['user_id'], me)} without a run: {_listed(one['paths'])}."]
    return "\n".join(lines)


def _title(paths: list[str]) -> str:
    only = f"Change {paths[0]}"
    return only if len(paths) == 1 and len(only) <= MAX_TITLE else f"Change {len(paths)} files of the workspace"


def _who(user_id: str, me: str) -> str:
    return f"{user_id} (who pushes)" if user_id == me else user_id


def _quoted(text: str | None) -> str:
    """The first lines of what somebody, or a model, said."""
    lines = [line for line in plain(text or "").splitlines() if line.strip()]
    shown = [f"> {line[:MAX_LINE]}" for line in lines[:MAX_LINES]]
    return "\n".join([*shown, "> …"] if len(lines) > MAX_LINES else shown)


def _listed(paths: list[str]) -> str:
    shown = ", ".join(f"`{path}`" for path in sorted(paths)[:MAX_LINES])
    return shown if len(paths) <= MAX_LINES else f"{shown} and {len(paths) - MAX_LINES} more"
