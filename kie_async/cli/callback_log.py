"""What comes to a receiver of callbacks, and what becomes of it, as it is told to whoever watches."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import JSON, Event, EventName, KieError
from kie_async.cli.job_status import NOTES
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import KieClient

__all__ = ["MAX_OPEN", "Happening", "Teller"]

#: How often, in seconds, the journal is asked how a job has ended whose end another process may have seen.
EVERY = 1.0
#: How many jobs' ends are waited for; beyond that, the oldest are not told.
MAX_OPEN = 100

_ENDED = ("succeeded", "failed")
_UNSIGNED = 401
_NOT_FOUND = 404


@attrs.frozen(kw_only=True)
class Happening:
    """
    One thing to tell; its attributes are the fields of the JSON.

    Attributes:
        event: ``"listening"``, ``"callback"``, ``"refused"`` or ``"ended"``.

        job_id: The job that the token belongs to.

        task_id: The task that the callback names, or in the end the job's own.

        attempt: Which attempt of the create carried the token.

        state: The journal's word for the job: when the callback came, or in the end.

        credits: What the task has cost.

        status: What a callback that was refused was answered.

        reason: Why it was refused.

        url: Where callbacks are taken.
    """

    event: str
    job_id: str | None = None
    task_id: JSON = None
    attempt: JSON = None
    state: JSON = None
    credits: float | None = None
    status: JSON = None
    reason: JSON = None
    url: str | None = None

    def __str__(self) -> str:
        match self.event:
            case "callback":
                return f"callback  {self.job_id} attempt {self.attempt} names task {self.task_id}, job {self.state}"
            case "refused":
                whose = "" if self.job_id is None else f"{self.job_id} "
                return f"refused   {whose}{self.status}: {self.reason}"
            case "ended":
                cost = "" if self.credits is None else f", {self.credits:g} credits"
                return f"ended     {self.job_id} task {self.task_id}: {self.state}{cost}"
            case _:
                return str(self.url)


class Teller:
    """
    Tells what the client reports of callbacks, and how their jobs end.

    Args:
        session: The command's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._happened: deque[Event | Happening] = deque()
        self._more = anyio.Event()
        self._open: dict[str, None] = {}
        self._hinted: set[str] = set()
        #: What has kept it from telling: nobody reads any more.
        self.error: BrokenPipeError | None = None

    def saw(self, event: Event | Happening) -> None:
        """Take what the client reports; it is told a little later, since whoever reports must not be kept waiting."""
        self._happened.append(event)
        self._more.set()

    def refuse(self, status: int, reason: str) -> None:
        """Take a request that was refused before the client has seen it."""
        self.saw(Happening(event="refused", status=status, reason=reason))

    async def tell(self, kie: KieClient) -> None:
        """
        Tell everything; returns only if nobody reads it.

        Args:
            kie: The client, whose journal says how a job has ended.
        """
        try:
            await self._tell_all(kie)
        except BrokenPipeError as error:
            self.error = error

    async def _tell_all(self, kie: KieClient) -> None:
        look_at = math.inf
        while True:
            self._more = anyio.Event()
            while self._happened:
                await self._tell(self._happened.popleft(), kie)
            if anyio.current_time() >= look_at:
                look_at = math.inf
                for job_id in list(self._open):
                    await self._tell_end(job_id, kie)
            look_at = min(look_at, anyio.current_time() + EVERY) if self._open else math.inf
            with anyio.move_on_at(look_at):
                await self._more.wait()

    async def _tell(self, event: Event | Happening, kie: KieClient) -> None:
        if isinstance(event, Happening):
            self._result(event)
            return
        detail = event.detail
        if event.name is EventName.CALLBACK:
            self._result(
                Happening(
                    event="callback",
                    job_id=event.job_id,
                    task_id=detail["named"],
                    attempt=detail["attempt"],
                    state=detail["state"],
                )
            )
            self._open[event.job_id or ""] = None
            if len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        elif event.name is EventName.CALLBACK_REFUSED:
            self._result(
                Happening(
                    event="refused",
                    job_id=event.job_id,
                    task_id=detail.get("named"),
                    status=detail["status"],
                    reason=detail["reason"],
                )
            )
            self._hint(detail["status"], event.job_id)
        elif event.name is EventName.DUPLICATE:
            self._session.output.warn(f"{event.job_id}: {NOTES[event.name]}")
        if event.job_id is not None:
            await self._tell_end(event.job_id, kie)

    async def _tell_end(self, job_id: str, kie: KieClient) -> None:
        """Tell how a job has ended, once, if it has; the end may have been seen by this process or by another one."""
        if job_id not in self._open:
            return
        try:
            summary = await kie.job(job_id).info()
        except KieError:
            return  # the journal cannot be read just now
        if summary is None:
            del self._open[job_id]
        elif summary.state in _ENDED:
            del self._open[job_id]
            self._result(
                Happening(
                    event="ended",
                    job_id=job_id,
                    task_id=summary.task_id,
                    state=summary.state,
                    credits=summary.credits,
                )
            )

    def _result(self, happening: Happening) -> None:
        self._session.output.result(str(happening), attrs.asdict(happening))

    def _hint(self, status: JSON, job_id: str | None) -> None:
        """Say what is to be done about a refusal, once for each kind."""
        journal = self._session.journal
        if status == _NOT_FOUND and job_id is None:
            hint = (
                "That is noise from outside, or a job that was submitted with another API key than KIE_API_KEY here:"
                " the tokens in callback URLs are made with it."
            )
        elif status == _NOT_FOUND and journal is None:
            hint = f"The token is good, but without a journal no job is known. The callback was for {job_id}."
        elif status == _NOT_FOUND and journal is not None:
            hint = (
                f"The token is good, but {job_id} is not in the journal {journal.path}. Listen with the journal of the"
                " program that has submitted it: --journal FILE."
            )
        elif status == _UNSIGNED:
            hint = (
                "Compare --webhook-key (KIE_WEBHOOK_KEY) with the webhookHmacKey at kie.ai/settings, and this machine's"
                " clock with another one."
            )
        else:
            return
        if hint not in self._hinted and len(self._hinted) < MAX_OPEN:
            self._hinted.add(hint)
            self._session.output.say(f"  {hint}")
