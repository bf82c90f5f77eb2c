"""Faults: the script of what goes wrong on the way to the service or back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import attrs

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["Call", "Fault", "FaultScript", "Place", "What"]

#: Where a fault may strike.
Place: TypeAlias = Literal["connect", "create", "poll", "upload", "download", "credit", "download_url", "callback"]

_AnswerFault: TypeAlias = Literal[
    "code",
    "status",
    "body",
    "html",
    "redirect",
    "null_data",
    "no_task_id",
    "numeric_task_id",
    "alter",
    "truncated_json",
    "half_body",
    "half_status_line",
    "garbage",
    "reset",
    "close",
    "silence",
    "slow",
    "slow_body",
]
_ConnectFault: TypeAlias = Literal["reset", "close", "silence"]
_CallbackFault: TypeAlias = Literal["lost", "early", "slow", "copies", "alter", "unsigned", "missigned", "stale"]

#: What may go wrong.
What: TypeAlias = _AnswerFault | _ConnectFault | _CallbackFault

#: What each kind cannot do without.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "code": ("code",),
    "status": ("status",),
    "body": ("body",),
    "alter": ("data",),
    "early": ("seconds",),
    "slow": ("seconds",),
    "slow_body": ("seconds",),
    "copies": ("copies",),
    "stale": ("seconds",),
}


@attrs.frozen(kw_only=True)
class Call:
    """
    One request at one place, as a script sees it.

    Attributes:
        place: Where it came in; for ``"callback"``: went out.

        nth: The how-manieth it is at that place, counted from 1.

        at: Seconds since the fake was started.

        path: Its path; for a callback, the URL.

        headers: Its headers.

        body: Its body; of a callback, what it says if nothing goes wrong.

        early: For a callback: whether it may still come before the task's end.
    """

    place: Place
    nth: int
    at: float
    path: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    early: bool = False


@attrs.frozen(eq=False, kw_only=True)
class Fault:
    """
    One thing that goes wrong, and when: ``Fault("create", "reset", after=True, nth=3)``.

    *What* goes wrong with an answer (at ``create``, ``poll``, ``upload``, ``download``, ``credit``, ``download_url``):

    * ``code``: an envelope with *code* and *msg* (what belongs to the code unless given), under HTTP *status* (200);
    * ``status``: the true answer, under HTTP *status*;
    * ``body``: *body* as it stands, with its *content_type* and *headers*, under HTTP *status* (200);
    * ``html``: the error page of a proxy, under HTTP *status* (502);
    * ``redirect``: HTTP *status* (307) to another path, which must never be asked for: ``truth.strays`` tells;
    * ``null_data``, ``no_task_id``, ``numeric_task_id``: the true answer with ``data`` null, with ``data`` empty, or
      with an id that is a number and does mean the task;
    * ``alter``: the true answer, with *data* laid over its ``data``;
    * ``truncated_json``: the first half of the true answer, with the length that this half has;
    * ``half_body``: the first half of the true answer, with the length of the whole; then the end, as *cut* says;
    * ``half_status_line``: ``HTTP/1.1 2``, then the end; ``garbage``: *body*, which is no HTTP, then the end;
    * ``close``, ``reset``: the connection ends without a word; ``silence``: nothing, until the client goes away;
    * ``slow``: the true answer, *seconds* later; ``slow_body``: the true answer, a byte every *seconds*.

    With a connection that is made (at ``connect``): ``close``, ``reset`` or ``silence``, once *at_byte* bytes have come
    in: none is on accept, 1 with the first packet, more is in the middle of an upload.

    With the report of a task's end (at ``callback``): ``lost``; ``early``, *seconds* before the end (at once, if the
    task does not last as long), when recordInfo still says that it runs; ``slow``, *seconds* later; ``copies``, made
    *copies* times; ``alter``, a forgery; ``unsigned``; ``missigned``, signed with another key; ``stale``, signed
    *seconds* ago. In each, *data* is laid over its ``data``. It is signed for the task that it then names, as by
    somebody who has the key: ``Fault("callback", "alter", data={"taskId": other})`` is genuine in all but what it says.
    Whether a report is early is asked when its task is created, so its *nth* and *between* go by the creates that name
    a callback URL; all else is asked when it is due, and goes by the ends.

    Whether it *happened*: with *after* the create was taken and paid (the upload is held), and only the answer suffers.
    Without it the service has done nothing, and for "the true answer" stands an empty success, ``{"code": 200, "msg":
    "success", "data": null}``. ``slow`` waits before the service acts, or after it; ``slow_body`` and what only reads
    (``poll``, ``download``, ``credit``, ``download_url``) have a true answer either way.

    *When*: all conditions that are given must hold; a fault without any always fires.

    Attributes:
        where: The place.

        what: What goes wrong there.

        after: Whether the service has acted.

        nth: The how-manieth call at that place, counted from 1, or several of them (``range(5, 50)``).

        between: Seconds since the fake was started: from the first, up to the second.

        chance: The probability, 0 to 1, drawn from the fake's seed.

        when: A predicate of the ``Call``.

        times: How often it fires at most.

        code: A code of the service.

        msg: Its text.

        status: An HTTP status.

        body: A body, or other bytes for the wire.

        content_type: The body's.

        headers: Further headers of the answer.

        data: Fields that replace those of the ``data`` of an answer or a callback.

        seconds: A delay, or an age.

        copies: How often a callback is posted.

        at_byte: How many bytes come in first.

        cut: How a connection ends in the middle of an answer.

    >>> Fault("create", "lost")
    Traceback (most recent call last):
        ...
    ValueError: nothing called 'lost' goes wrong at 'create'
    """

    where: Place = attrs.field(kw_only=False)
    what: What = attrs.field(kw_only=False)
    after: bool = False
    nth: int | Container[int] | None = None
    between: tuple[float, float] | None = None
    chance: float | None = None
    when: Callable[[Call], bool] | None = None
    times: int | None = None
    code: int | None = None
    msg: str | None = None
    status: int | None = None
    body: bytes | str | None = None
    content_type: str = "text/plain; charset=UTF-8"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    data: Mapping[str, JSON] | None = None
    seconds: float | None = None
    copies: int | None = None
    at_byte: int = 0
    cut: Literal["close", "reset"] = "close"

    def __attrs_post_init__(self) -> None:
        if self.where not in get_args(Place):
            msg = f"there is no place {self.where!r}; places: {', '.join(get_args(Place))}"
            raise ValueError(msg)
        kinds = {"connect": _ConnectFault, "callback": _CallbackFault}.get(self.where, _AnswerFault)
        if self.what not in get_args(kinds) or ("task_id" in self.what and self.where != "create"):
            msg = f"nothing called {self.what!r} goes wrong at {self.where!r}"
            raise ValueError(msg)
        for name in _NEEDS.get(self.what, ()):
            if getattr(self, name) is None:
                msg = f"the fault {self.what!r} needs {name}="
                raise ValueError(msg)

    def fits(self, call: Call) -> bool:
        """Whether *call* meets all conditions that have no memory."""
        if call.place != self.where or call.early != (self.what == "early"):
            return False
        if self.nth is not None and not (call.nth == self.nth if isinstance(self.nth, int) else call.nth in self.nth):
            return False
        if self.between is not None and not self.between[0] <= call.at < self.between[1]:
            return False
        return self.when is None or self.when(call)


class FaultScript:
    """
    The faults of one fake, in order: at each call the first that is due fires.

    Attributes:
        faults: May be changed at any time.

        fired: How often each has fired.
    """

    def __init__(self, faults: list[Fault], rng: Random) -> None:
        self.faults = faults
        self.fired: Counter[Fault] = Counter()
        self._rng = rng

    def pick(self, call: Call) -> Fault | None:
        """The fault that strikes *call*, or None."""
        for fault in self.faults:
            if self._due(fault, call):
                self.fired[fault] += 1
                return fault
        return None

    def _due(self, fault: Fault, call: Call) -> bool:
        if fault.times is not None and self.fired[fault] >= fault.times:
            return False
        # The dice come last, so that a fault which does not fit leaves the randomness of the others alone.
        return fault.fits(call) and (fault.chance is None or self._rng.random() < fault.chance)
