"""Bad input: one clear error, and no request to the service."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from kie_async import (
    ConfigurationError,
    InvalidRequestError,
    KieClient,
    KieError,
    Limits,
    Request,
    RetryPolicy,
    SubmitInDoubtError,
    UploadError,
)
from kie_async.testing import Fault
from tests.helpers import KEY, assert_settled, client_and_fake, make_request
from tests.requests.bad_inputs import BAD_INPUTS, BadInput
from tests.requests.samples import GIF, png_of

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async.testing import Truth


def assert_untouched(truth: Truth) -> None:
    """Check that the service received nothing."""
    assert ([], [], [], 0) == (truth.create_requests, truth.uploads, truth.polls, truth.connections)


def assert_clear(message: str) -> None:
    """Check that a message is one short line without private content."""
    assert "\n" not in message
    assert message.isprintable()
    assert 20 < len(message) < 700
    assert KEY not in message


async def build(bad: BadInput, folder: Path) -> Request:
    """Build a request in a thread, because that may read and write files."""
    return await anyio.to_thread.run_sync(bad.build, folder)


@pytest.mark.parametrize("call", ["generate", "submit"])
@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name[:40])
async def test_bad_input_is_refused_unsent(bad: BadInput, call: str, tmp_path: Path) -> None:
    async with client_and_fake() as setup:
        with pytest.raises((InvalidRequestError, TypeError)) as raised:
            await getattr(setup.kie, call)(await build(bad, tmp_path), key="order 7")

        assert bad.field in str(raised.value)
        assert bad.says in str(raised.value)
        assert_clear(str(raised.value))
        assert_untouched(setup.truth)
        assert [] == await setup.rows()
        await assert_settled(setup.kie)


async def test_all_problems_are_reported_at_once() -> None:
    async with client_and_fake() as setup:
        request = make_request(prompt="", seed=-1, resolution="1080p", image="http://127.0.0.1/cat.png")
        with pytest.raises(InvalidRequestError) as raised:
            await setup.kie.generate(request)

        assert ["image", "prompt", "resolution", "seed"] == [problem.field for problem in raised.value.problems]
        assert "4 problems" in str(raised.value)
        assert_untouched(setup.truth)


async def test_bad_input_leaves_its_key_free() -> None:
    """The corrected request can use the same key."""
    async with client_and_fake() as setup:
        with pytest.raises(InvalidRequestError):
            await setup.kie.generate(make_request(seed=-1), key="order 7")
        await setup.kie.generate(make_request(seed=1), key="order 7")

        assert 1 == len(setup.truth.create_requests)


@pytest.mark.parametrize(
    "request_",
    ["The cat turns its head", None, {"prompt": "x"}, make_request, type(make_request())],
    ids=["text", "none", "dict", "function", "class"],
)
async def test_non_request_is_refused(request_: Any) -> None:
    async with client_and_fake() as setup:
        with pytest.raises((TypeError, KieError), match="request") as raised:
            await setup.kie.generate(request_)

        assert_clear(str(raised.value))
        assert_untouched(setup.truth)
        await assert_settled(setup.kie)


@pytest.mark.parametrize(
    "key",
    ["", "x" * 513, 7, b"order 7", 1.5, ["a"], "\ud83d"],
    ids=["empty", "513 characters", "a number", "bytes", "a fraction", "a list", "half a surrogate pair"],
)
async def test_bad_key_is_refused_unsent(key: Any) -> None:
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match="key=") as raised:
            await setup.kie.submit(make_request(), key=key)

        assert "\n" not in str(raised.value)
        assert_untouched(setup.truth)
        assert [] == await setup.rows()
        await assert_settled(setup.kie)


@pytest.mark.parametrize("key", ["7", "x" * 512, "bestellung 7 für Zoë", "a\nb", "🐈", " "])
async def test_any_short_string_is_a_key(key: str) -> None:
    async with client_and_fake() as setup:
        first = await setup.kie.submit(make_request(), key=key)
        second = await setup.kie.submit(make_request(), key=key)
        assert first.id == second.id


@pytest.mark.parametrize(
    "job_id",
    ["", " ", "a b", "a/b", "../a", "a?b=c", "a#b", "a%2fb", "a\n", "a\0", "é", "x" * 257, None, 7, b"a", ["a"]],
    ids=repr,
)
async def test_bad_id_is_refused_without_a_request(job_id: Any) -> None:
    """An id becomes part of a URL and of log lines, and must not break out of either."""
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match="Invalid id"):
            setup.kie.job(job_id)
        assert_untouched(setup.truth)


@pytest.mark.parametrize("task_id", ["", "a b", "a/b", "a?b", "a\n", None, 7], ids=repr)
async def test_resolve_refuses_bad_task_id(task_id: Any) -> None:
    async with client_and_fake(faults=[Fault("create", "reset", after=True)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        with pytest.raises(ConfigurationError, match="Invalid id"):
            await raised.value.job.resolve(task_id)

        assert [] == setup.truth.polls
        assert "in_doubt" == raised.value.job.state


@pytest.mark.parametrize(
    "source",
    [GIF, b"", "cat.png", png_of(10 * 1024 * 1024 + 1), "https://example.com/cat.png", None, 7],
    ids=["gif", "empty", "no such file", "10 MB and a byte", "a URL", "None", "a number"],
)
async def test_bad_upload_is_refused_unsent(source: Any) -> None:
    async with client_and_fake() as setup:
        with pytest.raises((InvalidRequestError, UploadError)) as raised:
            await setup.kie.upload(source)

        assert_clear(str(raised.value))
        assert_untouched(setup.truth)


@pytest.mark.parametrize(
    "key",
    ["", " ", "a b", "schlüssel", "a\nb", "a\r\nX-Injected: 1", "a\0b", "x" * 513, 7, b"key", ["key"]],
    ids=repr,
)
def test_malformed_api_key_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="API key") as raised:
        KieClient(key)

    assert "\n" not in str(raised.value)
    assert len(str(key)) < 3 or str(key) not in str(raised.value)


def test_missing_api_key_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIE_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="KIE_API_KEY"):
        KieClient()
    monkeypatch.setenv("KIE_API_KEY", "")
    with pytest.raises(ConfigurationError, match="KIE_API_KEY"):
        KieClient()
    monkeypatch.setenv("KIE_API_KEY", KEY)
    assert KEY not in repr(KieClient())


@pytest.mark.parametrize("name", ["base_url", "upload_url", "callback_url"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "api.kie.ai",
        "//api.kie.ai",
        "ftp://api.kie.ai",
        "file:///etc/passwd",
        "http://",
        "https://:443",
        "https://api.kie.ai:99999",
        "https://api.kie.ai:x",
        "https://api.kie.ai/#top",
        "https://api.kie .ai",
        "https://api.kie.ai/\r\nX-Injected: 1",
        "https://[::1",
        7,
        b"https://api.kie.ai",
    ],
    ids=repr,
)
def test_invalid_url_is_refused(name: str, url: Any) -> None:
    with pytest.raises(ConfigurationError, match=name) as raised:
        KieClient(KEY, **{name: url})
    assert_clear(str(raised.value))


@pytest.mark.parametrize("name", ["base_url", "upload_url"])
@pytest.mark.parametrize("url", ["https://user:secret@api.kie.ai", "https://api.kie.ai?key=secret"])
def test_base_url_with_user_or_query_is_refused(name: str, url: Any) -> None:
    with pytest.raises(ConfigurationError, match=name) as raised:
        KieClient(KEY, **{name: url})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["base_url", "upload_url"])
@pytest.mark.parametrize(
    "url", ["http://localhost:0", "http://a\\\\b", "http://@localhost", "http://[::1]x", "http://a:1:2"]
)
def test_base_url_without_an_origin_is_refused(name: str, url: Any) -> None:
    """It would fail at the first request otherwise, with an error that is no ``KieError``."""
    with pytest.raises(ConfigurationError, match=f"Invalid {name}"):
        KieClient(KEY, **{name: url})


@pytest.mark.parametrize("variable", ["KIE_BASE_URL", "KIE_UPLOAD_URL"])
def test_bad_url_in_environment_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "api.kie.ai")
    with pytest.raises(ConfigurationError, match=r"api\.kie\.ai"):
        KieClient(KEY)


_NUMBERS = (0, -1, math.nan, math.inf, "10", None, True)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((Limits, "creates", value) for value in (*_NUMBERS, 1.5)),
        *((Limits, "window", value) for value in _NUMBERS),
        *((Limits, "in_flight", value) for value in (*_NUMBERS, 1.5)),
        *((Limits, "polls_per_second", value) for value in _NUMBERS),
        *((RetryPolicy, "server_error_attempts", value) for value in (*_NUMBERS, 1.5)),
        *((RetryPolicy, "on_server_error", value) for value in ("reconcile", "", None, True)),
        *((RetryPolicy, "unsent_timeout", value) for value in _NUMBERS if value != 0),
        *((RetryPolicy, "maintenance_timeout", value) for value in _NUMBERS if value != 0),
        *((RetryPolicy, "in_doubt_timeout", value) for value in _NUMBERS),
        *((RetryPolicy, "max_age", value) for value in _NUMBERS),
    ],
)
def test_invalid_limits_and_policies_are_refused(kind: Any, name: str, value: object) -> None:
    """The message quotes the option and says what is allowed."""
    with pytest.raises(ConfigurationError) as raised:
        kind(**{name: value})
    assert f"{kind.__name__}({name}={value!r})" in str(raised.value)
    assert "expected " in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Limits(20),  # type: ignore[call-arg]  # the point
        lambda: Limits(create=20),  # type: ignore[call-arg]  # the point
        lambda: RetryPolicy(attempts=3),  # type: ignore[call-arg]  # the point
        lambda: KieClient(KEY, timeout=5.0),  # type: ignore[call-arg]  # the point
        lambda: KieClient(KEY, "https://api.kie.ai"),  # type: ignore[call-arg]  # the point
    ],
)
def test_unknown_options_are_refused(call: Any) -> None:
    with pytest.raises(TypeError):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [("limits", 20), ("limits", {"creates": 20}), ("retry", 3), ("retry", Limits()), ("download_hosts", "kie.ai")],
)
def test_options_of_wrong_type_are_refused(name: str, value: Any) -> None:
    """A string instead of a list of hosts would be read as its characters."""
    with pytest.raises((ConfigurationError, TypeError), match=name):
        KieClient(KEY, **{name: value})
