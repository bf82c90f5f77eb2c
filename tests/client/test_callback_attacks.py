"""A stranger knows a callback URL and posts to it for as long as the task runs; the genuine callback is not delayed."""

from __future__ import annotations

import logging
from itertools import count, cycle
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import EventName, RetryPolicy, SubmitInDoubtError
from kie_async.testing import Fault
from kie_async.testing.truth import busiest_window
from tests.client.backend import callback_body, client_with_callbacks
from tests.helpers import Setup, assert_settled, create_foreign_task, make_request

if TYPE_CHECKING:
    from collections.abc import Iterator


LOST = Fault("create", "reset", after=True, nth=1)
#: The most polls that a callback URL may cause in a minute and in an hour.
IN_A_MINUTE, IN_AN_HOUR = 12, 60


async def visible_ids(setup: Setup, number: int) -> list[str]:
    """Return the ids of tasks of the same account that other programs have created."""
    found = []
    for nth in range(number):
        await anyio.sleep(1.0)  # within the limit of creates
        found.append(await create_foreign_task(setup.fake.url, f"order {nth}"))
    return found


async def posted_ids(attack: str, setup: Setup) -> tuple[Iterator[list[str]], float]:
    """Return the ids that each round of an attack posts, and the seconds between two rounds."""
    made_up = (f"{number:032x}" for number in count())
    match attack:
        case "four made-up ids":
            return cycle([[f"{number:032x}" for number in range(4)]]), 20.0
        case "new made-up ids":
            return ([next(made_up) for _ in range(4)] for _ in count()), 20.0
        case "a flood of made-up ids":
            return ([next(made_up)] for _ in count()), 0.2
        case "a made-up id, long before":
            return iter([["a"], *([] for _ in range(10_000))]), 1.0
        case "one visible id":
            return cycle([await visible_ids(setup, 1)]), 1.0
        case "forty visible ids":
            return cycle([[task_id] for task_id in await visible_ids(setup, 40)]), 1.0
        case "other jobs' tasks":
            jobs = [await setup.kie.submit(make_request(number)) for number in range(1, 6)]
            return cycle([[str(job.task_id)] for job in jobs]), 0.5
        case _:
            seen = cycle(await visible_ids(setup, 3))
            return ([next(made_up), next(seen)] for _ in count()), 1.0


ATTACKS = [
    "four made-up ids",
    "new made-up ids",
    "a flood of made-up ids",
    "a made-up id, long before",
    "one visible id",
    "forty visible ids",
    "other jobs' tasks",
    "made-up and visible ids",
]


async def post_rounds(setup: Setup, url: str | None, rounds: Iterator[list[str]], every: float) -> None:
    """Post each round's ids until cancelled; all are answered with 200."""
    for ids in rounds:
        for task_id in ids:
            status, _ = await setup.kie.callbacks.handle(str(url), {}, callback_body(task_id))
            assert 200 == status
        await anyio.sleep(every)


def polls_of_strangers(setup: Setup, own: set[str | None]) -> list[float]:
    """Return the instants of the polls of all other ids."""
    return [poll.at for poll in setup.truth.polls if poll.task_id not in own]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_the_genuine_callback_is_not_crowded_out(attack: str, caplog: pytest.LogCaptureFixture) -> None:
    """The create is in doubt, and its callback comes in the midst of the attack."""
    async with client_with_callbacks(duration=600.0, faults=[LOST], credits=1e6) as (setup, backend):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        rounds, every = await posted_ids(attack, setup)
        polls = setup.kie.statistics().confirmations
        async with anyio.create_task_group() as group:
            group.start_soon(post_rounds, setup, task.callback_url, rounds, every)
            video = await raised.value.job
            assert task.task_id == video.task_id
            assert anyio.current_time() - task.ends_at <= 0.1
            assert setup.kie.statistics().confirmations - polls <= IN_AN_HOUR
            group.cancel_scope.cancel()

        assert [200] == backend.answers[:1]
        ignored = [record for record in caplog.records if "Ignored a callback" in record.getMessage()]
        assert len([record for record in ignored if record.levelno >= logging.WARNING]) <= 1
        for other in [other for other in setup.truth.created if other is not task]:
            setup.truth.tasks.pop(other.task_id)


@pytest.mark.parametrize("attack", ["one visible id", "forty visible ids", "made-up and visible ids"])
async def test_a_callback_url_causes_few_polls_and_ever_fewer(attack: str, caplog: pytest.LogCaptureFixture) -> None:
    """For an hour, on a job in doubt whose callback never comes."""
    lost = Fault("callback", "lost")
    client = {"retry": RetryPolicy(max_age=7200.0)}
    async with client_with_callbacks(client=client, duration=1e5, faults=[LOST, lost], credits=1e6) as (setup, _):
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        rounds, every = await posted_ids(attack, setup)
        with anyio.move_on_after(3600.0):
            await post_rounds(setup, task.callback_url, rounds, every)

        polled_at = polls_of_strangers(setup, {task.task_id})
        assert 1 <= busiest_window(polled_at, 60.0) <= IN_A_MINUTE
        assert len(polled_at) <= IN_AN_HOUR
        if attack == "one visible id":
            assert 1 == len(polled_at)
        warnings = [record for record in caplog.records if "Ignored a callback" in record.getMessage()]
        assert 1 == len([record for record in warnings if record.levelno >= logging.WARNING])
        assert len(polled_at) >= len(setup.reported(EventName.CALLBACK_REFUSED))
        setup.truth.tasks.clear()


async def test_its_own_task_id_causes_few_polls_too() -> None:
    """The task runs for half an hour; the genuine callback shows the request, which the URL does not tell."""
    async with client_with_callbacks(duration=1800.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        async with anyio.create_task_group() as group:
            group.start_soon(post_rounds, setup, task.callback_url, cycle([[task.task_id]]), 1.0)
            await job
            assert anyio.current_time() - task.ends_at <= 0.1
            group.cancel_scope.cancel()

        assert setup.kie.statistics().confirmations <= IN_A_MINUTE + 1800 / 90 + 1800 / 450
        await anyio.sleep(2.0)
        await assert_settled(setup.kie)


async def test_strangers_do_not_displace_what_the_answer_has_named() -> None:
    """A task that the create's own answer has named waits in the row, and may be the paid one."""
    async with client_with_callbacks(duration=600.0, faults=[LOST]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        await setup.journal.update_fields(raised.value.job.id, at=1.0, callback_task_ids=("a-named-task",))
        for number in range(30):
            await setup.kie.callbacks.handle(str(task.callback_url), {}, callback_body(f"{number:032x}"))

        named = (await setup.row()).callback_task_ids
        assert ("a-named-task", *(f"{number:032x}" for number in range(22, 30))) == named
        await raised.value.job
