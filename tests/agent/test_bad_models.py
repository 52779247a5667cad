"""Models that err, lie, fall silent or break off: every run still ends, once, with its reason, and its log is valid."""

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from tests.support.house import Engineer, Followed, House

HEAD = "name: NAME\nwhen: NAME\n"


@pytest.fixture(scope="module")
async def ada(house: House) -> Engineer:
    """One engineer for these runs, whose workspace holds notes.txt; few tools, so that the limits' arithmetic is plain."""
    engineer = await house.engineer(
        tools=["file_read", "file_write", "file_list", "database_query", "redis_set", "redis_get"]
    )
    await engineer.person.call("write_file", org_id=engineer.org_id, path="notes.txt", content="the word is heron\n")
    return engineer


def turns(*lines: str) -> str:
    """A script of these turns, each written in YAML's flow style."""
    return HEAD + "turns:\n" + "\n".join(f"  - {line}" for line in lines)


async def corrected(house: House, ada: Engineer, bad_call: str, *, told: str) -> Followed:
    """Play a call that does not fit, then the right one, then an answer; the run must succeed."""
    run_id, seen = await house.play(
        ada,
        turns(
            "{expect: {role: user}, call: [" + bad_call + "]}",
            "{expect: {role: tool, contains: [" + told + ']}, call: [{file_read: {path: "notes.txt"}}]}',
            '{expect: {role: tool, capture: {word: "word is (\\\\w+)"}}, say: "It is {word}."}',
        ),
    )
    assert seen.answer() == "It is heron."
    assert seen.outcomes()[-1] == "succeeded"
    assert seen.events == await house.events(run_id)
    assert (await house.until(run_id))["status"] == "succeeded"
    return seen


async def failed(house: House, ada: Engineer, script: str, reason: str, **arguments: Any) -> tuple[str, Followed]:
    """Play a script to an end that failed for this reason, in the log as in the row."""
    run_id, seen = await house.play(ada, script, **arguments)
    run = await house.until(run_id)
    assert (run["status"], run["reason"]) == ("failed", reason)
    assert (seen.types[-1], seen.events[-1]["code"]) == ("RUN_ERROR", reason)
    assert seen.events == await house.events(run_id)
    assert run["cost_usd"] <= run["max_cost_usd"]
    return run_id, seen


BAD_CALLS = [
    pytest.param('{tool: file_read, arguments_text: \'{"path": "no\'}', '"no JSON object"', id="half JSON"),
    pytest.param("{tool: file_read, arguments_text: '[1, 2]'}", '"no JSON object"', id="a list"),
    pytest.param("{tool: file_read, arguments_text: 'NaN'}", '"no JSON object"', id="no value at all"),
    pytest.param(
        "{tool: file_read, arguments_text: '{\"path\": NaN}'}", '"no JSON object"', id="a number that is none"
    ),
    pytest.param('{tool: file_read, arguments_text: \'{"path": "a\\u0000b"}\'}', '"no JSON object"', id="NUL"),
    pytest.param("{tool: file_read, arguments_text: '{\"\\ud800\": 1}'}", '"no JSON object"', id="half a character"),
    pytest.param("{file_read: {}}", '"path: Field required"', id="a missing argument"),
    pytest.param(
        "{file_read: {path: [1]}}", '"path: Input should be a valid string"', id="an argument of another type"
    ),
    pytest.param("{file_read: {path: notes.txt, as_user: root}}", '"as_user: Extra inputs"', id="an argument too many"),
    pytest.param("{file_read: {path: notes.txt, first_line: -3}}", '"first_line: Input should be"', id="out of range"),
    pytest.param("{format_disk: {}}", "\"no tool 'format_disk' here\"", id="a tool that nobody has"),
    pytest.param("{tool: 'file_read\"; drop', arguments: {}}", '"There is no tool"', id="a tool name of odd letters"),
]


@pytest.mark.parametrize(("call", "told"), BAD_CALLS)
async def test_a_call_that_does_not_fit_is_told_and_put_right(
    house: House, ada: Engineer, call: str, told: str
) -> None:
    seen = await corrected(house, ada, call, told=told)
    assert seen.outcomes()[0] in ("failed", "refused")


async def test_a_hundred_kilobytes_of_arguments_are_refused_and_do_no_harm(house: House, ada: Engineer) -> None:
    call = "{file_read: {path: " + "x" * 100_000 + "}}"
    seen = await corrected(house, ada, call, told='"longer than 400 characters"')
    assert seen.outcomes()[0] == "refused"


async def test_text_that_looks_like_an_escape_is_written_as_it_is(house: House, ada: Engineer) -> None:
    text = r"NUL = '\u0000' and half = '\ud83d'"
    await house.play(
        ada,
        turns(
            '{expect: {role: user}, call: [{file_write: {path: escapes.py, content: "'
            + text.replace("\\", "\\\\")
            + '"}}]}',
            '{expect: {role: tool, contains: ["escapes.py is written"]}, say: done}',
        ),
    )
    file = await ada.person.call("read_file", org_id=ada.org_id, path="escapes.py")
    assert file["text"] == text


async def test_a_tool_that_the_card_does_not_grant_is_no_tool(house: House) -> None:
    reader = await house.engineer(tools=["file_read"], conduct_tools=[])
    calls = "{file_write: {path: a, content: b}}, {ask_person: {question: Shall I}}"
    told = "\"no tool 'file_write' here\", \"no tool 'ask_person' here\", file_read"
    _, seen = await house.play(
        reader,
        turns(
            "{expect: {role: user, tools: [file_read]}, call: [" + calls + "]}",
            "{expect: {role: tool, contains: [" + told + "]}, say: Not mine.}",
        ),
    )
    assert seen.outcomes() == ["refused", "refused"]
    assert await reader.person.select("files", org_id=reader.org_id) == []


async def test_nul_in_the_models_text_becomes_a_sign_and_the_run_succeeds(house: House, ada: Engineer) -> None:
    run_id, seen = await house.play(ada, turns('{expect: {role: user}, say: "one\\0two"}'))
    assert seen.answer() == "one\ufffdtwo"
    assert (await house.until(run_id))["attempt"] == 0


async def test_half_a_character_in_the_models_text_becomes_a_sign(house: House, ada: Engineer) -> None:
    _, seen = await house.play(ada, turns('{expect: {role: user}, say: "one\\ud83d two"}'))
    assert seen.answer() == "one? two"


SILENT = '{expect: {role: user}, say: ""}', '{expect: {role: system, contains: ["You said nothing"]}, say: "  "}'


async def test_silence_three_times_ends_the_run(house: House, ada: Engineer) -> None:
    run_id, _ = await failed(house, ada, turns(*SILENT, SILENT[1]), "empty_answer")
    assert (await house.until(run_id))["steps"] == 3


async def test_silence_twice_is_forgiven_and_says_nothing_to_a_later_run(house: House, ada: Engineer) -> None:
    run_id, seen = await house.play(ada, turns(*SILENT, "{expect: {role: system}, say: Here I am.}"))
    assert seen.answer() == "Here I am."
    thread = (await house.until(run_id))["thread_id"]
    _, later = await house.play(ada, turns("{expect: {role: user}, say: A new day.}"), thread_id=str(thread))
    assert later.answer() == "A new day."


async def test_a_model_that_never_stops_reaches_its_steps(house: House, ada: Engineer) -> None:
    run_id, seen = await failed(house, ada, endless("{file_list: {}}"), "max_steps", limits={"max_steps": 4})
    assert (await house.until(run_id))["steps"] == 4
    assert "limit of 4 steps" in seen.events[-1]["message"]


def endless(call: str) -> str:
    """A model that makes the same call for ever."""
    return (
        turns("{expect: {role: user}, call: [" + call + "]}", "{expect: {role: tool}, call: [" + call + "]}")
        + "\nrepeat_last: true"
    )


async def test_the_token_limit_holds(house: House, ada: Engineer) -> None:
    run_id, _ = await failed(house, ada, endless("{file_list: {}}"), "max_tokens", limits={"max_tokens": 9000})
    run = await house.until(run_id)
    assert 0 < run["input_tokens"] + run["output_tokens"] <= 9000
    assert run["steps"] > 1


async def test_the_money_limit_holds(house: House, ada: Engineer) -> None:
    run_id, seen = await failed(house, ada, endless("{file_list: {}}"), "max_cost", limits={"max_cost_usd": 0.002})
    run = await house.until(run_id)
    assert Decimal(0) < run["cost_usd"] <= Decimal("0.002")
    assert run["steps"] > 1
    assert "$0.002" in seen.events[-1]["message"]
    spent = await house.admin("select sum(cost_usd) as usd, count(*) as steps from pam.steps where run_id = %s", run_id)
    assert (spent[0]["usd"], spent[0]["steps"]) == (run["cost_usd"], run["steps"])


async def test_a_refusal_ends_the_run_and_shows_why(house: House, ada: Engineer) -> None:
    _, seen = await failed(house, ada, turns('{expect: {role: user}, refuse: "I must not."}'), "model_refused")
    assert seen.answer() == "I must not."


async def test_an_answer_cut_at_its_length_carries_out_no_half_call(house: House, ada: Engineer) -> None:
    script = turns("{expect: {role: user}, say: Long, finish: length, call: [{file_write: {path: half, content: x}}]}")
    _, seen = await failed(house, ada, script, "cut_short")
    assert "TOOL_CALL_START" not in seen.types


@pytest.mark.parametrize(
    "trouble",
    [
        "fail: {status: 429, retry_after: 1, times: 1}",
        "fail: {status: 429, retry_after: 1, as_date: true, times: 1}",
        "fail: {status: 500, times: 1}",
        "fail: {status: 529, times: 1}",
        "cut: before_finish, trouble_times: 1",
        "faults: [bad_json], trouble_times: 1",
        "faults: [error_event], trouble_times: 1",
        "faults: [no_choices], trouble_times: 1",
        "faults: [no_done, no_usage]",
    ],
)
async def test_a_passing_trouble_of_the_wire_is_passed_over(house: House, ada: Engineer, trouble: str) -> None:
    run_id, seen = await house.play(ada, turns("{expect: {role: user}, say: Fine now., " + trouble + "}"))
    assert seen.answer() == "Fine now."
    run = await house.until(run_id)
    assert (run["status"], run["steps"]) == ("succeeded", 1)
    assert run["cost_usd"] > 0


async def test_a_stream_that_breaks_in_its_text_begins_again_and_the_preview_too(house: House, ada: Engineer) -> None:
    words = " ".join(f"word{number}" for number in range(30))
    script = turns("{expect: {role: user}, say: " + words + ", cut: text, trouble_times: 1, seconds_per_word: 0.03}")
    run_id, seen = await house.play(ada, script)
    assert seen.answer() == words
    resets = [place for place, frame in enumerate(seen.previews) if frame.offset == 0 and frame.text == ""]
    assert resets, "viewers must be told to forget what was shown"
    shown = ""
    for frame in seen.previews[resets[-1] :]:
        assert frame.offset == len(shown)
        shown += frame.text
    assert words.startswith(shown)
    assert shown
    run = await house.until(run_id)
    step = (await house.admin("select is_estimated, output_tokens from pam.steps where run_id = %s", run_id))[0]
    assert step["is_estimated"], "what was written and lost is paid for, by estimate"
    assert run["output_tokens"] > len(words) // 4


async def test_a_stream_that_breaks_in_a_tool_call_calls_the_tool_once(house: House, ada: Engineer) -> None:
    call = "{redis_set: {key: broken, increment: 1}}"
    _, seen = await house.play(
        ada,
        turns(
            "{expect: {role: user}, call: [" + call + "], cut: tool_call, trouble_times: 1}",
            '{expect: {role: tool, contains: ["broken is 1 now"]}, say: Once.}',
        ),
    )
    assert seen.outcomes() == ["succeeded"]


async def test_what_broke_off_is_paid_for_though_the_run_fails(house: House, ada: Engineer) -> None:
    script = turns("{expect: {role: user}, say: some words that are cut off in the middle, cut: text}")
    run_id, _ = await failed(house, ada, script, "model_failed")
    run = await house.until(run_id)
    assert (run["steps"], run["cost_usd"] > 0) == (1, True)


async def test_a_wrong_key_fails_the_run_and_says_what_to_check(house: House, ada: Engineer) -> None:
    script = turns('{expect: {role: user}, fail: {status: 401, message: "Incorrect API key provided: rehearsal"}}')
    _, seen = await failed(house, ada, script, "model_failed")
    sentence = seen.events[-1]["message"]
    assert "check OPENAI_API_KEY" in sentence
    assert "rehearsal" not in sentence, "the key of the tests' model is `rehearsal`"


async def test_a_conversation_too_long_for_the_model_fails_the_run(house: House, ada: Engineer) -> None:
    script = turns("{expect: {role: user}, fail: {status: 400, code: context_length_exceeded}}")
    await failed(house, ada, script, "context_too_long")


async def test_a_silent_model_is_ended_by_the_runs_deadline(house: House, ada: Engineer) -> None:
    script = turns("{expect: {role: user}, say: Well, hang_seconds: 60}")
    run_id, _ = await failed(house, ada, script, "deadline", limits={"max_seconds": 2})
    run = await house.until(run_id)
    assert (run["ended_at"] - run["deadline_at"]).total_seconds() < 2.5


async def test_reads_go_side_by_side_and_effects_in_their_order(house: House, ada: Engineer) -> None:
    slow = "{database_query: {sql: 'select count(*) from generate_series(1, 10000) a, generate_series(1, 400) b'}}"
    run_id, seen = await house.play(
        ada,
        turns(
            "{expect: {role: user}, call: ["
            f"{slow}, {slow}, "
            "{file_write: {path: order.txt, content: one}}, "
            "{file_write: {path: order.txt, replace: one, replacement: two}}, "
            "{redis_set: {key: order, increment: 1}}, "
            "{file_write: {path: order.txt, replace: two, replacement: three}}, "
            "{file_read: {path: order.txt}}]}",
            '{expect: {role: tool, result_of: file_read, contains: ["three"]}, say: In order.}',
        ),
    )
    assert set(seen.outcomes()) == {"succeeded"}
    calls = await house.admin(
        "select place, started_at, ended_at from pam.tool_calls where run_id = %s order by place", run_id
    )
    reads, effects = calls[:2], calls[1:]
    assert max(c["started_at"] for c in reads) < min(c["ended_at"] for c in reads), "the two reads overlap"
    for earlier, later in pairwise(effects):
        assert earlier["ended_at"] <= later["started_at"]
