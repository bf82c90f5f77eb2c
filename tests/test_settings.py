"""The configuration of a client: keys, URLs and options."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import ConfigurationError, KieClient, SqliteJournal
from kie_async._settings import read_webhook_keys
from tests.client.canaries import canaries_in, frames_of

_keys = st.text(
    st.characters(codec="ascii", exclude_characters="\"'`", min_codepoint=33, max_codepoint=126), min_size=1
)


@given(st.lists(_keys, max_size=4), st.sampled_from([list, tuple]))
def test_webhook_keys_keep_their_order(keys: list[str], kind: type) -> None:
    """The service makes the keys, so any characters are kept that no paste adds."""
    assert tuple(keys) == read_webhook_keys(kind(keys))


@given(_keys)
def test_one_webhook_key_may_be_a_string(key: str) -> None:
    """A string is one key, not a list of characters."""
    assert (key,) == read_webhook_keys(key)


@given(_keys, _keys, st.sampled_from("\"'`"))
def test_a_webhook_key_may_have_quotes_inside(before: str, after: str, quote: str) -> None:
    assert (before + quote + after,) == read_webhook_keys(before + quote + after)


@pytest.mark.parametrize(
    "around", ["{}\n", "{}\r\n", " {}", "{} ", "\t{}", "{}\0", '"{}"', "'{}'", "`{}`", '"{}', "{}'"]
)
@pytest.mark.parametrize("place", ["argument", "list", "environment", "API key", "API key of the environment"])
def test_a_key_with_something_pasted_is_refused_and_not_shown(
    around: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every genuine callback would be refused with 401, and every request with such an API key."""
    key = around.format("canary")
    if place.endswith("environment") and "\0" in key:
        key = "canary\x7f"  # the environment cannot hold a NUL
    monkeypatch.setenv("KIE_API_KEY", key if place == "API key of the environment" else "good")
    monkeypatch.setenv("KIE_WEBHOOK_KEY", key if place == "environment" else "good")
    places: dict[str, dict[str, Any]] = {"argument": {"webhook_key": key}, "list": {"webhook_key": ["good", key]}}
    with pytest.raises(ConfigurationError, match="without quotes around it") as raised:
        KieClient(key if place == "API key" else None, **places.get(place, {}))

    assert "canary" not in str(raised.value)


def test_webhook_keys_may_be_a_set() -> None:
    assert {"new", "old"} == set(read_webhook_keys({"new", "old"}))


@pytest.mark.parametrize(
    ("given_key", "environment", "keys"),
    [
        (None, None, ()),
        (None, "", ()),
        (None, "of-the-environment", ("of-the-environment",)),
        ("given", "of-the-environment", ("given",)),
        ([], "of-the-environment", ()),
    ],
)
def test_webhook_key_argument_precedes_environment(
    given_key: str | None, environment: str | None, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list means unsigned callbacks and overrides the environment."""
    if environment is None:
        monkeypatch.delenv("KIE_WEBHOOK_KEY", raising=False)
    else:
        monkeypatch.setenv("KIE_WEBHOOK_KEY", environment)

    assert keys == read_webhook_keys(given_key)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        [""],
        ["canary", ""],
        [None],
        ["canary", 5],
        b"canary",
        [b"canary"],
        5,
        True,
        object(),
        ["\ud800"],
        "schlüssel-canary",
        "\N{LEFT DOUBLE QUOTATION MARK}canary\N{RIGHT DOUBLE QUOTATION MARK}",
        "\N{NO-BREAK SPACE}canary",
        "\N{ZERO WIDTH NO-BREAK SPACE}canary",
        "canary canary",
        "canary\ncanary",
        '"',
        " ",
        "canary" * 100,
        "canary\udfff",
    ],
)
def test_invalid_webhook_keys_are_refused_and_not_shown(wrong: Any) -> None:
    """Anyone could sign with an empty key, and half of a surrogate pair cannot be encoded."""
    with pytest.raises(ConfigurationError) as raised:
        read_webhook_keys(wrong)

    assert str(raised.value).startswith("Invalid webhook_key: expected the webhookHmacKey from kie.ai/settings")
    assert str(raised.value).endswith("Omit webhook_key if the account has none.")
    assert "canary" not in str(raised.value)


def test_relative_paths_do_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may change its directory. Its journal and lock folder must not move."""
    monkeypatch.chdir(tmp_path)
    configured = SqliteJournal("kie.db")
    monkeypatch.chdir("/")

    assert tmp_path / "kie.db" == configured.path


@pytest.mark.parametrize(
    "name",
    [
        ":memory:",
        " :Memory: ",
        "file::memory:",
        "file::memory:?cache=shared",
        "file:kie.db?mode=memory",
        "FILE:///srv/kie.db",
        "sqlite:///kie.db",
        "sqlite+aiosqlite:///:memory:",
        "postgresql+asyncpg://user:canary-of-the-dsn@db.example.com/kie",
        "mysql://user:canary-of-the-dsn@db.example.com/kie",
        "host=db.example.com password=canary-of-the-dsn",
        "postgresql:user:canary-of-the-dsn@db.example.com/kie",
        "user:canary-of-the-dsn@db.example.com/kie",
        "",
        " ",
        "\n",
        Path(":memory:"),
        Path("./file::memory:"),
        Path("sqlite:///canary.db"),
    ],
)
@pytest.mark.parametrize("place", [SqliteJournal, lambda name: KieClient("a-key", journal=name)])
def test_a_journal_that_names_no_file_is_refused(name: str | Path, place: Callable[[str | Path], object]) -> None:
    """It would be a file of that name, which no other program finds again, in whatever folder the process runs."""
    with pytest.raises(
        ConfigurationError,
        match=r"expected the path of a file, or postgresql://user@host:5432/database .* in memory, pass journal=None",
    ) as raised:
        place(name)

    assert "canary" not in str(raised.value)
    if place is not SqliteJournal:
        assert [] == canaries_in(dict(frames_of(raised.value)), ("canary-of-the-dsn",))


@pytest.mark.parametrize(
    "name", ["kie.db", "./:memory:", "a:b.db", "memory", "profile:7.db", "C:/kie.db", "x/file:kie.db"]
)
def test_a_journal_may_have_any_name_of_a_file(name: str, tmp_path: Path) -> None:
    assert tmp_path / name == SqliteJournal(tmp_path / name).path
    assert Path(name).absolute() == SqliteJournal(name).path


async def _handle(_event: object) -> None: ...


async def _stream(_event: object) -> AsyncIterator[None]:
    yield


def _generate(_event: object) -> Iterator[None]:
    yield


class _Handler:
    async def __call__(self, _event: object) -> None: ...

    async def handle(self, _event: object) -> None: ...

    @staticmethod
    async def static(_event: object) -> None: ...

    @classmethod
    async def of_class(cls, _event: object) -> None: ...

    def plain(self, _event: object) -> None: ...


@pytest.mark.parametrize("option", ["on_event", "session_factory"])
@pytest.mark.parametrize(
    "wrong",
    [
        _handle,
        _stream,
        _generate,
        _Handler(),
        _Handler().handle,
        _Handler.static,
        _Handler.of_class,
        partial(_handle),
        partial(partial(_Handler(), 1), 2),
        partial(_Handler.handle, _Handler()),
        AsyncMock(),
        7,
        "print",
        [print],
        object(),
    ],
)
def test_a_hook_that_would_never_run_is_refused(option: str, wrong: Any) -> None:
    """Nothing awaits the result of ``on_event``, so an async function would only be called, and never run."""
    with pytest.raises(ConfigurationError, match=f"Invalid {option}: expected a .*function, got "):
        KieClient("a-key", **{option: wrong})


@pytest.mark.parametrize(
    "plain", [print, _Handler().plain, [].append, partial(print, end=""), Mock(), lambda _: None, dict]
)
def test_a_plain_hook_is_accepted(plain: Any) -> None:
    KieClient("a-key", on_event=plain, session_factory=plain)


def test_unknown_store_inputs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid SqliteJournal\(store_inputs='none'\): expected 'full' or"):
        SqliteJournal("kie.db", store_inputs="none")  # type: ignore[arg-type]


@pytest.mark.parametrize("journal", [7, b"kie.db", object(), ["kie.db"]])
def test_journal_must_be_a_path_or_a_configuration(journal: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid SqliteJournal\(path=.*expected a string or a path"):
        KieClient("a-key", journal=journal)


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 65, "é", None, 7, b"default", "a/b"])
def test_an_account_has_a_plain_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid account=.*expected 1 to 64 letters"):
        KieClient("sk-test-key", account=name)
    KieClient("sk-test-key", account="team-2.eu_west")
