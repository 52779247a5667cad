"""Runs end to end on the real stack: RPC, webhook, queue, worker, tools, Realtime."""

from tests.support.house import House

GREETING = """
name: NAME
when: NAME
turns:
  - expect: {role: user, contains: ["NAME"], tools: [file_read, database_query]}
    say: "I read the greeting first, and show you while I write this, word by word, so that a preview can be seen."
    call: [{file_read: {path: "greeting.txt"}}, {database_query: {describe: true}}]
  - expect: {role: tool, result_of: file_read, capture: {word: "greeting: (\\\\w+)"}}
    say: "It says {word}."
"""


async def test_a_run_goes_from_a_plain_rpc_to_a_live_answer(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("write_file", org_id=ada.org_id, path="greeting.txt", content="greeting: Ahoy\n")

    run_id, seen = await house.play(ada, GREETING)

    assert seen.types[0] == "RUN_STARTED"
    assert seen.types[-1] == "RUN_FINISHED"
    assert seen.answer() == "It says Ahoy."
    assert seen.previews, "the text must be seen while it is written"
    assert seen.events == await house.events(run_id)
    run = await house.until(run_id)
    assert (run["status"], run["steps"], run["attempt"]) == ("succeeded", 2, 0)
    assert run["cost_usd"] > 0
