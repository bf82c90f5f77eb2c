"""A scripted gateway between a client and the fake service, which replaces answers of its choice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import attrs
from aiohttp import web

from kie_async import Event
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, Setup, assert_ledger

__all__ = ["Gateway", "behind_gateway", "running_gateway", "task_id_in"]

#: Makes an answer of the service's; without a request to the service, its body is empty.
Answer: TypeAlias = Callable[[bytes], web.Response]

_PLACES = {"createTask": "create", "recordInfo": "poll", "credit": "credit"}


@attrs.define(eq=False)
class Gateway:
    """
    A gateway.

    Attributes:
        url: Its URL.

        target: The URL of the service.

        seen: The number of requests at each place.
    """

    url: str = ""
    target: str = ""
    seen: Counter[str] = attrs.field(factory=Counter)
    _rules: list[tuple[str, Container[int], bool, Answer]] = attrs.field(factory=list)

    def replace(self, place: str, answer: Answer, *, nth: Container[int] = range(10**6), forward: bool = True) -> None:
        """Replace the answers to the requests *nth* at a place, counted from 1; with *forward* the service acts."""
        self._rules.append((place, nth, forward, answer))

    async def handle(self, request: web.Request) -> web.Response:
        """Handle one request."""
        place = _PLACES.get(request.path.rpartition("/")[2], "upload")
        self.seen[place] += 1
        number, body = self.seen[place], await request.read()
        rule = next((rule for rule in self._rules if rule[0] == place and number in rule[1]), None)
        if rule is not None and not rule[2]:
            return rule[3](b"")
        headers = {name: value for name, value in request.headers.items() if name in {"Authorization", "Content-Type"}}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(request.method, f"{self.target}{request.path_qs}", data=body, headers=headers) as answer,
        ):
            real = await answer.read()
            passed = web.Response(body=real, status=answer.status, content_type=answer.content_type)
        return passed if rule is None else rule[3](real)


@asynccontextmanager
async def running_gateway(target: str) -> AsyncIterator[Gateway]:
    """Run a gateway to the service at *target*."""
    gateway = Gateway(target=target)
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", gateway.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateway.url = f"http://127.0.0.1:{site.port}"
    try:
        yield gateway
    finally:
        await runner.cleanup()


@asynccontextmanager
async def behind_gateway(
    *, client: Mapping[str, Any] | None = None, checked: bool = True, **service: Any
) -> AsyncIterator[tuple[Setup, Gateway]]:
    """Run a service, a gateway and a client of it; if *checked*, compare the journal with the service at the end."""
    events: list[Event] = []
    options: dict[str, Any] = {"journal": MemoryJournal(), "on_event": events.append, **(client or {})}
    async with FakeKie(**service) as fake, running_gateway(fake.url) as gateway:
        async with JournalClient(KEY, base_url=gateway.url, **options) as kie:
            yield Setup(kie, fake, options["journal"], events), gateway
        if checked:
            assert_ledger(await options["journal"].rows(), fake.truth)


def task_id_in(real: bytes) -> str:
    """Return the task in the service's own answer to a create."""
    return str(json.loads(real)["data"]["taskId"])
