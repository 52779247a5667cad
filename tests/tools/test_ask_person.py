"""ask_person never runs: it lets the run wait, and its answer is the result."""

import pytest
from pydantic import ValidationError

from tests.support.bench import Bench
from workers.agent.decisions import AwaitPerson, CallTools, next_calls
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus
from workers.tools import ask_person


async def test_a_question_waits_until_the_tools_beside_it_are_done(bench: Bench) -> None:
    question = await bench.planned("ask_person", {"question": "Which colour?"})
    read = await bench.planned("file_list", {})
    assert question.effect is CallEffect.PAUSE
    assert next_calls((question, read)) == CallTools((read,))
    assert next_calls((question, await bench.carry_out(read))) == AwaitPerson()


async def test_the_answer_becomes_the_result(bench: Bench) -> None:
    question = await bench.planned("ask_person", {"question": "Which colour?"})
    answered = question.model_copy(update={"status": CallStatus.ANSWERED, "result": "teal"})
    assert next_calls((answered,)) == CallTools((answered,))
    done = await bench.carry_out(answered)
    assert (done.status, done.result) == (CallStatus.SUCCEEDED, "The person answered: teal")


@pytest.mark.parametrize("question", ["", "x" * 4001, None, 7])
def test_a_question_is_a_text_of_a_bearable_length(question: object) -> None:
    with pytest.raises(ValidationError):
        ask_person.Args.model_validate({"question": question})
