"""The options that several commands share, and the journal that they select."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalDatabase, JournalFile, select_journal
from tests.cli.helpers import run_cli
from tests.client.canaries import canaries_in


def test_chosen_journal_needs_an_option() -> None:
    assert JournalFile(Path("a b.db"), option=" --journal 'a b.db'") == select_journal("a b.db")


@pytest.mark.parametrize(
    ("state", "place"), [("{home}/state", "state"), ("", ".local/state"), ("state", ".local/state")]
)
def test_default_journal_is_in_the_state_directory(state: str, place: str, tmp_path: Path) -> None:
    """The XDG specification ignores a relative state directory."""
    result = run_cli("ls", "--json", XDG_STATE_HOME=state.format(home=tmp_path), HOME=str(tmp_path))

    assert 0 == result.code
    assert (tmp_path / place / "kie-async" / "journal.db").is_file()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.kie.ai", "journal.db"),
        ("HTTPS://API.KIE.AI:443/", "journal.db"),
        ("http://127.0.0.1:8100", "journal-127.0.0.1_8100.db"),
        ("http://127.0.0.1:8101/", "journal-127.0.0.1_8101.db"),
        ("https://proxy.example.com/kie", "journal-proxy.example.com_kie.db"),
        ("http://[::1]:8100", "journal-_1_8100.db"),
        (f"http://localhost/{'long/' * 200}", f"journal-{('localhost_' + 'long_' * 200)[:100]}.db"),
    ],
)
def test_each_service_has_a_default_journal_of_its_own(url: str, name: str, tmp_path: Path) -> None:
    result = run_cli("ls", "--json", XDG_STATE_HOME=str(tmp_path), KIE_BASE_URL=url)

    assert 0 == result.code
    assert [name] == [file.name for file in (tmp_path / "kie-async").iterdir() if file.suffix == ".db"]


def test_invalid_base_url_is_reported(tmp_path: Path) -> None:
    result = run_cli("ls", "--json", XDG_STATE_HOME=str(tmp_path), KIE_BASE_URL="http://localhost:99999")

    assert 2 == result.code
    assert "Invalid base_url" in result.err


def test_journal_of_the_environment_needs_no_option(tmp_path: Path) -> None:
    """The next command has the same environment."""
    file = tmp_path / "kie.db"
    result = run_cli("status", "kj_1", KIE_API_KEY="good-enough", KIE_JOURNAL=str(file))

    assert (1, True) == (result.code, file.is_file())
    assert f"--journal {file}" not in result.err


def test_journal_option_overrides_the_environment(tmp_path: Path) -> None:
    run_cli("ls", "--journal", str(tmp_path / "one.db"), KIE_JOURNAL=str(tmp_path / "two.db"))

    assert (True, False) == ((tmp_path / "one.db").exists(), (tmp_path / "two.db").exists())


def test_no_journal_creates_no_file(tmp_path: Path) -> None:
    result = run_cli("status", "--no-journal", "kj_1", KIE_API_KEY="good-enough", KIE_JOURNAL=str(tmp_path / "kie.db"))

    assert (1, []) == (result.code, list(tmp_path.iterdir()))


def test_fake_option_creates_no_journal(tmp_path: Path) -> None:
    bad_input = run_cli("generate", "--fake", "-i", "no.png", "-p", "x", KIE_JOURNAL=str(tmp_path / "kie.db"))

    assert (2, []) == (bad_input.code, list(tmp_path.iterdir()))


def test_missing_journal_folder_is_reported(tmp_path: Path) -> None:
    result = run_cli("ls", "--json", "--journal", str(tmp_path / "no" / "kie.db"))

    assert (2, "") == (result.code, result.out)
    assert str(tmp_path / "no") in result.err
    assert json.dumps("Traceback") not in result.err


@pytest.mark.parametrize("value", ["fake", "198.18.0.1/15", "198.18.0.0/15,::/200"])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--model", "m", "--input", "{}", "--no-journal"],
        ["wait", "t1", "--no-journal"],
        ["recover", "--journal", "{folder}/kie.db"],
        ["batch", "{folder}/table.csv", "--out", "{folder}/out", "--yes", "--journal", "{folder}/kie.db"],
    ],
    ids=lambda command: command[0],
)
def test_invalid_network_is_refused_before_anything_is_sent(command: list[str], value: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image,prompt\nhttps://example.com/a.png,Go\n")
    arguments = [part.replace("{folder}", str(tmp_path)) for part in command]
    result = run_cli(
        *arguments, "--allow-networks", value, KIE_API_KEY="good-enough", KIE_BASE_URL="http://127.0.0.1:1"
    )

    assert 2 == result.code
    assert "Invalid allow_networks" in result.err


def test_networks_reach_the_client(tmp_path: Path) -> None:
    result = run_cli(
        *("recover", "--journal", str(tmp_path / "kie.db"), "--allow-networks", "198.18.0.0/15, fd00:1::/64"),
        *("--allow-networks", "10.0.0.0/8"),
        KIE_API_KEY="good-enough",
        KIE_BASE_URL="http://127.0.0.1:1",
    )

    assert 0 == result.code


@pytest.mark.parametrize("name", [":memory:", "file::memory:", "sqlite:///kie.db", " "])
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_journal_in_memory_is_refused_with_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_environment: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen, environment = ([], {"KIE_JOURNAL": name}) if by_environment else (["--journal", name], {})
    result = run_cli("ls", *chosen, KIE_API_KEY="good-enough", **environment)

    assert ExitCode.USAGE == result.code, result.err
    assert "or --no-journal" in result.err
    assert [] == list(tmp_path.iterdir())


SECRET = "canary-of-the-dsn"


@pytest.mark.parametrize(
    ("dsn", "option", "shown"),
    [
        ("postgresql://app@db/app", " --journal postgresql://app@db/app", "postgresql://app@db/app"),
        (
            "postgres://app@db/app?service=a",
            " --journal 'postgres://app@db/app?service=a'",
            "postgresql://app@db/app?service=a",
        ),
        (f"postgresql://app:{SECRET}@db/app", " --journal DSN", "postgresql://app@db/app"),
        (f"postgresql://app@db/app?password={SECRET}", " --journal DSN", "postgresql://app@db/app"),
        (f"postgresql://app:{SECRET}@x@db/app", " --journal DSN", "PostgreSQL"),
    ],
)
def test_option_for_a_dsn_has_no_password(dsn: str, option: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With KIE_JOURNAL, no option is needed: the next command has the same environment."""
    selected = select_journal(dsn)
    monkeypatch.setenv("KIE_JOURNAL", dsn)
    by_environment = select_journal(dsn)

    assert isinstance(selected, JournalDatabase)
    assert isinstance(by_environment, JournalDatabase)
    assert (option, shown) == (selected.option, str(selected))
    assert ("", shown) == (by_environment.option, str(by_environment))
    assert (option == " --journal DSN", False) == (selected.shows_secret, by_environment.shows_secret)
    assert [] == canaries_in(selected, (SECRET,))


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"postgresql://app:{SECRET}@x@db/app", "percent-encode special characters"),
        (f"mysql://app:{SECRET}@db/app", "expected the path of a file, or postgresql://"),
        (f"redis://:{SECRET}@db", "expected the path of a file, or postgresql://"),
        (f"host=db password={SECRET}", "expected the path of a file, or postgresql://"),
        (f"postgresql+psycopg://app:{SECRET}@db/app", "expected the path of a file, or postgresql://"),
    ],
)
@pytest.mark.parametrize("command", [["ls"], ["--verbose", "status", "kj_1"]], ids=["ls", "status"])
def test_a_refused_dsn_is_not_printed(command: list[str], dsn: str, expected: str, *, by_environment: bool) -> None:
    chosen, environment = ([], {"KIE_JOURNAL": dsn}) if by_environment else (["--journal", dsn], {})
    result = run_cli(*command, *chosen, KIE_API_KEY="good-enough", **environment)

    assert ExitCode.USAGE == result.code, result.err
    assert expected in result.err
    assert SECRET not in result.out + result.err


def test_a_password_in_the_command_line_is_warned_of() -> None:
    dsn = f"postgresql://app:{SECRET}@/app?host=/nonexistent"
    given = run_cli("ls", "--journal", dsn)
    by_environment = run_cli("ls", KIE_JOURNAL=dsn)

    assert "Set KIE_JOURNAL to the DSN instead" in given.err
    assert "Set KIE_JOURNAL" not in by_environment.err
    assert SECRET not in given.err + by_environment.err
