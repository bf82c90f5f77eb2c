"""The entry point: ``kie-async`` and ``python -m kie_async``."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kie_async import __version__
from kie_async.cli.exit_codes import EXIT_CODE_MEANINGS
from tests.cli.helpers import run_cli

ROOT = Path(__file__).parents[2]
COMMANDS = ["demo", "models", "generate", "batch", "status", "wait", "ls", "recover", "resolve", "resubmit", "abandon"]
COMMANDS += ["forget", "credits", "budgets", "workers", "upload", "fake"]

#: A program without one package, as if it were not installed.
PROGRAM_WITHOUT_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["kie-async", *{arguments!r}]
from kie_async.cli import main
main()
"""


@pytest.fixture(autouse=True)
def own_signal_handler() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which the entry point replaces."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def run_without_package(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``kie-async`` in a process without *package*."""
    code = PROGRAM_WITHOUT_PACKAGE.format(package=package, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_extra_prints_the_install_command(package: str) -> None:
    result = run_without_package(package, "demo")

    assert (2, "", 1) == (result.returncode, result.stdout, result.stderr.count("\n"))
    assert "pip install 'kie-async[cli]'" in result.stderr


@pytest.mark.parametrize("package", ["jinja2", "PIL"])
def test_batch_without_its_packages_sends_nothing(tmp_path: Path, package: str) -> None:
    """Other commands do not need them."""
    result = run_without_package(package, "batch", "shots.csv", "--out", str(tmp_path))

    assert 2 == result.returncode
    assert "Nothing was sent. Install it with: pip install 'kie-async[cli]'" in result.stderr
    assert 0 == run_without_package(package, "--version").returncode


def test_other_missing_packages_raise() -> None:
    """A broken installation must be visible."""
    result = run_without_package("attrs", "--version")

    assert 1 == result.returncode
    assert "kie-async[cli]" not in result.stderr


def test_demo_without_pyav_warns(tmp_path: Path) -> None:
    """All videos are the bundled clip."""
    result = run_without_package("av", "demo", "--count", "1", "--speed", "1000", "--out", str(tmp_path))

    assert 0 == result.returncode
    assert "pip install 'kie-async[fake]'" in result.stderr


def test_module_and_script_are_the_same_program() -> None:
    call = [sys.executable, "-m", "kie_async", "--version"]
    result = subprocess.run(call, capture_output=True, text=True, check=True)

    assert f"kie-async {__version__}\n" == result.stdout == run_cli("--version").out


def test_main_reads_sys_argv(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kie-async", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "kie_async" / "__main__.py"), run_name="__main__")

    assert (0, f"kie-async {__version__}\n") == (caught.value.code, capsys.readouterr().out)


def test_help_lists_commands_exit_codes_and_variables() -> None:
    shown = run_cli("--help").out

    assert [] == [command for command in COMMANDS if f" {command} " not in shown]
    assert [] == [code for code, meaning in EXIT_CODE_MEANINGS.items() if f" {code}  {meaning}" not in shown]
    assert [] == [
        name for name in ("KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL", "KIE_JOURNAL") if name not in shown
    ]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["models", "--help"], ["generate", "--help"], ["ls", "--no-journal"]]
)
def test_command_without_a_model_loads_nothing_of_the_catalogue(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom kie_async.cli import main\n"
        f"sys.argv = ['kie-async', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n    print([name for name in sys.modules if 'catalogue' in name], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert result.stderr.splitlines()[-1] == "[]"


def test_no_command_prints_the_help() -> None:
    assert "Usage: kie-async" in run_cli().out + run_cli().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "t1"], "KIE_API_KEY"),
        (["wait", "t1"], "KIE_API_KEY"),
        (["credits"], "KIE_API_KEY"),
        (["upload", "cat.png"], "KIE_API_KEY"),
        (["recover"], "KIE_API_KEY"),
        (["resolve", "kj_1", "t1"], "KIE_API_KEY"),
        (["resubmit", "kj_1", "--allow-duplicate"], "KIE_API_KEY"),
        (["abandon", "kj_1"], "KIE_API_KEY"),
        (["status"], "ID"),
        (["resolve", "kj_1"], "TASKID"),
        (["resubmit", "kj_1"], "--allow-duplicate"),
        (["forget"], "--before"),
        (["budgets", "--raise", "campaign-7"], "--credits"),
        (["budgets", "--credits", "7"], "--raise"),
        (["batch", "t.csv", "--out", "out", "--budget-name", "campaign-7"], "--budget CREDITS"),
        (["forget", "--before", "tomorrow"], "expected an age"),
        (["ls", "--state", "lost"], "lost"),
        (["upload"], "FILE"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_missing_key_or_argument_is_a_usage_error(arguments: list[str], said: str) -> None:
    result = run_cli(*arguments)

    assert (2, "") == (result.code, result.out)
    assert said in result.err


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KIE_API_KEY": "with blanks in it"}, "printable ASCII"),
        ({"KIE_API_KEY": "good-enough", "KIE_BASE_URL": "ftp://example.com"}, "base_url"),
    ],
)
def test_invalid_environment_is_a_usage_error(environment: dict[str, str], said: str) -> None:
    result = run_cli("credits", **environment)

    assert (2, True) == (result.code, said in result.err)
    assert "with blanks in it" not in result.err


def test_invalid_id_is_a_usage_error() -> None:
    result = run_cli("status", "--no-journal", "no/id", KIE_API_KEY="good-enough")

    assert (2, True) == (result.code, "Invalid id 'no/id'" in result.err)
