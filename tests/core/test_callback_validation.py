"""Callback checks: the tasks that the body names, and a recent signature of the service."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kie_async._core.callback_validation import (
    MAX_SIGNATURE_AGE,
    Signature,
    named_ids,
    named_tasks,
    read_signature,
    shows_request,
)
from kie_async._core.lifecycle import Intent
from kie_async.errors import CallbackRejectedError
from kie_async.testing.callbacks import sign
from tests.signature_vectors import VECTORS, Vector
from tests.strategies import json_objects, json_values, task_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_767_225_600
ID = "0123456789abcdef0123456789abcdef"
KEY = "whsec_Zm9vYmFy"
#: The places of the id that the service has been seen to use.
PLACES = ("taskId", "data.taskId", "data.task_id")
#: Values in those places that are not ids.
NO_IDS: tuple[object, ...] = (None, True, 1.5, "", " a", "a/b", "ä", "a" * 257, "\ud800", 10**400, [ID], {})

#: Keys as the service's settings show them, and any others that UTF-8 can carry.
_keys = st.text(st.characters(codec="utf-8", min_codepoint=1), min_size=1, max_size=100)
_stamps = st.integers(0, 10**10)


def headers_of(vector: Vector, signature: str | None = None) -> dict[str, str]:
    """Return the headers of a callback, with names in lower case."""
    return {
        "x-webhook-timestamp": str(vector.stamp),
        "x-webhook-signature": vector.signature if signature is None else signature,
    }


def signed(key: str, task_id: str, stamp: int) -> dict[str, str]:
    """Return the signature headers of the fake service, with names in lower case."""
    return {name.lower(): value for name, value in sign(key, task_id, stamp).items()}


def refusal(keys: list[str], task_id: str, headers: Mapping[str, str], wall: float = NOW) -> str | None:
    """Return the reason for which a signature is refused (with status 401), or None."""
    try:
        covered = read_signature(lambda: keys, headers, wall=wall).covers(task_id)
    except CallbackRejectedError as error:
        if error.status != 401:
            raise
        return error.message
    return None if covered else "not covered"


def body_of(*places: str, task_id: object = ID, others: Mapping[str, object] | None = None) -> bytes:
    """Make a body that names a task in *places*, and has *others* beside it, inside and outside of ``data``."""
    document: dict[str, object] = {**(others or {}), "data": dict(others or {"state": "success"})}
    for place in places:
        inner = document["data"] if place.startswith("data.") else document
        assert isinstance(inner, dict)
        inner[place.removeprefix("data.")] = task_id
    return json.dumps(document).encode()


# -- the body -----------------------------------------------------------------------------------------------------


@given(task_ids, st.sets(st.sampled_from(PLACES), min_size=1), json_objects())
def test_the_task_id_is_read_from_three_places(task_id: str, places: set[str], more: dict[str, object]) -> None:
    """Market models use ``data.taskId``, Suno ``data.task_id``, the page about signatures ``taskId``."""
    others = {name: value for name, value in more.items() if name not in {"taskId", "task_id"}}

    assert [task_id] == list(named_ids(body_of(*places, task_id=task_id, others=others)))


@given(task_ids, task_ids, st.permutations(PLACES))
def test_two_different_ids_are_both_found(first: str, second: str, places: list[str]) -> None:
    """The input's ids cannot be told from the task's: polls can, where the service has forgotten to escape quotes."""
    assume(first != second)
    document: dict[str, dict[str, str]] = {"": {}, "data": {}}
    for place, task_id in zip(places, (first, second, first), strict=True):
        document["data" if place.startswith("data.") else ""][place.removeprefix("data.")] = task_id

    assert {first, second} == set(named_ids(json.dumps({**document[""], "data": document["data"]}).encode()))


@given(st.binary(max_size=200) | json_values().map(json.dumps).map(str.encode) | st.text().map(str.encode))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b'"taskId"')
@example(b'{"taskId":"\xff"}')
def test_any_body_can_be_searched(body: bytes) -> None:
    """An id is 1 to 256 letters, digits and ``_ . : -``."""
    for task_id in named_ids(body):
        assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,256}", task_id)
        assert task_id.encode() in body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"5",
        b'"abc"',
        b"taskId=abc",
        b"taskId:abc",
        b'{"data":null}',
        b"\xff\xfe{}",
        b"[" * 262_144,
        body_of("taskId").decode().encode("utf-16"),
        body_of("data.id"),
        body_of("data.recordId"),
        body_of("id"),
        body_of("data.TaskId"),
        *(body_of("taskId", task_id=value) for value in NO_IDS),
        b'{"taskId":' + b"9" * 5000 + b"}",
        b'{"taskId":"abc}',
        b'{"taskId":1e5}',
        b"{'taskId':'abc'}",
        json.dumps({"data": json.dumps({"taskId": "abc", "task_id": 5})}).encode(),
        json.dumps({"data": json.dumps({"input": json.dumps({"taskId": "abc"})})}).encode(),
    ],
)
def test_a_body_without_a_task_names_none(body: bytes) -> None:
    """An id in another member does not count, nor one in a string: the task that a request extends is there."""
    assert [] == list(named_ids(body))


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (body_of("data.taskId"), [ID]),
        (body_of(*PLACES), [ID]),
        (b"\xef\xbb\xbf" + body_of("taskId"), [ID]),
        (b'\r\n {"taskId" : "abc"} \n', ["abc"]),
        (b'{"taskId"\t\n:\r\n "abc"', ["abc"]),
        (b'{"taskId":"first","taskId":"last"}', ["first", "last"]),
        (b'{"taskId":1765172522239}', ["1765172522239"]),
        (b'{"taskId":5,"data":{"task_id":"5"}}', ["5"]),
        (b'{"taskId":null,"data":{"taskId":"abc","task_id":""}}', ["abc"]),
        (b'{"taskId":"abc","data":"{\\"taskId\\":\\"inner\\"}"}', ["abc"]),
        (b'{"taskId":"abc","x":"\xff"}', ["abc"]),
        (b'{"taskId":"abc","x":' + b"[" * 200_000, ["abc"]),
        (body_of("taskId")[:-1], [ID]),
        (b'{"x":"' + b"\\" * 200_000 + b'","taskId":"abc"}', ["abc"]),
        (b'"taskId":"a",' * 20_000 + b'"taskId":"b"', ["a"]),
        (b"".join(b'"taskId":"%d",' % number for number in range(20_000)), ["0", "1", "2", "3"]),
    ],
)
def test_a_body_that_names_tasks_is_searched(body: bytes, ids: list[str]) -> None:
    """It need not be JSON: the poll decides. Its first four ids count, and its first 64 members."""
    assert ids == list(named_ids(body))


# -- the tasks that a callback is about ---------------------------------------------------------------------------

#: Bodies that must not be read for a job whose task is known.
UNREAD = (b"", b"noise", b"[" * 1000, b'{"x":[' + b"[]," * 1000 + b"[]]}")


def row_of(task_id: str | None = None, *duplicates: str, candidates: tuple[str, ...] = ()) -> Intent:
    """Make the row of a job with a task, or of one in doubt."""
    return Intent(
        id="kj_" + "0" * 32,
        model="wan/2-2",
        input="{}",
        fingerprint="f",
        created_at=0.0,
        updated_at=0.0,
        task_id=task_id,
        duplicate_task_ids=duplicates,
        callback_task_ids=candidates,
    )


def signature_for(task_id: str, key: str = KEY) -> Signature:
    """Return the service's signature for a task."""
    return read_signature(lambda: [KEY], signed(key, task_id, NOW), wall=NOW)


def status_of(row: Intent, body: bytes, signature: Signature | None) -> int:
    """Return the status with which a callback is refused."""
    with pytest.raises(CallbackRejectedError) as raised:
        named_tasks(row, body, signature)
    return raised.value.status


@pytest.mark.parametrize("body", [*UNREAD, body_of("taskId", task_id="mine")])
def test_a_callback_for_a_known_task_needs_no_body(body: bytes) -> None:
    """The token is enough, or the signature for that task or for a duplicate."""
    row = row_of("mine", "twin")

    assert ("mine",) == named_tasks(row, body, None)
    assert ("mine",) == named_tasks(row, body, signature_for("mine"))
    assert ("twin",) == named_tasks(row, body, signature_for("twin"))
    assert ("twin",) == named_tasks(row_of(None, "twin"), body, signature_for("twin"))


@pytest.mark.parametrize("body", UNREAD)
def test_a_callback_without_a_known_task_must_name_one(body: bytes) -> None:
    """A task that an earlier callback has named is not known to be the job's."""
    row = row_of(None, "twin", candidates=("candidate",))

    assert 400 == status_of(row, body, None)
    assert 401 == status_of(row, body, signature_for("candidate"))


@given(task_ids, st.sampled_from([None, "mine"]))
def test_a_signature_covers_one_task_of_the_body(task_id: str, own: str | None) -> None:
    """Whatever else the body names, before or after it, only that task is polled."""
    assume(task_id not in {"mine", "other"})
    for body in (
        body_of("data.taskId", "taskId", task_id=task_id),
        b'{"taskId":"other",' + body_of("data.taskId", task_id=task_id)[1:],
    ):
        assert (task_id,) == named_tasks(row_of(own), body, signature_for(task_id))
        assert 401 == status_of(row_of(own), body, signature_for(f"{task_id}0"))
        assert 401 == status_of(row_of(own), body, signature_for(task_id, "another key"))


def test_an_unsigned_callback_that_names_a_proven_task_is_about_it() -> None:
    """The task that the request extends may be named beside it, and needs no poll."""
    for task_id in ("mine", "twin"):
        body = b'{"taskId":"source","data":{"taskId":"%s"}}' % task_id.encode()
        assert (task_id,) == named_tasks(row_of("mine", "twin"), body, None)


def test_other_tasks_are_named_beside_the_known_one() -> None:
    """A second task of the job may be among them: it was paid, too."""
    body = b'{"taskId":"second","data":{"taskId":"third"}}'

    assert ("mine", "second", "third") == named_tasks(row_of("mine"), body, None)
    assert ("second", "third") == named_tasks(row_of(), body, None)


# -- the signature ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.task_id)
def test_signatures_made_by_openssl_are_accepted(vector: Vector) -> None:
    assert refusal([vector.key], vector.task_id, headers_of(vector), wall=vector.stamp) is None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.task_id)
def test_the_fake_signs_as_openssl_does(vector: Vector) -> None:
    assert vector.signature == sign(vector.key, vector.task_id, vector.stamp)["X-Webhook-Signature"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.task_id)
@pytest.mark.parametrize(
    "spell",
    [
        lambda digest: digest.hex(),
        lambda digest: digest.hex().upper(),
        lambda digest: base64.b64encode(digest).decode().rstrip("="),
        lambda digest: base64.urlsafe_b64encode(digest).decode().rstrip("="),
        lambda digest: base64.b64encode(digest.hex().encode()).decode(),
        lambda digest: base64.b32encode(digest).decode(),
        lambda digest: base64.b64encode(digest).decode() + "=",
        lambda digest: base64.b64encode(digest).decode() + "\n",
        lambda digest: " " + base64.b64encode(digest).decode(),
        lambda digest: "sha256=" + base64.b64encode(digest).decode(),
        lambda digest: "v1," + base64.b64encode(digest).decode(),
        lambda digest: base64.b64encode(digest).decode().lower(),
        lambda digest: base64.b64encode(digest[:16]).decode(),
        lambda _: "",
        lambda _: "ß" * 44,
        lambda _: "\udcff" * 44,
    ],
    ids=[
        *("hex", "HEX", "unpadded", "urlsafe-unpadded", "base64-of-hex", "base32", "padded-twice", "line", "blank"),
        *("github", "standard-webhooks", "lower-case", "half", "empty", "beyond-ascii", "half-of-a-pair"),
    ],
)
def test_a_signature_has_one_spelling(vector: Vector, spell: object) -> None:
    """Only Base64 in the standard alphabet with padding; other encodings of the right digest are refused."""
    assert callable(spell)
    spelled = spell(base64.b64decode(vector.signature))

    reason = refusal([vector.key], vector.task_id, headers_of(vector, spelled), wall=vector.stamp)
    assert "not covered" == reason


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if set("+/") & set(vector.signature)])
def test_url_safe_base64_is_refused(vector: Vector) -> None:
    spelled = vector.signature.replace("+", "-").replace("/", "_")

    assert refusal([vector.key], vector.task_id, headers_of(vector, spelled), wall=vector.stamp) is not None


@given(st.lists(_keys, min_size=1, max_size=3), st.integers(0, 2), task_ids, _stamps)
def test_any_of_the_keys_is_accepted(keys: list[str], nth: int, task_id: str, stamp: int) -> None:
    """During a rotation, callbacks arrive with the old key and with the new one."""
    assert refusal(keys, task_id, signed(keys[nth % len(keys)], task_id, stamp), wall=stamp) is None


@given(_keys, _keys, task_ids, _stamps)
def test_another_key_is_refused(key: str, other: str, task_id: str, stamp: int) -> None:
    # HMAC fills short keys up with zeros; of keys that have none, no two are the same key.
    assume(key != other)

    assert refusal([key], task_id, signed(other, task_id, stamp), wall=stamp) is not None


@given(task_ids, task_ids, _stamps, st.integers(-300, 300))
def test_a_signature_covers_task_and_timestamp(task_id: str, other: str, stamp: int, shift: int) -> None:
    """A captured signature can be moved neither to another task nor to another time."""
    assume(stamp + shift >= 0)
    headers = signed(KEY, task_id, stamp)
    moved = {**headers, "x-webhook-timestamp": str(stamp + shift)}

    assert (other == task_id) is (refusal([KEY], other, headers, wall=stamp) is None)
    assert (shift == 0) is (refusal([KEY], task_id, moved, wall=stamp) is None)


def test_the_dot_between_id_and_time_cannot_be_moved() -> None:
    """``a.1`` at ``2`` and ``a`` at ``1.2`` give the same text; the second is refused, as ``1.2`` is not an integer."""
    headers = signed(KEY, "a.1", 2)

    assert refusal([KEY], "a.1", headers, wall=2) is None
    assert refusal([KEY], "a", {**headers, "x-webhook-timestamp": "1.2"}, wall=2) is not None


@given(st.floats(-1e6, 1e6) | st.sampled_from([-MAX_SIGNATURE_AGE, MAX_SIGNATURE_AGE, -300.5, 300.5, 0.0]))
def test_a_signature_is_valid_for_five_minutes(age: float) -> None:
    """Yesterday's replay is refused; a clock that is slightly behind or ahead is tolerated."""
    headers = signed(KEY, ID, NOW)

    assert 300.0 == MAX_SIGNATURE_AGE
    assert (refusal([KEY], ID, headers, wall=NOW + age) is None) is (abs((NOW + age) - NOW) <= 300.0)


def test_a_stale_signature_tells_the_clock_difference() -> None:
    reason = refusal([KEY], ID, signed(KEY, ID, NOW), wall=NOW + 3600.0)

    assert "the signature is 3600 s old by this machine's clock, and 300 s are allowed either way" == reason


@given(st.text(max_size=20) | st.from_regex(r"[+-]?[0-9_ ]{1,20}(\.[0-9]*)?\n?"))
@example("")
@example(f"+{NOW}")
@example(f" {NOW}")
@example(f"{NOW}\n")
@example(f"{NOW}.0")
@example("1_767_225_600")
@example("1767225600000000")
@example("9" * 5000)
@example("\N{FULLWIDTH DIGIT ONE}\N{ARABIC-INDIC DIGIT ONE}")
@example("-0")
@example("nan")
def test_a_timestamp_must_be_an_integer(stamp: str) -> None:
    """Also if it was signed like that."""
    assume(not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= 12))
    good = signed(KEY, ID, NOW)

    reason = refusal([KEY], ID, {**good, "x-webhook-timestamp": stamp})
    assert "the timestamp of the signature is not a whole number of seconds" == reason


@given(st.text(max_size=60) | st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_other_signature_is_refused(signature: str) -> None:
    """A header may hold any text, surrogates included; the only error is a refusal."""
    assume(signature != VECTORS[1].signature)

    assert refusal([KEY], ID, headers_of(VECTORS[1], signature)) is not None


@pytest.mark.parametrize("missing", [["x-webhook-timestamp"], ["x-webhook-signature"], [*signed(KEY, ID, NOW)]])
def test_an_unsigned_callback_is_refused(missing: list[str]) -> None:
    headers = {name: value for name, value in signed(KEY, ID, NOW).items() if name not in missing}

    assert "it is not signed, and webhook_key is set" == refusal([KEY], ID, headers)


@pytest.mark.parametrize("wall", [NOW, NOW + 3600.0])
@pytest.mark.parametrize("signature", ["", "ß", VECTORS[0].signature])
def test_refusals_show_neither_key_nor_signature(signature: str, wall: float) -> None:
    shown = refusal([KEY], ID, headers_of(VECTORS[1], signature), wall)

    assert shown is not None
    assert not any(secret in shown for secret in (KEY, VECTORS[1].signature))


def test_without_keys_every_signature_is_refused() -> None:
    """The caller decides if signatures are required; an empty list of keys accepts none."""
    assert refusal([], ID, signed(KEY, ID, NOW)) is not None


INPUT = '{"prompt":"a cat"}'
ECHO = {"model": "m", "input": {"prompt": "a cat", "seed": 0}}


@pytest.mark.parametrize(
    ("body", "given_input", "shown"),
    [
        (json.dumps({"data": {"param": json.dumps(ECHO)}}).encode(), INPUT, True),
        (json.dumps({"data": {"param": json.dumps({**ECHO, "model": "x"})}}).encode(), INPUT, False),
        (json.dumps({"data": {"param": json.dumps(ECHO)}}).encode(), "", False),
        (json.dumps({"data": {"param": None}}).encode(), INPUT, False),
        (json.dumps({"data": [ECHO]}).encode(), INPUT, False),
        (json.dumps([ECHO]).encode(), INPUT, False),
        (b'{"data":', INPUT, False),
        (b"\xff", INPUT, False),
        (b"[" * 200_000, INPUT, False),
    ],
)
def test_a_body_shows_the_request_if_it_echoes_model_and_input(body: bytes, given_input: str, *, shown: bool) -> None:
    row = Intent(id="kj_1", model="m", input=given_input, fingerprint="f", created_at=1.0, updated_at=1.0)

    assert shown is shows_request(body, row)
