"""
Programs whose event loops end before their jobs; each prints its findings as JSON, in which nothing may be wrong.

A process of its own is needed: the garbage collector and the interpreter say what they find on stderr.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import uvloop

from kie_async import Job, KieClient, KieError, Limits, SubmitInDoubtError
from kie_async.testing import FakeKie, VirtualLoop
from tests.helpers import KEY, make_request

__all__ = ["CALLS", "MAKE_LOOP", "PROGRAMS"]

Use: TypeAlias = Callable[[KieClient], Awaitable[list[Job]]]

#: The ways to make a loop.
MAKE_LOOP = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@contextmanager
def fake_in_thread() -> Generator[FakeKie]:
    """Run a service in a thread of its own, beside the loops of the program."""
    ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    fakes: list[FakeKie] = []

    async def serve() -> None:
        async with FakeKie(duration=0.0, limit=1000, queries_per_second=1000.0) as fake:
            fakes.append(fake)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield fakes[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def make_client(fake: FakeKie, path: Path) -> KieClient:
    """Make a client whose limits do not slow it down."""
    return KieClient(KEY, base_url=fake.url, journal=path, limits=Limits(creates=1000, polls_per_second=1000.0))


def count_descriptors(*, expected: int | None = None) -> int:
    """Count the open descriptors of this process, once the service has closed its ends of connections, too."""
    tries = 100
    while True:
        gc.collect()  # of connections of a closed loop, which nothing else can close
        count, tries = len(os.listdir("/dev/fd")), tries - 1  # noqa: PTH208 (only how many)
        if expected is None or count <= expected or not tries:
            return count
        threading.Event().wait(0.02)


def count_journals() -> int:
    """Count the threads of open journals; one that is closing, or that is garbage, ends within a moment."""
    threads = [thread for thread in threading.enumerate() if thread.name == "kie_async journal"]
    for _ in range(50):
        for thread in threads:
            thread.join(0.1)
        if not any(thread.is_alive() for thread in threads):
            return 0
        gc.collect()
    return sum(thread.is_alive() for thread in threads)


async def finish_all(kie: KieClient) -> list[str]:
    """Recover all jobs, wait for them, close, and return their ids."""
    async with kie, asyncio.timeout(30):
        jobs = await kie.recover()
        for job in jobs:
            with suppress(SubmitInDoubtError):
                await job.status()  # the first automatic poll comes seconds later
                await job
    return sorted(job.id for job in jobs)


async def known_tasks(kie: KieClient) -> tuple[set[str | None], int]:
    """Return the tasks that the journal knows, and the number of jobs in doubt."""
    async with kie:
        jobs = await kie.jobs()
    return {job.task_id for job in jobs}, sum(job.task_id is None for job in jobs)


# -- each way to leave a loop, with each use before it, and each release after it ------------------------------------


def end_in_order(loop: asyncio.AbstractEventLoop) -> None:
    """Do as ``asyncio.run`` does."""
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


#: The ways to leave a loop.
LEAVE: dict[str, Callable[[asyncio.AbstractEventLoop], object]] = {
    "closed": lambda loop: loop.close(),
    "abandoned": lambda _: None,
    "ended": end_in_order,
}


async def submit(kie: KieClient) -> list[Job]:
    """Submit a job; its task runs on."""
    return [await kie.submit(make_request())]


async def submit_and_poll(kie: KieClient) -> list[Job]:
    """Submit a job, and leave while a poll of it is on its way."""
    job = await kie.submit(make_request())
    with suppress(TimeoutError):
        await asyncio.wait_for(job.status(), 0.001)
    return [job]


async def submit_in_background(kie: KieClient) -> list[Job]:
    """Submit three jobs, and leave while their creates are on the way."""
    return [await kie.submit(make_request(number), wait=False) for number in range(3)]


async def enter_and_submit(kie: KieClient) -> list[Job]:
    """Enter the client, and never leave it."""
    return await submit(await kie.__aenter__())


async def wait_in_vain(kie: KieClient) -> list[Job]:
    """Submit a job, and let its wait reach a timeout."""
    job = await kie.submit(make_request())
    with suppress(TimeoutError):
        await job.wait(timeout=0.01)
    return [job]


async def run_in_part(kie: KieClient) -> list[Job]:
    """Begin a table, and leave it once a task was created."""
    await kie.map([make_request(number) for number in range(3)]).__aenter__()
    while not (found := [job.job_id for job in await kie.jobs() if job.task_id is not None]):
        await asyncio.sleep(0.0)
    return [kie.job(job_id) for job_id in found]


USES: dict[str, Use] = {
    use.__name__: use
    for use in (submit, submit_and_poll, submit_in_background, enter_and_submit, wait_in_vain, run_in_part)
}
RELEASES = ("next use", "aclose()", "garbage")


def leave_loops(kind: str, way: str, *uses: str) -> list[str]:
    """Leave loops in one way after each of some uses, and release them in each way; return what was wrong."""
    wrong: list[str] = []
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        with asyncio.Runner(loop_factory=MAKE_LOOP[kind]) as runner:
            runner.run(_use_once(make_client(fake, Path(folder, "first.db"))))
        before = count_descriptors()
        for use in uses:
            # A loop that is neither closed nor run again may stay in memory: uvloop's, and one whose tasks have scopes.
            for release in RELEASES[:2] if way == "abandoned" else RELEASES:
                earlier, path = set(fake.truth.tasks), Path(folder, f"{use} {release}.db")
                kie, loop = make_client(fake, path), MAKE_LOOP[kind]()
                loop.run_until_complete(USES[use](kie))
                LEAVE[way](loop)
                del loop
                if release != "next use":
                    if release == "aclose()":
                        asyncio.run(kie.aclose())
                    del kie
                    if count_journals():
                        wrong.append(f"{use}, {release}: the journal is open")
                    kie = make_client(fake, path)
                asyncio.run(finish_all(kie))
                known, in_doubt = asyncio.run(known_tasks(kie))
                del kie
                paid = set(fake.truth.tasks) - earlier
                if len(paid - known) > in_doubt or not 0 < len(paid) <= 3:
                    wrong.append(f"{use}, {release}: {paid} {known} {in_doubt}")
                if count_journals() or (locks := list(path.with_name(f"{path.name}.owners").iterdir())):
                    wrong.append(f"{use}, {release}: {count_journals()} journals, {locks}")
        if way != "abandoned" and (after := count_descriptors(expected=before)) > before:
            wrong.append(f"{before} descriptors, then {after}")
    return wrong


async def _use_once(kie: KieClient) -> None:
    async with kie:
        await kie.credits()


# -- a loop that is closed in each turn -------------------------------------------------------------------------------

CALLS: dict[str, Callable[[KieClient], Awaitable[object]]] = {
    "submit": lambda kie: kie.submit(make_request()),
    "submit in the background": lambda kie: kie.submit(make_request(), wait=False),
    "submit with a key": lambda kie: kie.submit(make_request(), key="order-7"),
    "start": lambda kie: kie.__aenter__(),
    "close": lambda kie: kie.aclose(),
}


def close_in_each_turn(name: str) -> list[str]:
    """Close the loop in the first turn of a call, then in the second, up to its end."""
    wrong = []
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        for turn in range(1, 200):
            earlier, path = set(fake.truth.tasks), Path(folder, f"{turn}.db")
            kie = make_client(fake, path)
            loop = VirtualLoop(start=datetime.now(UTC).timestamp())
            with loop.freeze():
                if name == "close":
                    loop.run_until_complete(kie.submit(make_request()))
                task = loop.create_task(_complete(CALLS[name](kie)))
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 (the caller's own)
                loop.at_turn(loop.turns + turn, loop.stop)
                with suppress(RuntimeError):  # stopped before it was complete
                    loop.run_until_complete(task)
                complete = task.done()
            loop.close()
            del task, loop
            asyncio.run(kie.aclose())
            del kie
            if count_journals():
                wrong.append(f"turn {turn}: the journal is open")
            kie = make_client(fake, path)
            asyncio.run(finish_all(kie))
            known, in_doubt = asyncio.run(known_tasks(kie))
            paid = set(fake.truth.tasks) - earlier
            if len(paid) > 1 or len(paid - known) > in_doubt:
                wrong.append(f"turn {turn}: {paid} {known} {in_doubt}")
            if complete:
                return wrong if turn > 3 else ["the call has hardly a turn"]
    return ["the call never ends"]


async def _complete(call: Awaitable[object]) -> None:
    with suppress(KieError):
        await call


# -- many loops, loops that are used in turn, and workers -------------------------------------------------------------


def use_many_loops(kind: str, count: str) -> list[str]:
    """Use one client in many loops that are closed at once; no descriptor, thread or file is left."""
    wrong, ids = [], []
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        path = Path(folder, "kie.db")
        kie = make_client(fake, path)
        with asyncio.Runner(loop_factory=MAKE_LOOP[kind]) as runner:
            runner.run(_use_once(kie))
        before, most = count_descriptors(), 0
        asyncio.run(kie.__aenter__())  # and never left
        for _ in range(int(count)):
            loop = MAKE_LOOP[kind]()
            loop.run_until_complete(kie.credits())
            loop.close()
            most = max(most, len(os.listdir("/dev/fd")))  # noqa: PTH208 (without the garbage collector)
        loop = MAKE_LOOP[kind]()
        ids += [job.id for job in loop.run_until_complete(submit(kie))]
        loop.close()
        del loop
        found = asyncio.run(finish_all(kie))
        rows = asyncio.run(_count_jobs(kie))
        if found != ids or rows != len(ids) or len(fake.truth.tasks) != len(ids):
            wrong.append(f"{len(found)} jobs found, {rows} rows, {len(fake.truth.tasks)} tasks")
        if (after := count_descriptors(expected=before)) > before:
            wrong.append(f"{before} descriptors, then {after}")
        if most > before + 30:
            wrong.append(f"{most} descriptors meanwhile")
        if count_journals() or (locks := list(path.with_name("kie.db.owners").iterdir())):
            wrong.append(f"left: {count_journals()} journals, {locks}")
    return wrong


async def _count_jobs(kie: KieClient) -> int:
    async with kie:
        return len(await kie.jobs())


def use_loops_in_turn(kind: str) -> list[str]:
    """Use one client in two loops that are never closed, in turn; nothing is paid twice."""
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        kie = make_client(fake, Path(folder, "kie.db"))
        loops = [MAKE_LOOP[kind](), MAKE_LOOP[kind]()]
        for number in range(6):
            loop = loops[number % 2]
            (job,) = loop.run_until_complete(submit(kie))
            loop.run_until_complete(job.status())
            loop.run_until_complete(job.wait())
        for loop in loops:
            end_in_order(loop)
        asyncio.run(finish_all(kie))
        states = asyncio.run(_states(kie))
        return [] if len(fake.truth.tasks) == 6 and states == {"succeeded"} else [f"{states}, {fake.truth.tasks}"]


async def _states(kie: KieClient) -> set[str]:
    async with kie:
        return {str(job.state) for job in await kie.jobs()}


def use_one_loop_again(kind: str) -> list[str]:
    """Use a client in one loop that stops between the calls, as old web servers do: it stays the owner."""
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        path = Path(folder, "kie.db")
        kie, other = (make_client(fake, path) for _ in range(2))
        loop = MAKE_LOOP[kind]()
        (job,) = loop.run_until_complete(submit(kie))
        stolen = asyncio.run(finish_all(other))
        loop.run_until_complete(job.status())
        task = loop.run_until_complete(job.wait()).task_id
        loop.run_until_complete(kie.aclose())
        loop.close()
        return [] if not stolen and [task] == list(fake.truth.tasks) else [f"stolen: {stolen}"]


def work_in_forks(kind: str) -> list[str]:
    """Import an unused client, fork, and do one job with a new loop in each child, as workers of task queues do."""
    with TemporaryDirectory() as folder, fake_in_thread() as fake:
        path = Path(folder, "kie.db")
        kie = make_client(fake, path)
        for _ in range(3):
            if (child := os.fork()) == 0:
                for _ in range(3):
                    loop = MAKE_LOOP[kind]()
                    loop.run_until_complete(submit(kie))
                    loop.close()
                os._exit(0)
            os.waitpid(child, 0)
        found = asyncio.run(finish_all(kie))
        locks = list(path.with_name("kie.db.owners").iterdir())
        return [] if len(found) == 9 == len(fake.truth.tasks) and not locks else [f"{found}, {locks}"]


PROGRAMS = {
    program.__name__: program
    for program in (
        leave_loops,
        close_in_each_turn,
        use_many_loops,
        use_loops_in_turn,
        use_one_loop_again,
        work_in_forks,
    )
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
