"""The parts of one client in one event loop, by name, for those that need several of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.durations import DurationsByKind
    from kie_async._core.polling import PollingPolicy
    from kie_async._io.files.uploads import Uploads
    from kie_async._io.http.transport import Transport
    from kie_async._io.jobs.registry import Registry
    from kie_async._io.jobs.transitions import Transitions
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.callback_weight import CallbackWeight
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.admission import Admission
    from kie_async._io.submitting.results import ResultWriter
    from kie_async._io.submitting.submitter import Submitter
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers
    from kie_async.events import Event
    from kie_async.job import Job
    from kie_async.policy import Limits, RetryPolicy
    from kie_async.records import Saver

__all__ = ["Parts", "Settings"]


@attrs.frozen(kw_only=True)
class Settings:
    """
    What a client was made with.

    Attributes:
        api_key: The key.

        limits: How much is asked of the account.

        retry: How often and for how long things are tried.

        polling: When tasks are looked at; None for the usual.

        callback_url: The base of the callback URLs, or None.

        webhook_keys: What the service signs callbacks with, or empty if it does not.

        allowed_origins: Origins that URLs may have although they are not public.

        on_event: Takes events, and never raises; or None.

        transport: Makes a transport.

        job: Makes the handle of an id.

        saver: Saves a generation's results.

        spent_until: When the tokens are free that were spent in the event loop before, by the wall clock; kept by the
            client from one engine to the next.

        durations: What is known of how long tasks take; kept likewise.
    """

    api_key: str = attrs.field(repr=False)
    limits: Limits
    retry: RetryPolicy
    polling: PollingPolicy | None
    callback_url: str | None
    webhook_keys: tuple[str, ...] = attrs.field(repr=False)
    allowed_origins: frozenset[str]
    on_event: Callable[[Event], None] | None
    transport: Callable[[], Transport]
    job: Callable[[str], Job]
    saver: Saver
    spent_until: list[float]
    durations: DurationsByKind


@attrs.frozen(kw_only=True)
class Parts:
    """The parts, one attribute each; see the file of each for what it is."""

    settings: Settings
    journal: Journal
    transitions: Transitions
    runtime: Runtime
    registry: Registry
    supervisor: Supervisor
    timers: Timers
    transport: Transport
    admission: Admission
    uploads: Uploads
    poller: Poller
    net: CallbackWeight
    tracker: Tracker
    result_writer: ResultWriter
    submitter: Submitter
    secret: bytes = attrs.field(repr=False)
