"""
``AccountCheck``: asks for the balance, for the caller, and after answers that may or may not be about the account.

A gateway or a proxy in front of the service answers with pages and bare statuses of its own. One of them tells nothing.
After the second, the service itself is asked, and only its own answer, with a code, counts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.verdicts import Reply
from kie_async._core.wire import read_credit, read_envelope
from kie_async._io.http.transport import POLL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._io.http.transport import Transport
    from kie_async._io.runtime import Runtime, Supervisor

__all__ = ["AccountCheck"]

_log = logging.getLogger("kie_async")

#: The number of answers of gateways after which the service is asked.
ASK_AFTER = 2
#: The shortest time between two questions, in seconds.
ASK_INTERVAL = 60.0
_TIMEOUT = 30.0


@attrs.define(eq=False, repr=False, kw_only=True)
class AccountCheck:
    """
    Checks what answers of gateways mean, by one question at a time, at most once a minute.

    Args:
        transport: Sends the question.

        supervisor: Runs it.

        runtime: The clock.

        on_refusal: Called with the service's own answer if it is not a balance.
    """

    transport: Transport
    supervisor: Supervisor
    runtime: Runtime
    on_refusal: Callable[[Reply], None]
    #: True once the service has answered at the base URL: an answer with a code in its body.
    answered: bool = attrs.field(default=False, init=False)
    _answers: int = attrs.field(default=0, init=False)
    _ready_at: float = attrs.field(default=float("-inf"), init=False)

    async def ask(self, timeout: float = _TIMEOUT) -> tuple[Reply, float | None]:
        """
        Ask for the balance; return the answer, and the credits if it tells them.

        Raises:
            TransportError: If there is no complete answer in time.
        """
        answer = await self.transport.request("GET", "/api/v1/chat/credit", timeout=timeout)
        envelope = read_envelope(answer.body)
        head = answer.body[:256].decode("utf-8", "replace")
        reply = Reply(sent=True, status=answer.status, envelope=envelope, head=head)
        self.answered |= reply.code is not None
        return reply, None if envelope is None else read_credit(envelope)

    async def may_be_service(self) -> bool:
        """Return True if the service has answered at the base URL, or does so now; also if that cannot be asked."""
        if not self.answered:
            try:
                await self.ask(POLL_TIMEOUT)
            except (errors.TransportError, errors.ClientClosedError):
                return True
        return self.answered

    def record_gateway_answer(self) -> None:
        """Count an answer of a gateway, and ask the service after the second one."""
        self._answers += 1
        now = self.runtime.now()
        if self._answers >= ASK_AFTER and now >= self._ready_at and self.supervisor.running:
            self._answers, self._ready_at = 0, now + ASK_INTERVAL  # longer than the question takes
            self.supervisor.start(self._check)

    async def _check(self) -> None:
        try:
            reply, balance = await self.ask(POLL_TIMEOUT)
        except (errors.TransportError, errors.ClientClosedError):
            return
        _log.warning(
            "A gateway or a proxy has answered in place of the service (a page, or HTTP 401, 402, 403 or 407). %s",
            "The API key and the account are in order." if balance is not None else "The balance could not be read.",
        )
        if balance is None and reply.code is not None:
            self.on_refusal(reply)
