"""``EngineBinding``: binds a client to the event loop that it is used in, and makes an engine there."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn, Self

import anyio
import attrs

from kie_async import errors
from kie_async._urls import origin

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from pathlib import Path

    from kie_async._core.durations import DurationsByKind
    from kie_async._core.polling import PollingPolicy
    from kie_async._io.engine import Engine
    from kie_async._io.files.downloads import Downloads
    from kie_async._io.http.transport import SessionFactory, Transport
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Journal
    from kie_async._io.journals.memory import MemoryJournal
    from kie_async._urls import Networks
    from kie_async.events import Event
    from kie_async.job import Job
    from kie_async.policy import Limits, PostgresJournal, RetryPolicy, SqliteJournal
    from kie_async.records import Generation, SavedFile

__all__ = ["DetachedBinding", "EngineBinding"]


@attrs.define(eq=False, repr=False, kw_only=True, slots=False)
class EngineBinding:
    """
    The calls that a client, its jobs, runs and callbacks share.

    It makes an engine on first use in each event loop, and keeps what one engine passes on to the next.

    Args:
        api_key: Returns the account's key; see ``_display.sealed``.

        base_url: The API.

        upload_url: The upload host.

        limits: The account's limits.

        account: The name of the account.

        retry: The number and duration of retries.

        journal: The configuration of the journal; None for a journal in memory.

        callback_url: The base of the callback URLs, or None.

        webhook_keys: Returns the keys of the service's signatures; empty if callbacks are not signed.

        download_hosts: Endings of the host names that results may be fetched from; None for any public host.

        on_event: Called with each event, or None.

        session_factory: Makes aiohttp sessions; None for the default.

        trust_env: True if proxies are taken from the environment.

        local_files: False to refuse images that are given as paths.

        networks: Networks from which results may be fetched although they are not public.

        download_headers: The headers of downloads; None for the client's own.

        job: Makes the handle of an id.
    """

    api_key: Callable[[], str]
    base_url: str
    upload_url: str
    limits: Limits
    account: str
    retry: RetryPolicy
    journal: SqliteJournal | PostgresJournal | None
    callback_url: str | None
    webhook_keys: Callable[[], tuple[str, ...]]
    download_hosts: tuple[str, ...] | None
    on_event: Callable[[Event], None] | None
    session_factory: SessionFactory | None
    trust_env: bool
    local_files: bool
    networks: Networks
    download_headers: Mapping[str, str] | None
    job: Callable[[str], Job]
    #: The polling policy; None for the default. Benchmarks set it to compare policies.
    polling: PollingPolicy | None = attrs.field(default=None, init=False)
    #: Make the journal and the transport of a new engine; tests and benchmarks replace them.
    make_journal: Callable[[], Journal] = attrs.field(init=False)
    make_transport: Callable[[], Transport] = attrs.field(init=False)
    _downloads: Downloads = attrs.field(init=False)
    _memory: MemoryJournal | None = attrs.field(default=None, init=False)
    _engine: Engine | None = attrs.field(default=None, init=False)
    #: The process that has used the client first.
    _process: int | None = attrs.field(default=None, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _expects_callbacks: bool = attrs.field(default=False, init=False)
    _durations: DurationsByKind | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.make_journal = self._make_journal
        self.make_transport = self._make_transport

    def __reduce__(self) -> tuple[object, ...]:
        return DetachedBinding, ()  # handles and results are pickled without their client, which holds the API key

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def check_process(self) -> None:
        """
        Check that the client is used in the process that has used it first; every use begins with this.

        A forked child has copies of its parent's jobs and connections.

        Raises:
            ConfigurationError: If it is used after a fork.
        """
        if self._process not in (None, os.getpid()):
            msg = "The client is used after a fork. Make a client in each process."
            raise errors.ConfigurationError(msg)

    @property
    def current(self) -> Engine | None:
        """The engine that is at work, or None."""
        self.check_process()
        return None if self._engine is None or self._engine.ended else self._engine

    async def engine(self, *, warn: bool = True) -> Engine:
        """
        Return the engine of the running loop; make it on first use.

        Args:
            warn: Log which jobs can be recovered, once for each engine.

        Raises:
            ClientClosedError: If the client is closed.

            ConfigurationError: If the client is used after a fork, or at work in another thread's event loop.
        """
        self.check_process()
        if self._closed:
            from kie_async._core.job_errors import closed_error

            raise closed_error()
        loop = running_loop()
        engine = self.current
        if engine is None or engine.loop is not loop:
            self._leave_other_loop(loop, "Make a client for each.")
            engine = self._engine = self._make_engine(loop)
            self._process = os.getpid()
        await engine.supervisor.wait_ready()
        if warn:
            engine.warn_of_orphans()
        return engine

    def reopen(self) -> None:
        """Allow calls again after ``close``."""
        self.check_process()
        self._closed = False

    async def close(self, drain: float) -> None:
        """Allow no more calls, and end the engine; creates on the wire may take *drain* seconds."""
        self.check_process()
        loop, engine = running_loop(), self._engine
        self._leave_other_loop(loop, "Close it there.")
        self._closed = True
        try:
            with anyio.CancelScope(shield=True):
                if engine is not None and engine.loop is loop:
                    await engine.close(drain)
                elif engine is not None and not engine.loop.is_running():
                    await engine.journal.close()
        finally:
            if self._engine is engine:
                self._engine = None

    def _leave_other_loop(self, loop: AbstractEventLoop, advice: str) -> None:
        """Abandon the engine of another loop that is over: a closed one, or one that this loop has replaced."""
        engine = self._engine
        if engine is None or engine.loop is loop:
            return
        if not engine.loop.is_running():
            engine.abandon()
        elif not engine.ended:
            msg = f"The client is at work in another event loop, in another thread. {advice}"
            raise errors.ConfigurationError(msg)

    def live_job(self, job_id: str) -> LiveJob | None:
        """Return what this process knows of a job, or None."""
        return None if self._engine is None else self._engine.registry.get(job_id)

    def expect_callbacks(self) -> None:
        """Expect callbacks from now on, in this engine and in all later ones."""
        self._expects_callbacks = True
        if self.current is not None:
            self.current.callback_weight.expect_callbacks()

    async def save(self, generation: Generation, path: Path) -> list[SavedFile]:
        """Save the results of a generation of this client; see ``Generation.save``."""
        from kie_async._io.runtime import run_apart

        return await run_apart(self._downloads.save, generation, path)  # the URLs in its frames are signed

    def report(self, event: Event) -> None:
        """Call ``on_event``; log what it raises."""
        if self.on_event is None:
            return
        try:
            returned: object = self.on_event(event)
            if inspect.iscoroutine(returned):  # of a lambda or a decorator; the client could not know
                returned.close()
                msg = "on_event returned a coroutine, which nothing awaits. Let it start a task, or use a queue."
                raise TypeError(msg)  # noqa: TRY301 (logged as any other error of the caller's)
        except Exception:
            import logging

            logging.getLogger("kie_async").exception("on_event has failed.")

    def _make_engine(self, loop: AbstractEventLoop) -> Engine:
        # Imported here, so that importing the package loads no aiohttp.
        from kie_async._core.durations import DurationsByKind
        from kie_async._io.engine import Engine, Settings
        from kie_async._io.files.downloads import Downloads
        from kie_async._io.runtime import Runtime

        if self._durations is None:
            self._durations = DurationsByKind()
        origins = frozenset({origin(self.base_url), origin(self.upload_url)})
        self._downloads = Downloads(
            transport=self._open_transport,
            runtime=lambda: Runtime(running_loop()),
            allowed_origins=origins,
            hosts=self.download_hosts,
            networks=self.networks,
            headers=self.download_headers,
        )
        settings = Settings(
            api_key=self.api_key,
            limits=self.limits,
            retry=self.retry,
            polling=self.polling,
            callback_url=self.callback_url,
            webhook_keys=self.webhook_keys,
            allowed_origins=origins,
            local_files=self.local_files,
            on_event=None if self.on_event is None else self.report,
            transport=self.make_transport,
            job=self.job,
            saver=self.save,
            durations=self._durations,
        )
        engine = Engine(settings, self.make_journal(), loop)
        if self._expects_callbacks:
            engine.callback_weight.expect_callbacks()
        return engine

    def _make_journal(self) -> Journal:
        from kie_async._io.journals.journal import Service
        from kie_async._io.journals.memory import MemoryJournal
        from kie_async._io.journals.sqlite import SqliteStore
        from kie_async.policy import PostgresJournal

        service = Service.of(self.base_url, self.api_key(), self.account)
        # A new one for each engine: an engine that still drains is another owner than the next engine.
        if isinstance(self.journal, PostgresJournal):
            from kie_async._io.journals.postgres import PostgresStore

            return PostgresStore(
                self.journal.dsn, schema=self.journal.schema, store_inputs=self.journal.store_inputs, service=service
            )
        if self.journal is not None:
            return SqliteStore(self.journal.path, store_inputs=self.journal.store_inputs, service=service)
        if self._memory is None:
            self._memory = MemoryJournal(service=service)
        return self._memory

    def _make_transport(self) -> Transport:
        import aiohttp

        from kie_async._io.http.transport import Transport

        return Transport(
            api_key=self.api_key,
            base_url=self.base_url,
            upload_url=self.upload_url,
            session_factory=self.session_factory or aiohttp.ClientSession,  # type: ignore[arg-type]  # its own keywords are narrower
            trust_env=self.trust_env,
            networks=self.networks,
        )

    @asynccontextmanager
    async def _open_transport(self) -> AsyncGenerator[Transport]:
        """Yield the engine's transport, or a short-lived one for a result that is saved after the client was closed."""
        engine = self.current
        if engine is not None and engine.loop is running_loop() and engine.supervisor.running:
            yield engine.transport
            return
        transport = self.make_transport()
        await transport.open()
        try:
            yield transport
        finally:
            with anyio.CancelScope(shield=True):
                await transport.close()


class DetachedBinding:
    """The place of the client in a handle or a result that was unpickled: it has none."""

    async def engine(self, *_: object) -> NoReturn:
        """
        Refuse what needs a client.

        Raises:
            ConfigurationError: Always.
        """
        msg = "This handle or result was unpickled and has no client. To make a handle of a client, use kie.job(id)."
        raise errors.ConfigurationError(msg)

    save = engine

    def live_job(self, job_id: str) -> None:
        """Return None: no client knows the job."""


def running_loop() -> AbstractEventLoop:
    """Return the running event loop; asyncio is imported on the first call, not with the client."""
    from asyncio import get_running_loop

    return get_running_loop()
