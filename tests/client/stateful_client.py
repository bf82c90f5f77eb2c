"""
A stateful hypothesis test of the client: responses, callbacks, polls and restarts in any order.

The rules are synchronous and step the virtual loop by hand, down to single turns. The fake posts no callbacks. The
machine holds the callbacks of all ended tasks and posts each one early, late, twice or never, besides forged ones whose
token and signature are genuine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections import defaultdict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kie_async import Event, EventName, KieClient, KieError, RetryPolicy, TaskFailedError
from kie_async._core.lifecycle import ENDED, Intent, can_follow
from kie_async._io.journals.journal import Journal
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault, responses
from kie_async.testing.clock import VirtualLoop
from tests.helpers import (
    CALLBACKS,
    KEY,
    PROMPT,
    JournalClient,
    assert_ledger,
    assert_settled,
    create_foreign_task,
    make_request,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from random import Random

    from kie_async.testing.faults import Call
    from kie_async.testing.tasks import FakeTask

__all__ = ["ClientMachine", "TwoWorkersMachine"]

T = TypeVar("T")
S = JobState
WEBHOOK_KEY = "a-webhook-key"
POLICY = RetryPolicy(max_age=900.0, in_doubt_timeout=300.0, server_error_attempts=3)
#: Longer than every deadline. After that, the client only polls stalled tasks.
AFTER_ALL_DEADLINES = 4000.0
AMBIGUOUS = "Internal Error, Please try again later."

#: The possible fates of a create. The task exists in all that begin with "paid".
FATES: dict[str, dict[str, Any]] = {
    "paid": {"kind": "slow", "seconds": 0.0, "after": True},
    "paid, response after 3 s": {"kind": "slow", "seconds": 3.0, "after": True},
    "paid, response after 40 s": {"kind": "slow", "seconds": 40.0, "after": True},
    "paid, response lost": {"kind": "reset", "after": True},
    "paid, no response": {"kind": "silence", "after": True},
    "paid, ambiguous": {"kind": "code", "code": 500, "msg": AMBIGUOUS, "after": True},
    "ambiguous": {"kind": "code", "code": 500, "msg": AMBIGUOUS},
    "lost": {"kind": "reset"},
    "too fast": {"kind": "code", "code": 429},
    "refused": {"kind": "code", "code": 422},
}

MAX_REQUESTS = 5
MAX_FOREIGN = 2

fates = st.lists(st.sampled_from(sorted(FATES)), min_size=3, max_size=3)
#: An index into an existing list. Negative ones pick what happened last.
places = st.integers(-3, 4)


def _number_of(given: object) -> int:
    """Return the number of the request of an input, by its prompt; -1 for a foreign one."""
    prompt = str(given["prompt"]) if isinstance(given, dict) else ""
    return int(prompt.rpartition(" ")[2]) if prompt.startswith(PROMPT) else -1


class _BugReports(logging.Handler):
    """A log handler that collects what the client reports as its own bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter().format(record)
        if "This is a bug" in text:
            self.found.append(text)


class ClientMachine(RuleBasedStateMachine):
    """A machine with one client, whose journal is in memory and outlives it."""

    #: The number of clients that share the journal. It is on disk if there are several.
    workers: ClassVar[int] = 1
    #: The class of the client. A subclass with a planted bug goes here.
    client: ClassVar[type[JournalClient]] = JournalClient

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.events: list[Event] = []
        self.bugs = _BugReports()
        logging.getLogger("kie_async").addHandler(self.bugs)
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryJournal()
        self.fake = FakeKie(duration=self._duration, webhook_key=WEBHOOK_KEY, credits=1e6)
        self.requests = 0
        self.keys: dict[int, str | None] = {}
        #: Results that callers got, by request: (taskId, "success" or "fail").
        self.results: defaultdict[int, set[tuple[str, str]]] = defaultdict(set)
        self.callers: list[tuple[int, asyncio.Task[None]]] = []
        self.posts: list[asyncio.Task[None]] = []
        #: Tasks whose genuine callback was answered by 200.
        self.acknowledged: set[str] = set()
        self.foreign: list[str] = []
        self.seen: dict[str, Intent] = {}
        self.run(self.fake.__aenter__())
        self.clients = [self._new_client() for _ in range(self.workers)]
        for kie in self.clients:
            self.run(kie.recover())

    # -- helpers ------------------------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, and everything else meanwhile."""
        return self.loop.run_until_complete(coroutine)

    def _duration(self, _model: str, random: Random) -> float:
        return random.choice([0.5, 2.0, 20.0, 100.0, 1500.0])

    def _new_client(self) -> KieClient:
        kie = self.client(
            KEY,
            base_url=self.fake.url,
            callback_url=CALLBACKS,
            webhook_key=WEBHOOK_KEY,
            retry=POLICY,
            journal=self._journal(),
            on_event=self.events.append,
        )
        kie.callbacks.asgi_app()  # a receiver is in use
        return kie

    def _journal(self) -> Journal:
        if self.workers == 1:
            return self.memory
        store = SqliteStore(Path(self.folder.name) / "kie.db")
        store.heartbeat_interval = 60.0  # a run takes many hours of virtual time
        return store

    def _kie(self, which: int) -> KieClient:
        return self.clients[which % self.workers]

    async def _rows(self) -> Sequence[Intent]:
        if self.workers == 1:
            return await self.memory.rows()
        journal = self._journal()
        await journal.open()
        try:
            return await journal.rows()
        finally:
            await journal.close()

    # -- rules: what callers do ---------------------------------------------------------------------------------------
    # No rule has a precondition, and items are picked by index: what a rule draws must not depend on the current state,
    # because with a journal on disk the state depends on threads.

    @rule(fates=fates, keyed=st.booleans(), which=places)
    def generate(self, fates: list[str], which: int, *, keyed: bool) -> None:
        """Generate a new request."""
        number = self.requests
        if number == MAX_REQUESTS:
            return
        self.requests += 1
        self.keys[number] = f"order-{number}" if keyed else None
        for fate in fates:
            self.fake.inject(Fault("create", when=partial(_is_of, number), times=1, **FATES[fate]))
        self._call(number, partial(self._kie(which).generate, make_request(number), key=self.keys[number]))

    @rule(place=places, which=places)
    def generate_again(self, place: int, which: int) -> None:
        """Generate with a key that was used before."""
        for number in _pick([number for number, key in self.keys.items() if key is not None], place):
            self._call(number, partial(self._kie(which).generate, make_request(number), key=self.keys[number]))

    @rule(place=places, which=places, without_timeout=st.booleans())
    def wait(self, place: int, which: int, *, without_timeout: bool) -> None:
        """Wait for a job by its id."""
        for row in _pick(self.run(self._rows()), place):
            job = self._kie(which).job(row.id)
            self._call(_number_of(json.loads(row.input)), partial(job.wait, None if without_timeout else 1000.0))

    @rule(place=places)
    def cancel_caller(self, place: int) -> None:
        """Cancel a caller."""
        for caller in _pick([caller for _, caller in self.callers if not caller.done()], place):
            caller.cancel()

    def _call(self, number: int, call: Callable[[], Awaitable[Any]]) -> None:
        async def caller() -> None:
            try:
                video = await call()
            except TaskFailedError as error:
                self.results[number].add((str(error.task_id), "fail"))
            except KieError:
                pass  # not final: the next call may get a result
            else:
                self.results[number].add((video.task_id, "success"))
                assert self.fake.truth.tasks[video.task_id].result_url == video.url

        self.callers.append((number, self.loop.create_task(caller())))

    # -- rules: what the service does ---------------------------------------------------------------------------------

    @rule(place=places, fails=st.booleans())
    def end(self, place: int, *, fails: bool) -> None:
        """End a task now."""
        for task in _pick([task for task in self._ours() if not task.ended(self.loop.time())], place):
            self.run(self._end(task.task_id, fails=fails))

    async def _end(self, task_id: str, *, fails: bool) -> None:
        (self.fake.fail if fails else self.fake.finish)(task_id)

    def _ended(self) -> list[FakeTask]:
        return [task for task in self._ours() if task.ended(self.loop.time())]

    def _ours(self) -> list[FakeTask]:
        return [task for task in self.fake.truth.created if task.task_id not in self.foreign]

    @rule(place=places, which=places, copies=st.sampled_from([1, 1, 2, 5]))
    def call_back(self, place: int, which: int, copies: int) -> None:
        """Post a genuine callback, once or several times, to any worker."""
        for task in copies * _pick(self._ended(), place):
            self.posts.append(self.loop.create_task(self._deliver(task, which)))

    async def _deliver(self, task: FakeTask, which: int) -> None:
        status = await self._post(which, str(task.callback_url), task.task_id, responses.callback_body(task))
        assert status in (200, 429, 503), status
        if status == 200:
            self.acknowledged.add(task.task_id)

    async def _post(self, which: int, url: str, task_id: str, body: dict[str, Any]) -> int:
        """Post a body, signed with the service's key for the task that it names."""
        given = json.dumps(body).encode()
        return (await self._kie(which).callbacks.handle(url, self.fake.sign(task_id), given))[0]

    # -- rules: forged callbacks --------------------------------------------------------------------------------------

    @rule(place=places, which=places, state=st.sampled_from(["success", "fail"]))
    def lie(self, place: int, which: int, state: str) -> None:
        """Use a leaked token for a body with a wrong state of its own task."""
        for task in _pick(self._ours(), place):
            self._forge(which, str(task.callback_url), task.task_id, state)

    @rule(place=places, other=places, which=places)
    def forge(self, place: int, other: int, which: int) -> None:
        """Use a leaked token for a body that names another task, or one that does not exist."""
        for post in _pick(self.fake.truth.create_requests, place):
            for task_id in _pick(["f" * 32, *self.fake.truth.tasks], other):
                self._forge(which, post.callback_url or f"{CALLBACKS}/no-token", task_id, "success")

    @rule(place=places, other=places, which=places)
    def forge_token(self, place: int, other: int, which: int) -> None:
        """Use a token with a real job id and a wrong MAC."""
        for post in _pick(self.fake.truth.create_requests, place):
            for task_id in _pick(["f" * 32, *self.fake.truth.tasks], other):
                self._forge(which, (post.callback_url or CALLBACKS)[:-22] + "A" * 22, task_id, "success")

    def _forge(self, which: int, url: str, task_id: str, state: str) -> None:
        lie = {"taskId": task_id, "state": state, "resultJson": '{"resultUrls":["https://example.com/evil.mp4"]}'}
        body = {"code": 200, "msg": "success", "data": {**lie, "failCode": "500", "failMsg": "a lie"}}
        self.posts.append(self.loop.create_task(self._ignored(self._post(which, url, task_id, body))))

    async def _ignored(self, post: Coroutine[Any, Any, int]) -> None:
        assert await post in (200, 404, 429, 503)

    @rule()
    def create_elsewhere(self) -> None:
        """Create a task as another program of the account, and end it."""
        if len(self.foreign) == MAX_FOREIGN:
            return
        task_id = self.run(create_foreign_task(self.fake.url))
        self.foreign.append(task_id)
        self.run(self._end(task_id, fails=False))

    # -- rules: time and restarts -------------------------------------------------------------------------------------

    @rule(turns=st.integers(1, 40))
    def turn(self, turns: int) -> None:
        """Run a few turns of the loop without advancing the clock."""
        for _ in range(turns):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    @rule(seconds=st.sampled_from([0.01, 0.6, 2.0, 10.0, 65.0, 400.0, 1000.0]))
    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.run(asyncio.sleep(seconds))

    @rule(which=places, drain=st.sampled_from([0.0, 0.0, 5.0]), down=st.sampled_from([0.0, 30.0]))
    def restart(self, which: int, drain: float, down: float) -> None:
        """End a process, at once or after the creates on the wire, and start another one."""
        self.run(self._kie(which).aclose(drain=drain))
        self.run(asyncio.sleep(down))
        kie = self.clients[which % self.workers] = self._new_client()
        self.run(kie.recover())

    @rule(place=places, which=places, turns=st.integers(3, 60))
    def call_back_and_restart(self, place: int, which: int, turns: int) -> None:
        """End a process right after it answered a callback, which random rules seldom hit."""
        self.call_back(place, which, copies=1)
        self.turn(turns)
        self.restart(which, drain=0.0, down=0.0)

    # -- invariants ---------------------------------------------------------------------------------------------------

    @invariant()
    def no_bug_is_reported(self) -> None:
        assert [] == self.bugs.found
        for task in [*self.posts, *(caller for _, caller in self.callers)]:
            if task.done() and not task.cancelled():
                task.result()

    @invariant()
    def each_request_has_one_true_result(self) -> None:
        for number, results in self.results.items():
            assert len(results) <= 1, results
            for task_id, state in results:
                task = self.fake.truth.tasks[task_id]
                assert (number, state) == (_number_of(task.input), task.state(self.loop.time()))

    @invariant()
    def rows_only_move_forward(self) -> None:
        for row in self.run(self._rows()):
            before = self.seen.get(row.id, row)
            assert _follows(before, row), (before, row)
            if row.task_id is not None:
                assert before.task_id in (None, row.task_id)
                assert row.id in str(self.fake.truth.tasks[row.task_id].callback_url)
            self.seen[row.id] = row

    def teardown(self) -> None:
        """Wait until everything has ended, and compare the journal with the service."""
        try:
            self._check_the_end()
        finally:
            logging.getLogger("kie_async").removeHandler(self.bugs)
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            with suppress(BaseException):
                self.run(asyncio.sleep(10.0))
            self.loop.close()
            self.folder.cleanup()

    def _check_the_end(self) -> None:
        self.run(asyncio.sleep(AFTER_ALL_DEADLINES))
        for number, caller in self.callers:
            assert caller.done(), f"the wait for request {number} did not end"
        self.no_bug_is_reported()
        self.each_request_has_one_true_result()
        self.rows_only_move_forward()
        rows = self.run(self._rows())
        for task_id in self.foreign:
            assert not [row for row in rows if task_id in (row.task_id, *row.duplicate_task_ids)]
            del self.fake.truth.tasks[task_id]
        assert_ledger(rows, self.fake.truth)
        named = {task_id: row for row in rows for task_id in (row.task_id, *row.duplicate_task_ids)}
        for task_id in self.acknowledged:
            assert task_id in named, "a callback was answered by 200, and its task is not in the journal"
            assert named[task_id].id in str(self.fake.truth.tasks[task_id].callback_url)
        ends = [str(event.job_id) for event in self.events if event.name is EventName.ENDED]
        ended = [row.id for row in rows if row.state in (S.SUCCEEDED, S.FAILED)]
        # Once, or never if the process ended between the journal and the event.
        assert len({*ends}) == len(ends)
        assert {*ends} <= {*ended}
        for row in rows:
            assert row.state in ENDED | {S.UNRESOLVED}, row
        for kie in self.clients:
            self.run(assert_settled(kie))
            self.run(kie.aclose())
        self.run(self.fake.__aexit__(None, None, None))
        self.run(asyncio.sleep(1.0))
        assert [] == self.loop.leftovers()


def _pick(things: Sequence[T], place: int) -> list[T]:
    """Return a list of the item at an index, modulo the length; an empty list if there is none."""
    return [things[place % len(things)]] if things else []


def _follows(before: Intent, after: Intent) -> bool:
    """Return True if a row can become another one by any number of transitions."""
    reached, front = {before.state}, {before.state}
    while front:
        front = {new for old in front for new in S if can_follow(old, new)} - reached
        reached |= front
    return after.state in reached and after.attempts >= before.attempts


def _is_of(number: int, call: Call) -> bool:
    return f"{PROMPT}, take {number}".encode() in call.body


class TwoWorkersMachine(ClientMachine):
    """A machine with two workers that share a journal on disk; callbacks reach either."""

    workers = 2
