"""
Interleavings: calls of two clients on one file meet at one job, at any turn of the loop, while writes may fail.

``python -m tests.client.interleaving`` runs as many as wanted. The journal is a real SQLite file without its thread:
each call takes a drawn number of turns before and after it, so that a case is repeated by its seed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio
import anyio.lowlevel
import attrs
import typer

from kie_async import InsufficientCreditsError, KieClient, KieError, RetryPolicy, SubmitInDoubtError
from kie_async._core.job_errors import dump_error
from kie_async._core.lifecycle import ENDED, OPEN, Intent, encode_for_journal
from kie_async._io.journals.journal import Service
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.sqlite import SqliteStore
from kie_async._io.runtime import Runtime
from kie_async._keys import fingerprint
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault, virtual_time
from tests.client.planted_bugs import OWNERSHIP
from tests.helpers import KEY, JournalClient, assert_ledger, assert_settled, create_foreign_task, make_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["run_case"]

T = TypeVar("T")
S = JobState
ORDER = "order-7"
#: The seconds after which no more writes fail.
WORKS_AGAIN = 30.0
POLICY = RetryPolicy(in_doubt_timeout=60.0, max_age=600.0, unsent_timeout=60.0)


class TurnStore(SqliteStore):
    """
    A journal on disk whose calls take turns of the loop instead of a thread.

    Args:
        path: The file.

        random: Draws the turns.

        fails: The numbers of the writes that fail.

        service: The service.
    """

    def __init__(self, path: Path, random: Random, fails: range = range(0), service: Service | None = None) -> None:
        super().__init__(path, service=service)
        self._random = random
        self._fails = fails
        self._writes = 0
        self._file: sqlite3.Connection | None = None

    async def open(self) -> None:
        name = f"{self.service.account}-{Runtime(asyncio.get_running_loop()).new_id()}"
        self._locks = ProcessLocks(self._path, name)
        self._file = self._connect(self._locks)
        self._file.execute("PRAGMA synchronous = OFF")

    async def close(self) -> None:
        self.release()

    def release(self) -> None:
        if self._file is not None and self._locks is not None:
            self._file.close()
            self._locks.unlock_own()
            self._file = None

    def heal(self) -> None:
        """Let no more writes fail."""
        self._fails = range(0)

    async def _read(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._call(partial(query, self._opened(self._file), *args, **kwargs))

    async def _write_soon(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._read(query, *args, **kwargs)

    async def _write(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._writes += 1
        if self._writes in self._fails:
            await self._call(lambda: None)
            error = sqlite3.OperationalError("database or disk is full")
            raise self._unusable(error)
        return await self._call(partial(query, self._opened(self._file), *args, **kwargs), writes=True)

    async def _run(self, action: Callable[[sqlite3.Connection], T], *, writes: bool, flush: bool = True) -> T:  # noqa: ARG002
        return await self._call(partial(action, self._opened(self._file)), writes=writes)

    async def _call(self, query: Callable[[], T], *, writes: bool = False) -> T:
        await self._take_turns()
        file = self._opened(self._file)
        if writes:
            file.execute("BEGIN IMMEDIATE")
        try:
            result = query()
        finally:
            if writes:
                file.execute("COMMIT")
        # What is written is written, even if the caller is cancelled.
        await self._take_turns()
        return result

    async def _take_turns(self) -> None:
        for _ in range(self._random.choice((1, 1, 2, 5))):
            await anyio.lowlevel.checkpoint()


async def _submit(kie: KieClient, _: str) -> object:
    return await (await kie.submit(make_request(), key=ORDER, wait=False))


#: The calls that meet at a job, with the client and the job's id.
CALLS: dict[str, Callable[[KieClient, str], Awaitable[object]]] = {
    "recover": lambda kie, _: kie.recover(),
    "wait": lambda kie, job_id: kie.job(job_id).wait(),
    "wait for a while": lambda kie, job_id: kie.job(job_id).wait(timeout=300.0),
    "status": lambda kie, job_id: kie.job(job_id).status(),
    "submit": _submit,
    "generate": lambda kie, _: kie.generate(make_request(), key=ORDER),
    "forget": lambda kie, _: kie.forget(before=_CREATED_AT + 1.0),
    "close": lambda kie, _: kie.aclose(),
}
#: The seconds before a call: none, that of a response, that of a task's end, and until the disk works again.
_PAUSES = (0.0, 0.0, 0.0, 0.005, 1.0, 25.0, WORKS_AGAIN, WORKS_AGAIN)
_WEIGHTS = {"forget": 0.5, "close": 0.5}
_CREATED_AT = 1_000_000.0
#: What an earlier process has left; None for nothing.
STATES = (None, S.INTENT, S.INTENT, S.SENDING, S.SUBMITTED, S.CANCELLED, S.REJECTED)


@attrs.frozen
class Case:
    """
    One interleaving.

    Attributes:
        state: The state of the job at the beginning.

        refused: True if its last owner has given it up, because the account could not pay.

        calls: The calls: the seconds and turns before each, the client, and its name.

        fails: The numbers of the writes that fail, of each client.

        code: The code that refuses the first create; None to accept it.
    """

    state: JobState | None
    refused: bool
    calls: tuple[tuple[float, int, int, str], ...]
    fails: tuple[range, range]
    code: int | None

    @classmethod
    def draw(cls, random: Random) -> Case:
        """Draw a case."""
        names, weights = list(CALLS), [_WEIGHTS.get(name, 1.0) for name in CALLS]
        calls = tuple(
            (
                random.choice(_PAUSES),
                random.choice((0, 0, 1, 3, 10, random.randrange(60))),
                random.randrange(2),
                name,
            )
            for name in random.choices(names, weights, k=random.randint(2, 6))
        )
        fails = (range(0), range(0))
        if random.random() < 0.5:
            first = random.randint(1, 6)
            failing = range(first, first + random.choice((1, 2, 1000, 1000)))
            fails = (failing, range(0)) if random.random() < 0.7 else (failing, failing)
        return cls(random.choice(STATES), random.random() < 0.3, calls, fails, random.choice((None, None, 402, 429)))


async def _leave_job(path: Path, case: Case, fake: FakeKie, service: Service) -> str:
    """Journal a job in the case's state; its owner has ended."""
    request = make_request()
    given = request.input({})
    row = Intent(
        id=f"kj_{7:032x}",
        model=request.model,
        input=encode_for_journal(given),
        fingerprint=fingerprint(request.model, given, {}),
        created_at=_CREATED_AT,
        updated_at=_CREATED_AT,
        key=ORDER,
    )
    if case.state is None:
        return row.id
    store = TurnStore(path, Random(0), service=service)
    await store.open()
    row = await store.add(row)
    move = partial(store.transition, at=_CREATED_AT)
    if case.state is S.CANCELLED:
        await move(row, S.CANCELLED)
    elif case.state is not S.INTENT:
        sent = await move(row, S.SENDING, attempts=1, sending_at=_CREATED_AT)
        assert sent is not None
        if case.state is S.REJECTED:
            await move(sent, S.REJECTED)
        else:
            task_id = await create_foreign_task(fake.url, prompt=str(given["prompt"]))
            if case.state is S.SUBMITTED:
                await move(sent, S.SUBMITTED, task_id=task_id, accepted_at=Runtime(asyncio.get_running_loop()).wall())
    elif case.refused:
        error = dump_error(InsufficientCreditsError("Too few credits.", code=402))
        await move(row, S.INTENT, owner=None, error=error)
    await store.close()
    return row.id


async def _play(case: Case, random: Random, folder: Path, client: type[JournalClient]) -> None:
    path = folder / "kie.db"
    faults = [] if case.code is None else [Fault("create", "code", code=case.code, times=1)]
    async with FakeKie(duration=20.0, latency=(0.0, 0.01)) as fake:
        service = Service.of(fake.url, KEY)
        job_id = await _leave_job(path, case, fake, service)
        fake.inject(*faults)
        stores = [TurnStore(path, random, fails, service) for fails in case.fails]
        async with AsyncExitStack() as stack:
            clients = [client(KEY, base_url=fake.url, journal=store, retry=POLICY) for store in stores]
            for kie in clients:
                with suppress(KieError):
                    await kie.__aenter__()
                stack.push_async_callback(kie.aclose)
            calls: list[asyncio.Task[None]] = []
            told: list[KieError] = []
            asyncio.get_running_loop().call_later(WORKS_AGAIN, _heal, stores)
            for seconds, turns, which, name in case.calls:
                await anyio.sleep(seconds)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                calls.append(
                    asyncio.get_running_loop().create_task(_tell(partial(CALLS[name], clients[which], job_id), told))
                )
            await asyncio.wait(calls, timeout=700.0)
            stuck = [name for call, (*_, name) in zip(calls, case.calls, strict=True) if not call.done()]
            assert [] == stuck, "these waits have not ended"
            for call in calls:
                call.result()
            # A doubt is right if a process has ended with a create on the wire, or without having written its answer.
            if case.state is not S.SENDING and "close" not in [name for *_, name in case.calls]:
                assert not [error for error in told if isinstance(error, SubmitInDoubtError)], "the task was known"
            await anyio.sleep(70.0)  # what was not written is written, and doubts reach their deadline
            closed = {which for _, _, which, name in case.calls if name == "close"}
            alive = [which for which in (0, 1) if which not in closed]
            for row in await _rows(path, service):
                owned = row.state in OPEN and any(stores[which].owns(row) for which in alive)
                assert not owned, "a client owns a job, and does not work on it"
            for which in alive:
                await assert_settled(clients[which])
        last = client(KEY, base_url=fake.url, journal=TurnStore(path, random, service=service), retry=POLICY)
        await _recover_the_rest(last)
        _check_ledger(await _rows(path, service), fake)


async def _recover_the_rest(client: KieClient) -> None:
    async with client as kie:
        for _ in range(2):  # the account may refuse the first create only now
            for job in await kie.recover():
                await _tell(job.wait, [])


def _check_ledger(rows: Sequence[Intent], fake: FakeKie) -> None:
    assert_ledger(rows, fake.truth, lives=4)
    assert all(row.state in (*ENDED, S.UNRESOLVED, S.IN_DOUBT) for row in rows), rows
    doubts = sum(row.state in (S.UNRESOLVED, S.IN_DOUBT) for row in rows)
    known = {row.task_id for row in rows}
    assert len([task for task in fake.truth.created if task.task_id not in known]) <= doubts
    assert len(fake.truth.created) <= 1, "a key was sent twice"


def _heal(stores: Sequence[TurnStore]) -> None:
    for store in stores:
        store.heal()


async def _tell(call: Callable[[], Awaitable[object]], told: list[KieError]) -> None:
    try:
        await call()
    except KieError as error:
        told.append(error)


async def _rows(path: Path, service: Service) -> Sequence[Intent]:
    store = TurnStore(path, Random(0), service=service)
    await store.open()
    rows = await store.rows()
    await store.close()
    return rows


def run_case(seed: int, client: type[JournalClient] = JournalClient) -> None:
    """
    Run the interleaving of a seed.

    Raises:
        AssertionError: If a wait does not end, a paid task is lost or not polled, or a key is sent twice.
    """
    random = Random(seed)
    case = Case.draw(random)
    with tempfile.TemporaryDirectory() as folder:
        try:
            virtual_time(_play, case, random, Path(folder), client)
        except Exception as error:
            error.add_note(f"{seed=}: {json.dumps(attrs.asdict(case), default=str)}")
            raise


PLANTS = {plant.__name__: plant for plant in OWNERSHIP}


def main(
    cases: int = 5000,
    first: int = 0,
    *,
    plant: Annotated[str | None, typer.Option(help=f"Plant a bug: {', '.join(PLANTS)}.")] = None,
) -> None:
    """Run cases, and show those that fail."""
    logging.getLogger("kie_async").addHandler(logging.NullHandler())
    began, failed = time.process_time(), 0
    for seed in range(first, first + cases):
        try:
            run_case(seed, JournalClient if plant is None else PLANTS[plant])
        except Exception as error:  # noqa: BLE001 (it is shown)
            failed += 1
            print(repr(error)[:300], *getattr(error, "__notes__", ()))  # noqa: T201 (a command)
    print(f"{cases} interleavings, {failed} failed, in {time.process_time() - began:.0f} s of CPU")  # noqa: T201


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
