"""A run that calls an API, end to end: a worker of the stack reaches what its organisation allows, and nothing else."""

from tests.support.house import House
from tests.support.outside import Outside, reply, says

ASKING = """
name: NAME
when: NAME
turns:
  - expect: {role: user, tools: [api_call]}
    say: "I ask."
    call: [{api_call: {url: "https://api.example.com/"}}, {api_call: {url: "URL/weather?city=Oslo"}}]
  - expect: {role: tool, result_of: api_call, contains: ["not on the organisation's list"], capture: {word: "sky: (\\\\w+)"}}
    say: "The sky is {word}."
"""


async def test_a_run_asks_an_api_that_its_organisation_allows(house: House) -> None:
    async with Outside.open(says(reply(200, "sky: clear", Content_Type="text/plain"))) as server:
        ada = await house.engineer(tools=["api_call"])
        await ada.person.call("allow_host", org_id=ada.org_id, host=f"localhost:{server.port}")
        run_id, seen = await house.play(ada, ASKING.replace("URL", server.url))
        (asked,) = server.asked
    assert (asked.method, asked.target) == ("GET", "/weather?city=Oslo")
    assert seen.answer() == "The sky is clear."
    assert seen.outcomes() == ["refused", "succeeded"]
    told = [event["value"] for event in await house.events(run_id) if event.get("name") == "pam.api_called"]
    assert [(one["host"], one["path"], one["status"]) for one in told] == [
        (f"localhost:{server.port}", "/weather", 200)
    ]
