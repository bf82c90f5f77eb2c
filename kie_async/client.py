"""``KieClient``: what the caller has configured, bound to an engine in the event loop that it is used in."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from contextlib import nullcontext
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from kie_async import errors
from kie_async._binding import EngineBinding, running_loop
from kie_async._settings import (
    BASE_URL,
    UPLOAD_URL,
    check_callback_url,
    check_hosts,
    check_id,
    check_kind,
    read_api_key,
    read_webhook_keys,
    service_url,
)
from kie_async._urls import shown_url
from kie_async.callbacks import Callbacks
from kie_async.job import Job
from kie_async.policy import Limits, RetryPolicy, SqliteJournal
from kie_async.requests.base import Request
from kie_async.requests.images import ImageInput, ImageSource, as_image
from kie_async.statistics import Statistics

if TYPE_CHECKING:
    from kie_async._io.http.transport import SessionFactory
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.budget import Budget, Estimate
    from kie_async.events import Event
    from kie_async.records import Generation
    from kie_async.run import Rows, Run
    from kie_async.states import JobInfo

__all__ = ["KieClient"]


class KieClient:
    """
    A client of one Kie account.

    It may be made anywhere, at import time too, and costs nothing until it is used. It works in the event loop in
    which it is first used; used in a later ``asyncio.run()``, it starts afresh there. ``async with`` closes it at the
    end; without that, the end of the loop does.

    Args:
        api_key: The key; by default ``KIE_API_KEY`` from the environment.

        base_url: The API; by default ``KIE_BASE_URL``, else https://api.kie.ai.

        upload_url: The upload host; by default ``KIE_UPLOAD_URL``, else the base URL where that is not the default,
            else Kie's.

        limits: How much the client asks of the account. Each process has limits of its own.

        retry: How often and for how long it tries.

        journal: Where intents are written down: the path of a file, which is made if it is not there and may be shared
            by the processes of a host (one file for one account); a ``SqliteJournal``; or None for a journal in
            memory, which forgets with the process.

        callback_url: A public URL of yours to which the service posts when a task has ended. Each create gets a token
            of its own at the end of it. Without one, a create that was paid twice cannot be detected, and one whose
            answer was lost cannot come home by itself. What is posted there goes to ``callbacks``.

        webhook_key: The account's ``webhookHmacKey``, if it has one: callbacks without its signature are then refused;
            by default ``KIE_WEBHOOK_KEY``. Several, while it is being changed.

        download_hosts: Endings of the host names that results may be fetched from (``["aiquickdraw.com"]``); None for
            any public host.

        on_event: Called with an ``Event`` for each thing that happens; it must not block. What it raises is logged.

        session_factory: Makes the aiohttp sessions: called with keyword arguments for ``aiohttp.ClientSession``, once
            for creates and once for all else, in each event loop. It may add some or replace the connector (a proxy,
            your own CA bundle); ``trace_configs`` must be passed on, since they tell what was sent.

        trust_env: Whether proxies are taken from the environment.

    Raises:
        ConfigurationError: If there is no key, or a URL or a key cannot be right.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        upload_url: str | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        journal: str | os.PathLike[str] | SqliteJournal | None = None,
        callback_url: str | None = None,
        webhook_key: str | Collection[str] | None = None,
        download_hosts: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        session_factory: SessionFactory | None = None,
        trust_env: bool = False,
    ) -> None:
        key = read_api_key(api_key)
        base = base_url if base_url is not None else os.environ.get("KIE_BASE_URL") or BASE_URL
        self._base_url = service_url("base_url", base)
        # A client that talks to another service than Kie's must never upload to Kie.
        its_own = UPLOAD_URL if self._base_url == BASE_URL else self._base_url
        upload = upload_url if upload_url is not None else os.environ.get("KIE_UPLOAD_URL") or its_own
        check_kind("limits", limits, Limits)
        check_kind("retry", retry, RetryPolicy)
        self._limits = limits if limits is not None else Limits()
        callback_url = check_callback_url(callback_url)
        self._binding = EngineBinding(
            api_key=key,
            base_url=self._base_url,
            upload_url=service_url("upload_url", upload),
            limits=self._limits,
            retry=retry if retry is not None else RetryPolicy(),
            journal=journal if journal is None or isinstance(journal, SqliteJournal) else SqliteJournal(journal),
            callback_url=callback_url,
            webhook_keys=read_webhook_keys(webhook_key),
            download_hosts=check_hosts(download_hosts),
            on_event=on_event,
            session_factory=session_factory,
            trust_env=trust_env,
            job=self.job,
        )
        self._callbacks = Callbacks(self._binding, key, callback_url)

    def __repr__(self) -> str:
        return f"<KieClient {self._base_url} {self.statistics()}>"

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._binding.reopen()
        await self._binding.engine(warn=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, drain: float = 5.0) -> None:
        """
        Close the client: it takes no more, lets creates that are on the wire end, and goes.

        ``async with`` opens it again. What is unfinished is not cancelled, since it cannot be: its ids are logged, and
        the journal knows them.

        Args:
            drain: For how long creates on the wire may take, in seconds.
        """
        await self._binding.close(drain)

    def drain_on_sigterm(self) -> None:
        """
        Let SIGTERM end the task that calls this as Ctrl-C ends a program: ``async with`` is left, and drains.

        Without it, SIGTERM ends the process between two instructions; the journal knows what was under way then, too.
        For a program of its own; a web server has its own way to shut down. Holds until the event loop ends.

        Raises:
            ConfigurationError: If it is not called from a task in the main thread, or the system has no such signal.
        """
        from asyncio import current_task

        try:
            loop = running_loop()
            loop.add_signal_handler(signal.SIGTERM, methodcaller("cancel"), current_task(loop))
        except (NotImplementedError, RuntimeError, ValueError) as error:
            msg = "SIGTERM can be handled only in the main thread, from a task, on POSIX. Call aclose() yourself."
            raise errors.ConfigurationError(msg) from error

    # -- the main job -----------------------------------------------------------------------------------------------

    async def generate(self, request: Request, *, key: str | None = None, timeout: float | None = None) -> Generation:
        """
        Submit a request and wait for its result.

        Cancelled or timed out before anything was sent, a request without a key is withdrawn and costs nothing. After
        that the task lives on: the error carries its ids, and ``job()`` waits for it again.

        Args:
            request: What to generate.

            key: An idempotency key of yours: the same key with the same request is the same job, and is never paid
                twice.

            timeout: A bound on the whole, in seconds; None for ``RetryPolicy.max_age`` after acceptance.

        Returns:
            The finished task with its results.

        Raises:
            InvalidRequestError: If something is wrong with the request, all of it at once.

            SubmitInDoubtError: If nobody can tell whether the task was created.

            TaskTimeoutError: If it has not ended in time.

            TaskFailedError: If the generation has failed.

            KieError: Any other, by whose move is next.
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
            request: What to generate.

            key: An idempotency key of yours; see ``generate``.

            wait: Whether to wait until the service has accepted the task and its taskId is known; else the call
                returns as soon as the job is in the journal, and the client goes on with it.

        Raises:
            InvalidRequestError: If something is wrong with the request, all of it at once.

            SubmitInDoubtError: If nobody can tell whether the task was created; it carries the job.

            KieError: Any other, by whose move is next.
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
    ) -> Run:
        """
        Do a whole table: all of the allowed rate, one failure loses no other row, and the same call goes on with it.

        Each row has a key. One that was done before, by this process or by one that was killed, comes back as it was
        (``replayed``); one that runs is waited for; nothing is paid twice. What is remembered is in the client's
        journal: to go on after the process has ended takes ``KieClient(journal="kie.db")``.

        Rows are read a little ahead of what is sent, never more, so the table may be endless. A generator is read in a
        worker thread; pass an async one where that does not suit it.

        Args:
            requests: Requests, or pairs of a key of yours and a request, from anything that can be iterated over. The
                key of a row without one is made of its content, and of how often that has come before.

            budget: What all rows may cost together; see ``Budget``.

            stop_after: After how many seconds nothing more is sent. What runs by then is waited for.

            save_to: Where files go, such as ``"out/{key}.mp4"``; ``{key}`` must be in it, and is percent-encoded so
                that no key leaves the folder. Of several results, the second is ``out/{key}~2.mp4``. Files that are
                there are not fetched again.

            ordered: Whether outcomes come in the order of the rows; a row that takes long then holds up the next ones.
                Else they come as rows end.

            retry_failed: How often a request is made again whose task has failed and is worth it
                (``TaskFailedError.worth_retrying``).

            look_ahead: How many rows are read, checked and uploaded before they are sent; None for twice
                ``Limits.creates``.

        Returns:
            The run: ``async with`` it, and iterate over it.

        Raises:
            ConfigurationError: If an option makes no sense.
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
        )
        return Run(self._binding, requests, options)

    async def estimate(self, request: Request) -> Estimate | None:
        """
        What a task of this request will probably cost; the service alone sets prices.

        Returns:
            What such tasks have cost lately by the journal, else what a small price list says, else None.
        """
        engine = await self._binding.engine()
        return await engine.prices.estimate(request)

    async def spent(self, requests: Rows, *, price: float | None = None) -> float:
        """
        What the rows of a table have cost already, or may have, by the journal: for ``Budget(spent=…)``.

        Of a list or a tuple, ``map()`` finds it out by itself.

        Args:
            requests: The table, as ``map()`` takes it; it is read to its end.

            price: What each task is taken to cost of which the service has not said it, in credits: because it runs,
                or because nobody can tell whether it was accepted. None for what ``estimate()`` says, or else nothing.

        Returns:
            The sum, in credits. Each key counts once, with its retries.

        Raises:
            ConfigurationError: If *requests* is no table, or *price* no number of credits.

            JournalError: If the journal cannot be read.
        """
        from kie_async._numbers import check_credits

        if price is not None:
            check_credits("spent", "price", price)
        engine = await self._binding.engine()
        return await engine.spent(requests, price)

    def job(self, job_id: str) -> Job:
        """
        A handle to a job (``kj_…``) or to any task (its taskId).

        Nothing else is done: no request is made, and the journal is not looked into.

        Args:
            job_id: ``job.id``, or a taskId.

        Raises:
            ConfigurationError: If it cannot be an id.
        """
        return Job(self._binding, check_id(job_id))

    async def recover(self) -> list[Job]:
        """
        Go on with everything that the journal has unfinished.

        What was never sent is sent, what was being sent when its process ended is in doubt, and what was accepted is
        waited for. May be called at any time and any number of times.

        Returns:
            Handles to the unfinished jobs that are this client's now; those of other processes stay theirs.
        """
        engine = await self._binding.engine(warn=False)
        found = await engine.supervisor.run(engine.recover)
        return [Job(self._binding, job_id, self._binding.live_job(job_id)) for job_id in found]

    async def jobs(self, *, unfinished: bool = False) -> list[JobInfo]:
        """
        What the journal says of its jobs, oldest first; ``job(summary.id)`` makes a handle.

        Args:
            unfinished: Only those that have not ended, or whose outcome nobody knows.
        """
        from kie_async._io.journals.journal import read_job_infos

        engine = await self._binding.engine()
        return await read_job_infos(engine.journal, unfinished=unfinished)

    async def forget(self, *, before: float) -> int:
        """
        Delete jobs that have ended from the journal. A key that is forgotten may be paid again.

        Args:
            before: Jobs whose last change is older than this instant, in seconds since the epoch.

        Returns:
            How many were deleted.
        """
        engine = await self._binding.engine()
        return await engine.journal.forget(before=before)

    @property
    def callbacks(self) -> Callbacks:
        """What takes the service's callbacks: mount one of its adapters at ``callback_url``."""
        return self._callbacks

    # -- the account and its files ----------------------------------------------------------------------------------

    async def credits(self) -> float:
        """
        The account's balance, in credits.

        Raises:
            AuthenticationError: If the service does not accept the key.

            KieError: If there was no answer, or none that could be read.
        """
        engine = await self._binding.engine()
        return await engine.credits()

    async def upload(self, source: ImageInput) -> str:
        """
        Upload an image; the same bytes only once. Uploads cost nothing, and are kept for three days.

        Args:
            source: A path, bytes or an open binary file with a JPEG, PNG or WebP image of at most 10 MB.

        Returns:
            Its URL, for a field of any request.

        Raises:
            InvalidRequestError: If it is no such image.

            UploadError: If it could not be uploaded.
        """
        engine = await self._binding.engine()
        image = as_image(source)
        if not isinstance(image, ImageSource):
            msg = f"{shown_url(image)} is a URL already. Pass a path, bytes or an open file."
            raise errors.UploadError(msg)
        return (await engine.uploads.upload(image)).url

    def statistics(self) -> Statistics:
        """What the client is doing now; all zero while it is bound to no event loop."""
        engine = self._binding.current
        return Statistics() if engine is None else engine.statistics()
