"""The conditions of faults, and the validation of their arguments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kie_async.testing import Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Api, Serve


async def codes(api: Api, number: int) -> list[int]:
    return [(await api.create()).json["code"] for _ in range(number)]


@pytest.mark.parametrize(
    ("when", "affected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 3}, [3]),
        ({"nth": (2, 5)}, [2, 5]),
        ({"nth": range(4, 100)}, [4, 5, 6]),
        ({"times": 2}, [1, 2]),
        ({"between": (10.0, 30.0)}, [2, 3]),
        ({"when": lambda call: b'"odd"' in call.body}, [1, 3, 5]),
        ({"when": lambda call: b'"odd"' in call.body, "between": (10.0, 100.0), "times": 1}, [3]),
        ({"probability": 1.0}, [1, 2, 3, 4, 5, 6]),
        ({"probability": 0.0}, []),
    ],
)
async def test_fault_fires_if_all_conditions_hold(serve: Serve, when: dict[str, Any], affected: list[int]) -> None:
    async with serve(faults=[Fault("create", "code", code=500, **when)]) as api:
        failed = []
        for number in range(1, 7):
            answer = await api.create(prompt="odd" if number % 2 else "even")
            failed += [number] if answer.json["code"] == 500 else []
            await asyncio.sleep(10)

        assert affected == failed


async def test_first_matching_fault_fires(serve: Serve) -> None:
    async with serve(
        faults=[Fault("create", "code", code=455, nth=1), Fault("create", "code", code=500, nth=(1, 2))]
    ) as api:
        assert [455, 500, 200] == await codes(api, 3)
        api.fake.inject(Fault("create", "code", code=505))
        assert [505] == await codes(api, 1)
        api.fake.faults.clear()
        assert [200] == await codes(api, 1)


async def test_chance_is_as_asked_for(serve: Serve) -> None:
    async with serve(limit=1000, credits=1e6, faults=[Fault("create", "code", code=500, probability=0.1)]) as api:
        assert 25 < (await codes(api, 400)).count(500) < 60


async def test_places_are_counted_apart(serve: Serve) -> None:
    async with serve(faults=[Fault("poll", "code", code=500, nth=2), Fault("credit", "code", code=500, nth=1)]) as api:
        task_id = await api.task()
        assert [200, 500, 200] == [(await api.poll(task_id)).json["code"] for _ in range(3)]
        assert 500 == (await api.request("GET", "/api/v1/chat/credit")).json["code"]


@pytest.mark.parametrize(
    ("place", "kind", "arguments", "text"),
    [
        ("jobs", "reset", {}, "the places are connect, create, poll, .*"),
        ("create", "lost", {}, "'lost'.: the kinds at 'create' are"),
        ("connect", "html", {}, "'html'.: the kinds at 'connect' are"),
        ("callback", "reset", {}, "'reset'.: the kinds at 'callback' are"),
        ("poll", "no_task_id", {}, "'no_task_id'.: the kinds at 'poll' are"),
        ("create", "code", {}, "code= is required"),
        ("poll", "alter", {}, "data= is required"),
        ("poll", "slow", {}, "seconds= is required"),
        ("callback", "copies", {}, "copies= is required"),
        ("callback", "early", {}, "seconds= is required"),
    ],
)
def test_invalid_faults_are_refused(place: Any, kind: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Fault(place, kind, **arguments)
