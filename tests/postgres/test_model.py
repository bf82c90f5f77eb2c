"""The model of PostgreSQL beside the real server: the same calls of three workers have the same results."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Any, TypeAlias

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kie_async._core.lifecycle import TRANSITIONS, Intent
from kie_async._io.journals.journal import Service, WorkerReport
from kie_async._io.journals.postgres import PostgresStore
from kie_async.errors import KieError
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo
from kie_async.testing import virtual_time
from tests.io.intents import bring_to_state, make_intent
from tests.postgres.clock import Clock, in_thread
from tests.postgres.stores import open_postgres
from tests.postgres.test_account import count
from tests.postgres.test_restoration import copy_schema
from tests.profile import examples
from tests.servers.postgres import PostgresServer
from tests.simulation.postgres_model import ModelServer

S = JobState

#: Two workers with one API key, and one with another.
SERVICES = [Service(origin="o", account=account, callback_secret=account.encode()) for account in ("a", "a", "b")]


class World:
    """
    Three workers on one server, real or not.

    Args:
        clock: The server's clock.

        copy: Copies all rows; returns what goes back to them.
    """

    def __init__(self, clock: Clock, copy: Callable[[], Callable[..., object]]) -> None:
        self.clock = clock
        self.copy = copy
        self.stores: list[PostgresStore] = []
        self.restored: set[str] = set()
        #: All versions of rows that were returned.
        self.seen: list[Intent] = []
        self.names: dict[str, str] = {}
        self.go_back: Callable[..., object] | None = None
        self._stacks = [AsyncExitStack() for _ in SERVICES]

    async def open(self, worker: int) -> None:
        """Open a worker's journal, perhaps again."""
        await self._stacks[worker].aclose()
        store = await self._stacks[worker].enter_async_context(open_postgres(self.clock.dsn, service=SERVICES[worker]))
        store.on_restored = lambda repairs: self.restored.update(repair.row.id for repair in repairs)
        self.names[store.worker] = f"{worker} opened as {len(self.names)}"
        self.stores[worker : worker + 1] = [store]

    async def add_rows(self) -> None:
        """Add a row in each state, some of them paid by a budget; the workers own them in turn."""
        await self.stores[0].open_budget("shop", 100.0)
        for number, state in enumerate(JobState):
            store, budget = self.stores[number % 3], "shop" if number % 2 else None
            row = await store.add(make_intent(number, key=f"row-{number}", budget=budget, price=5.0))
            self.seen += [row, await bring_to_state(store, row, state)]

    async def close(self) -> None:
        """Close all journals."""
        for stack in self._stacks:
            await stack.aclose()

    def comparable(self, result: Any) -> Any:
        """Return a result without what differs between two runs."""
        if isinstance(result, Intent):
            self.seen.append(result)
            names = {name: self.names.get(getattr(result, name) or "") for name in ("owner", "holder")}
            return {**attrs.asdict(result), **names, "number": None}
        if isinstance(result, WorkerInfo):
            return attrs.evolve(result, name=self.names[result.name], started_at=0.0, heartbeat_at=0.0)
        if isinstance(result, Mapping):
            return {name: self.comparable(result[name]) for name in sorted(result)}
        if isinstance(result, Sequence) and not isinstance(result, str | bytes):
            return [self.comparable(value) for value in result]
        return result

    def place(self, item: Any) -> Any:
        """Return what orders an item of an unordered result."""
        if isinstance(item, WorkerInfo):
            return self.names[item.name]
        return item.id if isinstance(item, Intent) else item

    async def result_of(self, step: Step) -> object:
        """Return what a step returns, or its error; and the rows that were restored."""
        try:
            result = self.comparable(await step(self))
        except KieError as error:
            result = type(error), getattr(error, "retryable", None)
        restored, self.restored = self.restored, set()
        return result, sorted(restored)


Step: TypeAlias = Callable[[World], Awaitable[object]]

WORKERS = st.integers(0, 2)
IDS = st.integers(0, 12).map(lambda number: make_intent(number).id)
MANY = st.lists(IDS, max_size=9, unique=True)
NAMES = st.sampled_from(["shop", "other"])
LIMITS = st.sampled_from([1, 2, 99])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "credits": st.sampled_from([None, 2.5, 40.0]),
        "error": st.sampled_from([None, "why\0", "✓"]),
        "duplicate_task_ids": st.sampled_from([(), ("t1",), ("t1", "t2")]),
        "callback_task_ids": st.sampled_from([(), ("c1",)]),
        "saved": st.sampled_from([(), ("a.png",)]),
        "budget": st.sampled_from([None, "shop", "other"]),
        "price": st.sampled_from([None, 30.0]),
        "ambiguous_attempts": st.integers(0, 1),
        "record": st.sampled_from([None, '{"raw":{"state":"success","costTime":3}}']),
    },
)


#: The calls whose results have no order, or that of the workers' names.
UNORDERED = ("heartbeat", "hold", "older_callback_secrets", "orphaned_send_times", "uncharged_rows", "workers")


def call(method: str, *args: st.SearchStrategy[Any], **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """Return calls of a method by any worker."""

    def build(worker: int, values: Sequence[Any], named: Mapping[str, Any]) -> Step:
        async def step(world: World) -> object:
            result = await getattr(world.stores[worker], method)(*values, **named)
            return sorted(result, key=world.place) if method in UNORDERED else result

        return step

    return st.builds(build, WORKERS, st.tuples(*args), st.fixed_dictionaries(options))


def add(worker: int, number: int, key: str | None, changes: Mapping[str, Any]) -> Step:
    fields = {name: changes[name] for name in ("budget", "price") if name in changes}
    return lambda world: world.stores[worker].add(make_intent(number, key=key, **fields))


def move(worker: int, job_id: str, back: int, choice: int, changes: Mapping[str, Any], epoch: int | None) -> Step:
    """Build a transition of a row as it was once seen, mostly of its latest version."""

    async def step(world: World) -> object:
        versions = [row for row in world.seen if row.id == job_id]
        if not versions:
            return None
        row = versions[-1 - back % len(versions)]
        ways = sorted(TRANSITIONS[row.state] - {S.CANCELLED, S.ABANDONED}) or sorted(TRANSITIONS[row.state])
        if not ways:
            return None
        to = ways[choice % len(ways)]
        given = dict(changes)
        if to is S.SENDING:
            given |= {"attempts": row.attempts + 1, "sending_at": 3.0}
        if (row.state, to) == (S.SENDING, S.SUBMITTED):
            given["task_id"] = f"t{choice}"
        if to is S.INTENT and choice % 2:
            given["owner"] = None
        return await world.stores[worker].transition(row, to, at=1.0 + choice, account_epoch=epoch, **given)

    return step


def update(worker: int, job_id: str, changes: Any) -> Step:
    return lambda world: world.stores[worker].update_fields(job_id, at=9.0, **changes)


def find_changed(worker: int, back: int) -> Step:
    return lambda world: world.stores[worker].find_changed({row.id: row for row in world.seen[-back:]}.values())


def is_alive(worker: int, back: int) -> Step:
    async def step(world: World) -> bool:
        return await world.stores[worker].is_owner_alive(world.seen[-1 - back % len(world.seen)])

    return step


def account(worker: int, change: Any) -> Step:
    async def step(world: World) -> object:
        return (await world.stores[worker].change_account(change)).result

    return step


#: Changes of the account's state.
ACCOUNT_CHANGES = (count, lambda _text, _now: ("7", 1, None), lambda text, _now: (None, 0, text))


def pass_time(heartbeats: Sequence[int], times: int) -> Step:
    """Let time pass, in which some workers have their heartbeats."""
    return lambda world: world.clock.pass_time(3.0 * times, *(world.stores[worker] for worker in sorted(heartbeats)))


def set_clock(seconds: float) -> Step:
    return lambda world: in_thread(world.clock.step, seconds)


def snapshot() -> Step:
    async def step(world: World) -> None:
        world.go_back = await in_thread(world.copy)

    return step


def go_back(*, disconnect: bool) -> Step:
    async def step(world: World) -> None:
        if world.go_back is not None:
            await in_thread(world.go_back, disconnect=disconnect)
        for store in world.stores if disconnect else ():
            await store.has_keys()  # all have connected again then, in any order

    return step


FEW = st.integers(0, 3)
KEYS = st.sampled_from(["row-5", "row-6", "row-5~retry1", "row-5~retry2", "new"])
#: The calls, and how often each is made.
WEIGHTS = {
    st.builds(
        move,
        WORKERS,
        IDS,
        st.sampled_from([0, 0, 0, 0, 1, 3]),
        st.integers(0, 5),
        st.just({}) | CHANGES,
        st.sampled_from([None, None, None, 1]),
    ): 16,
    st.builds(add, WORKERS, st.integers(0, 12), st.none() | KEYS, CHANGES): 6,
    st.builds(update, WORKERS, IDS, CHANGES): 3,
    st.builds(pass_time, st.lists(WORKERS, max_size=3, unique=True), st.integers(1, 4)): 6,
    st.builds(set_clock, st.sampled_from([10_800.0, -10_800.0])): 1,
    st.builds(lambda worker: lambda world: world.open(worker), WORKERS): 2,
    st.builds(snapshot): 2,
    st.builds(go_back, disconnect=st.booleans()): 3,
    st.builds(find_changed, WORKERS, FEW): 2,
    st.builds(is_alive, WORKERS, FEW): 2,
    st.builds(account, WORKERS, st.sampled_from(ACCOUNT_CHANGES)): 2,
    call("get", IDS): 4,
    call("rows", st.none() | st.frozensets(st.sampled_from(JobState)), limit=st.none() | LIMITS): 2,
    call("by_keys", st.lists(KEYS, unique=True)): 1,
    call("keys", st.sampled_from(["", "row-1"]), after=st.sampled_from(["", "row-2"]), limit=LIMITS): 1,
    call("by_task", st.sampled_from(["t0", "t1", "t2"])): 2,
    call("claim", st.none() | MANY, adopt_key=st.booleans(), limit=st.none() | LIMITS): 4,
    call("take_over", adopt_key=st.booleans(), limit=LIMITS): 4,
    call("hold", MANY): 4,
    call("end_hold", IDS, st.none() | st.sampled_from([S.SUCCEEDED, S.REJECTED])): 2,
    call("heartbeat", st.just(WorkerReport(watched=3))): 4,
    call("forget", before=st.sampled_from([2.0, 4.0, 99.0])): 1,
    call("open_budget", NAMES, st.sampled_from([50.0, 100.0])): 3,
    call("raise_budget", NAMES, st.sampled_from([50.0, 100.0])): 1,
    call("uncharged_rows", NAMES): 1,
    call("seen_prices", st.just(make_intent().model), st.just("")): 1,
    call("recent_durations", LIMITS): 1,
    call("orphaned_send_times", since=st.sampled_from([0.0, 5.0])): 2,
    call("budgets"): 2,
    call("has_keys"): 1,
    call("rows_named_by_callbacks"): 1,
    call("forgotten_until"): 1,
    call("has_expired_owners"): 4,
    call("count_orphans"): 3,
    call("count_unsent_of_other_keys"): 2,
    call("older_callback_secrets"): 1,
    call("workers"): 2,
}
STEPS = st.sampled_from([each for each, weight in WEIGHTS.items() for _ in range(weight)]).flatmap(lambda each: each)


@settings(
    max_examples=examples(5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)
@given(steps=st.lists(STEPS, min_size=30, max_size=60))
def test_model_behaves_as_the_server(clocked_server: PostgresServer, steps: list[Step]) -> None:
    """Three workers add, move, claim and hold rows, while leases expire, and the server goes back in time."""

    async def main() -> None:
        clocked_server.reset()
        clocked_server.step_clock(0.0)
        with closing(ModelServer(now=time.time)) as model:
            real = World(Clock(clocked_server.dsn(), clocked_server.step_clock), partial(copy_schema, clocked_server))
            worlds = [real, World(Clock(model, model.set_clock), lambda: partial(model.fail_over, model.snapshot()))]
            try:
                for world in worlds:
                    for worker in range(3):
                        await world.open(worker)
                    await world.add_rows()
                for step in steps:
                    of_server, of_model = [await world.result_of(step) for world in worlds]
                    assert of_server == of_model
                    assert repr(of_server) == repr(of_model), "with the same types"
                of_server, of_model = [world.comparable(await world.stores[0].rows()) for world in worlds]
                assert of_server == of_model
            finally:
                for world in worlds:
                    await world.close()

    virtual_time(main)
