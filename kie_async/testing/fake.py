"""FakeKie: a service on this machine that speaks as Kie.ai does, for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import anyio

from kie_async.testing.account import FakeAccount
from kie_async.testing.callbacks import CallbackSender
from kie_async.testing.controls import Controls, now, wall
from kie_async.testing.faults import Fault, FaultScript
from kie_async.testing.files import FileStore, path_of
from kie_async.testing.hosting import FileHost
from kie_async.testing.jobs import FAILURES, Duration, TaskApi
from kie_async.testing.limiters import LimiterKind, make_limiter
from kie_async.testing.routes import Routes
from kie_async.testing.server import FakeServer, Latency
from kie_async.testing.truth import Truth

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["FakeKie"]


class FakeKie(Controls):
    """
    A fake of the service: the API and the upload host on one port, over real sockets.

    It answers as recorded: HTTP 200 with the code in the body, ids of 32 hex digits, ``param`` encoded twice, results
    that are real clips and expire. All its clocks are the event loop's, so it lives on virtual time as well; all its
    randomness comes from *seed*. It fetches nothing: a picture that it does not hold becomes a drawn one.

    Use it as an async context manager, and point a client at ``url``::

        async with FakeKie(speed=20) as fake:
            async with KieClient("any key", base_url=fake.url) as kie:
                ...
            assert fake.truth.busiest_window(10.0) <= 20

    All times are in seconds.

    Args:
        host: The address to listen on; the machine itself unless told otherwise.

        port: The port; 0 for any that is free.

        seed: The same seed, the same ids, durations, failures and faults.

        api_keys: The keys that are good; None if any is that is not empty.

        limit: How many creates the account may make in each window.

        window: Length of that window.

        limiter: How creates are counted: in a window that slides, in fixed windows, or by a bucket that is refilled.

        queries_per_second: How many queries of recordInfo each key may make.

        latency: Time over the network each way, drawn evenly between the two, or by a function of a ``random.Random``.
            A request is stamped after the first way.

        create_seconds: What a create takes after it was counted, drawn evenly between the two (or always the same).

        duration: What a task takes: always the same, or the median and sigma of a lognormal distribution, or a function
            of the model's name and a ``random.Random``; a task of infinity hangs.

        speed: Divides what the service takes for its work: *duration*, *create_seconds*, *invisible_seconds*,
            *callback_delay*. What it promises stays as it is (*window*, expiry, the limits), and so does the network.

        credits: What the account has.

        prices: Credits by model, where they are to differ.

        models: Names of further models that exist.

        fail_rate: The share of tasks that fail, 0 to 1; ``fail_rate`` may be changed at any time.

        failures: What is said of them, pairs of ``failCode`` and ``failMsg``, with equal chances.

        strict: Whether values are refused that only older pages name (``aspect_ratio``, ``580p``).

        http_statuses: Whether the API's refusals have the HTTP status of their code, instead of 200.

        invisible_seconds: How long recordInfo does not know a new task.

        expires_after: How long a result can be fetched at its own URL; through a minted link, two weeks.

        upload_expires_after: How long an upload is held.

        webhook_key: Signs callbacks; None for none.

        callback_delay: Time between a task's end and its callback.

        callback_retry_delay: Time between a callback that was not answered with 200 and the next try.

        callback_hosts: Hosts that callbacks may be posted to besides this machine.

        faults: What goes wrong; see ``Fault``.

    Attributes:
        truth: What the service has seen and done; see ``Truth``.

        faults: What goes wrong; may be changed at any time.
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
        prices: Mapping[str, float] | None = None,
        models: Collection[str] = (),
        fail_rate: float = 0.0,
        failures: Collection[tuple[str, str]] = FAILURES,
        strict: bool = False,
        http_statuses: bool = False,
        invisible_seconds: float = 0.0,
        expires_after: float = 86_400.0,
        upload_expires_after: float = 3 * 86_400.0,
        webhook_key: str | None = None,
        callback_delay: float = 0.0,
        callback_retry_delay: float = 5.0,
        callback_hosts: Collection[str] = (),
        faults: Collection[Fault] = (),
    ) -> None:
        truth = Truth()
        script = FaultScript(list(faults), Random(f"{seed} faults"))
        files = FileStore(seed=seed, upload_expires_after=upload_expires_after)
        account = FakeAccount(
            api_keys=api_keys,
            credits=credits,
            creates=make_limiter(limiter, limit=limit, window=window),
            queries_per_second=queries_per_second,
        )
        jobs = TaskApi(
            account=account,
            tasks=truth.tasks,
            seed=seed,
            duration=duration,
            speed=speed,
            fail_rate=fail_rate,
            failures=failures,
            models=models,
            prices=prices or {},
            strict=strict,
            invisible_seconds=invisible_seconds / speed,
            holds=lambda url: files.find(path_of(url), now()) is not None,
        )
        self._server = server = FakeServer(
            host=host, port=port, truth=truth, script=script, latency=latency, http_statuses=http_statuses, seed=seed
        )
        courier = CallbackSender(
            truth=truth,
            strike=partial(server.strike, "callback"),
            wall=wall,
            key=webhook_key,
            delay=callback_delay / speed,
            retry_delay=callback_retry_delay,
            hosts=callback_hosts,
        )
        low, high = create_seconds if isinstance(create_seconds, tuple) else (create_seconds, create_seconds)
        self._routes = Routes(
            truth=truth,
            account=account,
            jobs=jobs,
            hosting=FileHost(files=files, tasks=truth.tasks, expires_after=expires_after),
            courier=courier,
            wall=wall,
            create_seconds=partial(Random(f"{seed} creates").uniform, low / speed, high / speed),
        )
        self._stop = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        super().__init__(
            truth=truth, account=account, jobs=jobs, courier=courier, faults=script.faults, webhook_key=webhook_key
        )

    @property
    def url(self) -> str:
        """Where the fake is: the base of the API and of the upload host. Known once it runs."""
        host = "127.0.0.1" if self._server.host in ("0.0.0.0", "") else self._server.host  # noqa: S104 (not bound here)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    async def __aenter__(self) -> Self:
        if self._life is not None:
            msg = "this FakeKie was started before; make another one"
            raise RuntimeError(msg)
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        # A task of its own owns all others, so that a fixture may enter in one task and leave in another.
        self._life = loop.create_task(self._live(started), name="FakeKie")
        try:
            await started
        except BaseException:
            await self._end(self._life)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._life is not None:
            await self._end(self._life)

    async def refuse_connections(self) -> None:
        """Stop listening: new connections are refused, as when the service is down; those that there are stay."""
        self._server.refuse()

    async def accept_connections(self) -> None:
        """Listen again, on the same port."""
        await self._server.listen()

    async def _live(self, started: asyncio.Future[None]) -> None:
        try:
            async with self._server.run(self._routes.table()), anyio.create_task_group() as group:
                group.start_soon(self._courier.run)
                if not started.cancelled():
                    started.set_result(None)
                await self._stop.wait()
                group.cancel_scope.cancel()
        except OSError as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _end(self, life: asyncio.Task[None]) -> None:
        self._stop.set()
        # Whoever is being cancelled has to tidy up all the same.
        with anyio.CancelScope(shield=True):
            await life
