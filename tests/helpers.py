"""Shared helpers: a fake service with a client, requests for it, and checks of the journal against the service."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import attrs

from kie_async import Event, EventName, KieClient, PostgresJournal, SqliteJournal, Statistics, Wan22TurboImageToVideo
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import Journal, Service
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import FakeKie

if TYPE_CHECKING:
    from kie_async.testing import Truth

__all__ = [
    "CALLBACKS",
    "IMAGE",
    "KEY",
    "PROMPT",
    "JournalClient",
    "Setup",
    "assert_documented",
    "assert_ledger",
    "assert_settled",
    "client_and_fake",
    "create_foreign_task",
    "documented_keys",
    "make_request",
    "no_keepalive",
]


#: Canaries: neither may appear in a log, an error or a repr.
KEY = "canary-of-the-api-key"
PROMPT = "The canary turns its head"

IMAGE = "https://example.com/cat.png"
#: A receiver that does not exist. The fake posts to this machine only.
CALLBACKS = "https://app.example.com/kie"

#: States of a job whose task the client may not know: its caller was told that it is in doubt.
_TOLD = frozenset({JobState.SENDING, JobState.IN_DOUBT, JobState.UNRESOLVED, JobState.ABANDONED})


class JournalClient(KieClient):
    """
    A client whose journal may also be a journal object: one that fails, waits or records, or one that a test reads.

    This is the only way to pass such an object: the public argument takes configuration values only.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        journal: Journal | SqliteJournal | PostgresJournal | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if journal is None or isinstance(journal, (SqliteJournal, PostgresJournal, str, os.PathLike)):
            super().__init__(api_key, journal=journal, **options)
        else:
            super().__init__(api_key, **options)
            journal.service = Service.of(self._binding.base_url, self._binding.api_key())
            self._binding.make_journal = lambda: journal


def make_request(number: int = 0, **options: Any) -> Wan22TurboImageToVideo:
    """Make a valid request. The number in its prompt ties a task to its intent."""
    return Wan22TurboImageToVideo(**{"image": IMAGE, "prompt": f"{PROMPT}, take {number}", **options})


async def create_foreign_task(url: str, prompt: str = "of another program", callback_url: str | None = None) -> str:
    """Create a task as another program of the same account does, and return its id."""
    body = {"model": make_request().model, "input": make_request(prompt=prompt).input({})}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(
            f"{url}/api/v1/jobs/createTask",
            json=body if callback_url is None else {**body, "callBackUrl": callback_url},
            headers=headers,
        ) as answer,
    ):
        return str((await answer.json())["data"]["taskId"])


def no_keepalive(**kwargs: Any) -> aiohttp.ClientSession:
    """Make a session that connects for every request, so that it notices an outage at once."""
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(limit=0, force_close=True)})


@attrs.define(eq=False)
class Setup:
    """
    A service and a client of it.

    Attributes:
        kie: The client.

        fake: The service.

        journal: The client's journal.

        events: The events that the client reported.
    """

    kie: KieClient
    fake: FakeKie
    journal: Journal
    events: list[Event] = attrs.field(factory=list)

    @property
    def truth(self) -> Truth:
        """The record of what the service saw and did."""
        return self.fake.truth

    @property
    def tasks(self) -> list[str]:
        """The ids of all tasks, in the order of creation."""
        return list(self.fake.truth.tasks)

    def reported(self, name: EventName) -> list[Event]:
        """Return the reported events with a name."""
        return [event for event in self.events if event.name is name]

    async def rows(self) -> list[Intent]:
        """Return all rows of the journal."""
        return list(await self.journal.rows())

    async def states(self) -> dict[str, int]:
        """Count the rows by state."""
        return dict(Counter(str(row.state) for row in await self.rows()))

    async def row(self) -> Intent:
        """Return the only row."""
        (row,) = await self.rows()
        return row


@asynccontextmanager
async def client_and_fake(*, client: Mapping[str, Any] | None = None, **service: Any) -> AsyncIterator[Setup]:
    """
    Run a service and a client, and check the journal against the service at the end.

    Args:
        client: Arguments of the client.

        **service: Arguments of the fake.
    """
    events: list[Event] = []
    options: dict[str, Any] = {"journal": MemoryJournal(), "on_event": events.append, **(client or {})}
    journal: Journal = options["journal"]
    async with FakeKie(**service) as fake:
        async with JournalClient(KEY, base_url=fake.url, **options) as kie:
            yield Setup(kie, fake, journal, events)
        assert_ledger(await journal.rows(), fake.truth)
        for event in events:
            assert_documented(event)


def documented_keys() -> dict[EventName, tuple[set[str], set[str]]]:
    """Read the table in the docstring of ``EventName``: for each event its required and its optional keys."""
    rows = re.findall(r"^ *([A-Z_]+)  +((?:none|optional|``).*)$", EventName.__doc__ or "", re.MULTILINE)
    cells = {EventName[name]: cell.partition("optional") for name, cell in rows}
    return {
        name: (set(re.findall(r"``(\w+)``", required)), set(re.findall(r"``(\w+)``", optional)))
        for name, (required, _, optional) in cells.items()
    }


def assert_documented(event: Event) -> None:
    """Check that an event's detail has the documented keys."""
    required, optional = documented_keys()[event.name]
    assert required <= event.detail.keys() <= required | optional, event


def _prompt(given: object) -> str:
    return str(given.get("prompt")) if isinstance(given, Mapping) else ""


def assert_ledger(rows: Iterable[Intent], truth: Truth, *, lives: int = 1) -> None:
    """
    Check that the journal and the service agree about every paid task.

    An intent has at most one task, and one for each ambiguous attempt. Every task is in the journal, by its id or as an
    intent in doubt. The journal has the same result of a task as the service.

    Args:
        rows: The rows of the journal.

        truth: The service's record.

        lives: The number of processes. Each counts its creates from zero, and the service refuses the excess.
    """
    rows = list(rows)
    by_prompt = {_prompt(json.loads(row.input)): row for row in rows}
    named = {task_id: row for row in rows for task_id in (row.task_id, *row.duplicate_task_ids) if task_id is not None}
    tasks = Counter(_prompt(task.input) for task in truth.created)
    for task in truth.created:
        row = named.get(task.task_id) or by_prompt.get(_prompt(task.input))
        assert row is not None, f"a paid task is missing in the journal: {task.task_id}"
        assert row.ambiguous_attempts or row.state in _TOLD or task.task_id in (row.task_id, *row.duplicate_task_ids), (
            row
        )
        assert tasks[_prompt(task.input)] <= 1 + row.ambiguous_attempts, row
    for row in rows:
        if row.state in (JobState.SUCCEEDED, JobState.FAILED):
            ended = truth.tasks[row.task_id or ""]
            assert (row.state is JobState.FAILED) == (ended.failure is not None), row
    assert truth.busiest_window(10.0, accepted=lives > 1) <= 20


async def assert_settled(kie: KieClient) -> None:
    """Check that no job, slot, token, poll, waiter or loop task is left: all statistics but the totals are zero."""
    await anyio.sleep(0.01)  # a task that has just ended, or writes a heartbeat, may need some turns of the loop
    left = attrs.evolve(kie.statistics(), polls=0, callbacks=0, confirmations=0, duplicate_records=0)
    left = attrs.evolve(left, other_workers=0, in_flight_elsewhere=0)  # of the last heartbeat
    assert Statistics() == left, left
