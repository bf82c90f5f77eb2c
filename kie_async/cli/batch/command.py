"""The command ``batch``: a table of shots, checked, priced, made, written down, and shown on a page."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import typer

from kie_async import ConfigurationError, InvalidRequestError, JobInfo, Limits, Problem
from kie_async._urls import origin
from kie_async.cli.batch.columns import KEY, columns_of
from kie_async.cli.batch.confirm import agreed, ask, counted
from kie_async.cli.batch.folder import JOURNAL, is_ours
from kie_async.cli.batch.following import Following
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.options import Order
from kie_async.cli.batch.record import Record
from kie_async.cli.batch.remaining import Tally, by_row
from kie_async.cli.batch.run import Course
from kie_async.cli.batch.signals import Interruption
from kie_async.cli.batch.table import Table
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalFile, JsonOption
from kie_async.cli.running import run_command
from kie_async.cli.session import DRAIN, Session

__all__ = ["batch", "carry_out"]

_RATE = re.compile(r"(\d+)/(\d+(?:\.\d+)?)")


async def carry_out(session: Session, order: Order) -> ExitCode:
    """
    Make all that a table asks for.

    Args:
        session: The command's session; the folder's journal becomes its own.

        order: What is to be made.

    Returns:
        The code of the worst that has happened to a row.

    Raises:
        KieError: If nothing can be made, or nothing more.

        OSError: If there is no such table, or no room for the results.
    """
    _need_the_page()
    table = Table(
        path=order.table, columns=columns_of(order.model), defaults=order.defaults, origins=_own_origins(session)
    )
    commands = order.commands()
    session.journal = JournalFile(order.out / JOURNAL, option=commands.journal)
    following = Following(note=session.output.warn, command=commands.again, window=order.limits.window)
    interruption = Interruption(drain=DRAIN, say=session.output.info)
    async with AsyncExitStack() as folder:
        # A folder that has a manifest has rows that cost nothing any more; else nothing is made before all is good.
        old = await anyio.to_thread.run_sync(is_ours, order.out)
        manifest = await folder.enter_async_context(_manifest_of(order.out)) if old else None
        tally = Tally(manifest=manifest, sent=await _sent(session, order, manifest), retries=order.retry_failed)
        flaws = await anyio.to_thread.run_sync(_tell_flaws, session, table, tally, abandon_on_cancel=True)
        if flaws:
            session.output.info(f"{counted(flaws, 'problem')} in {table.path}. Nothing was sent.")
            return ExitCode.USAGE
        if manifest is None:
            manifest = await folder.enter_async_context(_manifest_of(order.out))
        record = Record(table=table, folder=order.out, manifest=manifest, commands=commands)
        course = Course(session=session, order=order, record=record, following=following, interruption=interruption)
        try:
            with interruption.hurried:
                async with session.client(
                    limits=order.limits, retry=order.retry, on_event=following.observe_event
                ) as kie:
                    if not await agreed(session.output, order, tally, total=table.count, kie=kie):
                        session.output.info("Nothing was sent.")
                        return ExitCode.INTERRUPTED
                    session.resume_info = following
                    await course.take(kie)
            return await course.end()
        finally:
            interruption.over()


def _need_the_page() -> None:
    """Find out before anything is paid whether the page can be made."""
    try:
        import_module("jinja2")
    except ImportError:
        msg = "batch needs jinja2 for its page. Nothing was sent. Install it with: pip install 'kie-async[cli]'"
        raise ConfigurationError(msg) from None


def _own_origins(session: Session) -> frozenset[str]:
    """Where the user has said that the service is: images may be there, wherever that is."""
    urls = (session.url, os.environ.get("KIE_BASE_URL"), os.environ.get("KIE_UPLOAD_URL"))
    origins = set()
    for url in filter(None, urls):
        try:
            origins.add(origin(url))
        except ValueError:
            continue  # the client says what is wrong with it
    return frozenset(origins)


def _tell_flaws(session: Session, table: Table, tally: Tally) -> int:
    flaws = 0
    for flaw in table.check(tally.count, keyed=tally.keyed):
        session.output.error(str(flaw))
        flaws += 1
    return flaws


async def _sent(session: Session, order: Order, manifest: Manifest | None) -> Mapping[str, JobInfo]:
    """What the journal has of earlier runs and the manifest has not, by the rows' keys; the service is not asked."""
    if not await anyio.Path(order.out / JOURNAL).exists():
        return {}
    async with session.client(needs_key=False) as kie:
        # Without a manifest, because somebody has deleted it, all that was paid would seem to be left to pay.
        return by_row(await kie.jobs(unfinished=bool(manifest)))


@asynccontextmanager
async def _manifest_of(folder: Path) -> AsyncGenerator[Manifest]:
    def open_it() -> Manifest:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Manifest(folder)
        except OSError as error:
            msg = f"Nothing can be kept in {folder} ({error.strerror}). Nothing was sent: choose another --out."
            raise ConfigurationError(msg) from error

    manifest = await anyio.to_thread.run_sync(open_it)
    try:
        yield manifest
    finally:
        manifest.close()


def batch(
    context: typer.Context,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A .csv or .jsonl file, or a folder of images. Rows are shots.")
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder for results, manifest.jsonl and index.html.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another model than Wan 2.2 Turbo; columns are its input's names."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The prompt of rows that have none.")
    ] = None,
    defaults: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="The cell of rows that have none. Repeatable."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="CREDITS", min=0.0, help="What all rows may cost together.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(metavar="CREDITS", min=0.0, help="What each row costs, if you know better.")
    ] = None,
    stop_after: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.0, help="When nothing more is sent; what runs is awaited.")
    ] = None,
    retry_failed: Annotated[
        int, typer.Option(metavar="N", min=0, help="How often a failed task is made again that is worth it.")
    ] = 0,
    rate: Annotated[
        str,
        typer.Option(
            metavar="N/SECONDS", help="Creates in any so many seconds. Give each process of an account its share."
        ),
    ] = "20/10",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a whole table of shots; the same command again goes on where it stopped, and pays for nothing twice."""
    given = [*(defaults or ()), *([] if prompt is None else [f"prompt={prompt}"])]

    async def command(session: Session) -> ExitCode:
        order = Order(
            table=table,
            out=out,
            model=model,
            defaults=_defaults(given),
            budget=budget,
            price=price,
            stop_after=stop_after,
            retry_failed=retry_failed,
            ask=None if yes else ask,
            limits=_limits(rate),
        )
        return await carry_out(session, order)

    run_command(context, command, as_json=as_json)


def _defaults(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = [Problem("--set", repr(name), "COLUMN=VALUE") for name, equals, _ in pairs if not (name and equals)]
    wrong += [
        Problem("--set", repr(name), "another column: each row has its own key") for name, *_ in pairs if name == KEY
    ]
    if wrong:
        msg = "The options do not make a batch."
        raise InvalidRequestError(msg, problems=wrong)
    return {name: value for name, _, value in pairs}


def _limits(rate: str) -> Limits:
    if (found := _RATE.fullmatch(rate)) is None:
        msg = "The options do not make a batch."
        raise InvalidRequestError(msg, problems=[Problem("--rate", repr(rate), "N/SECONDS, such as 20/10")])
    return Limits(creates=int(found[1]), window=float(found[2]))
