"""The calls of programs: each public call of a client, with arguments that a ``Step`` selects."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs

from kie_async import (
    Budget,
    ConfigurationError,
    Done,
    Failed,
    Generation,
    InDoubt,
    KieClient,
    KieError,
    Request,
    TaskFailedError,
)
from tests.helpers import make_request

if TYPE_CHECKING:
    from tests.simulation.loop import SimLoop
    from tests.simulation.plan import Step
    from tests.simulation.world import Process, World

__all__ = ["BUDGETS", "FUNCTIONS", "PRICE", "Call", "Function"]

T = TypeVar("T")

Function = Callable[["World", "Call"], Awaitable[None]]

#: The limits of the named budgets in credits, and the number of tables.
BUDGETS: Mapping[str, float] = {"small": 240.0, "large": 1200.0}
#: The price of each task in credits.
PRICE = 80.0
_TABLES = 3
_ROWS = 6


@attrs.define(eq=False)
class Call:
    """
    One call at work.

    Attributes:
        step: The step of the program.

        process: The life of the worker that makes it.

        began: The instant at which it began.

        loop: The loop in which it runs.

        ended: The instant of its end, or None.

        error: The error that it has raised, or None.

        was_cancelled: True if the world has cancelled it.

        told: The ends of tasks that it has learned: the instant, job, task, and ``"success"`` or ``"fail"``.

        job_id: The job that it is about, or empty.
    """

    step: Step
    process: Process
    began: float
    loop: SimLoop = attrs.field(init=False)
    task: asyncio.Task[None] | None = None
    ended: float | None = None
    error: KieError | None = None
    was_cancelled: bool = False
    told: list[tuple[float, str, str, str]] = attrs.field(factory=list)
    job_id: str = ""

    def __attrs_post_init__(self) -> None:
        self.loop = self.process.loop

    @property
    def kie(self) -> KieClient:
        """The client."""
        return self.process.kie


def _request(call: Call) -> tuple[Request, str | None]:
    """Return the request of a call and its key: equal keys have equal requests, but for a few."""
    if call.step.key:
        differs = call.step.choice % 25 == 0
        return make_request(call.step.number + 5_000 * differs), f"key-{call.step.number}"
    return make_request(10_000 + call.step.choice * 1000 + call.step.number), None


async def _wait(world: World, call: Call, job_id: str, wait: Awaitable[Generation]) -> Generation:
    """Return what a wait for a job tells, and note it."""
    try:
        generation = await wait
    except TaskFailedError as error:
        if error.task_id is not None:
            world.note_told(call, error.job_id or job_id, error.task_id, "fail")
        raise
    finally:
        if job_id:
            world.note_job(job_id)
    world.note_job(generation.job_id or job_id)
    world.note_told(call, generation.job_id or job_id, generation.task_id, "success")
    return generation


async def _generate(world: World, call: Call) -> None:
    request, key = _request(call)
    await _wait(world, call, "", call.kie.generate(request, key=key, timeout=call.step.timeout))
    _check_request(world, call, request)


def _check_request(world: World, call: Call, request: Request) -> None:
    """Check that the task that a caller has learned of is one of its request."""
    task = world.fake.truth.tasks.get(call.told[-1][2]) if call.told else None
    if task is not None and task.input.get("prompt") != request.input(dict.fromkeys(request.files(), ""))["prompt"]:
        world.violations.append(f"{call.step.call} was told of a task of another request: {task.task_id}")


async def _submit(world: World, call: Call) -> None:
    request, key = _request(call)
    job = await call.kie.submit(request, key=key, wait=call.step.call == "submit")
    call.job_id = job.id
    world.note_job(job.id)
    if call.step.choice % 2:
        await _wait(world, call, job.id, job.wait(call.step.timeout))
        if not world.resubmitted[job.id]:
            _check_request(world, call, request)


def _pick(world: World, call: Call) -> str:
    """Return the id of a job that any worker has learned of; else an unknown one."""
    if call.job_id:
        return call.job_id
    known = world.job_ids
    call.job_id = known[-1 - call.step.number % len(known)] if known else f"kj_{call.step.number:032x}"
    return call.job_id


async def _wait_for_job(world: World, call: Call) -> None:
    job_id = _pick(world, call)
    await _wait(world, call, job_id, call.kie.job(job_id).wait(call.step.timeout))


async def _save(world: World, call: Call) -> None:
    """Save a result into a folder, or under a name that other results get, too."""
    job_id = _pick(world, call)
    generation = await _wait(world, call, job_id, call.kie.job(job_id).wait(call.step.timeout))
    path = world.files if call.step.choice % 3 else world.files / f"{call.step.number}{{suffix}}"
    world.note_saved(await generation.save(path), generation.task_id)


async def _status(world: World, call: Call) -> None:
    await call.kie.job(_pick(world, call)).status()


async def _updates(world: World, call: Call) -> None:
    seen = 0
    updates = call.kie.job(_pick(world, call)).updates()
    try:
        async for _ in updates:
            seen += 1
            if seen == 1 + call.step.choice % 5:
                break
    finally:
        with suppress(RuntimeError):  # it may be at work when the loop ends
            await updates.aclose()


async def _info(world: World, call: Call) -> None:
    await call.kie.job(_pick(world, call)).info()


async def _recover(world: World, call: Call) -> None:
    for job in await call.kie.recover(adopt_key=call.step.choice % 5 == 0):
        world.note_job(job.id)


async def _resolve(world: World, call: Call) -> None:
    job_id = _pick(world, call)
    own = [task.task_id for task in world.fake.truth.created if job_id in str(task.callback_url)]
    foreign = list(world.fake.truth.tasks)[-2:] if call.step.choice % 4 == 0 else []
    await call.kie.job(job_id).resolve([*own, *foreign, "f" * 32][0])


async def _resubmit(world: World, call: Call) -> None:
    job_id = _pick(world, call)
    allow = call.step.choice % 2 == 0
    # Counted before: the call may be cancelled after it has had its effect.
    world.resubmitted[job_id] += 1
    await call.kie.job(job_id).resubmit(allow_duplicate=allow)


async def _abandon(world: World, call: Call) -> None:
    await call.kie.job(_pick(world, call)).abandon()


async def _forget(world: World, call: Call) -> None:
    journal = (await call.kie._binding.engine()).journal
    before = {row.id: row for row in await journal.rows()}
    world.forgotten |= before
    await call.kie.forget(before=call.loop.wall_time() - call.step.choice % 60)
    after = {row.id for row in await journal.rows()}
    for job_id, row in before.items():
        world.states.setdefault(job_id, row.state)
        if job_id not in after:
            world.deleted.add(job_id)


async def _jobs(world: World, call: Call) -> None:
    for info in await call.kie.jobs(unfinished=call.step.choice % 2 == 0):
        world.note_job(info.job_id)


async def _keys(_: World, call: Call) -> None:
    await call.kie.keys("key-")


async def _credits(_: World, call: Call) -> None:
    await call.kie.credits()


async def _estimate(_: World, call: Call) -> None:
    await call.kie.estimate(make_request(call.step.number))


def _table(call: Call) -> list[tuple[str, Request] | Request]:
    """Return a table: each has a content of its own, and either keys or none."""
    table = call.step.number % _TABLES
    rows = range(1 + call.step.choice % _ROWS)
    if table % 2:
        return [make_request(1000 * (table + 1) + row) for row in rows]
    return [(f"row-{table}-{row}", make_request(1000 * (table + 1) + row)) for row in rows]


async def _spent(_: World, call: Call) -> None:
    await call.kie.spent(_table(call), price=PRICE)


async def _map(world: World, call: Call) -> None:
    choice = call.step.choice
    table: Any = _table(call)
    rows: Any = (table, _generator(table), _async_generator(table))[choice % 3]
    name = list(BUDGETS)[choice // 3 % 2]
    budget = {
        0: None,
        1: None,
        2: Budget(credits=200.0, price=PRICE),
        3: Budget(credits=BUDGETS[name], name=name, price=PRICE if choice % 2 else None),
    }[choice // 7 % 4]
    share = world.plan.journal != "memory" and choice % 2 == 0 and (budget is None or budget.name is not None)
    leaves = choice % 11 if choice % 4 == 0 else None
    seen = 0
    async with call.kie.map(
        rows,
        budget=budget,
        stop_after=20.0 if choice % 13 == 0 else None,
        ordered=choice % 5 == 0,
        retry_failed=choice % 2,
        share=share,
        save_to=str(world.files / "{key}.mp4") if call.step.call == "map, saving" else None,
    ) as run:
        async for outcome in run:
            seen += 1
            world.counts[f"outcome {type(outcome).__name__}"] += 1
            if outcome.job_id is not None:
                world.note_job(outcome.job_id)
            if isinstance(outcome, Done):
                # Of the job that was made last: a retry is another job.
                world.note_told(call, outcome.generation.job_id or "", outcome.generation.task_id, "success")
                if share:
                    world.yields[outcome.generation.task_id].add(call.process.name)
                world.note_saved(outcome.files, outcome.generation.task_id)
            elif isinstance(outcome, Failed) and isinstance(outcome.error, TaskFailedError) and outcome.error.task_id:
                world.note_told(call, outcome.error.job_id or "", outcome.error.task_id, "fail")
            elif isinstance(outcome, InDoubt):
                world.counts["row in doubt"] += 1
            if seen == leaves:
                world.counts["map left early"] += 1
                break
            if choice % 17 == 0:
                run.stop()


def _generator(rows: list[Any]) -> Iterator[Any]:
    yield from rows


async def _async_generator(rows: list[Any]) -> AsyncIterator[Any]:
    for row in rows:
        await anyio.sleep(0.1)
        yield row


async def _budgets(_: World, call: Call) -> None:
    await call.kie.budgets()


async def _raise_budget(_: World, call: Call) -> None:
    name = list(BUDGETS)[call.step.choice % 2]
    await call.kie.raise_budget(name, BUDGETS[name])


async def _workers(_: World, call: Call) -> None:
    await call.kie.workers()


async def _account(_: World, call: Call) -> None:
    await call.kie.account()


async def _journal_id(_: World, call: Call) -> None:
    await call.kie.journal_id()


async def _statistics(_: World, call: Call) -> None:
    await anyio.lowlevel.checkpoint()
    call.kie.statistics()


async def _close(_: World, call: Call) -> None:
    """Close the client, and open it again after a while."""
    process = call.process
    process.closed, process.recovers = True, False
    await call.kie.aclose(drain=(0.0, 0.3, 5.0)[call.step.choice % 3])
    await anyio.sleep(call.step.choice % 4 * 2.0)
    await call.kie.__aenter__()
    process.closed = False
    if call.step.choice % 2:
        await call.kie.recover()
        process.recovers = True


async def _close_loop(world: World, call: Call) -> None:
    """Let the loop of the process end, and let the client be used in another one."""
    await anyio.lowlevel.checkpoint()
    process = call.process
    if process.alive and process.loop is call.loop:
        world.own.call_soon(_replace_loop, world, call)
        await anyio.sleep_forever()


def _replace_loop(world: World, call: Call) -> None:
    process = call.process
    if process.alive and process.loop is call.loop:
        world.close_loop(process, close=call.step.choice % 2 == 0)
        process.loop.create_task(world._begin_life(process))


async def _fork(world: World, call: Call) -> None:
    """Use the client as a forked child would: nothing happens but an error that says so."""
    await anyio.lowlevel.checkpoint()
    child, binding = _copy(call.kie), _copy(call.kie._binding)
    if binding._process is None:
        return
    child._binding, binding._process = binding, os.getpid() + 1
    for use in (child.recover, child.jobs, child.credits, child.aclose, _generate_in(child)):
        try:
            await use()
        except ConfigurationError:
            world.counts["refused after a fork"] += 1
        else:
            world.violations.append("a forked child may use the client")


def _copy(original: T) -> T:
    """Copy an object as a fork does, which asks no class."""
    copied = object.__new__(type(original))
    names = {*getattr(original, "__dict__", {}), *getattr(type(original), "__slots__", ())} - {"__weakref__"}
    for name in sorted(names):
        if hasattr(original, name):
            object.__setattr__(copied, name, getattr(original, name))
    return copied


def _generate_in(child: KieClient) -> Callable[[], Awaitable[Generation]]:
    return lambda: child.generate(make_request(99_999))


FUNCTIONS: Mapping[str, Function] = {
    "submit": _submit,
    "submit, not waiting": _submit,
    "generate": _generate,
    "wait": _wait_for_job,
    "wait for id": _wait_for_job,
    "status": _status,
    "updates": _updates,
    "info": _info,
    "map": _map,
    "map, saving": _map,
    "save": _save,
    "recover": _recover,
    "resolve": _resolve,
    "resubmit": _resubmit,
    "abandon": _abandon,
    "forget": _forget,
    "jobs": _jobs,
    "keys": _keys,
    "credits": _credits,
    "estimate": _estimate,
    "spent": _spent,
    "budgets": _budgets,
    "raise_budget": _raise_budget,
    "workers": _workers,
    "account": _account,
    "journal_id": _journal_id,
    "statistics": _statistics,
    "close": _close,
    "close the loop": _close_loop,
    "fork": _fork,
}
