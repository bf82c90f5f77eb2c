"""``map()``: every row has one outcome, in order or as rows end, and reading ahead is bounded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import anyio
import pytest

from kie_async import (
    Budget,
    ClientClosedError,
    ConfigurationError,
    Done,
    Failed,
    InDoubt,
    InvalidRequestError,
    KeyConflictError,
    Limits,
    Outcome,
    Request,
    RetryPolicy,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
)
from kie_async.testing import Fault
from tests.client.tables import by_key, client_and_fake_unchecked, drain_run, make_rows, run_map
from tests.helpers import Setup, assert_settled, client_and_fake, make_request


async def test_every_row_has_one_outcome() -> None:
    async with client_and_fake(duration=30.0) as setup:
        async with setup.kie.map(make_rows(45)) as run:
            found = by_key([outcome async for outcome in run])
            summary = run.summary()

        assert {f"shot-{number}" for number in range(45)} == set(found)
        for number in range(45):
            done = found[f"shot-{number}"]
            assert isinstance(done, Done)
            task = setup.truth.tasks[done.task_id or ""]
            assert task.input["prompt"] == make_request(number).prompt
            assert done.request == make_request(number)
            assert ("succeeded", 80.0, False, 0, ()) == (
                done.state, done.credits, done.replayed, done.retries, done.files
            )  # fmt: skip
            assert done.urls == (task.result_url,) == done.generation.urls
            assert done.job_id == done.generation.job_id
            assert done.created_at is not None
            assert 30.0 == pytest.approx(done.seconds, abs=0.01)
            assert done.created_at + 30.0 == pytest.approx(done.ended_at, abs=0.01)
        assert (0, 45, 0, 0, 0, 3600.0, 45) == (
            summary.replayed, summary.ok, summary.failed, summary.in_doubt, summary.skipped, summary.credits,
            summary.created,
        )  # fmt: skip
        assert 30.0 == pytest.approx(summary.p50, rel=0.01) == pytest.approx(summary.p95, rel=0.01)
        assert 0.0 == summary.credits_held
        await assert_settled(setup.kie)


@pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
async def test_rows_come_from_any_iterable(kind: str) -> None:
    async def async_rows() -> AsyncIterator[tuple[str, Request]]:
        for row in make_rows(5):
            await anyio.sleep(1.0)
            yield row

    sources = {"list": lambda: make_rows(5), "generator": lambda: iter(make_rows(5)), "async generator": async_rows}
    async with client_and_fake(duration=1.0) as setup:
        found = by_key(await run_map(setup, sources[kind]()))

        assert {f"shot-{number}" for number in range(5)} == set(found)
        assert all(isinstance(outcome, Done) for outcome in found.values())
        await assert_settled(setup.kie)


@pytest.mark.parametrize("rows", [make_request(), "shots.csv", 7, None, {"a": make_request()}])
async def test_invalid_table_is_refused(rows: Any) -> None:
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match="expected a list, a generator or an async generator"):
            await run_map(setup, rows)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"budget": 500}, "budget"),
        ({"stop_after": -1.0}, "stop_after"),
        ({"stop_after": "soon"}, "stop_after"),
        ({"retry_failed": -1}, "retry_failed"),
        ({"retry_failed": True}, "retry_failed"),
        ({"look_ahead": 0}, "look_ahead"),
        ({"save_to": "out/video.mp4"}, "save_to"),
    ],
)
async def test_invalid_option_is_refused_at_once(options: Any, named: str) -> None:
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match=named):
            setup.kie.map([], **options)


async def test_run_is_entered_exactly_once() -> None:
    async with client_and_fake() as setup:
        run = setup.kie.map([])
        with pytest.raises(ConfigurationError, match="async with"):
            await anext(run)
        async with run:
            assert [] == [outcome async for outcome in run]
        with pytest.raises(ConfigurationError, match="Call map"):
            await run.__aenter__()


async def test_default_keys_count_equal_rows() -> None:
    """The same table has the same keys again, and equal rows are separate rows."""
    rows = [make_request(1), make_request(2), make_request(1), make_request(1)]
    async with client_and_fake(duration=1.0) as setup:
        keys = [outcome.key for outcome in await run_map(setup, iter(rows[:2]), ordered=True)]
        again = [outcome.key for outcome in await run_map(setup, rows[:2], ordered=True)]

        assert keys == again
        assert 2 == len(setup.tasks) == len(set(keys))
    async with client_and_fake_unchecked(duration=1.0) as setup:
        keys = [outcome.key for outcome in await run_map(setup, rows, ordered=True)]
        assert [keys[0], keys[1], f"{keys[0]}.2", f"{keys[0]}.3"] == keys
        assert 4 == len(setup.tasks)


async def test_failed_row_does_not_affect_others() -> None:
    rows: list[Any] = make_rows(8)
    rows[1] = ("shot-1", make_request(1, seed=-1))
    rows[2] = "no request"
    rows[3] = ("", make_request(3))
    faults = [Fault("create", "code", code=500, when=lambda call: "take 4" in str(call.body))]
    async with client_and_fake(duration=20.0, faults=faults) as setup:
        async with setup.kie.map(rows) as run:
            found: dict[str, Outcome] = {}
            async for outcome in run:
                found[outcome.key] = outcome
                if len(found) == 3:
                    await anyio.sleep(5.0)
                    running = [task for task in setup.truth.created if "take 5" in str(task.input["prompt"])]
                    setup.fake.fail(running[0].task_id)

        errors = {key: type(outcome.error) for key, outcome in found.items() if isinstance(outcome, Failed)}
        assert {
            "shot-1": InvalidRequestError,
            "row 3": ConfigurationError,
            "": ConfigurationError,
            "shot-4": ServerError,
            "shot-5": TaskFailedError,
        } == errors
        assert {"shot-0", "shot-6", "shot-7"} == {key for key, o in found.items() if isinstance(o, Done)}
        assert (None, None, None) == (
            found["shot-1"].state, found["shot-1"].job_id, found["shot-1"].created_at
        )  # fmt: skip
        await assert_settled(setup.kie)


async def test_key_conflict_fails_that_row_only() -> None:
    rows = [("a", make_request(0)), ("a", make_request(1)), ("b", make_request(2))]
    async with client_and_fake(duration=5.0) as setup:
        found = await run_map(setup, rows)

        assert ["Done", "Done", "Failed"] == sorted(type(outcome).__name__ for outcome in found)
        (failed,) = (outcome for outcome in found if isinstance(outcome, Failed))
        assert isinstance(failed.error, KeyConflictError)
        assert "belongs to another request" in str(failed.error)


async def test_outcomes_come_as_rows_end_or_in_order() -> None:
    lengths = iter([90.0, 5.0, 60.0, 20.0])
    for ordered, expected in ((False, ["shot-1", "shot-3", "shot-2", "shot-0"]), (True, None)):
        lengths = iter([90.0, 5.0, 60.0, 20.0])
        async with client_and_fake(duration=lambda _model, _random, lengths=lengths: next(lengths)) as setup:
            keys = [outcome.key for outcome in await run_map(setup, make_rows(4), ordered=ordered)]
            assert (expected or ["shot-0", "shot-1", "shot-2", "shot-3"]) == keys


async def test_failed_and_replayed_rows_keep_the_order() -> None:
    async with client_and_fake(duration=20.0, fail_rate=0.3) as setup:
        await run_map(setup, make_rows(30)[10:20])
        rows: list[Any] = make_rows(30)
        rows[4] = ("shot-4", make_request(4, seed=-1))
        found = await run_map(setup, rows, ordered=True)

        assert [f"shot-{number}" for number in range(30)] == [outcome.key for outcome in found]
        assert {f"shot-{number}" for number in range(10, 20)} == {o.key for o in found if o.replayed}


@pytest.mark.parametrize("ordered", [False, True])
async def test_reading_ahead_is_bounded(*, ordered: bool) -> None:
    """3 rows are read before the first is sent; while no outcome is taken, no more rows than the bound are read."""
    read = 0

    def rows() -> Iterator[Request]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield make_request(number)

    limits = Limits(in_flight=10)
    async with client_and_fake(client={"limits": limits}, duration=1.0, latency=(1.0, 1.0)) as setup:
        async with setup.kie.map(rows(), look_ahead=3, ordered=ordered) as run:
            await anyio.sleep(0.5)
            assert 3 == read
            await anyio.sleep(3600.0)
            assert 2 * 10 + 3 == read
            for _ in range(10):
                await anext(run)
            await anyio.sleep(3600.0)
            assert 2 * 10 + 3 + 10 == read
        await assert_settled(setup.kie)


async def test_blocking_generator_runs_in_a_thread() -> None:
    """It is read in a worker thread: while it waits for a disk, the event loop continues."""
    threads: set[int] = set()

    def rows() -> Iterator[Request]:
        import threading

        for number in range(3):
            threads.add(threading.get_ident())
            time.sleep(0.01)  # blocks on purpose
            yield make_request(number)
        threads.discard(threading.main_thread().ident or 0)

    async with client_and_fake(duration=1.0) as setup:
        import threading

        assert 3 == len(await run_map(setup, rows()))
        assert threads
        assert threading.get_ident() not in threads


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_source_error_follows_earlier_outcomes(kind: str) -> None:
    def rows() -> Iterator[Request]:
        yield from (make_request(number) for number in range(3))
        raise LookupError

    async def async_rows() -> AsyncIterator[Request]:
        for row in [make_request(number) for number in range(3)]:
            yield row
        raise LookupError

    async with client_and_fake(duration=60.0) as setup:
        async with setup.kie.map(rows() if kind == "generator" else async_rows()) as run:
            found, error = await drain_run(run)
            assert isinstance(error, LookupError)
            assert [] == [outcome async for outcome in run]
        assert 3 == len(found) == sum(isinstance(outcome, Done) for outcome in found)
        await assert_settled(setup.kie)


async def test_sequence_error_loses_no_earlier_row() -> None:
    class Rows(Sequence[Request]):
        """A sequence that makes its rows on access."""

        def __len__(self) -> int:
            return 5

        def __getitem__(self, place: Any) -> Any:
            if place == 3:
                raise LookupError
            return make_request(place)

    async with client_and_fake(duration=10.0) as setup:
        async with setup.kie.map(Rows()) as run:
            found, error = await drain_run(run)
        assert [Done] * 3 == [type(outcome) for outcome in found]
        assert isinstance(error, LookupError)


@pytest.mark.parametrize("row", [(), ("a",), ("a", make_request(7), 3), ("a", "b", "c", "d")])
async def test_malformed_row_fails_alone_and_is_named(row: Any) -> None:
    rows: list[Any] = [("a", make_request(0)), row, ("b", make_request(1))]
    async with client_and_fake(duration=10.0) as setup:
        first, failed, last = await run_map(setup, rows, ordered=True, budget=Budget(credits=1000))

        assert isinstance(first, Done)
        assert isinstance(last, Done)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert f"Invalid row 2, a tuple of {len(row)}: " in str(failed.error)
        assert "a request, or a pair of a key and a request" in str(failed.error)
        assert 2 == len(setup.tasks)


@pytest.mark.parametrize("key", ["a~retry1", "a~retry12", "~retry3"])
async def test_retry_key_is_refused_as_a_row_key(key: str) -> None:
    async with client_and_fake(duration=10.0) as setup:
        (failed,) = await run_map(setup, [(key, make_request(0))])
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert "~retry" in str(failed.error)
        for call in (setup.kie.submit, setup.kie.generate):
            with pytest.raises(ConfigurationError, match="retries of map"):
                await call(make_request(0), key=key)
        assert [] == setup.tasks


async def test_similar_to_a_retry_key_is_accepted() -> None:
    keys = ["a~retry", "a~retry0", "a~retry01", "a~retry1x", "retry1", "a~retry1\n", "a~retry\u0661"]
    async with client_and_fake(duration=10.0) as setup:
        rows = [(key, make_request(number)) for number, key in enumerate(keys)]
        found = by_key(await run_map(setup, rows, retry_failed=2))

        assert [Done] * len(keys) == [type(found[key]) for key in keys]


async def test_failed_task_is_retried_up_to_the_limit() -> None:
    """Each retry is another job, and the outcome of the last one is the row's."""
    rows = make_rows(40)
    async with client_and_fake_unchecked(duration=10.0, fail_rate=0.5) as setup:
        async with setup.kie.map(rows, retry_failed=2) as run:
            found = by_key([outcome async for outcome in run])
        summary = run.summary()

        retries = Counter(outcome.retries for outcome in found.values())
        assert {0, 1, 2} == set(retries)
        assert summary.retried == sum(times * count for times, count in retries.items())
        assert 40 + summary.retried == len(setup.tasks) == summary.created
        assert all(o.retries == 2 for o in found.values() if isinstance(o, Failed))
        assert 80.0 * summary.ok == summary.credits == setup.truth.spent(anyio.current_time())

        again = by_key(await run_map(setup, rows, retry_failed=2))
        assert {key: type(o) for key, o in found.items()} == {key: type(o) for key, o in again.items()}
        assert all(o.replayed for o in again.values())
        assert {key: o.task_id for key, o in found.items()} == {key: o.task_id for key, o in again.items()}
        # A run without retries still has the result of a retry.
        once = by_key(await run_map(setup, rows))
        assert {key: o.task_id for key, o in found.items()} == {key: o.task_id for key, o in once.items()}
        assert 40 + summary.retried == len(setup.tasks)


@pytest.mark.parametrize(("fails", "retry_failed"), [([("400", "content policy")], 3), ([("500", "busy")], 0)])
async def test_failed_task_is_not_retried_by_default(fails: list[tuple[str, str]], retry_failed: int) -> None:
    async with client_and_fake(duration=10.0, fail_rate=1.0, failures=fails) as setup:
        found = await run_map(setup, make_rows(3), retry_failed=retry_failed)

        assert 3 == len(found) == len(setup.tasks) == sum(isinstance(o, Failed) for o in found)


async def test_in_doubt_is_reported_after_its_deadline() -> None:
    async with client_and_fake(duration=10.0, faults=[Fault("create", "reset", after=True, nth=2)]) as setup:
        started_at = anyio.current_time()
        async with setup.kie.map(make_rows(3)) as run:
            found = [outcome async for outcome in run]

        *done, in_doubt = found
        assert all(isinstance(outcome, Done) for outcome in done)
        assert isinstance(in_doubt, InDoubt)
        assert (
            RetryPolicy().in_doubt_timeout <= anyio.current_time() - started_at < RetryPolicy().in_doubt_timeout + 20.0
        )
        assert ("unresolved", 1) == (in_doubt.state, run.summary().in_doubt)
        assert in_doubt.job.id == in_doubt.job_id == in_doubt.error.job_id
        assert 3 == len(setup.tasks)
        assert [True] == [o.replayed for o in await run_map(setup, make_rows(3)) if isinstance(o, InDoubt)]

        (lost,) = {task.task_id for task in setup.truth.created} - {outcome.task_id for outcome in done}
        await in_doubt.job.resolve(lost)
        assert all(isinstance(outcome, Done) for outcome in await run_map(setup, make_rows(3)))
        assert 3 == len(setup.tasks)
        await assert_settled(setup.kie)


async def test_stalled_task_fails_and_can_be_resumed() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(max_age=100.0)}, duration=200.0) as setup:
        (stalled,) = await run_map(setup, make_rows(1))
        assert isinstance(stalled, Failed)
        assert isinstance(stalled.error, TaskTimeoutError)
        assert ("stalled", setup.tasks[0]) == (stalled.state, stalled.task_id)
        await anyio.sleep(200.0)
        (done,) = await run_map(setup, make_rows(1))

        assert isinstance(done, Done)
        assert 1 == len(setup.tasks)


async def test_running_job_is_joined() -> None:
    async with client_and_fake(duration=30.0) as setup:
        job = await setup.kie.submit(make_request(0), key="shot-0")
        unsent = await setup.kie.submit(make_request(1), key="shot-1", wait=False)
        found = by_key(await run_map(setup, make_rows(3)))

        assert (job.id, unsent.id) == (found["shot-0"].job_id, found["shot-1"].job_id)
        assert 3 == len(setup.tasks)
        assert not any(outcome.replayed for outcome in found.values())


@pytest.mark.parametrize("leave", ["break", "error", "cancel"])
async def test_leaving_early_can_be_continued(leave: str) -> None:
    """Sent rows continue, unsent rows are cancelled, and nothing is paid twice."""

    async def leave_early(setup: Setup) -> None:
        with anyio.CancelScope() as scope:
            async with setup.kie.map(make_rows(100)) as run:
                async for _ in run:
                    if leave == "break":
                        break
                    if leave == "error":
                        raise LookupError
                    scope.cancel()

    async with client_and_fake(duration=20.0) as setup:
        if leave == "error":
            with pytest.raises(LookupError):
                await leave_early(setup)
        else:
            await leave_early(setup)
        started_at = anyio.current_time()
        await anyio.sleep(60.0)
        sent = len(setup.tasks)
        assert sent < 70
        assert {"succeeded", "cancelled"} == set(await setup.states())
        assert all(task.created_at <= started_at for task in setup.truth.created)

        found = by_key(await run_map(setup, make_rows(100)))
        assert 100 == len(found) == len(setup.tasks)
        assert sent == sum(outcome.replayed for outcome in found.values())
        await assert_settled(setup.kie)


async def test_leaving_respects_the_drain() -> None:
    async with client_and_fake(duration=500.0) as setup:
        run = setup.kie.map(make_rows(30))
        async with run:
            await anyio.sleep(2.0)
            started_at = anyio.current_time()
            await run.aclose(drain=3.0)
            assert 3.0 == pytest.approx(anyio.current_time() - started_at, abs=0.01)
        assert 20 == setup.kie.statistics().in_flight == len(setup.tasks)
        assert 0 == setup.kie.statistics().submitting


async def test_stop_yields_running_rows_and_ends() -> None:
    async with client_and_fake(duration=30.0) as setup:
        found = []
        async with setup.kie.map(make_rows(100)) as run:
            async for outcome in run:
                found.append(outcome)
                run.stop()

        assert len(setup.tasks) == len(found) == sum(isinstance(outcome, Done) for outcome in found)
        assert len(found) < 100
        await assert_settled(setup.kie)


async def test_source_error_on_close_is_raised() -> None:
    async def rows() -> AsyncIterator[tuple[str, Request]]:
        try:
            for row in make_rows(1000):
                yield row
        finally:
            raise LookupError

    async with client_and_fake(duration=30.0) as setup:
        with anyio.fail_after(100.0):
            async with setup.kie.map(rows()) as run:
                assert isinstance(await anext(run), Done)
                run.stop()
                found, error = await drain_run(run)

        assert len(setup.tasks) == len(found) + 1
        assert isinstance(error, LookupError)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("look_ahead", [None, 5])
async def test_stop_prevents_rows_about_to_be_read(
    look_ahead: int | None,
) -> None:
    """One notification wakes the caller, for an outcome, and the reader, for free space; the caller may run first."""
    faults = [Fault("create", "code", code=422)]
    async with client_and_fake(faults=faults) as setup, setup.kie.map(make_rows(100), look_ahead=look_ahead) as run:
        assert isinstance(await anext(run), Failed)
        run.stop()
        started = len(await setup.rows())
        assert (await drain_run(run))[1] is None
        await anyio.sleep(60.0)

        assert started == len(await setup.rows())


async def test_closing_client_ends_the_run_with_an_error() -> None:
    async with client_and_fake(duration=30.0) as setup:
        async with setup.kie.map(make_rows(30)) as run:
            await anyio.sleep(5.0)
            await setup.kie.aclose()
            assert isinstance((await drain_run(run))[1], ClientClosedError)
        await setup.kie.__aenter__()
        assert 30 == len(await run_map(setup, make_rows(30))) == len(setup.tasks)


async def test_closing_client_fails_no_row() -> None:
    """While creates on the wire wait for their answers, the table is not read to its end."""
    async with client_and_fake(duration=30.0, latency=(3.0, 3.0)) as setup:
        async with setup.kie.map(make_rows(5000)) as run:
            await anyio.sleep(1.0)
            async with anyio.create_task_group() as group:
                group.start_soon(setup.kie.aclose)
                found, error = await drain_run(run)

        assert [] == found
        assert isinstance(error, ClientClosedError)
        assert 20 == len(setup.tasks)
        await setup.kie.__aenter__()
        assert 30 == len(await run_map(setup, make_rows(30))) == len(setup.tasks)


async def test_closing_client_retries_no_failed_task() -> None:
    slow = [Fault("create", "slow", seconds=40.0, after=True, when=lambda call: "take 1" in str(call.body))]
    async with client_and_fake(duration=10.0, fail_rate=1.0, faults=slow) as setup:
        async with setup.kie.map(make_rows(2), retry_failed=1) as run:
            await anyio.sleep(8.0)
            async with anyio.create_task_group() as group:
                group.start_soon(setup.kie.aclose, 60.0)
                found, error = await drain_run(run)

        assert [(Failed, TaskFailedError)] == [(type(o), type(o.error)) for o in found if isinstance(o, Failed)]
        assert isinstance(error, ClientClosedError)


async def test_two_runs_share_the_limit_and_a_table() -> None:
    """Each run has an outcome for every row, and every row was created once."""
    async with client_and_fake(duration=20.0) as setup:
        found: list[list[Outcome]] = []

        async def run_table() -> None:
            found.append(await run_map(setup, make_rows(30)))

        async with anyio.create_task_group() as group:
            group.start_soon(run_table)
            group.start_soon(run_table)
        assert [30, 30] == list(map(len, found))
        assert 30 == len(setup.tasks)
        assert all(isinstance(outcome, Done) for run in found for outcome in run)


async def test_limit_is_used_and_kept() -> None:
    async with client_and_fake(duration=(60.0, 0.35), latency=(0.02, 0.2), credits=1e6) as setup:
        async with setup.kie.map(map(make_request, range(400))) as run:
            async for _ in run:
                pass
        summary = run.summary()

        assert 400 == summary.ok
        assert [] == setup.truth.rate_limited
        assert summary.used >= 0.97
        assert 20 == setup.truth.busiest_window(10.0)


async def test_run_can_leave_a_hanging_source() -> None:
    async def rows() -> AsyncIterator[Request]:
        yield make_request(0)
        await anyio.sleep_forever()

    async with client_and_fake(duration=10.0) as setup:
        async with setup.kie.map(rows()) as run:
            assert isinstance(await anext(run), Done)
        await assert_settled(setup.kie)
