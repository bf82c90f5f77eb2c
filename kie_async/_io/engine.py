"""
The engine of a client: builds its parts in one event loop, passes them to each other by keyword, and ends them.

A client makes an engine when it is first used in an event loop. The engine ends with that loop; the journal does not.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

from kie_async import errors
from kie_async._core.callback_token import callback_secret
from kie_async._core.job_errors import closed_error
from kie_async._core.polling import LagPolicy
from kie_async._core.verdicts import Reply, Verdict, answer_error, decide
from kie_async._io.callbacks.confirmations import Confirmations
from kie_async._io.callbacks.receiver import Receiver
from kie_async._io.files.uploads import Uploads
from kie_async._io.http.account_check import AccountCheck
from kie_async._io.jobs.follower import JobFollower, JournalWatch
from kie_async._io.jobs.heartbeats import Heartbeats
from kie_async._io.jobs.live_job import UNANSWERED, LiveJob, Registry, StopReason
from kie_async._io.jobs.resolution import Resolution
from kie_async._io.jobs.transitions import ResultWriter, Transitions
from kie_async._io.jobs.waiting import ResultReader, Waiting
from kie_async._io.polling.poller import Poller
from kie_async._io.polling.tracker import Tracker
from kie_async._io.polling.watchlist import CallbackWeight, Watchlist
from kie_async._io.runtime import Runtime, Supervisor, run_all
from kie_async._io.submitting.admission import Admission
from kie_async._io.submitting.candidates import Candidates
from kie_async._io.submitting.intake import Intake, IntentWriter
from kie_async._io.submitting.submission import SubmissionContext, Submitter
from kie_async._io.timers import Timers
from kie_async.events import Event, EventName
from kie_async.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kie_async._core.acknowledged import Repair
    from kie_async._core.durations import DurationsByKind
    from kie_async._core.map_options import MapOptions
    from kie_async._core.polling import PollingPolicy
    from kie_async._io.http.transport import Transport
    from kie_async._io.jobs.live_job import Submission
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.budgeting import Prices
    from kie_async._io.mapping.map_run import MapRun
    from kie_async._io.mapping.rows import Table
    from kie_async._io.submitting.submission import WriteIntent
    from kie_async.job import Job
    from kie_async.policy import Limits, RetryPolicy
    from kie_async.records import JSON, Saver
    from kie_async.states import JobState

__all__ = ["Engine", "Settings"]

_T = TypeVar("_T")
_log = logging.getLogger("kie_async")

_BAD_KEY = 401
#: The number of ended tasks whose durations are read from the journal; ``Durations`` remembers about as many of a kind.
_KNOWN_DURATIONS = 200
#: The number of restored jobs that are named in the log; there is an event for each.
_LOGGED_REPAIRS = 20


@attrs.frozen(kw_only=True)
class Settings:
    """
    The configuration of a client, as its engines need it.

    Attributes:
        api_key: Returns the account's key.

        limits: The account's limits.

        retry: The number and duration of retries.

        polling: The polling policy; None for the default.

        callback_url: The base of the callback URLs, or None.

        webhook_keys: Returns the keys of the service's signatures; empty if callbacks are not signed.

        allowed_origins: Origins that URLs may have although they are not public.

        local_files: False to refuse images that are given as paths.

        on_event: Takes events and never raises; or None.

        transport: Makes a transport.

        job: Makes the handle of an id.

        saver: Saves a generation's results.

        durations: The learned durations of tasks, which the client passes from one engine to the next.
    """

    api_key: Callable[[], str]
    limits: Limits
    retry: RetryPolicy
    polling: PollingPolicy | None
    callback_url: str | None
    webhook_keys: Callable[[], tuple[str, ...]]
    allowed_origins: frozenset[str]
    local_files: bool
    on_event: Callable[[Event], None] | None
    transport: Callable[[], Transport]
    job: Callable[[str], Job]
    saver: Saver
    durations: DurationsByKind


class Engine:
    """
    All parts of a client in one event loop.

    Args:
        settings: The client's configuration.

        journal: The journal.

        loop: The running loop.
    """

    def __init__(self, settings: Settings, journal: Journal, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.journal = journal
        self.loop = loop
        #: The number of jobs of ended processes in the journal, by state, until they are recovered or reported.
        self.orphans: Mapping[JobState, int] = {}
        self._unsent_of_other_keys = 0
        self._closing = False
        self._runtime = runtime = Runtime(loop)
        timers = Timers(loop)
        self.timers: Timers = timers
        supervisor = Supervisor(
            loop, enter=self._enter, ending=self._stop_starting, leave=self._leave, abandon=self.abandon
        )
        self.supervisor: Supervisor = supervisor
        self.registry: Registry = Registry()
        self.transport: Transport = settings.transport()
        # A process may end while its loop and its client are open.
        self._logged = False
        self._at_exit = partial(_log_at_exit, weakref.ref(self), os.getpid())
        #: The secrets of callback tokens: that of the API key, then those of other keys in the journal.
        self.callback_secrets: list[bytes] = [callback_secret(settings.api_key())]
        self._transitions = transitions = Transitions(
            journal=journal,
            registry=self.registry,
            runtime=runtime,
            timers=timers,
            supervisor=supervisor,
            report=self._report,
            resume=self._resume_written,
        )
        self.results: ResultWriter = ResultWriter(transitions=transitions, runtime=runtime, report=self._report)
        self.admission: Admission = Admission(
            settings.limits,
            journal=journal,
            retry=settings.retry,
            runtime=runtime,
            timers=timers,
            supervisor=supervisor,
            on_pause=self._stop_for_account,
        )
        self.account_check: AccountCheck = AccountCheck(
            transport=self.transport, supervisor=supervisor, runtime=runtime, on_refusal=self._pause_account
        )
        self.uploads: Uploads = Uploads(self.transport, runtime, self.account_check.record_gateway_answer)
        self._prices: Prices | None = None
        self._build_polling()
        self._build_submission()
        self._build_following()
        self._build_callbacks()
        self._build_waiting()
        self.heartbeats: Heartbeats = Heartbeats(
            journal=journal,
            registry=self.registry,
            supervisor=supervisor,
            runtime=runtime,
            timers=timers,
            limits=settings.limits,
            admission=self.admission,
            poller=self.poller,
            follower=self.follower,
            confirm=self.confirmations.enqueue,
        )

    def _build_polling(self) -> None:
        randrange = self._runtime.random.randrange
        self.callback_weight: CallbackWeight = CallbackWeight(timers=self.timers, on_change=self._reweigh_polls)
        self.watchlist: Watchlist = Watchlist(
            policy=self.settings.polling
            or LagPolicy(
                randrange=randrange,
                # At 5 polls per second or more, as a task of a minute takes 8.
                scarce_from=min(50.0, 10.0 * self.settings.limits.polls_per_second),
                old_age=self.settings.retry.max_age,
            ),
            durations=self.settings.durations,
            timers=self.timers,
            loss_of=self.callback_weight.loss_of,
        )
        self.tracker: Tracker = Tracker(
            transitions=self._transitions,
            slots=self.admission.slots,
            registry=self.registry,
            watchlist=self.watchlist,
            supervisor=self.supervisor,
            runtime=self._runtime,
            timers=self.timers,
            retry=self.settings.retry,
            report=self._report,
            follow=self._follow,
            on_end=self.callback_weight.expect_callback,
            unwatch=self._unwatch,
            forget_uploads=self.uploads.forget,
        )
        self.poller: Poller = Poller(
            transport=self.transport,
            polls_per_second=self.settings.limits.polls_per_second,
            watchlist=self.watchlist,
            loop=self.loop,
            timers=self.timers,
            supervisor=self.supervisor,
            on_poll=self.tracker.handle_poll,
            on_round_trip=self.admission.record_round_trip,
            on_gateway_answer=self.account_check.record_gateway_answer,
        )

    def _build_submission(self) -> None:
        self._intents = IntentWriter(
            journal=self.journal,
            registry=self.registry,
            runtime=self._runtime,
            uploads=self.uploads,
            results=self.results,
            start=self._start_submission,
            callback_url=self.settings.callback_url,
        )
        self.submitter: Submitter = Submitter(
            context=SubmissionContext(
                transport=self.transport,
                admission=self.admission,
                transitions=self._transitions,
                results=self.results,
                runtime=self._runtime,
                retry=self.settings.retry,
                secret=self.callback_secrets[0],
                report=self._report,
                forget_uploads=self.uploads.forget,
                candidates=Candidates(
                    poller=self.poller, results=self.results, secrets=self.callback_secrets, confirm=self._confirm
                ),
                account_check=self.account_check,
            ),
            registry=self.registry,
            tracker=self.tracker,
            follow=self._follow,
            supervisor=self.supervisor,
            owns=self.journal.owns,
        )
        self.intake: Intake = Intake(
            registry=self.registry,
            runtime=self._runtime,
            submitter=self.submitter,
            intents=self._intents,
            allowed_origins=self.settings.allowed_origins,
            local_files=self.settings.local_files,
        )

    def _build_following(self) -> None:
        self.follower: JobFollower = JobFollower(
            journal=self.journal,
            registry=self.registry,
            results=self.results,
            tracker=self.tracker,
            submitter=self.submitter,
            intents=self._intents,
            journal_watch=JournalWatch(
                journal=self.journal,
                registry=self.registry,
                supervisor=self.supervisor,
                runtime=self._runtime,
                timers=self.timers,
                follow=self._follow,
                forget=self.tracker.stop_tracking,
                on_remote_end=self._on_remote_end,
                unsent_timeout=self.settings.retry.unsent_timeout,
            ),
        )

    def _build_callbacks(self) -> None:
        self.confirmations: Confirmations = Confirmations(
            journal=self.journal,
            registry=self.registry,
            supervisor=self.supervisor,
            timers=self.timers,
            poller=self.poller,
            watchlist=self.watchlist,
            tracker=self.tracker,
            transitions=self._transitions,
            results=self.results,
            callback_weight=self.callback_weight,
            follower=self.follower,
            secrets=self.callback_secrets,
            report=self._report,
        )
        self.receiver: Receiver = Receiver(
            journal=self.journal,
            registry=self.registry,
            runtime=self._runtime,
            transitions=self._transitions,
            callback_weight=self.callback_weight,
            confirmations=self.confirmations,
            webhook_keys=self.settings.webhook_keys,
            report=self._report,
        )

    def _build_waiting(self) -> None:
        self.waiting: Waiting = Waiting(
            journal=self.journal,
            registry=self.registry,
            runtime=self._runtime,
            supervisor=self.supervisor,
            poller=self.poller,
            watchlist=self.watchlist,
            tracker=self.tracker,
            follower=self.follower,
            results=ResultReader(
                max_age=self.settings.retry.max_age,
                account=self.journal.service.account,
                job=self.settings.job,
                saver=self.settings.saver,
            ),
        )
        self.resolution: Resolution = Resolution(
            journal=self.journal,
            registry=self.registry,
            poller=self.poller,
            tracker=self.tracker,
            results=self.results,
            submitter=self.submitter,
            waiting=self.waiting,
            follower=self.follower,
            secrets=self.callback_secrets,
        )

    # -- the calls of a client --------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """True if the engine has ended, or is ending."""
        return self._closing or self.supervisor.task.done() or self.loop.is_closed()

    async def wait_or_cancel(self, job: LiveJob, wait: Awaitable[_T], *, cancel: bool) -> _T:
        """
        Wait; cancel the job if the caller leaves before anything was sent.

        Args:
            job: The job.

            wait: The wait.

            cancel: True if this call has created the job. A job with a key is never cancelled.
        """
        try:
            return await wait
        except asyncio.CancelledError:
            if cancel and job.key is None and job.state in UNANSWERED:
                msg = "The job was cancelled before it was sent; nothing was paid."
                self.submitter.stop(job, StopReason.CANCELLED, errors.TransportError(msg, job_id=job.id))
            raise

    @property
    def prices(self) -> Prices:
        """The price estimates and prior spend; ``map()`` and its modules are imported on first use."""
        if self._prices is None:
            from kie_async._io.mapping.budgeting import Prices

            self._prices = Prices(self.journal, self.registry, self.intake)
        return self._prices

    def map_run(self, rows: Table, options: MapOptions) -> MapRun:
        """Return the run of a table; see ``KieClient.map``."""
        from kie_async._io.mapping.map_run import MapRun

        return MapRun(
            rows,
            options,
            journal=self.journal,
            registry=self.registry,
            runtime=self._runtime,
            submitter=self.submitter,
            supervisor=self.supervisor,
            intake=self.intake,
            waiting=self.waiting,
            prices=self.prices,
        )

    async def spent(self, rows: Table, price: float | None) -> float:
        """Return what the rows of a table have cost, or may have cost; see ``KieClient.spent``."""
        from kie_async._io.mapping.rows import RowSource

        source = RowSource(rows)
        try:
            return (await self.prices.prior_spend(source, price)).total
        finally:
            await source.close()

    async def recover(self, found: Callable[[str], object], *, adopt_key: bool = False) -> None:
        """
        Resume everything that is unfinished, and call *found* with the id of each job; see ``KieClient.recover``.

        From then on, each heartbeat takes over what workers leave that end.
        """
        self.orphans = {}
        self.heartbeats.take_over_from_now(adopt_key=adopt_key)
        recover = self.follower.recover
        with self.follower.recovering():
            await self.supervisor.run(
                partial(recover, found=found, confirm=self.confirmations.enqueue, adopt_key=adopt_key)
            )
        await self._read_other_keys()
        self._warn_of_other_keys()

    async def forget(self, before: float) -> int:
        """Delete jobs that have ended; see ``KieClient.forget``."""
        await self._transitions.write_all()  # the journal may take a job for ended that is not
        return await self.journal.forget(before=before)

    def warn_of_orphans(self) -> None:
        """Log once which jobs can be recovered, unless the caller has recovered them first."""
        if self.orphans:
            shown = ", ".join(f"{count} {state}" for state, count in sorted(self.orphans.items()))
            self.orphans = {}
            _log.warning("The journal has unfinished jobs without an owner (%s); recover() resumes them.", shown)
        self._warn_of_other_keys()

    async def _read_other_keys(self) -> None:
        """Read what the journal has of other API keys of this service."""
        self._unsent_of_other_keys = await self.journal.count_unsent_of_other_keys()
        self.callback_secrets[1:] = await self.journal.older_callback_secrets()

    def _warn_of_other_keys(self) -> None:
        if self._unsent_of_other_keys:
            _log.warning(
                "The journal has %d unsent jobs of another API key; recover(adopt_key=True) sends them with this one.",
                self._unsent_of_other_keys,
            )
            self._unsent_of_other_keys = 0

    async def credits(self) -> float:
        """Return the account's balance; see ``KieClient.credits``."""
        reply, balance = await self.account_check.ask()
        if balance is None:
            raise answer_error(reply, what="the question for the balance")
        return balance

    def statistics(self) -> Statistics:
        """Return a snapshot; see ``KieClient.statistics``."""
        return Statistics(
            jobs=len(self.registry),
            submitting=self.submitter.active,
            waiting_for_slot=self.admission.slots.waiting,
            waiting_for_token=self.admission.waiting,
            sending=self.submitter.sending,
            in_flight=self.admission.slots.taken,
            tokens_in_use=self.admission.tokens.in_use,
            watched=self.watchlist.watched,
            confirming=self.confirmations.pending,
            waiters=sum(job.waiters for job in self.registry),
            loop_tasks=self.supervisor.children,
            polls=self.poller.polls,
            callbacks=self.receiver.callbacks,
            confirmations=self.confirmations.polls,
            duplicate_records=self.tracker.duplicate_records,
            other_workers=len(self.heartbeats.others),
            in_flight_elsewhere=sum(worker.in_flight for worker in self.heartbeats.others),
        )

    async def close(self, drain: float) -> None:
        """Accept no more jobs, let creates on the wire end within *drain* seconds, and end everything."""
        self._closing = self.submitter.closing = True
        for job in self.registry:
            self.submitter.stop(job, StopReason.CLOSED, closed_error(job_id=job.id))
        try:
            with anyio.move_on_after(drain):
                await self.submitter.wait_idle()
        finally:
            await self.supervisor.end_all()

    def abandon(self) -> None:
        """
        End without the event loop, which is over: it is closed, or another one has replaced it.

        What is on the wire stays SENDING in the journal. The journal is released, so that the jobs can be claimed.
        """
        if self.supervisor.task.done():
            return
        try:
            self._stop_starting()
            self.supervisor.abandon()
            self.admission.abandon()
            self._end_waits()
            if self.loop.is_closed():
                self.transport.abandon()
        finally:
            self.journal.release()

    # -- calls between parts that need each other -------------------------------------------------------------------

    def _follow(self, job: LiveJob) -> Awaitable[None]:
        return self.follower.follow(job)

    def _unwatch(self, job: LiveJob) -> None:
        self.follower.journal_watch.unwatch(job)

    def _confirm(self, job_id: str, task_id: str) -> None:
        self.confirmations.enqueue(job_id, task_id, likely=True)

    def _pause_account(self, reply: Reply) -> None:
        """Pause creates, and polls if the key is refused, after the service's own answer about the account."""
        verdict = decide(reply)
        if verdict is not Verdict.ACCOUNT:
            self.admission.record_account(verdict)
        else:
            error = answer_error(reply, what="the question for the balance")
            self.admission.record_account(verdict, error, refuses_key=reply.has_code(_BAD_KEY))
            self._stop_for_account(error, self._runtime.now())
            if reply.has_code(_BAD_KEY):  # the other codes are about creates
                self.tracker.deny_polls()

    def _stop_for_account(self, error: errors.KieError, at: float) -> None:
        """Stop the submissions that began before the account, or the API key, was refused; later ones may pass."""
        self.submitter.stop_for_account(None, error, until=at)

    def _resume_written(self, job: LiveJob, task_id: str | None, deleted: bool) -> Awaitable[None]:  # noqa: FBT001 (a callback)
        return self.follower.resume_written(job, task_id, deleted)

    def _start_submission(self, job: LiveJob, write_intent: WriteIntent, submission: Submission) -> None:
        self.submitter.start(job, write_intent, submission)

    def _reweigh_polls(self) -> None:
        self.watchlist.reweigh_all()

    def _on_remote_end(self, job: LiveJob) -> None:
        self.callback_weight.record_callback(job.id, job)

    def _report(self, name: EventName, job: LiveJob, **detail: JSON) -> None:
        if self.settings.on_event is not None:
            self.settings.on_event(Event(name=name, job_id=job.own_id, task_id=job.task_id, detail=detail))

    def _on_restored(self, repairs: Sequence[Repair]) -> None:
        """Report that the journal had gone back in time; resume the jobs that another process has changed meanwhile."""
        _log.critical(
            "The journal had gone back in time (a failover, or an older copy?). What it had acknowledged was written"
            " again for %d jobs: %s.",
            len(repairs),
            ", ".join(f"{one.row.id} ({one.row.state}, task {one.row.task_id})" for one in repairs[:_LOGGED_REPAIRS]),
        )
        for repair in repairs:
            found = None if repair.present is None else str(repair.present.state)
            job = self.registry.get(repair.row.id) or LiveJob.from_row(repair.row)
            self._report(EventName.JOURNAL_WENT_BACK, job, state=str(repair.row.state), found_state=found)
            if self.registry.get(job.id) is job and job.learn(repair.row) and self.supervisor.running:
                self.supervisor.start(self._follow, job)

    # -- the life of the supervisor ---------------------------------------------------------------------------------

    async def _enter(self) -> None:
        atexit.register(self._at_exit)
        self.journal.on_restored = self._on_restored
        await self.journal.open()
        await self.transport.open()
        await self.heartbeats.begin()
        self.orphans = await self.journal.count_orphans()
        await self._read_other_keys()
        if not len(self.settings.durations):
            for kind, seconds in await self.journal.recent_durations(_KNOWN_DURATIONS):
                self.settings.durations.of_kind(kind).learn(seconds)

    def _stop_starting(self) -> None:
        """Start nothing more, whether the client or the loop has ended the supervisor."""
        self._closing = self.submitter.closing = True
        self.timers.close()

    async def _leave(self) -> None:
        """End all waits and close the transport and the journal, also if that is cancelled."""
        self.poller.close()
        await run_all(self._flush_and_end_waits, self.admission.close, self.transport.close, self.journal.close)

    async def _flush_and_end_waits(self) -> None:
        try:
            await self._transitions.flush_pending()
        finally:
            self._end_waits()

    def _end_waits(self) -> None:
        self.log_unfinished()
        for job in self.registry:
            job.wait_error = closed_error(job_id=job.own_id, task_id=job.task_id)
            if not self.loop.is_closed():
                job.wake_waiters()

    def log_unfinished(self) -> None:
        """Log once what the journal will not know: jobs of a journal in memory, and what could not be written."""
        if self._logged:
            return
        self._logged = True
        atexit.unregister(self._at_exit)
        self._transitions.log_pending()
        for job in self.registry:
            if job.row is not None and not self.journal.durable:
                _log.warning(
                    "The client closes before %s has ended: state %s, task %s. Use job() to wait for the task.",
                    job.id,
                    job.state,
                    job.task_id,
                )


def _log_at_exit(engine: weakref.ref[Engine], process: int) -> None:
    """Log the unfinished jobs of an engine that never ended, in the process that it was made in."""
    unended = engine()
    if unended is not None and os.getpid() == process:
        unended.log_unfinished()
