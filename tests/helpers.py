"""What the tests of the client stand on: one service, one client of it, and the ledger that is kept of both."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio.lowlevel
import attrs

from kie_async import Event, EventName, KieClient, SqliteJournal, Statistics, Wan22TurboImageToVideo
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import Journal
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
    "assert_ledger",
    "assert_settled",
    "client_and_fake",
    "create_foreign_task",
    "make_request",
    "no_keepalive",
]


#: Canaries: neither may ever be seen in a log, an error or a repr.
KEY = "canary-of-the-api-key"
PROMPT = "The canary turns its head"

IMAGE = "https://example.com/cat.png"
#: A receiver that does not exist; the fake posts to this machine only.
CALLBACKS = "https://app.example.com/kie"

#: Where a task may be that the client cannot name: its caller was told that it is in doubt.
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
        journal: Journal | SqliteJournal | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._injected: Journal | None = None
        if journal is None or isinstance(journal, (SqliteJournal, str, os.PathLike)):
            options["journal"] = journal
        else:
            self._injected = journal
        super().__init__(api_key, **options)

    def _make_journal(self) -> Journal:
        return super()._make_journal() if self._injected is None else self._injected


def make_request(number: int = 0, **options: Any) -> Wan22TurboImageToVideo:
    """A good request; the number in its prompt ties a task to its intent."""
    return Wan22TurboImageToVideo(**{"image": IMAGE, "prompt": f"{PROMPT}, take {number}", **options})


async def create_foreign_task(url: str, prompt: str = "somebody else's", callback_url: str | None = None) -> str:
    """Create a task with another program of the same account; returns its id."""
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
    """A session that connects anew for every request, so that an outage is felt at once."""
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(limit=0, force_close=True)})


@attrs.define(eq=False)
class Setup:
    """
    One service and one client.

    Attributes:
        kie: The client.

        fake: The service.

        journal: The client's journal.

        events: What the client has reported.
    """

    kie: KieClient
    fake: FakeKie
    journal: Journal
    events: list[Event] = attrs.field(factory=list)

    @property
    def truth(self) -> Truth:
        """What the service has seen and done."""
        return self.fake.truth

    @property
    def tasks(self) -> list[str]:
        """The ids of all tasks, in the order of creation."""
        return list(self.fake.truth.tasks)

    def reported(self, name: EventName) -> list[Event]:
        """The events of a name."""
        return [event for event in self.events if event.name is name]

    async def rows(self) -> list[Intent]:
        """What the journal knows."""
        return list(await self.journal.rows())

    async def states(self) -> dict[str, int]:
        """How many intents are in which state."""
        return dict(Counter(str(row.state) for row in await self.rows()))

    async def row(self) -> Intent:
        """The only row."""
        (row,) = await self.rows()
        return row


@asynccontextmanager
async def client_and_fake(*, client: Mapping[str, Any] | None = None, **service: Any) -> AsyncIterator[Setup]:
    """
    A service and a client, both made as asked for; when it is left, the ledger of the two must be right.

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


def _prompt(given: object) -> str:
    return str(given.get("prompt")) if isinstance(given, Mapping) else ""


def assert_ledger(rows: Iterable[Intent], truth: Truth, *, lives: int = 1) -> None:
    """
    The journal and the service's truth agree about the money.

    No intent has more tasks than one and those that its suspect attempts may have made; every task is in the journal,
    by its id or as an intent in doubt; and what the journal says of a task's end is how it ended.

    Args:
        rows: The journal.

        truth: What the service has seen.

        lives: How many processes there were: each counts its creates anew, and the service refuses what is too much.
    """
    rows = list(rows)
    by_prompt = {_prompt(json.loads(row.input)): row for row in rows}
    named = {task_id: row for row in rows for task_id in (row.task_id, *row.duplicate_task_ids) if task_id is not None}
    tasks = Counter(_prompt(task.input) for task in truth.created)
    for task in truth.created:
        row = named.get(task.task_id) or by_prompt.get(_prompt(task.input))
        assert row is not None, f"a paid task that nobody knows: {task.task_id}"
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
    """Everything but the totals is zero: no job, slot, token, look, waiter or task of the loop is left."""
    for _ in range(3):  # whoever has just ended may have a turn of the loop to go
        await anyio.lowlevel.checkpoint()
    left = attrs.evolve(kie.statistics(), polls=0, callbacks=0, confirmations=0, duplicate_records=0)
    assert Statistics() == left, left
