"""What models, tools and programs wrote reaches a terminal as text: it moves no cursor and turns no writing."""

import io
import re

import pytest
import typer
from rich.console import Console

from infra.cli.console import execute
from infra.cli.live import LoggedEvent, PreviewFrame
from infra.cli.person import CommandFailed
from infra.cli.plain_text import as_json, plain, shown
from infra.cli.review import description, message_of
from infra.cli.view import RunView

# The clipboard, the screen, C1's own CSI, writing from right to left; and a style that only comes together afterwards.
EVIL = "a\x1b]52;c;aGk=\x07b\x1b[2Jc\x9b2Jd\u202ee\u2066f\u200b\u061c\ufeff[\x1bred]g"
GONE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
LEFT = "a]52;c;aGk=b[2Jc2Jdef[red]g"


def seen(*items: LoggedEvent | PreviewFrame) -> str:
    """What a viewer's terminal is sent."""
    said = io.StringIO()
    view = RunView(console=Console(file=said, width=400, highlight=False))
    for item in items:
        view.show(item)
    return said.getvalue()


def event(**payload: object) -> LoggedEvent:
    return LoggedEvent(1, payload, True)


def test_every_event_of_a_run_is_plain_on_the_terminal() -> None:
    call = {"toolCallId": "c"}
    interrupt = {"type": "interrupt", "interrupts": [{"message": EVIL, "reason": "question"}]}
    shows = {
        "output": (PreviewFrame("m", 0, EVIL, True),),
        "preview": (PreviewFrame("m", 0, EVIL, False),),
        "text": (event(type="TEXT_MESSAGE_CONTENT", messageId="m", delta=EVIL),),
        "arguments": (
            event(type="TOOL_CALL_START", toolCallName="file_read", **call),
            event(type="TOOL_CALL_ARGS", delta=EVIL, **call),
            event(type="TOOL_CALL_END", **call),
        ),
        "result": (event(type="TOOL_CALL_RESULT", content=EVIL, **call),),
        "question": (event(type="RUN_FINISHED", outcome=interrupt),),
        "failure": (event(type="RUN_ERROR", code="x", message=EVIL),),
    }
    for what, items in shows.items():
        told = seen(*items)
        assert not GONE.search(told), (what, told)
        assert LEFT in told, (what, told)


def test_a_preview_with_escapes_is_continued_where_it_ended() -> None:
    start, rest = EVIL + "one ", "two"
    told = seen(
        PreviewFrame("m", 0, start, False),
        PreviewFrame("m", len(start), rest, False),
        event(type="TEXT_MESSAGE_CONTENT", messageId="m", delta=start + rest),
    )
    assert told.strip() == f"{LEFT}one two"


def test_arguments_to_decide_on_name_what_a_terminal_would_hide() -> None:
    assert as_json({"to": "caf\u00e9\u202e\x9b"}) == '{"to": "café\\u202e\\u009b"}'
    assert plain("one\r\ntwo\t3") == "one\ntwo\t3"
    assert shown("[\x1bred]") == "\\[red]"


def test_an_error_that_quotes_others_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> None:
        raise CommandFailed(EVIL)

    with pytest.raises(typer.Exit):
        execute(fails())

    assert capsys.readouterr().err == f"pam: {LEFT}\n"


def test_what_a_reviewer_reads_of_a_push_is_plain() -> None:
    run = {"run_id": "r", "asker": "ada", "question": EVIL, "answer": EVIL, "paths": ["a.txt"]}
    about = {"runs": [run], "people": []}

    message = message_of(EVIL, ["a.txt"], about, me="ada")
    told = description("fix", "main", ["a.txt"], [], about, me="ada", title=EVIL)

    assert not GONE.search(message + told)
    assert (message.count(LEFT), told.count(LEFT)) == (2, 3), "title and question; title, question and answer"
