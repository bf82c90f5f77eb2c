"""FakeKie: a service on this machine that behaves like Kie.ai and costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async.testing.account import FakeAccount, LimiterKind, make_limiter
from kie_async.testing.callbacks import CallbackSender, sign
from kie_async.testing.faults import Fault, FaultScript
from kie_async.testing.file_host import FileHost, FileStore
from kie_async.testing.model_api import ModelApi
from kie_async.testing.models import FakeModel, load_models, other_model
from kie_async.testing.routes import Routes
from kie_async.testing.server import FakeServer, Latency
from kie_async.testing.task_api import FAILURES, Duration, TaskApi
from kie_async.testing.tasks import TaskFailure
from kie_async.testing.truth import Truth

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from kie_async.records import JSON

__all__ = ["FakeKie"]

#: The number of fakes that this process has made at each port.
_fakes_at: Counter[int] = Counter()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _wall(at: float) -> float:
    """Return the wall clock at an instant of the loop's clock; a loop may have a wall clock of its own."""
    loop = asyncio.get_running_loop()
    return float(getattr(loop, "wall_time", time.time)()) + at - loop.time()


def _models(others: Collection[str]) -> dict[str, FakeModel]:
    """Return the models of the catalogue, and *others*; one that is both makes what it makes, for every input."""
    known = load_models()
    accepting = {name: attrs.evolve(known[name], facts=None) if name in known else other_model(name) for name in others}
    return {**known, **accepting}


class FakeKie:
    """
    A fake of the service: the API and the upload host on one port, over real sockets.

    It responds as recorded: HTTP 200 with the code in the body, ids of 32 hexadecimal digits, ``param`` encoded twice,
    results that are real clips and expire. All its clocks are the event loop's, so that it also runs on virtual time.
    All its randomness comes from *seed*. It fetches nothing: a drawn picture replaces each picture that is not
    uploaded.

    Use it as an async context manager, and configure a client with its ``url``::

        async with FakeKie(speed=20) as fake:
            async with KieClient("any key", base_url=fake.url) as kie:
                ...
            assert fake.truth.busiest_window(10.0) <= 20

    All times are in seconds.

    Args:
        host: The address to listen on; by default this machine only.

        port: The port; 0 for any free one.

        seed: The seed: equal seeds give equal ids, durations, failures and faults. A fake that follows another one of
            this process at the same port has other ids, since the service gives none twice.

        api_keys: The valid keys; None if every non-empty key is valid.

        limit: The number of creates that the account may make in each window.

        window: The length of that window.

        limiter: The way in which creates are counted: in a sliding window, in fixed windows, or by a token bucket.

        queries_per_second: The number of queries of recordInfo that each key may make per second.

        latency: The time over the network each way, drawn evenly between two numbers, or by a function of a
            ``random.Random``. A request is logged after the first way.

        create_seconds: The processing time of a create after it was counted: a constant, or drawn evenly between two
            numbers.

        duration: The duration of a task: a constant, or the median and sigma of a lognormal distribution, or a function
            of the model's name and a ``random.Random``; a task of infinite duration hangs.

        speed: Divides the times of the service's work: *duration*, *create_seconds*, *invisible_seconds*,
            *callback_delay*. Promises (*window*, expiry, the limits) and the network stay unchanged.

        credits: The credits of the account.

        prices: Prices in credits by model, or functions of the input, that override those of the fake.

        models: The names of more models, which accept every input, and of models of the catalogue that are to do so.

        fail_rate: The share of tasks that fail, 0 to 1; the attribute ``fail_rate`` may be changed at any time.

        failures: The reasons of failures, pairs of ``failCode`` and ``failMsg``, with equal probabilities.

        strict: True to follow the newest documentation to the letter: to refuse values that only older documentation
            allows (``aspect_ratio``, ``580p``), and inputs that lack a required field with a documented default.

        http_statuses: True if refusals of the API have the HTTP status of their code instead of 200.

        invisible_seconds: The time for which recordInfo does not find a new task.

        expires_after: The time for which a result can be fetched at its own URL; a temporary link works for two weeks
            after the end.

        upload_expires_after: The lifetime of an upload; by default a day.

        webhook_key: The key that signs callbacks; None for unsigned callbacks.

        callback_delay: The time between the end of a task and its callback.

        callback_retry_delay: The time between a callback that did not receive a 200 and the next attempt.

        callback_hosts: The hosts that callbacks may be posted to besides this machine.

        new_members: True if records and callbacks have ``operationType``, ``response``, ``successFlag`` and
            ``paramJson``, as since September 2026.

        faults: The faults; see ``Fault``.

    Attributes:
        truth: The log of the service; see ``Truth``.

        faults: The faults; may be changed at any time.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        api_keys: Collection[str] | None = None,
        limit: int = 20,
        window: float = 10.0,
        limiter: LimiterKind = "sliding",
        queries_per_second: float = 10.0,
        latency: Latency = (0.0, 0.0),
        create_seconds: float | tuple[float, float] = 0.0,
        duration: Duration = (60.0, 0.35),
        speed: float = 1.0,
        credits: float = 10_000.0,
        prices: Mapping[str, float | Callable[[Mapping[str, JSON]], float]] | None = None,
        models: Collection[str] = (),
        fail_rate: float = 0.0,
        failures: Collection[tuple[str, str]] = FAILURES,
        strict: bool = False,
        http_statuses: bool = False,
        invisible_seconds: float = 0.0,
        expires_after: float = 86_400.0,
        upload_expires_after: float = 86_400.0,
        webhook_key: str | None = None,
        callback_delay: float = 0.0,
        callback_retry_delay: float = 5.0,
        callback_hosts: Collection[str] = (),
        new_members: bool = True,
        faults: Collection[Fault] = (),
    ) -> None:
        truth = Truth()
        self.truth: Truth = truth
        self.faults: list[Fault] = list(faults)
        self._webhook_key = webhook_key
        files = FileStore(seed=seed, upload_expires_after=upload_expires_after)
        self._account = FakeAccount(
            api_keys=api_keys,
            credits=credits,
            creates=make_limiter(limiter, limit=limit, window=window),
            queries_per_second=queries_per_second,
        )
        self._api = TaskApi(
            account=self._account,
            tasks=truth.tasks,
            seed=seed,
            start=_fakes_at[port],
            duration=duration,
            speed=speed,
            fail_rate=fail_rate,
            failures=[TaskFailure(*failure) for failure in failures],
            models=_models(models),
            prices=prices or {},
            strict=strict,
            invisible_seconds=invisible_seconds / speed,
            find_file=lambda url: files.find_url(url, _now()),
            new_members=new_members,
        )
        _fakes_at[port] += port != 0
        self._server = FakeServer(
            host=host,
            port=port,
            truth=truth,
            script=FaultScript(self.faults, Random(f"{seed} faults")),
            latency=latency,
            http_statuses=http_statuses,
            latency_rng=Random(f"{seed} latency"),
            headers_rng=Random(f"{seed} rays"),
        )
        self._sender = CallbackSender(
            truth=truth,
            pick_fault=partial(self._server.pick_fault, "callback"),
            wall=_wall,
            key=webhook_key,
            delay=callback_delay / speed,
            retry_delay=callback_retry_delay,
            hosts=frozenset(callback_hosts),
        )
        low, high = create_seconds if isinstance(create_seconds, tuple) else (create_seconds, create_seconds)
        self._routes = Routes(
            truth=truth,
            account=self._account,
            api=self._api,
            models=ModelApi(account=self._account),
            file_host=FileHost(files=files, tasks=truth.tasks, expires_after=expires_after),
            sender=self._sender,
            wall=_wall,
            create_seconds=partial(Random(f"{seed} creates").uniform, low / speed, high / speed),
        )
        self._stop = asyncio.Event()
        self._main_task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The base URL of the API and of the upload host. Its port is known while the fake runs."""
        host = "127.0.0.1" if self._server.host in ("0.0.0.0", "") else self._server.host  # noqa: S104 (not bound here)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    async def __aenter__(self) -> Self:
        if self._main_task is not None:
            msg = "A FakeKie can be started only once: create another one."
            raise RuntimeError(msg)
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        # One task owns all others, so that a fixture may enter in one task and exit in another.
        self._main_task = loop.create_task(self._run(started), name="FakeKie")
        try:
            await started
        except BaseException:
            await self._end(self._main_task)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._main_task is not None:
            await self._end(self._main_task)

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            async with self._server.run(self._routes.table()), anyio.create_task_group() as group:
                group.start_soon(self._sender.run)
                if not started.cancelled():
                    started.set_result(None)
                await self._stop.wait()
                group.cancel_scope.cancel()
        except OSError as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _end(self, main_task: asyncio.Task[None]) -> None:
        self._stop.set()
        # The cleanup must finish even if the caller is being cancelled.
        with anyio.CancelScope(shield=True):
            await main_task

    # -- controls for tests ---------------------------------------------------------------------------------------

    async def refuse_connections(self) -> None:
        """Refuse new connections, as when the service is down; existing connections stay open."""
        self._server.stop_listening()

    async def accept_connections(self) -> None:
        """Accept connections again, on the same port."""
        await self._server.listen()

    def inject(self, *faults: Fault) -> None:
        """Add *faults*."""
        self.faults.extend(faults)

    @property
    def credits(self) -> float:
        """The credits of the account; set it to 0 to have creates refused with 402."""
        return self._account.credits(_now())

    @credits.setter
    def credits(self, amount: float) -> None:
        self._account.set_credits(amount, _now())

    @property
    def limit(self) -> int:
        """The number of creates that the account may make in each window."""
        return self._account.creates.limit

    @limit.setter
    def limit(self, creates: int) -> None:
        self._account.creates.limit = creates

    @property
    def maintenance(self) -> bool:
        """True while creates are refused with 455."""
        return self._api.maintenance

    @maintenance.setter
    def maintenance(self, active: bool) -> None:
        self._api.maintenance = active

    @property
    def fail_rate(self) -> float:
        """The share of new tasks that will fail."""
        return self._api.fail_rate

    @fail_rate.setter
    def fail_rate(self, share: float) -> None:
        self._api.fail_rate = share

    @property
    def paused_models(self) -> set[str]:
        """The names of the models that are refused with 505."""
        return self._api.paused_models

    def revoke_key(self, key: str) -> None:
        """Refuse *key* with 401 from now on."""
        self._account.revoke_key(key)

    def finish(self, task_id: str) -> None:
        """Let a task succeed now."""
        self._end_task(task_id, None)

    def fail(self, task_id: str, code: str = FAILURES[0].code, message: str = FAILURES[0].message) -> None:
        """Let a task fail now."""
        self._end_task(task_id, TaskFailure(code, message))

    def sign(self, task_id: str) -> dict[str, str]:
        """Return the headers that sign a callback about *task_id* now; empty without a key."""
        return {} if self._webhook_key is None else sign(self._webhook_key, task_id, int(_wall(_now())))

    def _end_task(self, task_id: str, failure: TaskFailure | None) -> None:
        task = self.truth.tasks[task_id]
        if task.ended(_now()):
            msg = f"Task {task_id} has ended already."
            raise ValueError(msg)
        task.ends_at, task.failure = _now(), failure
        self._account.schedule_refund(task)
        self._sender.reschedule(task)
