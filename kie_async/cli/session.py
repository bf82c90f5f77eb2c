"""One command at work: the service that it speaks to, and how it takes leave of it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
import attrs

from kie_async import ConfigurationError
from kie_async.cli.job_status import Trail
from kie_async.cli.journals import JournalFile
from kie_async.cli.output import Output

if TYPE_CHECKING:
    from kie_async import Event, KieClient, Limits, RetryPolicy
    from kie_async.testing import FakeKie

__all__ = ["DRAIN", "SHORT_DRAIN", "Followed", "Session"]

#: How long a create on the wire is waited for at the end, in seconds; and when the user has lost patience.
DRAIN = 5.0
SHORT_DRAIN = 1.0

_NO_KEY = "no-key-is-needed-here"


class Followed(Protocol):
    """What a session needs to know of the jobs of a command."""

    #: Whether a create is on the wire.
    unanswered: bool

    def saw(self, event: Event) -> None:
        """Take what the client reports."""
        ...

    def was_doubted(self, job_id: str | None, *, unclear: bool) -> None:
        """Take an error that says that a create may have been paid."""
        ...

    @property
    def may_be_paid(self) -> bool:
        """Whether a create was sent, and nobody can tell what became of it."""
        ...

    @property
    def lives_on(self) -> bool:
        """Whether there is something to wait for."""
        ...

    def outlook(self) -> str:
        """What goes on without the command, and how to go on with it."""
        ...


@attrs.define(kw_only=True)
class Session:
    """
    What a command works with.

    Attributes:
        output: Where it writes.

        api_key: The key; None for ``KIE_API_KEY``.

        url: Where the service is; None for ``KIE_BASE_URL`` and ``KIE_UPLOAD_URL``, or Kie itself.

        journal: Where its jobs are written down; None for nowhere.

        trail: What became known of the command's jobs; None for a command that has none.

        real: Whether the service is a real one, as far as is known here.
    """

    output: Output
    api_key: str | None = None
    url: str | None = None
    journal: JournalFile | None = None
    trail: Followed | None = None
    real: bool = True

    def begin_trail(self, known_id: str | None = None) -> Trail:
        """
        Begin to follow the command's job.

        Args:
            known_id: The id that the user has given, where the job is an old one.
        """
        ours = known_id is not None and known_id.startswith("kj_")
        self.trail = trail = Trail(
            note=self.output.warn,
            job_id=known_id if ours else None,
            task_id=None if ours else known_id,
            journal=None if self.journal is None else self.journal.option,
            kept=ours,
        )
        return trail

    @asynccontextmanager
    async def client(
        self,
        *,
        needs_key: bool = True,
        callback_url: str | None = None,
        webhook_keys: Sequence[str] = (),
        on_event: Callable[[Event], None] | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
    ) -> AsyncGenerator[KieClient]:
        """
        A client of the service. Left because the user has interrupted, it is closed within two seconds.

        Args:
            needs_key: Whether the service will be asked for anything.

            callback_url: Where the service is to report ends; None for nowhere.

            webhook_keys: What callbacks must be signed with, if anything.

            on_event: Takes what the client reports, for a command that has no trail.

            limits: How much is asked of the account; None for the usual.

            retry: How often and for how long it is tried; None for the usual.

        Raises:
            ConfigurationError: If there is no key, or the environment makes no sense.

            JournalError: From the first use, if the journal cannot be used.
        """
        from kie_async import KieClient

        key = self.api_key
        if key is None and not os.environ.get("KIE_API_KEY"):
            if needs_key:
                msg = (
                    "There is no API key. Set KIE_API_KEY; keys are made at kie.ai/api-key. Or try it without one, at"
                    " no cost: kie-async generate --fake."
                )
                raise ConfigurationError(msg)
            key = _NO_KEY
        kie = KieClient(
            key,
            base_url=self.url,
            upload_url=self.url,
            limits=limits,
            retry=retry,
            journal=None if self.journal is None else await anyio.to_thread.run_sync(self.journal.prepare),
            callback_url=callback_url,
            webhook_key=webhook_keys,
            on_event=on_event if self.trail is None else self.trail.saw,
        )
        drain = DRAIN
        try:
            yield kie
        except anyio.get_cancelled_exc_class():
            drain = SHORT_DRAIN
            raise
        finally:
            if self.trail is not None and kie.statistics().sending:
                self.trail.unanswered = True  # unless its answer comes before the client has closed
            await kie.aclose(drain=drain)

    @asynccontextmanager
    async def fake(self, fake: FakeKie) -> AsyncGenerator[None]:
        """
        Run a fake service on this machine, and speak to nobody else. What it makes is not worth a journal.

        Args:
            fake: The service.
        """
        async with fake:
            self.api_key, self.url, self.journal, self.real = _NO_KEY, fake.url, None, False
            self.output.say(
                f"This is a fake service on your own machine ({fake.url}): nothing is real, and nothing is paid."
            )
            yield

    def outlook(self) -> str:
        """What goes on when the command ends early, and what was paid."""
        if not self.real:
            return "It was the fake service: nothing was real, and nothing was paid."
        return "Nothing was paid." if self.trail is None else self.trail.outlook()
