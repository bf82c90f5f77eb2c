"""The session of a command: client setup and shutdown."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from kie_async import ConfigurationError
from kie_async.cli.options import CommandJournal, configured_origin
from kie_async.cli.output import Output
from kie_async.cli.resume_info import JobResumeInfo, ResumeInfo

if TYPE_CHECKING:
    from kie_async import Event, KieClient, Limits, RetryPolicy
    from kie_async.testing import FakeKie

__all__ = ["DRAIN", "SHORT_DRAIN", "Session"]

#: The seconds to wait for the response to a create request when a command ends, and when the user interrupts it.
DRAIN = 5.0
SHORT_DRAIN = 1.0

_UNUSED_KEY = "no-key-is-needed-here"


@attrs.define(kw_only=True)
class Session:
    """
    The environment of one command.

    Attributes:
        output: The command's output.

        api_key: The API key; None for ``KIE_API_KEY``.

        url: The service's URL; None for ``KIE_BASE_URL`` and ``KIE_UPLOAD_URL``, or Kie's own.

        journal: The journal of the command's jobs; None for no journal.

        resume_info: The state of the command's jobs; None for a command without jobs.

        allow_networks: Networks that results may be fetched from although they are not public.

        uses_fake: True while the service is a fake of this process.
    """

    output: Output
    api_key: str | None = None
    url: str | None = None
    journal: CommandJournal | None = None
    resume_info: ResumeInfo | None = None
    allow_networks: tuple[str, ...] = ()
    uses_fake: bool = False

    @property
    def origin(self) -> str | None:
        """The service of the command, as ``JobInfo.origin`` names it; None if its URL is invalid."""
        return configured_origin(self.url)

    @property
    def journal_option(self) -> str:
        """The option that leads another command to the journal, such as ``" --journal kie.db"``; often empty."""
        return "" if self.journal is None else self.journal.option

    @property
    def networks_option(self) -> str:
        """The option that lets another command fetch from the same networks; often empty."""
        return f" --allow-networks {shlex.quote(','.join(self.allow_networks))}" if self.allow_networks else ""

    def track_job(self, known_id: str | None = None) -> JobResumeInfo:
        """
        Begin to track the command's job.

        Args:
            known_id: The id that the user has given, of a job or a task; None for a new job.
        """
        is_job = known_id is not None and known_id.startswith("kj_")
        self.resume_info = job = JobResumeInfo(
            warn=self.output.warn,
            job_id=known_id if is_job else None,
            task_id=None if is_job else known_id,
            journal=None if self.journal is None else self.journal.option,
            networks=self.networks_option,
            journaled=is_job,
        )
        return job

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
        Make a client of the service, and close it: within two seconds if the user interrupts.

        Args:
            needs_key: True if the command sends requests to the service.

            callback_url: The URL for the service's callbacks; None for none.

            webhook_keys: The keys of the callbacks' signatures; empty if signatures are not checked.

            on_event: A receiver of the client's events, for a command that tracks no jobs.

            limits: The account's limits; None for the default.

            retry: The retry policy; None for the default.

        Raises:
            ConfigurationError: If there is no key, or the environment is invalid, also a proxy in it.

            JournalError: From the first use, if the journal cannot be used.
        """
        from kie_async import KieClient

        key = self.api_key
        if key is None and not os.environ.get("KIE_API_KEY"):
            if needs_key:
                msg = (
                    "No API key is set. Set KIE_API_KEY; keys are made at kie.ai/api-key. Or try it without a key, at"
                    " no cost: kie-async generate --fake."
                )
                raise ConfigurationError(msg)
            key = _UNUSED_KEY
        kie = KieClient(
            key,
            base_url=self.url,
            upload_url=self.url,
            limits=limits,
            retry=retry,
            journal=None if self.journal is None else await anyio.to_thread.run_sync(self.journal.prepare),
            callback_url=callback_url,
            webhook_key=webhook_keys,
            allow_networks=self.allow_networks,
            trust_env=not self.uses_fake,
            on_event=on_event if self.resume_info is None else self.resume_info.observe_event,
        )
        drain = DRAIN
        try:
            yield kie
        except anyio.get_cancelled_exc_class():
            drain = SHORT_DRAIN
            raise
        finally:
            if self.resume_info is not None and kie.statistics().sending:
                self.resume_info.awaiting_response = True  # until an event brings the response, perhaps while closing
            await kie.aclose(drain=drain)

    @asynccontextmanager
    async def fake(self, fake: FakeKie) -> AsyncGenerator[None]:
        """
        Run a fake service in this process, and use it without a journal.

        Args:
            fake: The service, not started yet.
        """
        async with fake:
            self.api_key, self.url, self.journal, self.uses_fake = _UNUSED_KEY, fake.url, None, True
            self.output.info(
                f"Using a fake service on this machine ({fake.url}): nothing is real, and nothing is paid."
            )
            yield

    def resume_hint(self) -> str:
        """Say what continues after an early end, and what was paid."""
        if self.uses_fake:
            return "It was the fake service: nothing was real, and nothing was paid."
        return "Nothing was paid." if self.resume_info is None else self.resume_info.resume_hint()
