"""With ``webhook_key``, a callback needs the service's own signature beside our token; without it, the token alone."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from kie_async import EventName
from kie_async.testing import Fault
from kie_async.testing.callbacks import sign
from tests.client.backend import a_called_world, body_of, by_aiohttp, by_asgi, post
from tests.helpers import assert_settled, create_foreign_task, make_request

OLD, NEW = "canary-of-the-old-key", "canary-of-the-new-key"


@pytest.mark.parametrize("adapter", [by_aiohttp, by_asgi])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(None, None), (None, OLD), (OLD, OLD), ((OLD, NEW), OLD), ((OLD, NEW), NEW), ((NEW, OLD), OLD)],
)
async def test_a_callback_that_is_signed_as_expected_ends_the_job(ours: Any, theirs: str | None, adapter: Any) -> None:
    """Without a key, a signature is not looked at; with several, any of them fits: so a key can be changed."""
    async with a_called_world(adapter, client={"webhook_key": ours}, webhook_key=theirs, duration=100.0) as (
        setup,
        backend,
    ):
        await setup.kie.generate(make_request())

        assert [200] == backend.answers
        assert 100.0 == pytest.approx(anyio.current_time(), abs=0.1)
        await anyio.sleep(2.0)
        await assert_settled(setup.kie)


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        (None, None),
        (NEW, None),
        (OLD, Fault("callback", "unsigned")),
        (OLD, Fault("callback", "wrong_signature")),
        (OLD, Fault("callback", "stale", seconds=301.0)),
        (OLD, Fault("callback", "stale", seconds=-301.0)),
    ],
    ids=["no key", "another key", "unsigned", "wrong_signature", "too old", "of the future"],
)
async def test_a_callback_that_is_not_signed_as_expected_is_401_and_the_job_is_polled(
    theirs: str | None, fault: Fault | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is asked because of it, and the log says it once, however often it is tried."""
    faults = [] if fault is None else [fault]
    async with a_called_world(
        client={"webhook_key": OLD}, webhook_key=theirs, duration=100.0, callback_retry_delay=1.0, faults=faults
    ) as (setup, backend):
        await setup.kie.generate(make_request())
        await anyio.sleep(60.0)

        assert [401, 401, 401] == backend.answers
        statistics = setup.kie.statistics()
        assert (0, 0) == (statistics.callbacks, statistics.confirmations)
        assert 3 == len(setup.reported(EventName.CALLBACK_REFUSED))
        assert 1 == sum("Refused a callback" in record.message for record in caplog.records)
        assert not any(key in record.getMessage() for record in caplog.records for key in (OLD, NEW))
        await assert_settled(setup.kie)


@pytest.mark.parametrize("age", [-300.0, 0.0, 300.0])
async def test_five_minutes_either_way_are_allowed(age: float) -> None:
    """The service's clock and ours need not agree to the second."""
    async with a_called_world(client={"webhook_key": OLD}, duration=1000.0) as (setup, _):
        await setup.kie.submit(make_request())
        await anyio.sleep(1.0)
        # Within the present second, so that the age is what it is said to be.
        wall = int(asyncio.get_running_loop().wall_time())  # type: ignore[attr-defined]  # a loop of virtual time
        headers = sign(OLD, setup.tasks[0], int(wall - age) + (1 if age > 0 else 0))
        assert 200 == await post(setup.truth.create_requests[0].callback_url, body_of(setup.tasks[0]), headers)
        await anyio.sleep(60.0)


async def test_a_signature_is_good_for_its_own_task_only() -> None:
    """Somebody has seen a callback of the account's; it proves nothing about another task."""
    async with a_called_world(client={"webhook_key": OLD}, webhook_key=OLD, duration=1000.0) as (setup, backend):
        await setup.kie.submit(make_request())
        other = await create_foreign_task(setup.fake.url)
        url = setup.truth.create_requests[0].callback_url
        assert 401 == await post(url, body_of(setup.tasks[0]), setup.fake.sign(other))
        assert 400 == await post(url, body_of(setup.tasks[0], task_id=other), setup.fake.sign(other))

        assert [401, 400] == backend.answers
        assert [] == setup.truth.polls
        del setup.truth.tasks[other]
