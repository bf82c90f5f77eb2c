"""
Strangers: they know a job's callback URL, and post task ids to it for as long as the job waits for its own callback.

Time is virtual. The figures: how late the job's result is, and how many polls and warnings the strangers cause.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import KieClient, RetryPolicy
from kie_async.testing import FakeKie, Fault
from kie_async.testing.truth import busiest_window
from tests.client.backend import callback_body, running_backend
from tests.helpers import KEY, create_foreign_task, make_request
from tests.hostile.watch import Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


__all__ = ["ATTACKS", "IN_AN_HOUR", "IN_A_MINUTE", "LIVES", "LOST", "UNTIL_LOST", "Findings", "besiege", "post_rounds"]

LOST = Fault("create", "reset", after=True, nth=1)
_NO_CALLBACK = Fault("callback", "lost")
#: The most polls that a callback URL may cause in a minute and in an hour.
IN_A_MINUTE, IN_AN_HOUR = 12, 60
#: The most that a result may be late, in seconds. Two tasks of one job are polled a second apart.
LATE, LATE_TWICE = 0.1, 1.0

#: The ids that are posted.
ATTACKS = (
    "four made-up ids",
    "new made-up ids",
    "a flood of made-up ids",
    "a made-up id, long before",
    "one visible id",
    "forty visible ids",
    "other jobs' tasks",
    "made-up and visible ids",
    "its own id and made-up ones",
    "visible ids in bursts",
    "ids of any form",
)

#: The life of a job whose callback never comes.
UNTIL_LOST = "in doubt, and its callback is lost"
#: The lives of the attacked job, and the faults of the service that bring them about.
LIVES = {
    "in doubt": (LOST,),
    UNTIL_LOST: (LOST, Fault("callback", "lost")),
    "submitted": (),
    "before the answer": (Fault("create", "slow", seconds=40.0, after=True, nth=1),),
    "created twice": (Fault("create", "code", code=500, msg="Internal Error", after=True, nth=1),),
    "restarted": (LOST,),
    "two processes": (LOST,),
    "one of ten": tuple(Fault("create", "reset", after=True, nth=nth) for nth in range(1, 11)),
}


@attrs.frozen(kw_only=True)
class Findings:
    """
    The results of one attack.

    Attributes:
        life: The life of the job.

        late: The time from the end of the task to the result of its job, in seconds; None if no result was awaited.

        in_a_minute: The most polls of other tasks for one job in any minute.

        in_an_hour: The most in any hour.

        warnings: The most warnings about one job in one state.

        refused: The number of posts that were not answered with 200, the genuine one included.
    """

    life: str
    late: float | None
    in_a_minute: int
    in_an_hour: int
    warnings: int
    refused: int

    @property
    def problems(self) -> list[str]:
        """The descriptions of all failed checks."""
        most = LATE_TWICE if self.life == "created twice" else LATE
        bounds = {
            f"the result is {self.late} s late": self.late is not None and self.late > most,
            f"{self.in_a_minute} polls in a minute": self.in_a_minute > IN_A_MINUTE,
            f"{self.in_an_hour} polls in an hour": self.in_an_hour > IN_AN_HOUR,
            f"{self.warnings} warnings about one job in one state": self.warnings > 1,
            f"{self.refused} posts were refused": self.refused > 0,
        }
        return [problem for problem, broken in bounds.items() if broken]

    def __str__(self) -> str:
        late = "no result awaited" if self.late is None else f"result {self.late:.2f} s late"
        polls = f"polls: {self.in_a_minute} in a minute, {self.in_an_hour} in an hour"
        return f"{late}; {polls}; warnings for a job and state: {self.warnings}"


async def _visible_ids(fake: FakeKie, number: int) -> list[str]:
    """Return the ids of tasks of the same account that other programs have created."""
    found = []
    for nth in range(number):
        await anyio.sleep(1.0)  # within the limit of creates
        found.append(await create_foreign_task(fake.url, f"order {nth}"))
    return found


async def _posted_ids(  # noqa: C901 (a table)
    attack: str, kie: KieClient, fake: FakeKie, own: str
) -> tuple[Iterator[list[str]], float]:
    """Return the ids that each round of an attack posts, and the seconds between two rounds."""
    made_up = (f"{number:032x}" for number in count())
    match attack:
        case "four made-up ids":
            return cycle([[f"{number:032x}" for number in range(4)]]), 20.0
        case "new made-up ids":
            return ([next(made_up) for _ in range(4)] for _ in count()), 20.0
        case "a flood of made-up ids":
            return ([next(made_up)] for _ in count()), 0.2
        case "a made-up id, long before":
            return iter([["a"], *([] for _ in range(10_000))]), 1.0
        case "one visible id":
            return cycle([await _visible_ids(fake, 1)]), 1.0
        case "forty visible ids":
            return cycle([[task_id] for task_id in await _visible_ids(fake, 40)]), 1.0
        case "other jobs' tasks":
            jobs = [await kie.submit(make_request(100 + number)) for number in range(5)]
            for job in jobs:
                fake.finish(str(job.task_id))
                await job  # so that no other poll of it is counted
            return cycle([[str(job.task_id)] for job in jobs]), 0.5
        case "its own id and made-up ones":
            return ([own, *(next(made_up) for _ in range(9))] for _ in count()), 20.0
        case "visible ids in bursts":
            return cycle([await _visible_ids(fake, 20), *([] for _ in range(9))]), 30.0
        case "ids of any form":
            return cycle([["0"], ["a" * 256], ["kj_" + "0" * 32], ["A.b:c-d_e"], [own.upper() + "x"], [own[:-1]]]), 2.0
        case _:
            seen = cycle(await _visible_ids(fake, 3))
            return ([next(made_up), next(seen)] for _ in count()), 1.0


async def post_rounds(
    clients: list[KieClient], urls: list[str], rounds: Iterator[list[str]], every: float, refused: list[int]
) -> None:
    """Post each round's ids to each URL, at the clients by turns, until cancelled; collect statuses other than 200."""
    turns = count()
    for ids in rounds:
        for task_id in ids:
            for url in urls:
                kie = clients[next(turns) % len(clients)]
                status, _ = await kie.callbacks.handle(url, {}, callback_body(task_id))
                refused += [status] if status != 200 else []
        await anyio.sleep(every)


async def besiege(attack: str, life: str, folder: Path) -> Findings:
    """
    Attack a job until its result is there, or for an hour if its callback is lost.

    Args:
        attack: One of ``ATTACKS``.

        life: One of ``LIVES``.

        folder: Holds the journal.
    """
    log, refused, late = Log([KEY]), list[int](), None
    duration = 1e5 if life == UNTIL_LOST else 600.0
    async with (
        running_backend() as backend,
        FakeKie(duration=duration, faults=LIVES[life], credits=1e6) as fake,
        AsyncExitStack() as stack,
    ):
        stack.enter_context(log.reading())

        async def start() -> KieClient:
            kie = KieClient(
                KEY,
                base_url=fake.url,
                callback_url=backend.url,
                journal=folder / "kie.db",
                retry=RetryPolicy(max_age=7200.0),
            )
            return await stack.enter_async_context(kie)

        clients = [await start()]
        backend.serve(clients[0])
        numbers = range(10 if life == "one of ten" else 1)
        jobs = []
        for number in numbers:
            jobs.append(await clients[0].submit(make_request(number), wait=False))
            await anyio.sleep(1.0)  # all ends at once would wait for the limit of polls
        await anyio.sleep(20.0)  # all creates were received
        tasks, truth = list(fake.truth.created), fake.truth
        own, urls = {task.task_id for task in tasks}, [str(task.callback_url) for task in tasks]
        rounds, every = await _posted_ids(attack, clients[0], fake, tasks[-1].task_id)
        truth.polls.clear()
        if life == "two processes":
            clients.append(await start())
        async with anyio.create_task_group() as group:
            group.start_soon(post_rounds, clients, urls, rounds, every, refused)
            if life == "restarted":
                await anyio.sleep(300.0)
                ended, clients[0] = clients[0], await start()
                backend.serve(clients[0])
                await ended.aclose()
                await clients[0].recover()
            if life == UNTIL_LOST:
                await anyio.sleep(3600.0)
            else:
                video = await clients[0].job(jobs[-1].id)
                late = anyio.current_time() - truth.tasks[video.task_id].ends_at
            group.cancel_scope.cancel()
        refused += [status for status in backend.answers if status != 200]
        polled_at = [poll.at for poll in truth.polls if poll.task_id not in own]
    # Each URL has its own bound in each process.
    processes = 2 if life in ("two processes", "restarted") else 1
    return Findings(
        life=life,
        late=late,
        in_a_minute=-(-busiest_window(polled_at, 60.0) // (processes * len(urls))),
        in_an_hour=-(-busiest_window(polled_at, 3600.0) // (processes * len(urls))),
        warnings=-(-max(log.warned.values(), default=0) // processes),
        refused=len(refused),
    )
