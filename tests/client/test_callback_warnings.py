"""Strangers decide how many callbacks come, and not how many warnings are logged: one for a job in each state."""

from __future__ import annotations

import logging
from itertools import cycle
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import RetryPolicy, SubmitInDoubtError
from kie_async._core.callback_token import callback_secret, make_token
from kie_async._io.callbacks.confirmations import MAX_WARNED_JOBS
from kie_async.testing import Fault
from tests.client.backend import callback_body, client_with_callbacks
from tests.helpers import KEY, Setup, create_foreign_task, make_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WEBHOOK_KEY = "canary-of-the-webhook-key"
LOST = Fault("create", "reset", after=True, nth=1)


def warned(caplog: pytest.LogCaptureFixture) -> list[object]:
    """Return the jobs of the warnings about callbacks."""
    records = [record for record in caplog.records if "a callback" in record.getMessage()]
    assert records
    return [
        record.args[0] for record in records if record.levelno >= logging.WARNING and isinstance(record.args, tuple)
    ]


async def pass_on(setup: Setup, url: str | None, task_id: str, headers: Mapping[str, str]) -> int:
    """Pass a callback to the client; return the status of the answer."""
    status, _ = await setup.kie.callbacks.handle(str(url), headers, callback_body(task_id))
    return status


def headers_by_turns(attack: str, setup: Setup, task_id: str) -> Iterator[dict[str, str]]:
    """Yield the signature headers of an attack, for half an hour of posts or more."""
    for _ in range(30):
        good = setup.fake.sign(task_id)
        stale = {**good, "x-webhook-timestamp": "1"}
        match attack:
            case "unsigned and good":
                yield from ({}, good)
            case "wrong and good":
                yield from (setup.fake.sign(f"{task_id}0"), good)
            case "stale, good, unsigned, good":
                yield from (stale, good, {}, good)
            case _:
                yield from ({}, stale)


@pytest.mark.parametrize(
    "attack", ["unsigned and good", "wrong and good", "stale, good, unsigned, good", "unsigned and stale"]
)
async def test_alternating_signatures_cause_one_warning(attack: str, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger repeats a genuine callback between forged ones, so that each seems to be the first of its kind."""
    client = {"webhook_key": WEBHOOK_KEY, "retry": RetryPolicy(max_age=600.0)}
    async with client_with_callbacks(client=client, webhook_key=WEBHOOK_KEY, duration=3000.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        for headers in headers_by_turns(attack, setup, task.task_id):
            await pass_on(setup, task.callback_url, task.task_id, headers)
            await anyio.sleep(30.0)

        assert job.state != "submitted"  # another state is no reason for another warning
        assert [job.id] == warned(caplog)
        await job.wait(timeout=3000.0)


async def test_a_wrong_webhook_key_causes_one_warning_for_all_jobs(caplog: pytest.LogCaptureFixture) -> None:
    """Consecutive refusals have one reason; the first one says it."""
    client = {"webhook_key": WEBHOOK_KEY}
    async with client_with_callbacks(client=client, webhook_key="another", duration=100.0) as (setup, _):
        jobs = [await setup.kie.submit(make_request(number)) for number in range(5)]
        for job in jobs:
            await job
        await anyio.sleep(60.0)

        assert 1 == len(warned(caplog))


@pytest.mark.parametrize("signed", [True, False])
async def test_tokens_of_many_jobs_cause_one_warning_each(*, signed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The tokens come by turns, with forged signatures, or with a task of another program."""
    key = WEBHOOK_KEY if signed else None
    async with client_with_callbacks(client={"webhook_key": key}, webhook_key=key, duration=3000.0) as (setup, _):
        jobs = [await setup.kie.submit(make_request(number)) for number in range(5)]
        urls = [task.callback_url for task in setup.truth.created]
        foreign = await create_foreign_task(setup.fake.url)
        for url in 20 * urls:
            await pass_on(setup, url, foreign, {})
            if signed:
                assert 200 == await pass_on(setup, urls[0], setup.tasks[0], setup.fake.sign(setup.tasks[0]))
            await anyio.sleep(10.0)

        assert {job.id for job in jobs} == {*warned(caplog)}
        assert len(jobs) == len(warned(caplog))
        del setup.truth.tasks[foreign]
        for job in jobs:
            await job


@pytest.mark.parametrize("ids", ["one visible id", "visible ids", "made-up ids"])
async def test_a_warning_is_remembered_for_as_long_as_the_job_is(ids: str, caplog: pytest.LogCaptureFixture) -> None:
    """A callback every twenty minutes: what it named is forgotten by then. A second state brings a second warning."""
    client = {"retry": RetryPolicy(in_doubt_timeout=3_500.0)}
    lost = Fault("callback", "lost")
    async with client_with_callbacks(client=client, duration=1e6, faults=[LOST, lost], credits=1e6) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        others = [await setup.kie.submit(make_request(number)) for number in range(1, 9)]
        visible = [await create_foreign_task(setup.fake.url, f"order {number}") for number in range(3)]
        named = cycle({"one visible id": visible[:1], "visible ids": visible}.get(ids) or map(str, range(100)))
        for states, half in (1, others[:3]), (2, others[3:]):
            for other in half:
                # At a callback for a job without one, the memory of those that are over is dropped.
                url = setup.truth.tasks[str(other.task_id)].callback_url
                await pass_on(setup, url, str(other.task_id), {})
                await pass_on(setup, task.callback_url, next(named), {})
                await anyio.sleep(1200.0)
            assert states * [raised.value.job_id] == warned(caplog)

        rows = {row.id: row.state for row in await setup.rows()}
        assert "unresolved" == rows[str(raised.value.job_id)]
        setup.truth.tasks.clear()
        await raised.value.job.abandon()


async def test_warnings_have_a_bound_whatever_the_strangers_know(caplog: pytest.LogCaptureFixture) -> None:
    """Tokens of more jobs than are remembered, each with a forged signature between good ones."""
    client = {"webhook_key": WEBHOOK_KEY}
    async with client_with_callbacks(client=client, webhook_key=WEBHOOK_KEY, duration=60.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        for number in range(MAX_WARNED_JOBS + 50):
            url = "https://app.example.com/kie/" + make_token(callback_secret(KEY), f"kj_{number:032x}", 1)
            assert 401 == await pass_on(setup, url, task.task_id, {})
            assert 200 == await pass_on(setup, task.callback_url, task.task_id, setup.fake.sign(task.task_id))

        assert MAX_WARNED_JOBS == len(warned(caplog)) == len({*warned(caplog)})
        await job
