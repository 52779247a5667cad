"""CloudWatch with the real client against moto: queries built and polled; what comes back is filtered on our side.

moto ignores the filters of a query, so that every line of a group comes back: what is left of them is our own filter.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from tests.logs.conftest import KEY, SECRET
from tests.logs.journal import MINE, THEIRS, events, line, query
from workers.kernel.errors import Unavailable
from workers.logs.cloudwatch import CloudWatchLogs, CloudWatchPlace, client_of, insights_query
from workers.logs.query import Condition, LogsRefused, Operator, Order

ORG = UUID("11111111-2222-4333-8444-555555555555")
ALWAYS = f'fields @timestamp, @message | filter org_id = "{ORG}"'


@pytest.mark.parametrize(
    ("searched", "built"),
    [
        ({}, f"{ALWAYS} | sort @timestamp desc | limit 9"),
        ({"order": Order.OLDEST}, f"{ALWAYS} | sort @timestamp asc | limit 9"),
        (
            {"text": "timed out"},
            f"{ALWAYS} | filter @message like /(?i)timed/ | filter @message like /(?i)out/ | sort @timestamp desc | limit 9",
        ),
        (
            {"conditions": (Condition("http.route", Operator.EQ, "/a b"),)},
            f'{ALWAYS} | filter http.route = "/a b" | sort @timestamp desc | limit 9',
        ),
        (
            {"conditions": (Condition("seconds", Operator.GT, 5), Condition("n", Operator.EQ, "5"))},
            f"{ALWAYS} | sort @timestamp desc | limit 9",
        ),
    ],
)
def test_a_query_holds_the_organisation_and_what_can_be_said_safely(searched: dict[str, Any], built: str) -> None:
    assert insights_query(query(org_id=ORG, **searched), limit=9) == built


async def test_lines_are_found_and_filtered_again(cloudwatch: CloudWatchLogs, put: Callable[..., None]) -> None:
    put(line("a"), line("foreign", org=THEIRS), line("b", level="error"), line("nobody's", org=None), "no JSON")
    assert events(await cloudwatch.find(query())) == ["b", "a"]
    assert events(await cloudwatch.find(query(level="error"))) == ["b"]
    assert events(await cloudwatch.find(query(order=Order.OLDEST, limit=1))) == ["a"]
    assert events(await cloudwatch.find(query(org_id=None, text="no json"))) == ["no JSON"]


async def test_what_is_sent_names_the_group_and_the_stretch_of_time(
    asked: tuple[CloudWatchLogs, list[dict[str, Any]]], place: CloudWatchPlace
) -> None:
    store, sent = asked
    searched = query()
    await store.find(searched)
    assert sent[0]["logGroupName"] == place.log_group
    assert sent[0]["startTime"] == int(searched.range.since.timestamp())
    assert sent[0]["endTime"] >= int(searched.range.until.timestamp())
    assert f'filter org_id = "{MINE}"' in sent[0]["queryString"]


async def test_a_group_that_is_not_there_is_told(place: CloudWatchPlace) -> None:
    gone = CloudWatchPlace(**{**place.__dict__, "log_group": "/pam/absent"})
    with pytest.raises(LogsRefused, match="There is no such log group"):
        await CloudWatchLogs(place=gone).find(query())


class Stubborn:
    """The real client but for the state that a query is in: moto's are done at once."""

    def __init__(self, client: Any, status: str) -> None:
        self._client, self._status, self.stopped, self._polls = client, status, False, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_query_results(self, **asked: Any) -> dict[str, Any]:
        self._polls += 1
        assert self._polls < 30, "it is polled for ever"
        return {**self._client.get_query_results(**asked), "status": self._status}

    def stop_query(self, **asked: Any) -> None:
        self.stopped = True


async def test_a_search_that_takes_too_long_is_stopped_and_told(place: CloudWatchPlace) -> None:
    made: list[Stubborn] = []

    def make(place: CloudWatchPlace) -> Any:
        made.append(Stubborn(client_of(place), "Running"))
        return made[0]

    with pytest.raises(Unavailable, match="narrow the range of time"):
        await CloudWatchLogs(place=place, make=make, max_seconds=0.1).find(query())
    assert made[0].stopped


@pytest.mark.parametrize("status", ["Failed", "Cancelled", "Timeout", "Unknown"])
async def test_a_search_that_ended_badly_is_told(place: CloudWatchPlace, status: str) -> None:
    store = CloudWatchLogs(place=place, make=lambda place: Stubborn(client_of(place), status))
    with pytest.raises(Unavailable, match=f"CloudWatch ended the search as {status}"):
        await store.find(query())


async def test_no_key_stands_in_an_error_nor_in_the_place(place: CloudWatchPlace) -> None:
    away = CloudWatchPlace(**{**place.__dict__, "endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable) as told:
        await CloudWatchLogs(place=away).find(query())
    said = f"{told.value!r} {told.value.__cause__!r} {place!r}"
    assert KEY not in said
    assert SECRET not in said
