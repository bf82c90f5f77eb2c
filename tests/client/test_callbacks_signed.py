"""With a ``webhook_key``, a callback needs the service's signature and our token; without it, only the token."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from kie_async import EventName
from kie_async.testing import Fault
from kie_async.testing.callbacks import sign
from tests.client.backend import callback_body, client_with_callbacks, post, use_aiohttp, use_asgi
from tests.helpers import assert_settled, create_foreign_task, make_request

OLD, NEW = "canary-of-the-old-key", "canary-of-the-new-key"


@pytest.mark.parametrize("adapter", [use_aiohttp, use_asgi])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(None, None), (None, OLD), (OLD, OLD), ((OLD, NEW), OLD), ((OLD, NEW), NEW), ((NEW, OLD), OLD)],
)
async def test_a_validly_signed_callback_ends_the_job(ours: Any, theirs: str | None, adapter: Any) -> None:
    """Without a key, signatures are ignored; with several keys, any of them is accepted, which allows rotation."""
    async with client_with_callbacks(adapter, client={"webhook_key": ours}, webhook_key=theirs, duration=100.0) as (
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
async def test_an_invalid_signature_is_401_and_polling_works(
    theirs: str | None, fault: Fault | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It causes no poll, and consecutive refusals are logged once."""
    faults = [] if fault is None else [fault]
    async with client_with_callbacks(
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
    """The service's clock and ours may differ."""
    async with client_with_callbacks(client={"webhook_key": OLD}, duration=1000.0) as (setup, _):
        await setup.kie.submit(make_request())
        await anyio.sleep(1.0)
        # Within the current second, so that the age is exact.
        wall = int(asyncio.get_running_loop().wall_time())  # type: ignore[attr-defined]  # a loop of virtual time
        headers = sign(OLD, setup.tasks[0], int(wall - age) + (1 if age > 0 else 0))
        assert 200 == await post(setup.truth.create_requests[0].callback_url, callback_body(setup.tasks[0]), headers)
        await anyio.sleep(60.0)


async def test_a_signature_is_valid_for_its_own_task_only() -> None:
    """A captured callback of the account proves nothing about another task, and its own task is only polled."""
    async with client_with_callbacks(client={"webhook_key": OLD}, webhook_key=OLD, duration=1000.0) as (setup, backend):
        await setup.kie.submit(make_request())
        other = await create_foreign_task(setup.fake.url)
        url = setup.truth.create_requests[0].callback_url
        assert 401 == await post(url, callback_body(setup.tasks[0]), setup.fake.sign(other))
        assert [] == setup.truth.polls
        assert 200 == await post(url, callback_body(setup.tasks[0], task_id=other), setup.fake.sign(other))
        await anyio.sleep(1.0)

        assert [401, 200] == backend.answers
        assert [other] == [poll.task_id for poll in setup.truth.polls]
        assert ("submitted", setup.tasks[0], (), ()) == (
            (row := await setup.row()).state,
            row.task_id,
            row.duplicate_task_ids,
            row.callback_task_ids,
        )
        del setup.truth.tasks[other]
