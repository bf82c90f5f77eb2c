"""Every spelling of a callback's path has the same answer with each adapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

import aiohttp
import anyio
import pytest
from aiohttp import web
from yarl import URL

from tests.client.backend import callback_body
from tests.helpers import client_and_fake, make_request

if TYPE_CHECKING:
    from kie_async import KieClient

#: Spellings of the path below the callback URL, and the answer.
SPELLINGS = {
    "{token}": 200,
    "{token}/": 200,
    "{token}//": 200,
    "/{token}": 200,
    "///{token}": 200,
    "{token}%2F": 200,
    "%2F{token}": 200,
    "{token}%2F%2F/": 200,
    "more/{token}": 200,
    "more/{token}/": 200,
    "more%2Fand%2F{token}": 200,
    "./{token}": 200,
    "..%2F{token}": 200,
    "{token}?": 200,
    "{token}?a=b": 200,
    "{token}/?next=/x": 200,
    "{token}?next={token}": 200,
    "{encoded}": 200,
    "{encoded}/": 200,
    "%C3%A4/{token}": 200,
    "%0A/{token}": 200,
    "%FF/{token}": 200,
    "": 404,
    "/": 404,
    "%2F": 404,
    "?{token}": 404,
    "more?{token}": 404,
    "{token}/more": 404,
    "{token}%2Fmore": 404,
    "{token}/.": 404,
    "{token}%20": 404,
    "%20{token}": 404,
    "{token}%0A": 404,
    "{token}%00": 404,
    "{token};a=b": 404,
    "{token}A": 404,
    "{twice}": 404,
    "{upper}": 404,
}


def spell(spelling: str, token: str) -> str:
    """Return a spelling of a token's path, as on the wire."""
    encoded = "".join(f"%{ord(letter):02X}" for letter in token)
    return spelling.format(token=token, encoded=encoded, twice=encoded.replace("%", "%25"), upper=token.upper())


async def post_to_asgi(kie: KieClient, path: str, body: bytes) -> int:
    """Post to the ASGI application as a server does, which decodes the path and splits off the query."""
    raw, _, query = path.partition("?")
    statuses: list[int] = []

    async def receive() -> MutableMapping[str, object]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, object]) -> None:
        if isinstance(status := message.get("status"), int):
            statuses.append(status)

    scope: MutableMapping[str, object] = {
        "type": "http",
        "method": "POST",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [],
    }
    await kie.callbacks.asgi_app()(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("base", ["/kie", "/kie/", "/hooks/kie", ""])
async def test_each_spelling_has_the_same_answer_with_each_adapter(base: str) -> None:
    """The token is the last segment of the decoded path; slashes before and after it, and a query, do not matter."""
    options = {"callback_url": f"https://app.example.com{base}"}
    async with client_and_fake(client=options, duration=1e6) as setup:
        kie = setup.kie
        application = web.Application()
        application.add_routes(kie.callbacks.aiohttp_routes())
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        await kie.submit(make_request())
        token, body = str(setup.truth.created[0].callback_url).rpartition("/")[2], callback_body(setup.tasks[0])

        async def through_aiohttp(path: str) -> int:
            url = URL(f"http://127.0.0.1:{site.port}{path}", encoded=True)
            async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
                return answer.status

        async def through_asgi(path: str) -> int:
            return await post_to_asgi(kie, path, body)

        async def through_handle(path: str) -> int:
            return (await kie.callbacks.handle(unquote(path.partition("?")[0]), {}, body))[0]

        ways: dict[str, Callable[[str], Awaitable[int]]] = {
            "aiohttp": through_aiohttp,
            "ASGI": through_asgi,
            "handle": through_handle,
        }
        answers = {
            (spelling, way): await post(f"{base.rstrip('/')}/{spell(spelling, token)}")
            for spelling in SPELLINGS
            for way, post in ways.items()
        }
        await runner.cleanup()

        expected = {(spelling, way): status for spelling, status in SPELLINGS.items() for way in ways}
        assert expected == answers
        await anyio.sleep(100.0)
