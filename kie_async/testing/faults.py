"""Fault injection: the faults of a fake and the requests that they affect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import attrs

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["Call", "Fault", "FaultKind", "FaultPlace", "FaultScript"]

#: The places at which faults happen.
FaultPlace: TypeAlias = Literal[
    "connect", "create", "poll", "upload", "download", "credit", "download_url", "models", "callback"
]

_ResponseFault: TypeAlias = Literal[
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
_CallbackFault: TypeAlias = Literal["lost", "early", "slow", "copies", "alter", "unsigned", "wrong_signature", "stale"]

#: The kinds of faults.
FaultKind: TypeAlias = _ResponseFault | _ConnectFault | _CallbackFault

#: The arguments that each kind needs.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
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
    One request, connection or callback, as the conditions of a fault see it.

    Attributes:
        place: The place at which it came in; for ``"callback"``: went out.

        nth: Its number at that place, counted from 1.

        at: Seconds since the start of the fake.

        path: The path; for a callback, the URL.

        headers: The headers.

        body: The body; for a callback, the body without any fault.

        early: For a callback: True if it is asked whether the callback comes before the task's end.
    """

    place: FaultPlace
    nth: int
    at: float
    path: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    early: bool = False


@attrs.frozen(eq=False, kw_only=True)
class Fault:
    """
    A fault and the requests that it affects: ``Fault("create", "reset", after=True, nth=3)``.

    Kinds for a response (at ``create``, ``poll``, ``upload``, ``download``, ``credit``, ``download_url``, ``models``):

    * ``code``: an envelope with *code* and *msg* (by default the text that belongs to the code) under HTTP *status*
      (200);
    * ``status``: the real response under HTTP *status*;
    * ``body``: *body* unchanged, with its *content_type* and *headers*, under HTTP *status* (200);
    * ``html``: the error page of a proxy under HTTP *status* (502);
    * ``redirect``: HTTP *status* (307) to another path, which must never be requested; ``truth.followed_redirects``
      lists the requests for it;
    * ``null_data``, ``no_task_id``, ``numeric_task_id``: the real response with ``data`` null, with ``data`` empty, or
      with an id that is a number and denotes the task;
    * ``alter``: the real response, with the fields of *data* replacing those of its ``data``; ``response`` becomes the
      content of a replaced ``resultJson``;
    * ``truncated_json``: the first half of the real response, with the length of that half;
    * ``half_body``: the first half of the real response, with the length of the whole, then the end of the connection
      as *disconnect* says;
    * ``half_status_line``: ``HTTP/1.1 2``, then the end; ``garbage``: *body*, which is not HTTP, then the end;
    * ``close``, ``reset``: the connection ends without a response; ``silence``: no response until the client
      disconnects;
    * ``slow``: the real response, *seconds* later; ``slow_body``: the real response, one byte every *seconds*.

    Kinds for a new connection (at ``connect``): ``close``, ``reset`` or ``silence``, once *after_bytes* bytes are
    received: 0 is on accept, 1 with the first packet, more is in the middle of an upload.

    Kinds for a callback (at ``callback``): ``lost``; ``early``, *seconds* before the task's end (at once if the task is
    shorter), while recordInfo still reports it as running; ``slow``, *seconds* later; ``copies``, delivered *copies*
    times; ``alter``, a forgery; ``unsigned``; ``wrong_signature``, signed with another key; ``stale``, signed *seconds*
    ago. In each, the fields of *data* replace those of its ``data``. The callback is signed for the task id that it
    then contains, as a holder of the key could do: ``Fault("callback", "alter", data={"taskId": other})`` is authentic
    except for its contents. ``early`` is decided when the task is created, so its *nth* and *between* count the creates
    that contain a callback URL. All other kinds are decided when the callback is due, and count the ends.

    With *after* the service performs the request (the create is accepted and paid, the upload is stored), and only the
    response suffers. Without it the service does nothing, and the "real response" is an empty success, ``{"code": 200,
    "msg": "success", "data": null}``. ``slow`` waits before or after the service acts. ``slow_body`` and the places
    that only read (``poll``, ``download``, ``credit``, ``download_url``, ``models``) have a real response either way.

    A fault fires if all conditions that are given hold; a fault without conditions always fires.

    Attributes:
        place: The place.

        kind: The kind, as listed above.

        after: True if the service performs the request.

        nth: The number of the request at that place, counted from 1, or several numbers (``range(5, 50)``).

        between: Seconds since the start of the fake: from the first (inclusive) to the second (exclusive).

        probability: The probability that it fires, 0 to 1, drawn from the fake's seed.

        when: A predicate of the ``Call``.

        times: The largest number of times that it fires.

        code: A code of the service.

        msg: The text for the code.

        status: An HTTP status.

        body: A body, or other bytes to send.

        content_type: The content type of the body.

        headers: More headers of the response.

        data: Fields that replace those of the ``data`` of a response or a callback.

        seconds: A delay, or an age.

        copies: The number of times that a callback is delivered.

        after_bytes: The number of bytes received before the fault happens.

        disconnect: The way in which a connection ends in the middle of a response.

    >>> Fault("connect", "html")
    Traceback (most recent call last):
        ...
    ValueError: Invalid Fault('connect', 'html'): the kinds at 'connect' are reset, close, silence.
    """

    place: FaultPlace = attrs.field(kw_only=False)
    kind: FaultKind = attrs.field(kw_only=False)
    after: bool = False
    nth: int | Container[int] | None = None
    between: tuple[float, float] | None = None
    probability: float | None = None
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
    after_bytes: int = 0
    disconnect: Literal["close", "reset"] = "close"

    def __attrs_post_init__(self) -> None:
        shown = f"Invalid Fault({self.place!r}, {self.kind!r})"
        if self.place not in get_args(FaultPlace):
            msg = f"{shown}: the places are {', '.join(get_args(FaultPlace))}."
            raise ValueError(msg)
        allowed = get_args({"connect": _ConnectFault, "callback": _CallbackFault}.get(self.place, _ResponseFault))
        kinds = [kind for kind in allowed if self.place == "create" or "task_id" not in kind]
        if self.kind not in kinds:
            msg = f"{shown}: the kinds at {self.place!r} are {', '.join(kinds)}."
            raise ValueError(msg)
        for name in _REQUIRED.get(self.kind, ()):
            if getattr(self, name) is None:
                msg = f"{shown}: {name}= is required."
                raise ValueError(msg)

    def matches(self, call: Call) -> bool:
        """Return True if *call* meets all conditions that do not depend on earlier calls."""
        if call.place != self.place or call.early != (self.kind == "early"):
            return False
        if self.nth is not None and not (call.nth == self.nth if isinstance(self.nth, int) else call.nth in self.nth):
            return False
        if self.between is not None and not self.between[0] <= call.at < self.between[1]:
            return False
        return self.when is None or self.when(call)


@attrs.define(eq=False)
class FaultScript:
    """
    The faults of one fake, in order: at each call the first that is due fires.

    Attributes:
        faults: The faults; may be changed at any time.

        rng: The random generator of the probabilities.

        fired: The number of times that each fault has fired.
    """

    faults: list[Fault]
    rng: Random
    fired: Counter[Fault] = attrs.field(factory=Counter, init=False)

    def pick(self, call: Call) -> Fault | None:
        """Return the fault that affects *call*, and count it; None if the call succeeds."""
        for fault in self.faults:
            if self._is_due(fault, call):
                self.fired[fault] += 1
                return fault
        return None

    def _is_due(self, fault: Fault, call: Call) -> bool:
        if fault.times is not None and self.fired[fault] >= fault.times:
            return False
        # The random draw comes last: a fault that does not match leaves the randomness of the others unchanged.
        return fault.matches(call) and (fault.probability is None or self.rng.random() < fault.probability)
