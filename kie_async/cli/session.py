"""One command at work: the service that it speaks to, and how it takes leave of it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import ConfigurationError
from kie_async.cli.output import Output
from kie_async.cli.trail import Trail

if TYPE_CHECKING:
    from kie_async import KieClient
    from kie_async.testing import FakeKie

__all__ = ["Session"]

#: How long a create on the wire is waited for at the end, in seconds; and when the user has lost patience.
DRAIN = 5.0
SHORT_DRAIN = 1.0

_FAKE_KEY = "no-key-is-needed-here"


@attrs.define(kw_only=True)
class Session:
    """
    What a command works with.

    Attributes:
        output: Where it writes.

        api_key: The key; None for ``KIE_API_KEY``.

        url: Where the service is; None for ``KIE_BASE_URL`` and ``KIE_UPLOAD_URL``, or Kie itself.

        trail: What became known of the command's job; None for a command that has none.

        real: Whether the service is a real one, as far as is known here.
    """

    output: Output
    api_key: str | None = None
    url: str | None = None
    trail: Trail | None = None
    real: bool = True

    def begin_trail(self, task_id: str | None = None) -> Trail:
        """
        Begin to follow the command's job.

        Args:
            task_id: The id that the user has given, where the job is an old one.
        """
        self.trail = Trail(note=self.output.warn, task_id=task_id)
        return self.trail

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[KieClient]:
        """
        A client of the service. Left because the user has interrupted, it is closed within two seconds.

        Raises:
            ConfigurationError: If there is no key, or the environment makes no sense.
        """
        from kie_async import KieClient

        if self.api_key is None and not os.environ.get("KIE_API_KEY"):
            msg = (
                "There is no API key. Set KIE_API_KEY; keys are made at kie.ai/api-key. Or try it without one, at no"
                " cost: kie-async generate --fake."
            )
            raise ConfigurationError(msg)
        kie = KieClient(
            self.api_key,
            base_url=self.url,
            upload_url=self.url,
            on_event=None if self.trail is None else self.trail.saw,
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
        Run a fake service on this machine, and speak to nobody else.

        Args:
            fake: The service.
        """
        async with fake:
            self.api_key, self.url, self.real = _FAKE_KEY, fake.url, False
            self.output.say(
                f"This is a fake service on your own machine ({fake.url}): nothing is real, and nothing is paid."
            )
            yield

    def outlook(self) -> str:
        """What goes on when the command ends early, and what was paid."""
        if not self.real:
            return "It was the fake service: nothing was real, and nothing was paid."
        return "Nothing was paid." if self.trail is None else self.trail.outlook()
