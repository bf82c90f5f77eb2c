"""A slow or broken journal: nothing unjournaled is sent, and every paid task is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import EventName, InsufficientCreditsError, JournalError, SubmitInDoubtError
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import Fault
from tests.client.backend import callback_body
from tests.helpers import assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent


class Troubled(MemoryJournal):
    """
    A journal whose transitions take time or fail.

    Args:
        seconds: The duration of the n-th transition into a state.

        broken: States that cannot be written.
    """

    def __init__(
        self, *, seconds: dict[JobState, dict[int, float]] | None = None, broken: tuple[JobState, ...] = ()
    ) -> None:
        super().__init__()
        self.seconds = seconds or {}
        self.broken: set[JobState | str] = set(broken)
        self.transitions: dict[JobState, int] = {}

    async def add(self, intent: Intent) -> Intent:
        if "add" in self.broken:
            msg = "The disk is full."
            raise JournalError(msg)
        return await super().add(intent)

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Any
    ) -> Intent | None:
        self.transitions[state] = nth = self.transitions.get(state, 0) + 1
        await anyio.sleep(self.seconds.get(state, {}).get(nth, 0.0))
        if state in self.broken:
            msg = "The disk is full."
            raise JournalError(msg, job_id=seen.id)
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)


async def test_unwritable_intent_is_not_started() -> None:
    journal = Troubled()
    journal.broken.add("add")
    async with client_and_fake(client={"journal": journal}) as setup:
        for call in (setup.kie.submit, setup.kie.generate):
            with pytest.raises(JournalError, match="disk is full"):
                await call(make_request())

        assert [] == setup.truth.create_requests
        await assert_settled(setup.kie)


async def test_unwritable_sending_state_sends_nothing() -> None:
    """No byte is sent: the row says that nothing was paid."""
    journal = Troubled(broken=(JobState.SENDING,))
    async with client_and_fake(client={"journal": journal}) as setup:
        with pytest.raises(JournalError, match="disk is full"):
            await setup.kie.submit(make_request(), key="order 7")
        await anyio.sleep(60.0)
        assert [] == setup.truth.create_requests
        assert ["intent"] == [row.state for row in await journal.rows()]
        await assert_settled(setup.kie)

        journal.broken.clear()
        await setup.kie.generate(make_request(), key="order 7")
        assert 1 == len(setup.truth.create_requests)


async def test_unwritable_task_id_still_reaches_caller(caplog: pytest.LogCaptureFixture) -> None:
    """The task is paid, and only the log would survive a crash, so it is logged as an error."""
    journal = Troubled(broken=(JobState.SUBMITTED,))
    async with client_and_fake(client={"journal": journal}) as setup:
        job = await setup.kie.submit(make_request())
        (task_id,) = setup.tasks
        assert task_id == job.task_id
        critical = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
        assert [True] == [task_id in text and job.id in text for text in critical]
        assert [task_id] == [event.task_id for event in setup.reported(EventName.JOURNAL_FAILED)]
        assert task_id == (await job).task_id
        setup.truth.tasks.clear()  # the journal does not have it, and reported so


async def test_callback_is_not_taken_while_its_task_is_not_journaled() -> None:
    """The process may end before it can be written, and the service repeats what was not taken."""
    journal = Troubled(broken=(JobState.SUBMITTED,))
    async with client_and_fake(client={"journal": journal, "callback_url": "http://127.0.0.1:9/kie"}) as setup:
        job = await setup.kie.submit(make_request())
        task = setup.truth.tasks[str(job.task_id)]
        callback: tuple[str, dict[str, str], bytes] = (str(task.callback_url), {}, callback_body(task.task_id))
        refused, _ = await setup.kie.callbacks.handle(*callback)
        journal.broken.clear()
        taken, _ = await setup.kie.callbacks.handle(*callback)

        assert (503, 200) == (refused, taken)
        assert [(JobState.SUBMITTED, task.task_id)] == [(row.state, row.task_id) for row in await journal.rows()]


async def test_unwritable_result_still_reaches_caller() -> None:
    journal = Troubled(broken=(JobState.SUCCEEDED,))
    async with client_and_fake(client={"journal": journal}) as setup:
        video = await setup.kie.generate(make_request())

        assert setup.tasks == [video.task_id]
        assert ["submitted"] == [row.state for row in await journal.rows()]
        assert 1 == setup.kie.statistics().jobs
        journal.broken.clear()
        await anyio.sleep(6.0)
        assert ["succeeded"] == [row.state for row in await journal.rows()]
        await assert_settled(setup.kie)


async def test_unwritable_doubt_is_reported_and_not_resent() -> None:
    journal = Troubled(broken=(JobState.IN_DOUBT, JobState.UNRESOLVED))
    async with client_and_fake(client={"journal": journal}, faults=[Fault("create", "reset", after=True)]) as setup:
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.submit(make_request())
        await anyio.sleep(7200.0)

        assert 1 == len(setup.truth.create_requests)
        assert ["sending"] == [row.state for row in await journal.rows()]


async def test_slow_disk_does_not_bunch_creates() -> None:
    """A token whose write-ahead took too long is not used: any ten seconds have at most 20 creates."""
    journal = Troubled(seconds={JobState.SENDING: dict.fromkeys(range(1, 21), 40.0)})
    async with client_and_fake(client={"journal": journal}, latency=(0.02, 0.2)) as setup:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(setup.kie.generate, make_request(number))
        assert (60, 0) == (len(setup.truth.create_requests), len(setup.truth.rate_limited))
        assert 20 == setup.truth.busiest_window(10.0)
        assert min(post.at for post in setup.truth.create_requests) >= 40.0
        assert ["succeeded"] * 60 == [row.state for row in await journal.rows()]
        await assert_settled(setup.kie)


async def test_402_stops_create_about_to_be_sent() -> None:
    """With a granted token, an open connection and a running write-ahead, no byte is sent."""
    journal = Troubled(seconds={JobState.SENDING: dict.fromkeys(range(2, 21), 0.5)})
    async with client_and_fake(client={"journal": journal}, credits=0.0) as setup:
        told: list[str] = []

        async def one(number: int) -> None:
            with pytest.raises(InsufficientCreditsError) as raised:
                await setup.kie.generate(make_request(number))
            told.append(raised.value.job_id or "")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert 1 == len(setup.truth.create_requests)
        assert 20 == len(set(told))
        assert ["cancelled"] * 20 == [row.state for row in await journal.rows()]
        await assert_settled(setup.kie)


async def test_455_makes_create_wait_for_probe() -> None:
    """During maintenance the service gets one request, then one a minute."""
    journal = Troubled(seconds={JobState.SENDING: dict.fromkeys(range(2, 21), 0.5)})
    async with client_and_fake(client={"journal": journal}, duration=1.0) as setup:
        setup.fake.maintenance = True
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(setup.kie.generate, make_request(number))
            await anyio.sleep(59.0)
            assert 1 == len(setup.truth.create_requests)
            await anyio.sleep(70.0)
            assert 2 <= len(setup.truth.create_requests) <= 3
            setup.fake.maintenance = False
        assert 20 == len(setup.truth.created)
        assert len(setup.truth.create_requests) <= 23
        await assert_settled(setup.kie)


async def test_cancel_during_write_ahead_pays_nothing() -> None:
    journal = Troubled(seconds={JobState.SENDING: {1: 5.0}})
    async with client_and_fake(client={"journal": journal}) as setup:
        with anyio.move_on_after(2.0):
            await setup.kie.generate(make_request())
        await anyio.sleep(60.0)

        assert [] == setup.truth.create_requests
        assert ["cancelled"] == [row.state for row in await journal.rows()]
        await assert_settled(setup.kie)


@pytest.mark.parametrize("state", [JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED])
async def test_slow_journal_does_not_block_wait_forever(state: JobState) -> None:
    journal = Troubled(seconds={state: {1: 30.0}})
    async with client_and_fake(client={"journal": journal}, duration=1.0) as setup:
        video = await setup.kie.generate(make_request())

        assert setup.tasks == [video.task_id]
        assert anyio.current_time() < 40.0
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)
