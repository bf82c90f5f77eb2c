"""The command ``listen``: a receiver of callbacks for development, as a process of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import anyio
import attrs
import typer

from kie_async.cli.callback_log import Happening, Teller
from kie_async.cli.exit_codes import Exit
from kie_async.cli.fake import until_signal
from kie_async.cli.journals import choose
from kie_async.cli.options import JournalOption, JsonOption
from kie_async.cli.running import run
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from aiohttp import web

    from kie_async import KieClient

__all__ = ["Place", "carry_out", "listen"]

_PATH = re.compile(r"/[\w./~-]*", re.ASCII)
_TOKEN = re.compile(r"kj_\S*")
_NOT_FOUND = 404
_NOT_ALLOWED = 405


@attrs.frozen
class Place:
    """
    Where callbacks are taken.

    Attributes:
        host: The address to listen on.

        port: The port; 0 for any that is free.

        path: The path of the callback URLs, without the token: ``"/kie"``, or ``""``.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    path: str = "/kie"

    def url(self, port: int) -> str:
        """
        The callback URL for programs on this machine.

        >>> Place("::1", path="/hooks/kie").url(8000)
        'http://[::1]:8000/hooks/kie'
        """
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}{self.path}"


async def carry_out(
    session: Session, place: Place, *, webhook_keys: Sequence[str], until: Callable[[], Awaitable[None]]
) -> Exit:
    """
    Take callbacks, and tell of them.

    Args:
        session: The command's session.

        place: Where they are taken.

        webhook_keys: The account's keys for signatures; none if they are not checked.

        until: Returns when it is to end.

    Raises:
        KieError: If there is no key, or the journal cannot be used.

        OSError: If the port cannot be had.

        BrokenPipeError: If nobody reads the results.
    """
    teller = Teller(session)
    async with (
        session.client(webhook_keys=webhook_keys, on_event=teller.saw) as kie,
        kie,
        _serving(kie, place, teller) as port,
        anyio.create_task_group() as group,
    ):
        output, journal = session.output, session.journal
        listening = Happening(event="listening", url=place.url(port))
        output.result(str(listening), attrs.asdict(listening))
        output.say(
            f"Callbacks are taken there. Programs on this machine: callback_url={str(listening.url)!r}. Behind a tunnel"
            f" to port {port}: callback_url='https://YOUR-TUNNEL{place.path}'. Ctrl-C ends it."
        )
        known = "no journal, so that no job is known" if journal is None else f"the journal {journal.path}"
        signed = "are checked" if webhook_keys else "are not checked: there is no webhook key"
        output.say(f"Jobs are looked up in {known}. Signatures {signed}.")

        async def wait() -> None:
            await until()
            group.cancel_scope.cancel()

        group.start_soon(wait)
        await teller.tell(kie)
        group.cancel_scope.cancel()
    if teller.error is not None:
        raise teller.error
    return Exit.DONE


@asynccontextmanager
async def _serving(kie: KieClient, place: Place, teller: Teller) -> AsyncGenerator[int]:
    """Listen for as long as the context is open; yields the port."""
    from aiohttp import web

    async def stray(request: web.Request) -> web.Response:
        """Answer what does not go to the path of callbacks; aiohttp has other routes tried first."""
        status = _NOT_FOUND if request.method == "POST" else _NOT_ALLOWED
        teller.refuse(status, _why_stray(request, place, genuine=kie.callbacks.admits(request.path)))
        response = web.json_response({"code": status, "msg": "refused"}, status=status)
        response.force_close()  # its body is not read
        return response

    application = web.Application()
    application.add_routes([*kie.callbacks.aiohttp_routes(place.path), web.route("*", r"/{stray:[\s\S]*}", stray)])
    # An access log would hold the tokens.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, place.host, place.port)
        await site.start()
        yield site.port
    finally:
        await runner.cleanup()


def _why_stray(request: web.Request, place: Place, *, genuine: bool) -> str:
    # What strangers send must not move somebody's terminal, so it stays quoted; and a token is a secret.
    path = _TOKEN.sub("kj_…", request.rel_url.raw_path)[:80]
    if request.method != "POST":
        return f"{request.method} {path} is no POST"
    if genuine:
        return f"its token is good, but it came to {path}, not to {place.path}/kj_…: see --path"
    return f"POST {path} is not below {place.path}/"


def listen(
    context: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on; by default this machine only.")] = Place().host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = Place().port,
    path: Annotated[str, typer.Option(metavar="PATH", help="The path of callback_url as it arrives here.")] = (
        Place().path
    ),
    webhook_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="KIE_WEBHOOK_KEY",
            help="The account's webhookHmacKey: what is not signed with it is refused. Repeatable.",
        ),
    ] = None,
    journal: JournalOption = None,
    no_journal: Annotated[
        bool, typer.Option("--no-journal", help="Know no job: only tell whose token a callback has, and refuse it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take callbacks until Ctrl-C, and tell which came, which were refused, and how their jobs end."""
    path = f"/{path.strip('/')}"
    if not _PATH.fullmatch(path):
        msg = f"{path!r} is no path; letters, digits and _ . ~ - / are possible."
        raise typer.BadParameter(msg, param_hint="--path")
    place = Place(host, port, path.rstrip("/"))
    run(
        context,
        lambda session: carry_out(session, place, webhook_keys=webhook_key or (), until=until_signal),
        as_json=as_json,
        journal=None if no_journal else choose(journal),
    )
