"""The contract of all journals, and a property test that compares the one on disk with the one in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async import BudgetExceededError, JournalError
from kie_async._core.budget_ledger import SeenPrices
from kie_async._core.lifecycle import ENDED, OPEN, TRANSITIONS, Intent, dump_record
from kie_async._io.journals.journal import Journal, WorkerReport
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.policy import Limits
from kie_async.records import TaskRecord
from kie_async.states import JobState
from kie_async.testing import virtual_time
from tests.io.intents import bring_to_state, make_intent, open_store, without_owner
from tests.profile import examples

S = JobState

#: Every field has a value that is not its default.
FULL = make_intent(
    1,
    key="order-7 ✓",
    callback_url="https://app.example.com/kie",
    state=S.SUBMITTED,
    attempts=3,
    ambiguous_attempts=2,
    sending_at=1.25,
    task_id="a-task",
    accepted_at=1_767_225_600.123456,
    record='{"state":"generating"}',
    credits=7.5,
    error="why",
    duplicate_task_ids=("another-task",),
)


@pytest.fixture(params=["memory", "disk", "disk, hashes only"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    """Yield an open journal of each kind."""
    kept: Journal = (
        MemoryJournal()
        if request.param == "memory"
        else SqliteStore(tmp_path / "kie.db", store_inputs="full" if request.param == "disk" else "hash")
    )
    await kept.open()
    yield kept
    await kept.close()


def without_secrets(row: Intent | None) -> Intent | None:
    """Return a row without the fields that a journal of hashes drops."""
    return None if row is None else attrs.evolve(row, owner=None, input="", sources=())


async def test_added_row_is_found(journal: Journal) -> None:
    """It is found by id and by key; unknown ids and keys are not found."""
    added = await journal.add(FULL)

    assert without_secrets(FULL) == without_secrets(added)
    assert added == await journal.get(FULL.id) == await journal.by_key("order-7 ✓")
    assert journal.owns(added)
    assert (None, None, None) == (
        await journal.get(make_intent(2).id),
        await journal.by_key("order-8"),
        await journal.by_task("?"),
    )


async def test_existing_key_returns_its_row(journal: Journal) -> None:
    first = await journal.add(make_intent(1, key="order-7"))

    assert first == await journal.add(make_intent(2, key="order-7", model="another/model"))
    assert [first] == list(await journal.rows())


async def test_rows_are_found_by_their_keys(journal: Journal) -> None:
    await journal.add(make_intent(1))
    assert not await journal.has_keys()
    rows = [await journal.add(make_intent(number, key=f"order-{number}")) for number in range(2, 5)]

    assert await journal.has_keys()
    assert rows[:2] == list(await journal.by_keys(["order-2", "order-9", "order-3"]))
    assert [] == list(await journal.by_keys([]))
    assert [] == list(await journal.dropped_keys(["order-2", "order-9"]))


async def test_id_cannot_be_added_twice(journal: Journal) -> None:
    first = await journal.add(make_intent(1))
    with pytest.raises(JournalError):
        await journal.add(make_intent(1, model="another/model"))

    assert [first] == list(await journal.rows())


async def test_transition_changes_state_and_given_fields(journal: Journal) -> None:
    row = await journal.add(make_intent(1))
    after = await journal.transition(row, S.SENDING, at=2.5, attempts=1, sending_at=2.25)

    assert after == attrs.evolve(row, state=S.SENDING, updated_at=2.5, attempts=1, sending_at=2.25, version=1)
    assert after == await journal.get(row.id)


@pytest.mark.parametrize("stale", [{"state": S.INTENT}, {"attempts": 1}, {"id": make_intent(9).id}])
async def test_stale_transition_is_refused(journal: Journal, stale: Any) -> None:
    """Compare-and-set: the state and the number of attempts must match, and the row must exist."""
    row = await journal.add(make_intent(1))
    for attempt in (1, 2):
        row = await bring_to_state(journal, row, S.SENDING, attempts=attempt)
        if attempt == 1:
            back = await journal.transition(row, S.INTENT, at=1.0)
            assert back is not None
            row = back
    seen = attrs.evolve(row, **stale)
    to = S.SENDING if seen.state is S.INTENT else S.SUBMITTED

    assert await journal.transition(seen, to, at=9.0, task_id="a-task") is None
    assert [row] == list(await journal.rows())
    assert await journal.by_task("a-task") is None


@pytest.mark.parametrize("stale", [False, True])
async def test_illegal_transition_is_refused(journal: Journal, *, stale: bool) -> None:
    """The current state of the row does not matter: the request itself is a bug."""
    illegal = [(old, new) for old in JobState for new in JobState if new not in TRANSITIONS[old]]
    for number, (old, new) in enumerate(illegal):
        row = await bring_to_state(journal, await journal.add(make_intent(number)), S.INTENT if stale else old)
        with pytest.raises(JournalError, match=f"from {old} to {new}") as raised:
            await journal.transition(attrs.evolve(row, state=old), new, at=9.0)
        assert row.id == raised.value.job_id
        assert row == await journal.get(row.id)


async def test_update_changes_all_but_the_state(journal: Journal) -> None:
    row = await bring_to_state(journal, await journal.add(make_intent(1)), S.SUBMITTED)
    after = await journal.update_fields(row.id, at=5.0, credits=8.0, duplicate_task_ids=("b", "c"))

    assert after == attrs.evolve(
        row, updated_at=5.0, credits=8.0, duplicate_task_ids=("b", "c"), version=row.version + 1
    )
    assert after == await journal.get(row.id)
    assert await journal.update_fields(make_intent(2).id, at=5.0, credits=8.0) is None


async def test_no_change_drops_a_duplicate_task(journal: Journal) -> None:
    """Another process may have added one since the row was read."""
    row = await bring_to_state(journal, await journal.add(make_intent(1)), S.SUBMITTED)
    for at, task_id in ((2.0, "b"), (3.0, "c")):
        await journal.update_fields(row.id, at=at, duplicate_task_ids=(task_id,))
    done = await journal.transition(row, S.SUCCEEDED, at=4.0, duplicate_task_ids=("d",))

    assert done is not None
    assert ("b", "c", "d") == done.duplicate_task_ids
    assert [done] * 3 == [await journal.by_task(task_id) for task_id in ("b", "c", "d")]


async def test_row_is_found_by_task_and_duplicates(journal: Journal) -> None:
    """Until the row is forgotten."""
    row = await bring_to_state(journal, await journal.add(make_intent(1)), S.SUBMITTED)
    await journal.update_fields(row.id, at=2.0, duplicate_task_ids=("b",))
    done = await journal.transition(row, S.SUCCEEDED, at=3.0, duplicate_task_ids=("b", "c"))

    assert [done] * 3 == [await journal.by_task(task_id) for task_id in ("a-task", "b", "c")]
    assert 1 == await journal.forget(before=4.0)
    assert [None] * 3 == [await journal.by_task(task_id) for task_id in ("a-task", "b", "c")]


@pytest.mark.parametrize("task_id", ["a-task", "b"], ids=["its task", "its duplicate"])
async def test_a_row_that_is_sending_takes_no_task_of_another_row(journal: Journal, task_id: str) -> None:
    """Only proof does: from any other state."""
    row = await bring_to_state(journal, await journal.add(make_intent(1)), S.SUBMITTED)
    await journal.update_fields(row.id, at=2.0, duplicate_task_ids=("b",))
    sending = await bring_to_state(journal, await journal.add(make_intent(2)), S.SENDING)

    assert await journal.transition(sending, S.SUBMITTED, at=3.0, task_id=task_id) is None
    assert sending == await journal.get(sending.id)
    in_doubt = await journal.transition(sending, S.IN_DOUBT, at=4.0)
    assert in_doubt is not None
    assert await journal.transition(in_doubt, S.SUBMITTED, at=5.0, task_id=task_id) is not None


async def test_rows_are_ordered_by_insertion(journal: Journal) -> None:
    """The wall clock may be set back, so it does not count."""
    for number, state in enumerate(JobState):
        await bring_to_state(journal, await journal.add(make_intent(number, created_at=100.0 - number)), state)

    assert list(JobState) == [row.state for row in await journal.rows()]
    assert [make_intent(number).id for number in range(len(JobState))] == [row.id for row in await journal.rows()]
    assert [S.SENDING, S.ABANDONED] == [row.state for row in await journal.rows({S.ABANDONED, S.SENDING})]
    assert [] == list(await journal.rows(()))


async def test_only_old_ended_rows_are_forgotten(journal: Journal) -> None:
    """A job in doubt has not ended, and stays until the caller resolves it."""
    for number, state in enumerate(JobState):
        row = await bring_to_state(journal, await journal.add(make_intent(number, key=f"order-{state}")), state)
        await journal.update_fields(row.id, at=5.0)
    late = await bring_to_state(journal, await journal.add(make_intent(99)), S.CANCELLED)
    await journal.update_fields(late.id, at=7.0)

    assert 0 == await journal.forget(before=5.0)
    assert len(ENDED) == await journal.forget(before=6.0)
    left = await journal.rows()
    assert [*(state for state in JobState if state not in ENDED), S.CANCELLED] == [row.state for row in left]
    assert await journal.by_key(f"order-{S.SUCCEEDED}") is None
    again = await journal.add(make_intent(100, key=f"order-{S.SUCCEEDED}"))
    assert make_intent(100).id == again.id


async def test_claim_returns_own_open_rows(journal: Journal) -> None:
    for number, state in enumerate(JobState):
        await bring_to_state(journal, await journal.add(make_intent(number)), state)
    mine = [row for row in await journal.rows() if row.state in OPEN]

    assert mine == list(await journal.claim())
    assert mine[1:3] == list(await journal.claim([row.id for row in mine[1:3]]))
    assert [] == list(await journal.claim([make_intent(99).id]))
    assert {} == await journal.count_orphans()
    assert all([await journal.is_owner_alive(row) for row in mine])


async def test_transition_compares_the_owner(journal: Journal) -> None:
    row = await journal.add(make_intent(1))
    of_another = attrs.evolve(row, owner="another")

    assert await journal.transition(of_another, S.SENDING, at=2.0, attempts=1) is None
    assert await journal.transition(of_another, S.CANCELLED, at=2.0) is None
    assert row == await journal.get(row.id)
    free = await journal.transition(row, S.INTENT, at=2.0, owner=None)
    assert free is not None
    assert await journal.transition(row, S.SENDING, at=3.0, attempts=1) is None
    assert await journal.transition(free, S.SENDING, at=3.0, attempts=1) is None, "only its owner sends a row"


async def test_own_writes_are_no_change_of_others(journal: Journal) -> None:
    await journal.add(make_intent(1))
    await journal.heartbeat(WorkerReport())

    with anyio.move_on_after(50.0) as waited:  # after a minute all rows are read again, told or not
        await journal.wait_for_change()
    assert waited.cancelled_caught


async def test_heartbeat_reports_this_worker(journal: Journal) -> None:
    assert [] == list(await journal.workers())
    report = WorkerReport(watched=3, in_flight=2, wanting=1, jobs={"submitted": 3}, limits=Limits(creates=12))
    await journal.heartbeat(WorkerReport())
    workers = await journal.heartbeat(report)

    assert workers == await journal.workers()
    assert [(journal.worker, os.getpid(), report)] == [
        (
            each.name,
            each.pid,
            WorkerReport(
                watched=each.watched,
                in_flight=each.in_flight,
                wanting=each.wanting,
                jobs=each.jobs,
                limits=each.limits or Limits(),
            ),
        )
        for each in workers
    ]
    assert workers[0].started_at <= workers[0].heartbeat_at


# -- equal behavior ----------------------------------------------------------------------------------------------------

Step: TypeAlias = Callable[[Journal], Awaitable[object]]

NUMBERS = st.integers(0, 3)
INSTANTS = st.sampled_from([1.0, 2.0, 3.0])
TASKS = st.sampled_from(["task-a", "task-b"])
STATES = st.sampled_from(JobState)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "task_id": TASKS,
        "attempts": NUMBERS,
        "credits": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        # A text of PostgreSQL cannot hold U+0000.
        "error": st.none() | st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1)),
        "duplicate_task_ids": st.lists(st.sampled_from(["task-c", "task-d"]), unique=True).map(tuple),
    },
)


def add(number: int, key: int | None) -> Step:
    return lambda journal: journal.add(make_intent(number, key=None if key is None else f"key-{key}"))


def any_transition(number: int, state: JobState, to: JobState, at: float, changes: Any) -> Step:
    """Build a transition from the current row, perhaps seen in another state."""

    async def step(journal: Journal) -> Intent | None:
        row = await journal.get(make_intent(number).id) or make_intent(number)
        changes.pop("task_id", None)
        return await journal.transition(attrs.evolve(row, state=state), to, at=at, **changes)

    return step


def legal_transition(number: int, choice: int, at: float, changes: Any) -> Step:
    """Build a legal transition."""

    async def step(journal: Journal) -> Intent | None:
        row = await journal.get(make_intent(number).id)
        ways = [] if row is None else sorted(TRANSITIONS[row.state])
        if row is None or not ways:
            return None
        to = ways[choice % len(ways)]
        bound = {} if (row.state, to) == (S.SENDING, S.SUBMITTED) else {"task_id": row.task_id}
        return await journal.transition(row, to, at=at, **changes | bound)

    return step


STEPS = st.one_of(
    st.builds(add, NUMBERS, st.none() | NUMBERS),
    st.builds(any_transition, NUMBERS, STATES, STATES, INSTANTS, CHANGES),
    st.builds(legal_transition, NUMBERS, st.integers(0, 9), INSTANTS, CHANGES),
    st.builds(
        lambda number, at, changes: lambda journal: journal.update_fields(make_intent(number).id, at=at, **changes),
        NUMBERS,
        INSTANTS,
        CHANGES.map(lambda changes: {name: value for name, value in changes.items() if name != "task_id"}),
    ),
    st.builds(lambda task_id: lambda journal: journal.by_task(task_id), st.sampled_from(["task-c", "task-d"])),
    st.builds(lambda key: lambda journal: journal.by_key(f"key-{key}"), NUMBERS),
    st.builds(lambda states: lambda journal: journal.rows(states), st.none() | st.frozensets(STATES)),
    st.builds(lambda before: lambda journal: journal.forget(before=before), INSTANTS),
    st.just(lambda journal: journal.claim()),
)


async def result_of(step: Step, journal: Journal) -> object:
    """Return the result of a step, or the class of its error."""
    try:
        answer = await step(journal)
    except JournalError as error:
        return type(error)
    if isinstance(answer, list):
        return [without_owner(row) for row in answer]
    return without_owner(answer) if isinstance(answer, Intent) else answer


@settings(max_examples=examples(60))
@given(st.lists(STEPS, max_size=25))
def test_both_journals_behave_alike(steps: list[Step]) -> None:
    """Any sequence of reads and writes has the same results in memory and on disk."""

    async def main(folder: str) -> None:
        memory = MemoryJournal()
        async with open_store(Path(folder) / "kie.db") as disk:
            for step in steps:
                assert await result_of(step, memory) == await result_of(step, disk)
            rows = [without_owner(row) for row in await memory.rows()]
            assert [without_owner(row) for row in await disk.rows()] == rows

    with TemporaryDirectory() as folder:
        virtual_time(main, folder)


async def test_seen_prices_are_of_successes_with_known_credits(journal: Journal) -> None:
    """Rows of other models, classes or states, and unknown credits, are left out."""
    for number in range(7):
        model, price_class = "other" if number == 4 else "ours", "b" if number == 6 else "a"
        row = await journal.add(make_intent(number, model=model, price_class=price_class + model))
        for state in (S.SENDING, S.SUBMITTED, S.FAILED if number == 3 else S.SUCCEEDED):
            changes: Any = {"credits": 10.0 + number} if state in (S.SUCCEEDED, S.FAILED) and number != 5 else {}
            row = await journal.transition(row, state, at=2.0, **changes) or row

    assert SeenPrices(10.0, 12.0, 16.0) == await journal.seen_prices("ours", "aours")
    assert SeenPrices(None, None, 16.0) == await journal.seen_prices("ours", "c")
    assert SeenPrices() == await journal.seen_prices("unknown", "c")


@pytest.mark.parametrize("ambiguous", [0, 1])
async def test_ambiguous_attempt_of_a_failed_job_stays_uncharged(journal: Journal, ambiguous: int) -> None:
    """Its task was free, and the attempt before it may have been paid."""
    await journal.open_budget("a", 100.0)
    row = await journal.add(make_intent(1, budget="a", price_class="p"))
    steps: list[tuple[JobState, Any]] = [
        (S.SENDING, {"attempts": 1 + ambiguous, "ambiguous_attempts": ambiguous}),
        (S.SUBMITTED, {}),
        (S.FAILED, {"credits": 0.0}),
    ]
    for state, changes in steps:
        row = await journal.transition(row, state, at=2.0, **changes) or row
    assert S.FAILED == row.state
    assert [row.id] * ambiguous == [found.id for found in await journal.uncharged_rows("a")]


async def test_named_budget_is_that_of_its_rows(journal: Journal) -> None:
    """A row may get another budget; a refused create changes nothing; sums stay when rows are deleted."""
    for name in ("a", "b"):
        await journal.open_budget(name, 100.0)
    first = await journal.add(make_intent(1, budget="a", price=80.0, price_class="p"))
    second = await journal.add(make_intent(2, budget="a", price=80.0, price_class="p"))
    first = await journal.transition(first, S.SENDING, at=2.0, attempts=1) or first
    with pytest.raises(BudgetExceededError):
        await journal.transition(second, S.SENDING, at=2.0, attempts=1)
    assert S.INTENT == (await journal.get(second.id) or first).state
    assert [first.id] == [row.id for row in await journal.uncharged_rows("a")]
    assert [("a", 80.0), ("b", 0.0)] == [(info.name, info.running) for info in await journal.budgets()]
    first = await journal.update_fields(first.id, at=2.0, budget="b", price=70.0) or first
    assert [0.0, 70.0] == [info.reserved for info in await journal.budgets()]
    first = await journal.transition(first, S.SUBMITTED, at=2.0) or first
    await journal.transition(first, S.SUCCEEDED, at=2.0, credits=60.0)
    assert 1 == await journal.forget(before=3.0)
    assert [(0.0, 0.0), (60.0, 0.0)] == [(info.spent, info.reserved) for info in await journal.budgets()]
    assert await journal.transition(second, S.SENDING, at=2.0, attempts=1)


async def test_recent_durations_are_read_oldest_first(tmp_path: Path) -> None:
    """Without tasks that run or were rejected, and without records that do not report when the task ran."""
    async with open_store(tmp_path / "kie.db") as store:
        for number in range(7):
            row = await store.add(make_intent(number, model="other" if number == 4 else "ours"))
            record = TaskRecord(task_id="t", state="success", created_at=100.0, completed_at=160.0 + number)
            if number == 3:
                record = attrs.evolve(record, completed_at=None)
            dumped = "broken" if number == 1 else dump_record(record)
            for state in (S.SENDING, S.SUBMITTED, S.FAILED if number == 2 else S.SUCCEEDED)[: 2 if number == 5 else 3]:
                changes: Any = {"record": dumped} if state in ENDED else {}
                row = await store.transition(row, state, at=2.0, **changes) or row
        found = [(kind[0], seconds) for kind, seconds in await store.recent_durations(100)]

        assert [("ours", 60.0), ("ours", 62.0), ("other", 64.0), ("ours", 66.0)] == found
        assert 66.0 == (await store.recent_durations(1))[0][1]


async def test_delivered_row_stays_while_there_is_room(journal: Journal) -> None:
    row = await journal.add(make_intent(1, key="shot-1"))
    await journal.mark_delivered(row.id)
    await journal.mark_delivered("kj_unknown")
    row = await journal.transition(row, S.CANCELLED, at=2.0) or row
    await journal.mark_delivered(row.id)

    assert without_secrets(row) == without_secrets(await journal.by_key("shot-1"))
    assert None is not await journal.transition(row, S.INTENT, at=3.0)
