"""The faults of the model of PostgreSQL: each is seen by the real store, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Any

import anyio
import attrs
import pytest

from kie_async import JournalError
from kie_async._io.journals.journal import WorkerReport
from kie_async._io.journals.postgres import PostgresStore
from kie_async.states import JobState
from kie_async.testing.clock import START
from tests.io import test_restoration
from tests.io.intents import bring_to_state, make_intent
from tests.io.test_restoration import GoingBack
from tests.postgres.stores import open_postgres
from tests.simulation.postgres_model import ModelServer, ModelStore

S = JobState


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Yield a server whose clock is that of the event loop."""
    now: Callable[[], float] = asyncio.get_running_loop().wall_time  # type: ignore[attr-defined]  # of virtual time
    with closing(ModelServer(now=now)) as model:
        yield model


async def live(seconds: float, *journals: PostgresStore) -> None:
    """Let time pass, in which workers have their heartbeats."""
    for _ in range(round(seconds / PostgresStore.heartbeat_interval)):
        await anyio.sleep(PostgresStore.heartbeat_interval)
        for journal in journals:
            await journal.heartbeat(WorkerReport())


# -- lost answers, and a state that goes back --------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.SENDING, S.SUBMITTED])
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_lost_answer_is_read_back(server: ModelServer, state: JobState, *, done: bool) -> None:
    async with open_postgres(server) as journal:
        row = await journal.add(make_intent(1))
        if state is S.SUBMITTED:
            row = await bring_to_state(journal, row, S.SENDING)
        before = len(server.connections), server.connections[0].info
        (server.lose_answers if done else server.lose_commits)(of="UPDATE")
        after = await journal.transition(row, state, at=3.0, attempts=1, sending_at=2.0)

        assert after == attrs.evolve(
            row, state=state, updated_at=3.0, attempts=1, sending_at=2.0, version=row.version + 1
        )
        assert [after] == server.rows()
        assert before != (1, server.connections[0].info)


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_write_that_its_caller_takes_for_failed_is_undone(server: ModelServer, *, done: bool) -> None:
    """The server cannot be reached after the lost answer: nothing was sent, so the row is INTENT, a new row is gone."""
    async with open_postgres(server) as journal:
        row = await journal.add(make_intent(1))
        for write in (
            partial(journal.transition, row, S.SENDING, at=2.0, attempts=1, sending_at=2.0),
            partial(journal.add, make_intent(2, key="a")),
        ):
            before = server.rows()
            (server.lose_answers if done else server.lose_commits)()
            server.refuse_connections(1)
            with pytest.raises(JournalError) as raised:
                await write()
            assert raised.value.retryable
            assert done == (server.rows() != before)
            await journal.has_keys()

        assert [(S.INTENT, 0, None)] == [(each.state, each.attempts, each.sending_at) for each in server.rows()]


@pytest.fixture
async def journal(server: ModelServer) -> AsyncIterator[GoingBack]:
    """Yield an open journal, in place of that of the contract's own module."""

    def copy() -> Callable[[], None]:
        snapshot = server.snapshot()
        return lambda: server.fail_over(snapshot, disconnect=False)

    async with open_postgres(server) as store:
        yield GoingBack(store, copy, partial(open_postgres, server))


#: Files only.
_OWN = "test_file_that_was_replaced_is_not_used"
globals().update(
    {name: test for name, test in vars(test_restoration).items() if name.startswith("test_") and name != _OWN}
)


async def test_lost_rows_are_restored_at_the_next_connection(journal: GoingBack, server: ModelServer) -> None:
    """Before any call is served, and whatever it is; the second worker restores its own."""
    store = journal.store
    async with journal.open_other() as other:
        added = await store.add(make_intent(1))
        snapshot = server.snapshot()
        rows = [await bring_to_state(store, added, S.SUBMITTED), await other.add(make_intent(2))]
        server.fail_over(snapshot)
        assert [added] == server.rows()

        assert rows[0] == (await store.rows())[0]
        assert rows == await other.rows() == server.rows()
        assert [(added, rows[0])] == [(repair.present, repair.row) for repair in journal.repairs]


# -- outages -----------------------------------------------------------------------------------------------------------


async def test_outage_is_told_and_survived(server: ModelServer) -> None:
    """Leases expire during it, and no living worker takes the jobs of another."""
    async with open_postgres(server) as owner, open_postgres(server) as other:
        row = await owner.add(make_intent(1))
        await live(9.0, owner, other)
        server.stop()
        for _ in range(2):
            with pytest.raises(JournalError, match="Connection refused") as raised:
                await bring_to_state(owner, row, S.SENDING)
            assert raised.value.retryable
        await anyio.sleep(3600.0)
        server.start()

        await other.heartbeat(WorkerReport())
        assert [] == list(await other.claim())
        assert S.SENDING == (await bring_to_state(owner, row, S.SENDING)).state


async def test_read_only_server_is_left(server: ModelServer) -> None:
    async with open_postgres(server) as journal:
        row = await journal.add(make_intent(1))
        server.read_only = True
        assert row == await journal.get(row.id)
        with pytest.raises(JournalError, match="That is a standby") as raised:
            await bring_to_state(journal, row, S.SENDING)
        assert raised.value.retryable
        server.read_only = False
        assert S.SENDING == (await bring_to_state(journal, row, S.SENDING)).state


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_killed_worker_keeps_its_lease_until_it_ends(server: ModelServer) -> None:
    """A closed one leaves its jobs at once."""
    killed = ModelStore(server)
    await killed.open()
    async with open_postgres(server) as heir:
        row = await killed.add(make_intent(1))
        await live(6.0, heir)
        killed.bury()
        await live(3.0, heir)
        assert [] == list(await heir.take_over(limit=9))
        await live(3.0, heir)
        assert [row.id] == [each.id for each in await heir.take_over(limit=9)]


@pytest.mark.parametrize("seconds", [10_800.0, -10_800.0])
async def test_clock_step_takes_no_job_of_a_living_worker(server: ModelServer, seconds: float) -> None:
    """Nor does it step the time that the workers share."""
    times: list[float] = []

    def note(_text: str | None, now: float) -> tuple[str, int, None]:
        times.append(now - asyncio_time())
        return "x", 0, None

    asyncio_time = asyncio.get_running_loop().time
    async with open_postgres(server) as owner, open_postgres(server) as other:
        row = await owner.add(make_intent(1))
        await live(9.0, owner, other)
        for journal in (owner, other):
            await journal.change_account(note)
        server.step_clock(seconds)
        for _ in range(4):
            assert [] == list(await other.claim())
            await live(3.0, other, owner)
            for journal in (other, owner):
                await journal.change_account(note)
        assert await other.is_owner_alive(row)
    assert [pytest.approx(START, abs=0.01)] * 10 == times


@pytest.mark.parametrize("opened_before", [True, False], ids=["before the step", "after the step"])
async def test_worker_that_has_sent_nothing_sees_a_clock_step(server: ModelServer, *, opened_before: bool) -> None:
    """It has compared the clocks at each heartbeat; one that opens later relies on those of the others."""

    async def shared_time(journal: Any) -> float:
        change = await journal.change_account(lambda _text, now: (None, 0, now))
        return float(change.result) - asyncio_time()

    asyncio_time = asyncio.get_running_loop().time
    async with open_postgres(server) as owner:
        await owner.change_account(lambda _text, _now: ("state", 7, None))
        async with AsyncExitStack() as stack:
            if opened_before:
                idle = await stack.enter_async_context(open_postgres(server))
                await live(3.0, owner, idle)
                server.step_clock(2000.0)
            else:
                await live(3.0, owner)
                server.step_clock(2000.0)
                await live(3.0, owner)
                idle = await stack.enter_async_context(open_postgres(server))
            assert pytest.approx(START, abs=0.01) == await shared_time(idle)
    assert [(7, "state")] == server.read("SELECT epoch, state FROM accounts")


# -- notifications -----------------------------------------------------------------------------------------------------


async def wait(journal: Any) -> tuple[float, Any]:
    """Return the time in seconds until a change, and what is known of it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    change = await journal.wait_for_change()
    return round(loop.time() - began, 3), change


async def test_change_is_told_at_once(server: ModelServer) -> None:
    async with open_postgres(server) as waiting, open_postgres(server) as writing:
        row = await writing.add(make_intent(1))
        async with anyio.create_task_group() as group:
            group.start_soon(bring_to_state, writing, row, S.SUBMITTED)
            assert (0.0, {row.id}) == await wait(waiting)


async def test_change_whose_notification_was_lost_is_found_within_a_minute(server: ModelServer) -> None:
    async with open_postgres(server) as waiting, open_postgres(server) as writing:
        server.deaf = True
        await bring_to_state(writing, await writing.add(make_intent(1)), S.SUBMITTED)
        server.deaf = False
        assert (60.0, None) == await wait(waiting)
        await bring_to_state(writing, await writing.add(make_intent(2)), S.SUBMITTED)
        assert (0.0, {make_intent(2).id}) == await wait(waiting)


async def test_ended_connection_is_made_again_at_once(server: ModelServer) -> None:
    async with open_postgres(server) as journal:
        server.stop()
        server.start()
        assert (0.0, None) == await wait(journal)


async def test_deaf_worker_connects_again_and_then_asks(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    server.deaf = True
    with caplog.at_level(logging.WARNING, "kie_async"):
        async with open_postgres(server) as journal:
            pids = [server.connections[0].info.backend_pid]
            for _ in range(3):
                await journal.heartbeat(WorkerReport())
                pids.append(server.connections[0].info.backend_pid)
            assert [1, 2, 2, 2] == pids
            await wait(journal)  # the connection was made again
            assert (1.0, None) == await wait(journal)
    assert ["not tell this worker of its own heartbeat" in text for text in caplog.messages] == [True]


async def test_worker_behind_a_pooler_asks(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    server.pooler = True
    with caplog.at_level(logging.WARNING, "kie_async"):
        async with open_postgres(server) as journal:
            for _ in range(2):
                await journal.heartbeat(WorkerReport())
                assert (1.0, None) == await wait(journal)
    assert ["connection pooler" in text for text in caplog.messages] == [True]
