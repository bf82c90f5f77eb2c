"""
Hostile requests: an attack is a choice of token, body, signature, delivery and method, each with some noise.

Every invalid choice has the status with which it must be refused. So the expected answer to a request does not depend
on the package: it is the status of its first invalid part, in the documented order.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Literal, TypeAlias
from urllib.parse import quote

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from kie_async._core.callback_token import make_token

__all__ = [
    "CAP",
    "FIXED",
    "LARGE",
    "WAYS",
    "Attack",
    "Request",
    "Scene",
    "Target",
    "Way",
    "draw_attacks",
    "make_attack_request",
]

#: The two adapters.
Way: TypeAlias = Literal["asgi", "aiohttp"]
WAYS: tuple[Way, ...] = ("asgi", "aiohttp")
Header: TypeAlias = tuple[bytes, bytes]

EVIL = "https://evil.example/virus.mp4"
CAP = 262_144


@attrs.frozen
class Target:
    """
    An attacked job.

    Attributes:
        job_id: The job's id.

        attempts: The number of its creates, at least 1.

        task_id: A task of the job, known to the client or not; else an id without a task.
    """

    job_id: str
    attempts: int
    task_id: str


@attrs.frozen(kw_only=True)
class Scene:
    """
    The knowledge of the strongest attacker: genuine tokens, task ids, and signatures of the service.

    Attributes:
        targets: The jobs, at least one.

        foreign_tasks: Tasks of the account that no job has created.

        secret: The secret of genuine tokens. (The attacker knows tokens, not the secret.)

        keys: The valid webhook keys, the old one first; empty if callbacks are not signed.

        wall: The time, in seconds since the epoch.
    """

    targets: Sequence[Target]
    foreign_tasks: Sequence[str]
    secret: bytes = attrs.field(repr=False)
    keys: Sequence[str] = attrs.field(repr=False)
    wall: float


@attrs.frozen
class Attack:
    """
    One choice from each table of this file, by name.

    Attributes:
        number: Selects the job and other variants.

        text: Noise for texts.

        blob: Noise for bytes.
    """

    token: str = "genuine"
    body: str = "own"
    signature: str = "right"
    delivery: str = "whole"
    method: str = "POST"
    number: int = 0
    text: str = ""
    blob: bytes = b""


@attrs.frozen
class Request:
    """
    An attack as a request.

    Attributes:
        attack: The attack.

        path: The path with its query, as on the wire.

        headers: The headers that do not depend on the delivery.

        body: The body.

        expected: The allowed statuses for each adapter; None is no answer.
    """

    attack: Attack
    path: str
    headers: list[Header]
    body: bytes = attrs.field(repr=False)
    expected: Mapping[Way, frozenset[int | None]]


# -- tokens: the end of the path, and the status of the refusal ----------------------------------------------------


def _genuine(scene: Scene, attack: Attack, target: Target) -> str:
    return make_token(scene.secret, target.job_id, 1 + attack.number % target.attempts)


def _with_last_changed(token: str) -> str:
    return token[:-1] + ("A" if token[-1] != "A" else "B")


def _of_other_attempt(token: str) -> str:
    job_id, attempt, mac = token.split(".")
    return f"{job_id}.{int(attempt) + 1}.{mac}"


_Token: TypeAlias = Callable[[Scene, Attack, Target], str]

TOKENS: Mapping[str, tuple[_Token, int | None]] = {
    "genuine": (_genuine, None),
    "encoded": (lambda scene, attack, target: _genuine(scene, attack, target).replace(".", "%2E"), None),
    "with a query": (
        lambda scene, attack, target: f"{_genuine(scene, attack, target)}?next=/{quote(attack.text)}",
        None,
    ),
    "of an attempt to come": (lambda scene, _, target: make_token(scene.secret, target.job_id, 999), None),
    "of no job": (lambda scene, attack, _: make_token(scene.secret, f"kj_{attack.number:032x}", 1), None),
    "below": (lambda scene, attack, target: f"more/{_genuine(scene, attack, target)}", None),
    "none": (lambda *_: "", 404),
    "noise": (lambda _, attack, __: quote(attack.text, safe="") or "-", 404),
    "noise in place of the mac": (lambda _, attack, target: f"{target.job_id}.1.{quote(attack.text, safe='')}", 404),
    "one letter changed": (lambda scene, attack, target: _with_last_changed(_genuine(scene, attack, target)), 404),
    "one letter more": (lambda scene, attack, target: f"{_genuine(scene, attack, target)}A", 404),
    "of another attempt": (lambda scene, attack, target: _of_other_attempt(_genuine(scene, attack, target)), 404),
    "of another account": (lambda _, __, target: make_token(b"another", target.job_id, 1), 404),
    "in capitals": (lambda scene, attack, target: _genuine(scene, attack, target).upper(), 404),
    "above": (lambda scene, attack, target: f"{_genuine(scene, attack, target)}/more", 404),
    "with slashes": (lambda scene, attack, target: f"/{_genuine(scene, attack, target)}//", None),
    "in the query": (lambda scene, attack, target: f"token?{_genuine(scene, attack, target)}", 404),
}
#: Paths for which aiohttp's router finds no route of ours, or may not.
_ELSEWHERE = {"none", "noise", "noise in place of the mac", "above"}

# -- bodies: the bytes, the id that a signature would cover, and the status of the refusal -------------------------


def _claim(*ids: tuple[str, object], state: str = "success", **more: object) -> bytes:
    """Make a body with a false result, in the format of the service."""
    data: dict[str, object] = {"state": state, "resultJson": json.dumps({"resultUrls": [EVIL]}), **more}
    document: dict[str, object] = {"code": 200 if state == "success" else 501, "msg": "success", "data": data}
    for place, value in ids:
        (document if place == "taskId" else data)[place.removeprefix("data.")] = value
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _own(target: Target) -> bytes:
    return _claim(("data.taskId", target.task_id))


def _foreign_id(scene: Scene, attack: Attack) -> str:
    return scene.foreign_tasks[attack.number % len(scene.foreign_tasks)]


def _other_job_id(scene: Scene, attack: Attack) -> str:
    return scene.targets[(attack.number * 7 + 1) % len(scene.targets)].task_id


def _unknown_id(attack: Attack) -> str:
    return hashlib.sha256(f"{attack.number}.{attack.blob.hex()}".encode()).hexdigest()[:32]


def _about(task_id: str) -> tuple[bytes, str]:
    return _claim(("data.taskId", task_id)), task_id


_Body: TypeAlias = Callable[[Scene, Attack, Target], tuple[bytes, str]]

#: Bodies that name one task; their claims are false, or at best premature.
CLAIMS: Mapping[str, _Body] = {
    "own": lambda _, __, target: _about(target.task_id),
    "own has failed": lambda _, __, target: (
        _claim(("data.taskId", target.task_id), state="fail", failCode="500", failMsg="no"),
        target.task_id,
    ),
    "own in all places": lambda _, __, target: (
        _claim(*((place, target.task_id) for place in ("taskId", "data.taskId", "data.task_id"))),
        target.task_id,
    ),
    "own with a forged echo": lambda scene, attack, target: (
        _claim(
            ("data.taskId", target.task_id), param=json.dumps({"callBackUrl": f"/{_genuine(scene, attack, target)}"})
        ),
        target.task_id,
    ),
    "own after another one": lambda _, attack, target: (
        b'{"taskId":"%s",%s' % (_unknown_id(attack).encode(), _claim(("taskId", target.task_id))[1:]),
        target.task_id,
    ),
    "own with a mark of the byte order": lambda _, __, target: (b"\xef\xbb\xbf" + _own(target), target.task_id),
    "own with numbers beyond all floats": lambda _, __, target: (
        b'{"a":NaN,"b":-1e999,"c":%s,%s' % (b"9" * 5000, _own(target)[1:]),
        target.task_id,
    ),
    "own as large as it may be": lambda _, __, target: (_own(target).ljust(CAP), target.task_id),
    "a foreign task's": lambda scene, attack, _: _about(_foreign_id(scene, attack)),
    "another job's": lambda scene, attack, _: _about(_other_job_id(scene, attack)),
    "an unknown task's": lambda _, attack, __: _about(_unknown_id(attack)),
    "a number's": lambda _, attack, __: (_claim(("taskId", attack.number)), str(attack.number)),
}

#: Bodies that are not JSON, or name no task or several: with ``NAMES`` if they name the target's own task, ``UNNAMED``
#: if they may name none, which matters only for a job without a known task, or with the status of the refusal.
NAMES, UNNAMED = 200, 400
ODD_BODIES: Mapping[str, tuple[Callable[[Scene, Attack, Target], bytes], int]] = {
    "own and a foreign task's": (
        lambda scene, attack, target: _claim(("data.taskId", target.task_id), ("taskId", _foreign_id(scene, attack))),
        NAMES,
    ),
    "own and another one": (
        lambda _, attack, target: _claim(("data.taskId", target.task_id), ("data.task_id", _unknown_id(attack))),
        NAMES,
    ),
    "no task": (lambda *_: _claim(), UNNAMED),
    "an id elsewhere": (lambda _, __, target: _claim(("data.id", target.task_id)), UNNAMED),
    "an id that is none": (lambda _, attack, __: _claim(("taskId", f"/{attack.text}")), UNNAMED),
    "an id in a list": (lambda _, __, target: _claim(("taskId", [target.task_id])), UNNAMED),
    "nothing": (lambda *_: b"", UNNAMED),
    "noise": (lambda _, attack, __: b"\0" + attack.blob, UNNAMED),
    "noise after a good one": (lambda _, attack, target: _own(target) + b"!" + attack.blob, NAMES),
    "truncated": (lambda _, attack, target: _own(target)[: -1 - attack.number % 100], UNNAMED),
    "a list": (lambda _, __, target: b"[" + _own(target) + b"]", NAMES),
    "a text": (lambda _, __, target: json.dumps(target.task_id).encode(), UNNAMED),
    "not in UTF-8": (lambda _, __, target: _own(target).replace(b"success", b"succ\xe8s"), NAMES),
    "in UTF-16": (lambda _, __, target: _own(target).decode().encode("utf-16"), UNNAMED),
    "deep lists": (lambda *_: b"[" * 200_000, UNNAMED),
    "wide lists": (lambda *_: b'{"x":[' + b"[]," * 80_000 + b"[]]}", UNNAMED),
    "wide objects": (lambda _, __, target: _own(target)[:-1] + b',"x":[' + b"{}," * 80_000 + b"{}]}", NAMES),
    "many members": (lambda _, __, target: _own(target)[:-1] + b',"a":1' * 40_000 + b"}", NAMES),
    "names without ids": (lambda *_: b'"taskId" ' * 29_000, UNNAMED),
    "digits in an echo": (
        lambda _, __, target: (
            _own(target)[:-1].replace(b'"data": {', b'"data": {"param": "{\\"input\\":%s}", ' % (b"9" * 240_000), 1)
            + b"}"
        ),
        NAMES,
    ),
    "quotes": (lambda *_: b'"' * CAP, UNNAMED),
    "escapes": (lambda _, __, target: _own(target)[:-1] + b',"x":"' + b"\\u0041" * 43_000 + b'"}', NAMES),
    "an endless blank": (lambda *_: b'{"taskId"' + b" " * 260_000 + b":}", UNNAMED),
    "a thousand ids": (
        lambda *_: b"[%s]" % b",".join(b'{"taskId":"%032x"}' % number for number in range(1000)),
        UNNAMED,
    ),
    "deep objects": (lambda _, __, target: _own(target)[:-1] + b',"x":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, NAMES),
    "just too deep": (lambda _, __, target: _own(target)[:-1] + b',"x":' + b"[" * 64 + b"]" * 64 + b"}", NAMES),
    "a byte too large": (lambda _, __, target: _own(target).ljust(CAP + 1), 413),
    "300 KiB": (lambda _, __, target: _own(target)[:-1] + b',"x":"' + b"x" * 300 * 1024 + b'"}', 413),
    "300 KiB of noise": (lambda *_: b"\xff" * 300 * 1024, 413),
}

# -- signatures: the headers, and the status of the refusal ---------------------------------------------------------


def _digest(key: str, text: str) -> bytes:
    return hmac.digest(key.encode(), text.encode(), "sha256")


def _signed(signature: bytes, stamp: int | bytes) -> list[Header]:
    time = stamp if isinstance(stamp, bytes) else str(stamp).encode()
    return [(b"X-Webhook-Timestamp", time), (b"X-Webhook-Signature", signature)]


def _right(scene: Scene, task_id: str, *, age: int = 0, key: str | None = None) -> list[Header]:
    stamp = int(scene.wall) - age
    good = scene.keys[-1] if scene.keys else "a key"
    return _signed(base64.b64encode(_digest(good if key is None else key, f"{task_id}.{stamp}")), stamp)


def _spelled(spell: Callable[[bytes], bytes]) -> Callable[[Scene, Attack, str], list[Header]]:
    def headers(scene: Scene, _attack: Attack, task_id: str) -> list[Header]:
        (_, stamp), (_, good) = _right(scene, task_id)
        return _signed(spell(base64.b64decode(good)), stamp)

    return headers


_Signature: TypeAlias = Callable[[Scene, Attack, str], list[Header]]

SIGNATURES: Mapping[str, tuple[_Signature, int | None]] = {
    "right": (lambda scene, _, task_id: _right(scene, task_id), None),
    "right and replayed": (lambda scene, _, task_id: _right(scene, task_id, age=200), None),
    "right by a clock that is ahead": (lambda scene, _, task_id: _right(scene, task_id, age=-200), None),
    "right under the old key": (lambda scene, _, task_id: _right(scene, task_id, key=[*scene.keys, ""][0]), None),
    "right after a wrong one": (lambda scene, _, task_id: [*_signed(b"no", 5), *_right(scene, task_id)], None),
    "wrong after a right one": (lambda scene, _, task_id: [*_right(scene, task_id), *_signed(b"no", 5)], 401),
    "missing": (lambda *_: [], 401),
    "without a time": (lambda scene, _, task_id: _right(scene, task_id)[1:], 401),
    "without itself": (lambda scene, _, task_id: _right(scene, task_id)[:1], 401),
    "of another task": (lambda scene, _, task_id: _right(scene, f"{task_id}0"), 401),
    "under another key": (lambda scene, _, task_id: _right(scene, task_id, key="another key"), 401),
    "stale": (lambda scene, _, task_id: _right(scene, task_id, age=400), 401),
    "from the future": (lambda scene, _, task_id: _right(scene, task_id, age=-400), 401),
    "in hex": (_spelled(lambda digest: digest.hex().encode()), 401),
    "unpadded": (_spelled(lambda digest: base64.b64encode(digest).rstrip(b"=")), 401),
    "padded twice": (_spelled(lambda digest: base64.b64encode(digest) + b"="), 401),
    "beyond ASCII": (lambda scene, _, __: _signed("äöü€".encode() * 11, int(scene.wall)), 401),
    "noise": (lambda scene, attack, _: _signed(attack.blob.hex().encode(), int(scene.wall)), 401),
    "bytes": (lambda scene, _, __: _signed(bytes(range(0x80, 0x100)), int(scene.wall)), 401),
    "four kilobytes": (lambda scene, _, __: _signed(b"A" * 4096, int(scene.wall)), 401),
    "at no time": (lambda *_: _signed(b"A" * 43 + b"=", b"now"), 401),
    "at a time in letters beyond ASCII": (
        lambda *_: _signed(b"A" * 43 + b"=", "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}".encode()),
        401,
    ),
    "at a fraction": (lambda scene, *_: _signed(b"A" * 43 + b"=", f"{scene.wall:.3f}".encode()), 401),
    "at the end of time": (lambda *_: _signed(b"A" * 43 + b"=", b"9" * 3000), 401),
}

# -- deliveries: the way the body arrives, and the status if the rest is valid --------------------------------------

#: The status of each delivery. ``whole`` and ``pieces`` are valid. Three announce more than they send: ``stalls`` sends
#: half of the body and waits, ``dribbles`` sends a byte a second, ``goes`` sends half of it and disconnects.
#: ``endless`` sends blanks without an end; ``zipped noise`` declares noise as gzip, and a ``bomb`` is gzip.
DELIVERIES: Mapping[str, int | None] = {
    "whole": None,
    "pieces": None,
    "stalls": 408,
    "dribbles": 408,
    "goes": None,
    "endless": 413,
    "zipped noise": 400,
    "bomb": 413,
}
METHODS = ("POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")

BOMB = gzip.compress(b" " * 10_000_000)
BODIES = (*CLAIMS, *ODD_BODIES)


def make_attack_request(attack: Attack, scene: Scene) -> Request:
    """Make the request of an attack."""
    if attack.delivery == "zipped noise" and (attack.method != "POST" or attack.token in _ELSEWHERE):
        # It would reach no route of ours, and aiohttp itself logs that it cannot decompress it.
        attack = attrs.evolve(attack, delivery="whole")
    target = scene.targets[attack.number % len(scene.targets)]
    tail, token_status = TOKENS[attack.token][0](scene, attack, target), TOKENS[attack.token][1]
    body_status: int | None = None
    if attack.body in CLAIMS:
        body, named = CLAIMS[attack.body](scene, attack, target)
    else:
        make, body_status = ODD_BODIES[attack.body]
        body, named = make(scene, attack, target), target.task_id
    sign, signature_status = SIGNATURES[attack.signature]
    headers = [(b"Content-Type", b"application/json"), *sign(scene, attack, named)]
    if attack.delivery in ("zipped noise", "bomb"):
        body = BOMB if attack.delivery == "bomb" else b"\0" + attack.blob
        headers.append((b"Content-Encoding", b"gzip"))
    unread = [405 if attack.method != "POST" else None, token_status]
    odd = attack.delivery in ("zipped noise", "bomb")
    forged, jobless = bool(scene.keys) and signature_status is not None, attack.token == "of no job"
    if forged or jobless:
        # The headers of a signature are checked before the journal is asked, and the signature after that. A journal on
        # disk may have lost the job of a genuine token, so its callback is accepted, and its task is confirmed.
        possible = ((401, forged), (404, jobless), (400, jobless), (200, jobless and not forged))
        statuses = {status for status, holds in possible if holds}
    else:
        # Where the task of a job is known, it does not matter what the body names.
        unnamed = odd or body_status == UNNAMED
        statuses = {200, *([401 if scene.keys else 400] if unnamed else [])}
    large = body_status if body_status not in (None, NAMES, UNNAMED) and not odd else None
    return Request(
        attack, f"/kie/{tail}", headers, body, {way: _expected(attack, way, unread, large, statuses) for way in WAYS}
    )


def _expected(
    attack: Attack, way: Way, unread: Sequence[int | None], large: int | None, statuses: set[int]
) -> frozenset[int | None]:
    """
    Return the allowed statuses: of the first invalid part.

    *unread* parts are checked before the body is read; *statuses* are the allowed ones of a complete body.
    """
    first = next((status for status in unread if status is not None), None)
    if attack.delivery == "goes" and (first is None or way == "aiohttp"):
        return frozenset({None})  # the peer has disconnected
    if first is not None:
        # Over sockets, an answer sent before a large body is complete may be lost with the connection.
        lost = {None} if way == "aiohttp" else set[None]()
        return frozenset({404, 405, *lost} if way == "aiohttp" and attack.token in _ELSEWHERE else {first, *lost})
    # ASGI servers do not decompress.
    delivery = None if way == "asgi" and attack.delivery in ("zipped noise", "bomb") else DELIVERIES[attack.delivery]
    status = next((status for status in (delivery, large) if status is not None), None)
    if status is None or (attack.delivery == "zipped noise" and not attack.blob):  # a byte is not refused as gzip
        return frozenset({*statuses, *({status} - {None})})
    return frozenset({status, None} if way == "aiohttp" and status == 413 else {status})


# -- the posted attacks --------------------------------------------------------------------------------------------

#: Each choice with the rest valid, and some bad combinations.
FIXED: Sequence[Attack] = (
    *(Attack(token=token) for token in TOKENS),
    *(Attack(body=body) for body in BODIES),
    *(Attack(signature=signature) for signature in SIGNATURES),
    *(Attack(delivery=delivery) for delivery in DELIVERIES),
    *(Attack(method=method) for method in METHODS),
    *(Attack(body="own", signature=signature, number=3) for signature in ("right", "right and replayed")),
    *(
        Attack(body=body, number=number)
        for body, number in product(("a foreign task's", "another job's", "an unknown task's"), (1, 2))
    ),
    *(Attack(token="none", body=body) for body in ("300 KiB", "deep lists")),
    *(Attack(body=body, signature="missing") for body in ("wide lists", "wide objects", "many members")),
    *(Attack(token="of no job", body=body) for body in CLAIMS),
    *(Attack(token="one letter changed", delivery=delivery) for delivery in ("stalls", "endless", "zipped noise")),
    *(Attack(delivery="pieces", body=body) for body in ("own", "300 KiB", "deep lists", "own as large as it may be")),
    *(Attack(method="GET", delivery=delivery) for delivery in ("stalls", "endless")),
)

#: Expensive bodies are rare: half a second for each hundred requests would add half an hour in total.
LARGE = {
    "deep lists",
    "deep objects",
    "wide lists",
    "wide objects",
    "many members",
    "names without ids",
    "digits in an echo",
    "quotes",
    "escapes",
    "an endless blank",
    "300 KiB",
    "300 KiB of noise",
    "a byte too large",
    "own as large as it may be",
}
_USUAL = [body for body in BODIES if body not in LARGE]
_numbers = st.integers(0, 10_000)


def _rarely(usual: Sequence[str], rare: Sequence[str], one_in: int) -> st.SearchStrategy[str]:
    """Draw one of *usual*, and sometimes one of *rare*."""
    return st.integers(1, one_in).flatmap(lambda drawn: st.sampled_from(rare if drawn == one_in else usual))


_attacks = st.builds(
    Attack,
    token=_rarely(["genuine"], list(TOKENS), 3),
    body=_rarely(_USUAL, sorted(LARGE), 40),
    signature=_rarely(["right", "right and replayed"], list(SIGNATURES), 3),
    delivery=_rarely(["whole", "pieces"], list(DELIVERIES), 10),
    method=_rarely(["POST"], METHODS, 10),
    number=_numbers,
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    blob=st.binary(max_size=24),
)
_AT_ONCE = 25


def draw_attacks(seed: int, count: int) -> list[Attack]:
    """Return attacks drawn by hypothesis; the same for the same *seed*."""
    found: list[Attack] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=-(-count // _AT_ONCE),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(st.lists(_attacks, min_size=_AT_ONCE, max_size=_AT_ONCE))
    def draw(attacks: list[Attack]) -> None:
        found.extend(attacks)

    draw()
    return found[:count]
