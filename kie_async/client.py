"""``KieClient``: holds the configuration of one account, and passes each call to the engine of its event loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

import anyio

from kie_async import _settings, errors
from kie_async._binding import EngineBinding, running_loop
from kie_async._display import sealed
from kie_async._numbers import check_credits
from kie_async._urls import shown_url
from kie_async.callbacks import Callbacks
from kie_async.job import Job
from kie_async.policy import Limits, PostgresJournal, RetryPolicy, SqliteJournal, read_journal
from kie_async.requests.base import Request
from kie_async.requests.media import MediaInput, MediaSource, as_image
from kie_async.statistics import AccountInfo, Statistics, WorkerInfo

if TYPE_CHECKING:
    from kie_async._io.http.transport import SessionFactory
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.budget import Budget, BudgetInfo, Estimate
    from kie_async.events import Event
    from kie_async.records import Generation
    from kie_async.run import Rows, Run
    from kie_async.states import JobInfo, JobState

__all__ = ["KieClient"]


class KieClient:
    """
    A client of one Kie account.

    A client can be created anywhere, also at import time, and does nothing until it is used. It works in the event loop
    in which it is first used; in a later ``asyncio.run()`` it starts anew. ``async with`` closes it at the end;
    otherwise the end of the loop does. While a loop stands still and is not closed, its jobs stay this client's, until
    it is used in another loop.

    After ``async with`` or ``aclose()``, asynchronous calls of the client, its jobs and its runs raise
    ``ClientClosedError`` until the client is entered again. In a process that was forked after the first use, or while
    the client works in another thread's event loop, they raise ``ConfigurationError``.

    Args:
        api_key: The API key; by default ``KIE_API_KEY`` from the environment.

        base_url: The URL of the API; by default ``KIE_BASE_URL``, or else https://api.kie.ai.

        upload_url: The URL of the upload host; by default ``KIE_UPLOAD_URL``, or else the base URL if that is not the
            default, or else Kie's upload host.

        limits: The account's limits, which all clients of a journal share; if they disagree, the strictest count.
            Processes with journals in memory share nothing.

        account: The name of the account, if the clients of a journal use several: each name has limits of its own.
            Jobs and keys are common to all accounts of a journal.

        retry: The number and duration of retries.

        journal: The journal of jobs: the path of a file, which is created if it does not exist and may be shared by the
            processes of a host; the DSN of a PostgreSQL database (``"postgresql://app@db.internal/app"``), which
            machines may share; a ``SqliteJournal`` or ``PostgresJournal``; or None, not ``":memory:"``, for a journal
            in memory, which is lost with the process. A client lists all jobs of the journal, and works only on those
            of its own ``base_url``.

        callback_url: A public URL of yours to which the service posts when a task has ended. Each create gets its own
            token at the end of the URL. Without a callback URL, a create that was paid twice cannot be detected, and a
            task whose create response was lost cannot be found automatically. ``callbacks`` handles these requests.

        webhook_key: The account's ``webhookHmacKey``, if it has one: callbacks without its signature are then refused;
            by default ``KIE_WEBHOOK_KEY``. Several keys while it is being changed.

        download_hosts: Endings of the host names from which results may be fetched (``["aiquickdraw.com"]``); None for
            any public host.

        allow_networks: Networks from which results may be fetched although their addresses are not public, such as
            ``["198.18.0.0/15"]`` for a VPN or proxy (Clash, sing-box) that gives each name an address of its own.
            Loopback, link-local and metadata addresses count only if a network names their own block, not a larger one.

        download_headers: Headers for the hosts of results, all of which get them: ``{"User-Agent": …, "Referer": …}``.
            None for the client's own User-Agent, and a browser's where a host refuses that one; ``{}`` for the client's
            own only.

        on_event: Called with each ``Event``; it must not block and not be async. Errors that it raises are logged.

        session_factory: Makes the aiohttp sessions. It is called with keyword arguments for ``aiohttp.ClientSession``,
            once for creates, once for all other requests, and once for downloads from hosts that the service names, in
            each event loop. It may add arguments (a proxy) or replace the connector (your own CA bundle). It must pass
            ``trace_configs`` on: they show what was sent. A connector of its own needs
            ``resolver=kwargs["connector"].resolver``: otherwise results of other hosts are refused, since it might
            connect to private addresses.

        trust_env: True to take HTTP proxies from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
            ``NO_PROXY``). They resolve the names of results: let them refuse private addresses. netrc is never read.

        local_files: False to refuse images that are given as paths, before any file is read: in a server, a string of a
            stranger could name one of its files. URLs, bytes and open files remain allowed.

    Raises:
        ConfigurationError: If there is no API key, or an argument is invalid.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        upload_url: str | None = None,
        limits: Limits | None = None,
        account: str = "default",
        retry: RetryPolicy | None = None,
        journal: str | os.PathLike[str] | SqliteJournal | PostgresJournal | None = None,
        callback_url: str | None = None,
        webhook_key: str | Collection[str] | None = None,
        download_hosts: Collection[str] | None = None,
        allow_networks: Collection[str] | None = None,
        download_headers: Mapping[str, str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        session_factory: SessionFactory | None = None,
        trust_env: bool = False,
        local_files: bool = True,
    ) -> None:
        given, given_webhook_key, given_journal = sealed(api_key), sealed(webhook_key), sealed(journal)
        del api_key, webhook_key, journal  # error trackers show variables, also those of a refused call
        key = sealed(_settings.read_api_key(given()))
        self._base_url, upload_url = _settings.read_urls(base_url, upload_url)
        _settings.check_hooks(on_event, session_factory)
        self._limits = _settings.of_kind("limits", limits, Limits)
        callback_url = _settings.check_callback_url(callback_url)
        self._binding = EngineBinding(
            api_key=key,
            base_url=self._base_url,
            upload_url=upload_url,
            limits=self._limits,
            account=_settings.check_account(account),
            retry=_settings.of_kind("retry", retry, RetryPolicy),
            journal=read_journal(given_journal),
            callback_url=callback_url,
            webhook_keys=sealed(_settings.read_webhook_keys(given_webhook_key())),
            download_hosts=_settings.check_hosts(download_hosts),
            networks=_settings.check_networks(allow_networks),
            download_headers=_settings.check_download_headers(download_headers),
            on_event=on_event,
            session_factory=session_factory,
            trust_env=_settings.of_kind("trust_env", trust_env, bool),
            local_files=_settings.of_kind("local_files", local_files, bool),
            job=self.job,
        )
        self._callbacks = Callbacks(self._binding, key, callback_url)

    def __repr__(self) -> str:
        try:
            return f"<KieClient {self._base_url} {self.statistics()}>"
        except errors.ConfigurationError:
            return f"<KieClient {self._base_url} used before a fork>"
        except AttributeError:  # an argument was refused, and error trackers show the variables of the constructor
            return "<KieClient without a configuration>"

    def __reduce__(self) -> NoReturn:
        msg = "A KieClient cannot be copied or pickled: it holds the API key. Make one in each process."
        raise errors.ConfigurationError(msg)

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._binding.reopen()
        try:
            await self._binding.engine(warn=False)
        except BaseException as error:
            await self.aclose()  # it was not entered, so nothing else closes it
            if isinstance(error, errors.KieError):
                self._binding.reopen()  # as it was before
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, drain: float = 5.0) -> None:
        """
        Close the client: accept no more jobs, and let creates on the wire end.

        ``async with`` opens it again. Unfinished tasks are not cancelled, because the service cannot cancel them; the
        journal keeps their ids, and a journal in memory logs them.

        Args:
            drain: The time that creates on the wire may take, in seconds.

        Raises:
            ConfigurationError: If the client is at work in another thread's event loop, or after a fork.
        """
        await self._binding.close(drain)

    def drain_on_sigterm(self) -> None:
        """
        Let SIGTERM cancel the calling task, as Ctrl-C does: ``async with`` ends and the client drains.

        Without this, SIGTERM ends the process at once; the journal keeps what was in progress. Use it in a standalone
        program; a web server shuts down in its own way. It applies until the event loop ends.

        Raises:
            ConfigurationError: If it is not called from a task in the main thread, or the system has no SIGTERM.
        """
        from asyncio import current_task

        try:
            loop = running_loop()
            loop.add_signal_handler(signal.SIGTERM, methodcaller("cancel"), current_task(loop))
        except (NotImplementedError, RuntimeError, ValueError) as error:
            msg = "SIGTERM can be handled only in the main thread, from a task, on POSIX. Call aclose() yourself."
            raise errors.ConfigurationError(msg) from error

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def generate(self, request: Request, *, key: str | None = None, timeout: float | None = None) -> Generation:
        """
        Submit a request and wait for its result.

        If the call is cancelled or times out before anything was sent, a request without a key is cancelled and costs
        nothing. After that the task runs on: the error carries its ids, and ``job()`` returns a handle to it.

        Args:
            request: The request.

            key: Your idempotency key: the same key with the same request is the same job and is never paid twice at one
                service. Another ``base_url`` has its own keys.

            timeout: The timeout of the whole call, in seconds; None for ``RetryPolicy.max_age`` after acceptance.

        Returns:
            The finished task with its results.

        Raises:
            InvalidRequestError: If the request is invalid; the error lists all problems.

            KeyConflictError: If another request has the same key.

            SubmitInDoubtError: If the service may or may not have created the task.

            TaskTimeoutError: If the task has not ended within the timeout.

            TaskFailedError: If the task has failed.

            NoResultError: If the task has succeeded without a result.

            KieError: For any other error; its message names the next step.
        """
        from kie_async._io.jobs.waiting import timeout_error

        job: LiveJob | None = None
        with nullcontext() if timeout is None else anyio.move_on_after(timeout):
            engine = await self._binding.engine()
            job, created = await engine.intake.submit(request, key)
            return await engine.wait_or_cancel(
                job, engine.waiting.wait_ended(job, include_stalled=False), cancel=created
            )
        raise timeout_error(timeout or 0.0, job and job.final)

    async def submit(self, request: Request, *, key: str | None = None, wait: bool = True) -> Job:
        """
        Submit a request and return a handle to it.

        Args:
            request: The request.

            key: Your idempotency key; see ``generate``.

            wait: True to wait until the service has accepted the task and its taskId is known; False to return as soon
                as the job is journaled, while the client submits it in the background.

        Returns:
            The handle.

        Raises:
            InvalidRequestError: If the request is invalid; the error lists all problems.

            KeyConflictError: If another request has the same key.

            SubmitInDoubtError: If the service may or may not have created the task; the error carries the job.

            KieError: For any other error; its message names the next step.
        """
        engine = await self._binding.engine()
        job, created = await engine.intake.submit(request, key)
        until = engine.waiting.wait_accepted(job) if wait else engine.waiting.wait_journaled(job)
        job = await engine.wait_or_cancel(job, until, cancel=created and wait)
        return Job(self._binding, job.id, job)

    def map(
        self,
        requests: Rows,
        *,
        budget: Budget | None = None,
        stop_after: float | None = None,
        save_to: str | os.PathLike[str] | None = None,
        ordered: bool = False,
        retry_failed: int = 0,
        look_ahead: int | None = None,
        share: bool = False,
    ) -> Run:
        """
        Run a table of requests at the full allowed rate; a failed row affects no other, and the same call resumes it.

        Each row has a key. A row that was done before, also by a process that was killed, is returned from the journal
        (``replayed``); a row that runs is awaited; nothing is paid twice. To resume after the process has ended, use a
        journal on disk: ``KieClient(journal="kie.db")``.

        Rows are read shortly before they are sent, so the table may be endless. A generator is read and closed in
        one thread of its own; pass an async generator if it must stay in yours.

        Args:
            requests: An iterable of requests, or of pairs of your key and a request. The default key of a row is made
                of the hash of its content and its occurrence number.

            budget: The budget of all rows together; see ``Budget``.

            stop_after: The time in seconds after which nothing more is sent; running tasks are awaited.

            save_to: The path of the files, such as ``"out/{key}.mp4"``. It must contain ``{key}``, which is
                percent-encoded so that no key leaves the folder. Of several results, the second is
                ``out/{key}~2.mp4``. ``{suffix}`` at the end is the suffix of the file's real type, such as ``.png``. A
                file that is there as it was saved, by its size and hash in the journal, is not fetched again.

            ordered: True to get outcomes in the order of the rows; a slow row then delays the next ones. False to get
                them as rows end.

            retry_failed: The number of times that a request is made again after its task has failed and
                ``TaskFailedError.worth_retrying`` is true.

            look_ahead: The number of rows that are read, checked and uploaded before they are sent; None for twice
                ``Limits.creates``.

            share: True to share the table with the other workers that run it on the same journal with ``share=True``:
                each outcome is yielded, and its files are saved, by one of them. If that worker ends before it has
                asked for the next outcome, another one yields the row. Needs a journal on disk; a budget needs a name.

        Returns:
            The run, to be entered with ``async with`` and iterated over.

        Raises:
            ConfigurationError: If an option is invalid.
        """
        from kie_async._core.map_options import MapOptions
        from kie_async.run import Run

        options = MapOptions(
            limits=self._limits,
            budget=budget,
            stop_after=stop_after,
            save_to=None if save_to is None else str(save_to),
            ordered=bool(ordered),
            retry_failed=retry_failed,
            look_ahead=look_ahead,
            share=bool(share),
        )
        return Run(self._binding, requests, options)

    async def estimate(self, request: Request) -> Estimate:
        """
        Return the probable cost of a request, on the safe side; only the service sets prices.

        Args:
            request: The request.

        Returns:
            What such tasks have cost by the journal, else the list price; see ``Estimate.basis``.

        Raises:
            JournalError: If the journal cannot be read.
        """
        engine = await self._binding.engine()
        return await engine.prices.estimate(request)

    async def workers(self) -> list[WorkerInfo]:
        """
        Return the clients that are at work with this journal and account, including this one, by name.

        Raises:
            JournalError: If the journal cannot be read or written.
        """
        engine = await self._binding.engine(warn=False)
        return list(await engine.heartbeats.read())

    async def account(self) -> AccountInfo:
        """
        Return the account's limits and the use of its window, as all clients of the journal know them.

        Raises:
            JournalError: If the journal cannot be read.
        """
        return await (await self._binding.engine(warn=False)).admission.tokens.read_account()

    async def budgets(self) -> list[BudgetInfo]:
        """
        Return the named budgets of the journal, by name.

        Returns:
            What each has spent, reserved and left.

        Raises:
            JournalError: If the journal cannot be read.
        """
        engine = await self._binding.engine()
        return list(await engine.journal.budgets())

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        """
        Raise the limit of a named budget, for running runs, too.

        Args:
            name: The name.

            credits: The new limit, in credits; not what is added to it.

        Returns:
            The budget.

        Raises:
            ConfigurationError: If the journal has no such budget, or its limit is higher.

            JournalError: If the journal cannot be written.
        """
        check_credits("raise_budget", "credits", credits)
        engine = await self._binding.engine()
        return await engine.journal.raise_budget(name, credits)

    async def spent(self, requests: Rows, *, price: float | None = None) -> float:
        """
        Return what the rows of a table have cost, or may have cost, by the journal: for ``Budget(spent=…)``.

        For a list or a tuple, ``map()`` computes it automatically.

        Args:
            requests: The table, as for ``map()``; it is read to its end.

            price: The price in credits of each task whose cost is not known: because it runs, or because its create is
                in doubt. None for ``estimate()``, or else 0.

        Returns:
            The sum, in credits. Each key counts once, with its retries.

        Raises:
            ConfigurationError: If *requests* or *price* is invalid.

            JournalError: If the journal cannot be read.

            Exception: The error that reading *requests* has raised.
        """
        if price is not None:
            check_credits("spent", "price", price)
        engine = await self._binding.engine()
        return await engine.spent(requests, price)

    def job(self, job_id: str | Job, *, own_only: bool = False) -> Job:
        """
        Return a handle to a job (``kj_…``) or to any task (its taskId), without a request or a read of the journal.

        Any task of the account can be read by its id: pass ``own_only=True`` for an id that a stranger has sent.

        Args:
            job_id: ``job.id``, a taskId, or a handle, such as an unpickled one.

            own_only: True to refuse what the journal does not know for this ``base_url``: a wait or a poll then sends
                nothing and raises ``TaskNotFoundError``. Jobs of other processes and API keys are known.

        Returns:
            The handle.

        Raises:
            TaskNotFoundError: If the id is invalid, with *own_only*.

            ConfigurationError: If the id is invalid, or *own_only* is no bool.
        """
        restricted = isinstance(job_id, Job) and job_id._own_only  # noqa: SLF001 (a handle never gains rights)
        known_id = _settings.check_id(job_id.id if isinstance(job_id, Job) else job_id, own_only=own_only)
        return Job(self._binding, known_id, own_only=own_only or restricted)

    async def recover(self, *, adopt_key: bool = False) -> list[Job]:
        """
        Resume all unfinished jobs of the journal that are for this service (``base_url``) and have no owner.

        Jobs that were not sent are sent, jobs whose process ended during a create are in doubt, and accepted tasks are
        awaited. From then on, until the client closes, it does the same with the jobs of each process that ends. It may
        be called at any time and any number of times.

        Args:
            adopt_key: True to send also the unsent jobs that were journaled with another API key, with the present one;
                False to leave them, and to log their number.

        Returns:
            Handles to the unfinished jobs that this client owns now; jobs of other processes stay theirs. A job takes 2
            to 3 kB of memory until it ends.

        Raises:
            JournalError: If the journal cannot be read or written; some of the jobs may be resumed already.
        """
        engine = await self._binding.engine(warn=False)
        jobs: list[Job] = []

        def add(job_id: str) -> None:
            jobs.append(Job(self._binding, job_id, self._binding.live_job(job_id)))

        await engine.recover(add, adopt_key=adopt_key)
        return jobs

    async def jobs(self, *, unfinished: bool = False) -> Sequence[JobInfo]:
        """
        Return the jobs of the journal, of all services, oldest first; ``job(info.job_id)`` makes a handle.

        The journal is read in small steps: other work continues meanwhile, and may change jobs that were read before.

        Args:
            unfinished: True for only those that have not ended, or are unresolved.

        Returns:
            A snapshot of each job. The sequence takes 0.7 kB of memory for a job; each ``JobInfo`` is made when it is
            read.

        Raises:
            JournalError: If the journal cannot be read.
        """
        from kie_async._io.journals.journal import read_job_infos

        engine = await self._binding.engine()
        return await read_job_infos(engine.journal, unfinished=unfinished, latest=engine.registry.latest)

    async def keys(self, prefix: str) -> Mapping[str, JobState]:
        """
        Return the keys of the journal's jobs for this service, sorted, with the states of the jobs.

        Args:
            prefix: The characters with which the keys begin.

        Raises:
            JournalError: If the journal cannot be read.
        """
        from kie_async._io.journals.journal import read_keys

        return await read_keys((await self._binding.engine()).journal, prefix)

    async def journal_id(self) -> str:
        """
        Return the id that the journal got when it was made, which a copy shares; empty for a journal in memory.

        Raises:
            JournalError: If the journal cannot be read.
        """
        return await (await self._binding.engine()).journal.identity()

    async def forget(self, *, before: float) -> int:
        """
        Delete jobs that have ended from the journal, those of all services. A deleted key may be paid again.

        A failed job of ``map()`` stays while a retry of its row is unfinished or newer.

        It deletes a few jobs at a time, about 2,000 in a second, so that no other work waits for it; if the call is
        cancelled or fails, some of the jobs are deleted.

        Args:
            before: Delete only jobs whose last change is older than this instant, in seconds since the epoch.

        Returns:
            The number of deleted jobs.

        Raises:
            JournalError: If the journal cannot be written.
        """
        engine = await self._binding.engine()
        return await engine.forget(before)

    @property
    def callbacks(self) -> Callbacks:
        """The receiver of the service's callbacks: mount one of its adapters at ``callback_url``."""
        return self._callbacks

    # -- the account and its files ----------------------------------------------------------------------------------

    async def credits(self) -> float:
        """
        Return the account's balance.

        Returns:
            The balance in credits.

        Raises:
            AuthenticationError: If the service does not accept the API key.

            KieError: If there was no response, or it could not be read.
        """
        engine = await self._binding.engine()
        return await engine.credits()

    async def upload(self, source: MediaInput) -> str:
        """
        Upload an image. Uploads are free, and the service keeps them for 24 hours.

        The same bytes are uploaded once in 20 hours, so the URL is valid for 4 to 24 hours. In a request, better pass
        the image itself: the client then uploads it again if the job has to wait for longer. An attempt, of three, ends
        after two minutes without progress.

        Args:
            source: A path, bytes or an open binary file with a JPEG, PNG or WebP image of at most 10 MB.

        Returns:
            The URL, for a field of any request.

        Raises:
            InvalidRequestError: If the source is not such an image, or a path despite ``local_files=False``.

            UploadError: If it could not be uploaded, or is a URL.

            AuthenticationError: If the service does not accept the API key.
        """
        engine = await self._binding.engine()
        image = as_image(source)
        if not isinstance(image, MediaSource):
            msg = f"{shown_url(image)} is a URL already. Use it in the request, or pass a path, bytes or an open file."
            raise errors.UploadError(msg)
        engine.intake.check_paths("upload", {"source": image})
        return (await engine.uploads.upload(image)).url

    def statistics(self) -> Statistics:
        """Return a snapshot of what the client is doing; all zero while it is not bound to an event loop."""
        engine = self._binding.current
        return Statistics() if engine is None else engine.statistics()
