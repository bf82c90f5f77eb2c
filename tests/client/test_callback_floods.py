"""Many callbacks at once: waiting confirmations are cheap, and each gets its turn."""

from __future__ import annotations

import json
import math

import anyio

from kie_async import KieClient
from kie_async.testing.tasks import FakeTask
from tests.helpers import CALLBACKS, assert_settled, client_and_fake, make_request

JOBS = 60


async def post_callback(kie: KieClient, task: FakeTask) -> int:
    """Pass a task's callback to the client; return the status of the answer."""
    body = {"code": 200, "data": {"taskId": task.task_id}}
    status, _ = await kie.callbacks.handle(task.callback_url or "", {}, json.dumps(body).encode())
    return status


async def test_a_flood_is_queued_and_confirmed_in_order() -> None:
    """
    With five polls a second, a few confirmations are in progress, and the rest need no task of the loop.

    A repeated callback adds nothing while the first one waits.
    """
    async with client_and_fake(client={"callback_url": CALLBACKS}, duration=math.inf) as setup:
        kie = setup.kie
        kie.callbacks.asgi_app()  # callbacks are expected, and polls are rare
        for number in range(JOBS):
            await kie.submit(make_request(number))
        polled = len(setup.truth.polls)
        for task in setup.truth.created:
            setup.fake.finish(task.task_id)
        for task in 3 * setup.truth.created:
            assert 200 == await post_callback(kie, task)
        during = kie.statistics()
        await anyio.sleep(JOBS / 5 + 2)

        assert JOBS == during.confirming
        assert during.loop_tasks < JOBS / 2
        assert JOBS == kie.statistics().confirmations
        asked = [poll.task_id for poll in setup.truth.polls[polled:]]
        assert len(asked) <= JOBS + 2  # two planned polls
        order = [*dict.fromkeys(asked)]
        assert all(abs(order.index(task) - place) <= 2 for place, task in enumerate(setup.tasks))
        assert {"succeeded": JOBS} == await setup.states()
        await anyio.sleep(5.0)
        await assert_settled(kie)
