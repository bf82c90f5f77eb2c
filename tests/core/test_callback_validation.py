"""Callback checks: the one task that the body names, and a recent signature of the service."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kie_async._core.callback_validation import MAX_BODY, MAX_SIGNATURE_AGE, check_signature, read_task_id
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
    """Return the reason reason a signature is refused (with status 401), or None."""
    try:
        check_signature(keys, task_id, headers, wall=wall)
    except CallbackRejectedError as error:
        if error.status != 401:
            raise
        return error.message
    return None


def unread(body: bytes) -> tuple[int, str]:
    """Return the status and the reason with which a body is refused."""
    with pytest.raises(CallbackRejectedError) as raised:
        read_task_id(body)
    return raised.value.status, raised.value.message


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

    assert task_id == read_task_id(body_of(*places, task_id=task_id, others=others))


@given(task_ids, task_ids, st.permutations(PLACES))
def test_two_different_ids_are_refused(first: str, second: str, places: list[str]) -> None:
    """The signature covers one id: a second one in the body would be accepted unsigned."""
    assume(first != second)
    document: dict[str, dict[str, str]] = {"": {}, "data": {}}
    for place, task_id in zip(places, (first, second, first), strict=True):
        document["data" if place.startswith("data.") else ""][place.removeprefix("data.")] = task_id

    assert (400, "the body names two tasks") == unread(json.dumps({**document[""], "data": document["data"]}).encode())


@given(st.binary(max_size=200) | json_values().map(json.dumps).map(str.encode) | st.text().map(str.encode))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b'"taskId"')
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """An id is 1 to 256 letters, digits and ``_ . : -``."""
    task_id = "no task"
    with suppress(CallbackRejectedError):
        task_id = read_task_id(body)

    assert task_id == "no task" or (re.fullmatch(r"[A-Za-z0-9_.:-]{1,256}", task_id) and task_id.encode() in body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        body_of("taskId")[:-1],
        b"taskId=abc",
        b"\xff\xfe{}",
        body_of("taskId").decode().encode("utf-16"),
        b'{"taskId":"a\xff"}',
        b"[" * 100_000,
        b'{"data":' * 25_000 + b"1" + b"}" * 25_000,
        b'{"taskId":"abc","data":' + b"[" * 65 + b"]" * 65 + b"}",
    ],
    ids=["empty", "brace", "truncated", "form", "no-utf8", "utf16", "half-utf8", "lists", "objects", "just-too-deep"],
)
def test_invalid_json_is_refused(body: bytes) -> None:
    assert (400, "the body is not JSON in UTF-8") == unread(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"5",
        b'"abc"',
        b'[{"taskId":"abc"}]',
        b'{"data":[{"taskId":"abc"}]}',
        b'{"data":null}',
        body_of("task_id"),
        body_of("data.id"),
        body_of("data.recordId"),
        body_of("id"),
        body_of("data.TaskId"),
        *(body_of("taskId", task_id=value) for value in NO_IDS),
        b'{"taskId":' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_without_a_task_is_refused(body: bytes) -> None:
    """An id in another place does not count: the service signs the one that its documentation names."""
    assert (400, "the body names no task") == unread(body)


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        (body_of("data.taskId"), ID),
        (body_of(*PLACES), ID),
        (b"\xef\xbb\xbf" + body_of("taskId"), ID),
        (b'\r\n {"taskId" : "abc"} \n', "abc"),
        (b'{"taskId":"first","taskId":"last"}', "last"),
        (b'{"taskId":1765172522239}', "1765172522239"),
        (b'{"taskId":5,"data":{"task_id":"5"}}', "5"),
        (b'{"taskId":null,"data":{"taskId":"abc","task_id":""}}', "abc"),
        (b'{"taskId":"abc","data":[1]}', "abc"),
        (b'{"taskId":"abc","data":"{\\"taskId\\":\\"inner\\"}"}', "abc"),
        (b'{"taskId":"abc","data":{"x":NaN,"y":1e999,"z":' + b"9" * 5000 + b"}}", "abc"),
        (b'{"taskId":"abc","data":' + b"[" * 63 + b"]" * 63 + b"}", "abc"),
    ],
)
def test_a_body_with_one_task_is_read(body: bytes, task_id: str) -> None:
    assert task_id == read_task_id(body)


def test_the_largest_body_has_256_kib() -> None:
    whole = body_of("taskId").ljust(MAX_BODY)

    assert 262_144 == MAX_BODY
    assert ID == read_task_id(whole)
    assert (413, "the body is larger than 262144 bytes") == unread(whole + b" ")
    assert 413 == unread(b"\xff" * 300_000)[0]  # nothing of it is read


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
    assert "the signature was not made with webhook_key" == reason


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
