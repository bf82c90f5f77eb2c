"""Our token in the callback URL: our own tokens are recognized, and no others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kie_async._core.callback_token import (
    CallbackToken,
    account_of,
    base_of,
    callback_secret,
    find_token,
    make_callback_url,
    make_token,
    named_job,
    verify_token,
)
from tests.core.strategies import attempts, job_ids, secrets

SECRET = b"a secret"
JOB = "kj_" + "0123456789abcdef" * 2
TOKEN = make_token(SECRET, JOB, 7)
MAC = TOKEN.rsplit(".", 1)[1]

#: API keys: printable ASCII without blanks.
_keys = st.text([chr(code) for code in range(ord("!"), ord("~") + 1)], min_size=8, max_size=64)
_segments = st.text(st.characters(exclude_characters="/?#"), max_size=10)
#: Bases of callback URLs, with and without a path, a slash at its end, and a query.
_bases = st.builds(
    lambda path, slashes, query: "/".join(["https://app.example.com", *path]) + slashes + query,
    st.lists(_segments.filter(bool), max_size=3),
    st.sampled_from(["", "/", "//"]),
    st.sampled_from(["", "?"]) | st.text("ab=&/.?%", max_size=12).map("?{}".format),
)


@given(secrets, job_ids, attempts)
def test_a_token_names_job_and_attempt(secret: bytes, job_id: str, attempt: int) -> None:
    assert CallbackToken(job_id, attempt) == verify_token(secret, make_token(secret, job_id, attempt))


@given(secrets, secrets, job_ids, attempts)
def test_a_token_of_another_secret_is_refused(first: bytes, second: bytes, job_id: str, attempt: int) -> None:
    assume(hmac.digest(first, b"", "sha256") != hmac.digest(second, b"", "sha256"))

    assert verify_token(second, make_token(first, job_id, attempt)) is None


@given(secrets, job_ids, job_ids, attempts, attempts)
def test_a_mac_covers_job_and_attempt(
    secret: bytes, job_id: str, other_id: str, attempt: int, other_attempt: int
) -> None:
    assume((job_id, attempt) != (other_id, other_attempt))
    mac = make_token(secret, job_id, attempt).rsplit(".", 1)[1]

    assert verify_token(secret, f"{other_id}.{other_attempt}.{mac}") is None


@given(st.integers(0, len(TOKEN) - 1), st.characters() | st.sampled_from("0.-_=+/ \n"), st.integers(0, 1))
def test_a_token_with_one_edit_is_refused(at: int, character: str, drop: int) -> None:
    for tampered in (TOKEN[:at] + character + TOKEN[at + drop :], TOKEN[:at] + TOKEN[at + 1 :]):
        if tampered != TOKEN:
            assert verify_token(SECRET, tampered) is None


@pytest.mark.parametrize("at", range(len(TOKEN)))
def test_every_character_of_a_token_counts(at: int) -> None:
    others = set(string.ascii_letters + string.digits + "-_.") - {TOKEN[at]}

    assert {None} == {verify_token(SECRET, TOKEN[:at] + other + TOKEN[at + 1 :]) for other in others}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        f"{TOKEN}\n",
        f" {TOKEN}",
        f"{TOKEN}=",
        TOKEN.upper(),
        f"{JOB.upper()}.7.{MAC}",
        f"{JOB}.07.{MAC}",
        f"{JOB}.+7.{MAC}",
        f"{JOB}.7.0.{MAC}",
        f"{JOB}.\N{ARABIC-INDIC DIGIT SEVEN}.{MAC}",
        f"{JOB}.\N{FULLWIDTH DIGIT SEVEN}.{MAC}",
        f"{JOB}.7\N{FULLWIDTH FULL STOP}{MAC}",
        make_token(SECRET, JOB, 0),
        make_token(SECRET, JOB, -1),
        make_token(SECRET, JOB, 1_000_000),
        make_token(SECRET, JOB.upper(), 7),
        make_token(SECRET, "f" * 32, 7),
        make_token(SECRET, f"{JOB}.7", 7),
    ],
)
def test_a_token_has_one_spelling(token: str) -> None:
    """Other spellings of the same attempt are refused, even with a matching MAC."""
    assert verify_token(SECRET, token) is None


@pytest.mark.parametrize("attempt", range(1, 200))
def test_the_mac_is_url_safe(attempt: int) -> None:
    """In the standard alphabet the same MAC may have a plus or a slash, and is refused."""
    digest = hmac.digest(SECRET, f"{JOB}.{attempt}".encode(), hashlib.sha256)
    usual = f"{JOB}.{attempt}.{base64.b64encode(digest).decode()[:22]}"
    ours = make_token(SECRET, JOB, attempt)

    assert usual.replace("+", "-").replace("/", "_") == ours
    assert (verify_token(SECRET, usual) is None) is (usual != ours)


def test_tokens_of_earlier_versions_stay_valid() -> None:
    """A create of yesterday calls back today: neither label nor format may change."""
    token = "kj_0123456789abcdef0123456789abcdef.1.Ix3IJZt2Ke3_r-LavMTUPD"

    assert token == make_token(callback_secret("kie-key"), JOB, 1)


@given(_keys, _keys)
def test_each_key_has_its_own_secret(key: str, other: str) -> None:
    secret = callback_secret(key)

    assert 32 == len(secret)
    assert (key == other) is (secret == callback_secret(other))
    assert key.encode() not in secret


# -- in URLs ------------------------------------------------------------------------------------------------------


@given(_bases, secrets, job_ids, attempts)
def test_the_token_is_found_in_its_url(base: str, secret: bytes, job_id: str, attempt: int) -> None:
    url = make_callback_url(base, secret, job_id, attempt)
    path, _, query = base.partition("?")

    assert url.startswith(path.rstrip("/") + "/kj_")
    assert query == url.partition("?")[2]
    assert CallbackToken(job_id, attempt) == find_token(secret, url)
    assert url == make_callback_url(base_of(url), secret, job_id, attempt)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://app.example.com", f"https://app.example.com/{TOKEN}"),
        ("https://app.example.com/", f"https://app.example.com/{TOKEN}"),
        ("https://app.example.com/kie", f"https://app.example.com/kie/{TOKEN}"),
        ("https://app.example.com/kie/", f"https://app.example.com/kie/{TOKEN}"),
        ("https://app.example.com/kie?a=1&b=/", f"https://app.example.com/kie/{TOKEN}?a=1&b=/"),
        ("https://app.example.com?a=1", f"https://app.example.com/{TOKEN}?a=1"),
        ("https://app.example.com/kie/?a=1?b=2", f"https://app.example.com/kie/{TOKEN}?a=1?b=2"),
    ],
)
def test_the_token_goes_to_the_end_of_the_path(base: str, url: str) -> None:
    assert url == make_callback_url(base, SECRET, JOB, 7)


@pytest.mark.parametrize("tail", ["", "?a=1", "#part", "?a=/b/c", "#/x?y", "?#", "/", "/?a=1", "/#part", "//", "///?a"])
def test_text_after_the_token_is_ignored(tail: str) -> None:
    """Also slashes: Litestar's mounts add one to every path."""
    assert CallbackToken(JOB, 7) == find_token(SECRET, f"https://app.example.com/kie/{TOKEN}{tail}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://app.example.com/kie",
        f"https://app.example.com/kie/{TOKEN}/more",
        f"https://app.example.com/kie/x{TOKEN}",
        f"https://app.example.com/kie/{TOKEN}x",
        f"https://app.example.com/kie?token={TOKEN}",
        f"https://app.example.com/kie?/{TOKEN}",
        f"https://app.example.com/kie#/{TOKEN}",
        f"https://app.example.com/kie/{TOKEN.replace('.', '%2E')}",
    ],
)
def test_a_token_elsewhere_in_a_url_does_not_count(url: str) -> None:
    assert find_token(SECRET, url) is None


@given(st.text())
def test_no_text_makes_the_search_raise(url: str) -> None:
    assert find_token(SECRET, url) is None
    assert verify_token(SECRET, url) is None


@given(st.lists(st.binary(min_size=16, max_size=32), min_size=1, max_size=4, unique=True), st.integers(0, 3))
def test_a_token_of_an_older_key_is_found_and_marked(secrets: list[bytes], number: int) -> None:
    """The present key's secret comes first; without the secret that made a token, it only names a job."""
    maker, (present, *older) = secrets[number % len(secrets)], secrets
    url = make_callback_url("https://app.example.com/kie", maker, JOB, 7)

    assert CallbackToken(JOB, 7, older=maker != present) == find_token(present, url, *older)
    assert find_token(b"none of them", url) is None
    assert named_job(url) == JOB


@pytest.mark.parametrize("url", ["", "https://app.example.com/kie", f"https://app.example.com/kie/{TOKEN}/more"])
def test_a_url_without_a_token_names_no_job(url: str) -> None:
    assert named_job(url) is None


@given(_keys, _keys)
def test_the_fingerprint_tells_keys_apart_and_nothing_else(key: str, other: str) -> None:
    """48 bits, which fit many keys, and neither begin with the key nor with the callback secret."""
    assert (key == other) is (account_of(key) == account_of(other))
    assert re.fullmatch("[0-9a-f]{12}", account_of(key))
    assert not callback_secret(key).hex().startswith(account_of(key))
