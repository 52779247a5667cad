"""Agent cards: the file that defines an agent, read strictly, with every fault named by line at once.

Two forms. Markdown: one `#` title, then `##` sections, of which Agent Details, Expertise, Available Tools and
System Prompt must be there and all others are kept. Or YAML front matter between `---` lines, with
the system prompt as the body below it.

Conduct tools are granted by what the card says, not by its tool list. `ask_person` is granted to a Markdown
card whose system prompt or other sections say "ask for clarification" or "ask the person" (not after "never",
"not" or "n't"), or that has a section titled Clarification; to front matter by `conduct: [ask_person]`.
"""

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 64 * 1024
MAX_YAML_DEPTH = 4
_Lines = list[tuple[int, str]]
CONDUCT_TOOLS = frozenset({"ask_person"})

_DETAILS, _EXPERTISE, _TOOLS, _PROMPT = "Agent Details", "Expertise", "Available Tools", "System Prompt"
_REQUIRED_SECTIONS = (_DETAILS, _EXPERTISE, _TOOLS, _PROMPT)
_REQUIRED_KEYS = ("name", "type", "version", "description")
_LIMIT_KEYS = ("max_steps", "max_cost_usd", "max_seconds", "max_tokens")
_FRONT_KEYS = (*_REQUIRED_KEYS, "expertise", "tools", "conduct", "limits", "model")
_DETAIL_KEYS = (*_REQUIRED_KEYS, *_LIMIT_KEYS, "model")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# semver.org, the suggested expression
_VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_BOLD_ITEM = re.compile(r"- \*\*([^*]+)\*\*:(.*)")
_TOOL_ITEM = re.compile(r" *- `([^`]+)`(?::(.*))?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ASKS = re.compile(r"(?<!never )(?<!not )(?<!n't )\bask\s+(for\s+clarification|the\s+person)\b", re.IGNORECASE)
_SPOKEN_TITLE = re.compile(r"\b(responsibilities|guidelines|rules|standards|procedures|assurance)\b", re.I)


@dataclass(frozen=True)
class Problem:
    """One fault of a card: its line, from 1, and the reason in words."""

    line: int
    reason: str


class CardRefused(Exception):
    """The card cannot be used; `problems` names every fault, the message is one `path:line: reason` each."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{path}:{problem.line}: {problem.reason}" for problem in self.problems))


class CardLimits(BaseModel):
    """What one run of the agent may use, within the ceilings of pam.start_run; None leaves it to the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: int | None = Field(default=None, gt=0, le=200)
    max_cost_usd: Decimal | None = Field(default=None, gt=0, le=100, allow_inf_nan=False)
    max_seconds: int | None = Field(default=None, gt=0, le=86_400)
    max_tokens: int | None = Field(default=None, gt=0, le=20_000_000)


class AgentCard(BaseModel):
    """One version of one agent, as its file defines it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: str
    version: str
    description: str
    expertise: tuple[tuple[str, str], ...]
    tools: tuple[str, ...]
    tool_notes: Mapping[str, str]
    system_prompt: str
    sections: Mapping[str, str]
    conduct_tools: frozenset[str]
    limits: CardLimits
    model: str | None
    source: str
    source_sha256: str

    def instructions(self) -> str:
        """The system prompt the model sees: the card's prompt, then its sections on duties and rules.

        The same card gives the same bytes, so that a provider's prompt cache can hold them.
        """
        spoken = [item for item in self.sections.items() if _SPOKEN_TITLE.search(item[0])]
        return "\n\n".join([self.system_prompt, *(f"## {title}\n{text}" for title, text in spoken)])

    def definition(self) -> dict[str, Any]:
        """What `pam.import_agent` stores and a run is pinned to: plain JSON, only limits that are given."""
        limits = self.limits.model_dump(exclude_none=True)
        return {
            "instructions": self.instructions(),
            "tools": list(self.tools),
            "conduct_tools": sorted(self.conduct_tools),
            "limits": {key: float(value) if key == "max_cost_usd" else value for key, value in limits.items()},
            "model": self.model,
        }


def read_card(path: Path, *, known_tools: Collection[str]) -> AgentCard:
    """Read a card's file. Raises CardRefused, and OSError if the file cannot be read."""
    with path.open("rb") as file:
        return parse_card(file.read(MAX_BYTES + 1), path=str(path), known_tools=known_tools)


def parse_card(content: bytes, *, path: str, known_tools: Collection[str]) -> AgentCard:
    """Make a card of a file's bytes; `path` only names it in errors. Raises CardRefused with all faults."""
    if len(content) > MAX_BYTES:
        raise CardRefused(path, [Problem(1, f"larger than {MAX_BYTES // 1024} KiB; shorten the card")])
    try:
        source = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CardRefused(path, [Problem(line, "not UTF-8 text; save the file as UTF-8")]) from error
    if "\0" in source:
        line = source.count("\n", 0, source.index("\0")) + 1
        raise CardRefused(path, [Problem(line, "holds a NUL byte; remove it")])
    lines = source.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    draft = _Draft(known_tools=known_tools)
    if lines[0].rstrip() == "---":
        _read_front_matter(draft, lines)
    else:
        _read_markdown(draft, lines)
    if draft.problems:
        raise CardRefused(path, draft.problems)
    return AgentCard(
        **{key: draft.values[key] for key in _REQUIRED_KEYS},
        expertise=tuple(draft.expertise.items()),
        tools=tuple(draft.tools),
        tool_notes=draft.tools,
        system_prompt=draft.prompt,
        sections=draft.sections,
        conduct_tools=frozenset(draft.conduct),
        limits=CardLimits.model_validate({key: draft.values.get(key) for key in _LIMIT_KEYS}),
        model=draft.values.get("model"),
        source=source,
        source_sha256=hashlib.sha256(content).hexdigest(),
    )


@dataclass
class _Draft:
    """What has been read so far, and every fault."""

    known_tools: Collection[str]
    values: dict[str, Any] = field(default_factory=dict)
    expertise: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    conduct: set[str] = field(default_factory=set)
    prompt: str = ""
    problems: list[Problem] = field(default_factory=list)

    def fault(self, line: int, reason: str) -> None:
        self.problems.append(Problem(line, reason))

    def value(self, line: int, key: str, text: str, *, known: Collection[str]) -> None:
        text = text.strip()
        if key not in known:
            self.fault(line, f"unknown key `{key}`{_suggestion(key, known)}")
        elif key in self.values:
            self.fault(line, f"`{key}` is given twice; keep one")
        elif not text:
            self.fault(line, f"`{key}` is empty")
        elif key == "name" and not _NAME.fullmatch(text):
            self.fault(line, f"name `{text[:80]}` may hold letters, digits, - and _, and begins with a letter")
        elif key == "version" and not _VERSION.fullmatch(text):
            self.fault(line, f"version `{text[:80]}` is not semantic; write three numbers, e.g. 1.0.0")
        elif key in _LIMIT_KEYS:
            try:
                CardLimits.model_validate({key: text})
            except ValidationError as error:
                self.fault(line, f"`{key}`: {error.errors()[0]['msg']}")
        self.values.setdefault(key, text)

    def tool(self, line: int, name: str, note: str) -> None:
        if name in self.tools:
            self.fault(line, f"tool `{name}` is listed twice; keep one")
        elif name in CONDUCT_TOOLS:
            self.fault(line, f"`{name}` is granted by the card's conduct, not by its tools; remove it here")
        elif name not in self.known_tools:
            self.fault(line, f"unknown tool `{name}`{_suggestion(name, self.known_tools)}")
        self.tools.setdefault(name, note.strip())

    def finish(self, line: int) -> None:
        for key in _REQUIRED_KEYS:
            if key not in self.values:
                self.fault(line, f"`{key}` is missing; add it")


def _suggestion(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


def _read_markdown(draft: _Draft, lines: list[str]) -> None:
    sections = _split(draft, lines)
    for title in _REQUIRED_SECTIONS:
        if title not in sections:
            close = difflib.get_close_matches(title, [key for key in sections if key not in _REQUIRED_SECTIONS], n=1)
            hint = f"; rename `## {close[0]}`" if close else ""
            line = sections[close[0]][0] if close else 1
            draft.fault(line, f"section `## {title}` is missing{hint or '; add it'}")
        elif not any(text.strip() for text in sections[title][1]):
            draft.fault(sections[title][0], f"section `## {title}` is empty")
    for title, (start, body) in sections.items():
        numbered = [(start + offset, text) for offset, text in enumerate(body, 1) if text.strip()]
        if title == _DETAILS:
            for line, name, text in _bold_items(draft, numbered, "a detail"):
                draft.value(line, name.lower().replace(" ", "_"), text, known=_DETAIL_KEYS)
            draft.finish(start)
        elif title == _EXPERTISE:
            for line, name, text in _bold_items(draft, numbered, "a field of expertise"):
                if name in draft.expertise:
                    draft.fault(line, f"expertise `{name}` is given twice; keep one")
                draft.expertise.setdefault(name, text)
        elif title == _TOOLS:
            _read_tools(draft, numbered)
            if numbered and not draft.tools:
                draft.fault(start, f"section `## {title}` lists no tool; write - `file_read`: what for")
        elif title == _PROMPT:
            draft.prompt = "\n".join(body).strip()
        else:
            draft.sections[title] = "\n".join(body).strip()
    said = "\n\n".join([draft.prompt, *draft.sections.values()])
    if "clarification" in map(str.lower, draft.sections) or _ASKS.search(said):
        draft.conduct.add("ask_person")


def _split(draft: _Draft, lines: list[str]) -> dict[str, tuple[int, list[str]]]:
    """The `##` sections as title → (line of the heading, lines below it); fenced headings are text."""
    sections: dict[str, tuple[int, list[str]]] = {}
    body: list[str] | None = None
    fence, titled = "", False
    for number, text in enumerate(lines, 1):
        mark = _FENCE.match(text)
        if mark and (not fence or (text.strip() == mark[1] and mark[1].startswith(fence))):
            fence = "" if fence else mark[1]
        elif not fence and text.startswith("# "):
            if titled:
                draft.fault(number, "a second `#` title; use `##` for sections")
            titled = True
            continue
        elif not fence and text.startswith("## "):
            title = text[3:].strip()
            if title in sections:
                draft.fault(number, f"section `## {title}` is given twice; merge them")
            body = []
            sections.setdefault(title, (number, body))
            continue
        if body is not None:
            body.append(text)
        elif text.strip():
            draft.fault(number, "text outside a section; begin with a `# ` title, then `## ` sections")
    if fence:
        draft.fault(len(lines), f"a code fence is not closed; add {fence}")
    if not titled:
        draft.fault(1, "the `# ` title is missing; begin with one, or with `---` for front matter")
    return sections


def _bold_items(draft: _Draft, numbered: _Lines, what: str) -> Iterator[tuple[int, str, str]]:
    for line, text in numbered:
        item = _BOLD_ITEM.fullmatch(text)
        if item and item[2].strip():
            yield line, item[1].strip(), item[2].strip()
        else:
            draft.fault(line, f"not {what}; write - **Name**: text, on one line")


def _read_tools(draft: _Draft, numbered: _Lines) -> None:
    for line, text in numbered:
        item, group = _TOOL_ITEM.fullmatch(text), _BOLD_ITEM.fullmatch(text)
        if item:
            draft.tool(line, item[1].strip(), item[2] or "")
        elif not group or group[2].strip():
            draft.fault(line, "not a tool; write - `tool_name`: what for, under an optional - **Group**:")


def _read_front_matter(draft: _Draft, lines: list[str]) -> None:
    end = next((number for number, text in enumerate(lines[1:], 2) if text.rstrip() == "---"), None)
    if end is None:
        return draft.fault(1, "the front matter is not closed; add a line `---` below it")
    draft.prompt = "\n".join(lines[end:]).strip()
    if not draft.prompt:
        draft.fault(end, "the system prompt is empty; write it below the front matter")
    text = "\n".join(lines[1 : end - 1])
    try:
        fault = _unwanted_yaml(text)
        root = None if fault else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark: yaml.Mark | None = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "a character is not allowed"
        return draft.fault(mark.line + 2 if mark else 2, f"not valid YAML: {reason}")
    if fault:
        return draft.problems.append(fault)
    if not isinstance(root, yaml.MappingNode):
        return draft.fault(2, "the front matter is no mapping; write key: value lines")
    pairs = _pairs(draft, root)
    for key, node in pairs.items():
        if key not in _FRONT_KEYS:
            draft.fault(_line(node), f"unknown key `{key}`{_suggestion(key, _FRONT_KEYS)}")
        elif key == "expertise":
            draft.expertise = {title: _text(draft, text) for title, text in _pairs(draft, node).items()}
        elif key == "tools":
            _read_front_tools(draft, node)
        elif key == "conduct":
            for item in _items(draft, node):
                draft.conduct.add(name := _text(draft, item))
                if name not in CONDUCT_TOOLS:
                    draft.fault(_line(item), f"unknown conduct `{name}`{_suggestion(name, CONDUCT_TOOLS)}")
        elif key == "limits":
            for name, limit in _pairs(draft, node).items():
                draft.value(_line(limit), name, _text(draft, limit), known=_LIMIT_KEYS)
        else:
            draft.value(_line(node), key, _text(draft, node), known=_FRONT_KEYS)
    if "tools" not in pairs:
        draft.fault(2, "`tools` is missing; list the tools, or write tools: []")
    return draft.finish(2)


def _unwanted_yaml(text: str) -> Problem | None:
    """Anchors, aliases, tags, deep nesting and second documents, found before anything is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = getattr(event.start_mark, "line", 0) + 2
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return Problem(line, "YAML anchors and aliases are not allowed; write the value out")
        if getattr(event, "tag", None):
            return Problem(line, "YAML tags are not allowed; write a plain value")
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH or documents > 1:
            return Problem(line, "YAML is nested too deep, or has two documents; flatten it")
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 2


def _pairs(draft: _Draft, node: yaml.Node) -> dict[str, yaml.Node]:
    pairs: dict[str, yaml.Node] = {}
    if not isinstance(node, yaml.MappingNode):
        draft.fault(_line(node), "not a mapping; write key: value lines")
        return pairs
    for key, value in node.value:
        if _text(draft, key) in pairs:
            draft.fault(_line(key), f"`{key.value}` is given twice; keep one")
        pairs.setdefault(str(key.value), value)
    return pairs


def _items(draft: _Draft, node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        draft.fault(_line(node), "not a list; write [a, b] or - a lines")
        return []
    return list(node.value)


def _text(draft: _Draft, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        draft.fault(_line(node), "not a text; write one plain value")
        return "?"
    return str(node.value)


def _read_front_tools(draft: _Draft, node: yaml.Node) -> None:
    """A mapping of names to notes, or a list of names."""
    noted = isinstance(node, yaml.MappingNode)
    for key, note in node.value if noted else [(item, None) for item in _items(draft, node)]:
        draft.tool(_line(key), _text(draft, key), _text(draft, note) if note else "")
