"""Fixtures and hooks of the whole suite: virtual time, checks for blocking calls and leftovers, no skipped tests."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it says nothing of its types

from kie_async.testing.clock import GRACE_TURNS, VirtualLoop, pending_tasks
from tests import profile
from tests.figures import RunFigures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from xdist.remote import Producer  # type: ignore[import-untyped]  # see above

profile.load_hypothesis_profile()

#: The least faulthandler_timeout at which nightly tests run, in seconds.
_NIGHTLY_TIMEOUT = 1800

#: Tests below these folders run on the platform's own loop and clock.
REAL_TIME_FOLDERS = frozenset({"fleet", "real_time", "system_tools"})


def runs_in_real_time(request: pytest.FixtureRequest) -> bool:
    """Tell whether the requesting test runs on the platform's own loop and clock."""
    return not REAL_TIME_FOLDERS.isdisjoint(request.path.parts)


#: Tests whose code runs in other processes, or only repeats code that others cover: measuring them would cost minutes.
UNMEASURED_FOLDERS = frozenset({"fleet", "fuzz", "real_time", "simulation", "system_tools", "hostile"})
UNMEASURED_FILES = frozenset(
    {
        "test_api_key_change.py",
        "test_bad_input.py",
        "test_callback_attacks.py",
        "test_callback_bodies.py",
        "test_callback_warnings.py",
        "test_callbacks_fallback.py",
        "test_callbacks_in_doubt.py",
        "test_callbacks_other_process.py",
        "test_callbacks_workers.py",
        "test_cancellation.py",
        "test_docs.py",
        "test_folder.py",
        "test_gateways.py",
        "test_given_up.py",
        "test_hostile_words.py",
        "test_interleaving.py",
        "test_journal_failures.py",
        "test_limits.py",
        "test_lives.py",
        "test_lost_answers.py",
        "test_lost_answers_journaled.py",
        "test_manifest.py",
        "test_map_budget.py",
        "test_map_concurrently.py",
        "test_map_files.py",
        "test_map_list_prices.py",
        "test_map_price_classes.py",
        "test_map_restarts.py",
        "test_map_stopping.py",
        "test_map_threads.py",
        "test_media_sources.py",
        "test_polling.py",
        "test_refusals.py",
        "test_results.py",
        "test_secrets.py",
        "test_services.py",
        "test_shared_limits.py",
        "test_shares.py",
        "test_shown_files.py",
        "test_sqlite.py",
        "test_stateful_client.py",
        "test_task_factories.py",
        "test_unwritten.py",
        "test_uploads.py",
    }
)
#: Folders whose tests share an expensive fixture: one worker runs all of them.
GROUPED_FOLDERS = frozenset({"examples", "browser"})


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]  # see above
    """Tests one by one to the next free worker, but those of a grouped folder to one."""

    def _split_scope(self, nodeid: str) -> str:
        folders = GROUPED_FOLDERS.intersection(nodeid.partition("::")[0].split("/"))
        return min(folders, default=nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling | None:
    """Keep groups of tests on one worker: pytest-xdist 3.8 does not see the marks of pytest 9.2."""
    return FolderScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leave tests out of the coverage measurement; pytest-cov's marker has no effect in the workers of pytest-xdist."""
    trace, threads_trace = sys.gettrace(), threading.gettrace()
    if UNMEASURED_FOLDERS.isdisjoint(item.path.parts) and item.path.name not in UNMEASURED_FILES:
        return (yield)
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)
        threading.settrace(threads_trace)


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Select the event loop: virtual time, except below ``REAL_TIME_FOLDERS``."""
    return "asyncio", {} if runs_in_real_time(request) else {"loop_factory": VirtualLoop}


@pytest.fixture(autouse=True)
def watched(request: pytest.FixtureRequest) -> None:
    """Require that async tests clean up after themselves and, on virtual time, do not block the loop."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("nothing_left_behind")
        if not runs_in_real_time(request):
            request.getfixturevalue("nothing_blocks")


@pytest.fixture
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fail the test if it or its fixtures leave a task pending or an async generator open."""
    yield
    for _ in range(GRACE_TURNS):
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    left = loop.leftovers() if isinstance(loop, VirtualLoop) else pending_tasks(loop)
    # This fixture and the task of anyio's test runner that runs it are not leftovers.
    own = ("async generator nothing_left_behind", "TestRunner._call_in_runner_task")

    assert [] == [text for text in left if not any(name in text for name in own)]


@pytest.fixture
def nothing_blocks() -> Iterator[None]:
    """Raise ``BlockingError`` where the package makes a call that blocks the loop."""
    with blockbuster_ctx("kie_async", excluded_modules=["kie_async.testing.clock"]) as detector:
        # os.getcwd() does not wait: a client makes the path of its journal absolute.
        detector.functions["os.getcwd"].deactivate()
        yield


class SkipsFail:
    """A plugin that fails the session if a test was skipped or expected to fail: such a test proves nothing."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self.skipped:
            terminalreporter.write_line(f"skipped, which counts as failed: {nodeid}", red=True)
        terminalreporter.write_line(profile.describe())


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugins of the whole session."""
    timeout = float(config.getini("faulthandler_timeout"))
    if profile.size() is profile.Size.NIGHTLY and timeout < _NIGHTLY_TIMEOUT:
        msg = f"Nightly tests run for long: add -o faulthandler_timeout={_NIGHTLY_TIMEOUT}."
        raise pytest.UsageError(msg)
    config.pluginmanager.register(SkipsFail())
    # The workers of pytest-xdist hand their reports over.
    if profile.size() is profile.Size.NIGHTLY and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunFigures())
