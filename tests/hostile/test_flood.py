"""A flood: leaked tokens are posted a thousand times a second while jobs run."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from kie_async import Limits
from kie_async._core.callback_token import callback_secret
from kie_async.testing import Fault
from kie_async.testing.truth import busiest_window
from tests.helpers import CALLBACKS, KEY, Setup, assert_settled, client_and_fake, create_foreign_task, make_request
from tests.hostile.attacks import Attack, Scene, Target, make_attack_request
from tests.hostile.posting import through_asgi
from tests.hostile.watch import held_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kie_async import Job

JOBS = 12
#: The size of a burst, and the seconds between two: a thousand posts a second.
AT_ONCE, EVERY = 50, 0.05


@attrs.define(eq=False)
class Flood:
    """
    Posts callbacks and counts the answers.

    Attributes:
        answers: The number of answers with each status.

        held: The bytes of the client after each second.
    """

    setup: Setup
    answers: Counter[int | None] = attrs.field(factory=Counter)
    held: list[int] = attrs.field(factory=list)

    async def post_until_ended(self, claim: str, scene: Scene, jobs: Sequence[Job]) -> None:
        """Post claims about *jobs* by turns, until all of them have ended."""
        app, posted = self.setup.kie.callbacks.asgi_app(), 0
        while any(job.state == "submitted" for job in jobs):
            for number in range(posted, posted + AT_ONCE):
                self.answers[
                    await through_asgi(app, make_attack_request(Attack(body=claim, number=number), scene))
                ] += 1
            posted += AT_ONCE
            await anyio.sleep(EVERY)
            if posted % 1000 == 0:
                self.held.append(held_by(self.setup.kie))


async def learn_losses(setup: Setup) -> None:
    """Let the client learn that callbacks are lost, so that it polls at its full rate."""
    setup.kie.callbacks.asgi_app()
    for job in [await setup.kie.submit(make_request(number)) for number in range(10)]:
        await job
    await anyio.sleep(60.0)


@pytest.mark.parametrize("claim", ["own", "a foreign task's", "an unknown task's"])
async def test_a_flood_starves_no_polls_and_fills_no_memory(claim: str) -> None:
    """
    Each of 12 jobs has its turn, and its end is seen within 15 s, although made-up ids are polled as well.

    The callbacks are accepted, since the tokens are genuine; there is one confirmation at a time for each job, the
    pacer limits all of them, and nothing else is kept.
    """
    lost = Fault("callback", "lost")
    options = {"callback_url": CALLBACKS, "on_event": None, "limits": Limits(polls_per_second=5.0)}
    async with client_and_fake(client=options, duration=12.0, faults=[lost]) as setup:
        foreign_tasks = [await create_foreign_task(setup.fake.url) for _ in range(3)]
        await learn_losses(setup)
        jobs = [await setup.kie.submit(make_request(100 + number)) for number in range(JOBS)]
        setup.truth.polls.clear()
        targets = [Target(job.id, 1, job.task_id or "") for job in jobs]
        wall = asyncio.get_running_loop().time()
        scene = Scene(targets=targets, foreign_tasks=foreign_tasks, secret=callback_secret(KEY), keys=(), wall=wall)
        flood = Flood(setup)

        await flood.post_until_ended(claim, scene, jobs)

        now = setup.kie.statistics()
        seconds = len(flood.held)
        assert {200} == set(flood.answers)
        assert sum(flood.answers.values()) >= 1000 * seconds
        assert busiest_window((poll.at for poll in setup.truth.polls), 1.0) <= 5
        assert now.confirming <= JOBS
        own_tasks = {job.task_id for job in jobs}
        own_polls = sum(poll.task_id in own_tasks for poll in setup.truth.polls)
        assert own_polls >= JOBS  # planned, or as a part of a confirmation
        for row in [row for row in await setup.rows() if row.id in {job.id for job in jobs}]:
            task = setup.truth.tasks[row.task_id or ""]
            assert 0.0 <= row.updated_at - task.ended_ms / 1000 <= 15.0
        assert max(flood.held[3:]) <= max(flood.held[:3]) + 50_000
        await anyio.sleep(7200.0)
        await assert_settled(setup.kie)
        for task_id in foreign_tasks:
            del setup.truth.tasks[task_id]  # they belong to no job and to no ledger
