"""Run a table: check it, confirm its cost, run it, and leave results, manifest and page in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from kie_async import ConfigurationError, InvalidRequestError
from kie_async._urls import origin
from kie_async.cli.batch.columns import MODEL, model_problem
from kie_async.cli.batch.confirm import RemainingWork, confirm_run, format_count
from kie_async.cli.batch.folder import IDENTITY, FolderIdentity, has_earlier_run
from kie_async.cli.batch.manifest import EntryState, Manifest
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.batch.progress import BatchJobs
from kie_async.cli.batch.record import RunRecord, states_by_row
from kie_async.cli.batch.rows import describe_left_out
from kie_async.cli.batch.run import BatchRun
from kie_async.cli.batch.signals import SignalHandler
from kie_async.cli.batch.table import Table
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.session import DRAIN, Session

__all__ = ["run_batch"]


async def run_batch(session: Session, options: BatchOptions) -> ExitCode:
    """
    Run a table.

    Args:
        session: The command's session.

        options: The options of the run.

    Returns:
        The exit code of the worst outcome.

    Raises:
        KieError: If nothing can be submitted, or nothing more.

        OSError: If there is no such table, or the results cannot be written.
    """
    _require_packages()
    table = _make_table(session, options)
    session.journal = options.journal
    jobs = BatchJobs(warn=session.output.warn, command=options.resume_command(), window=options.limits.window)
    signals = SignalHandler(drain=DRAIN, say=session.output.info)
    with ExitStack() as stack:
        stack.callback(table.interrupted.set)
        # An earlier run's manifest tells which rows cost nothing more. A new folder is made only for a valid table.
        is_resumed = await anyio.to_thread.run_sync(
            partial(has_earlier_run, options.out, images=options.model is not None)
        )
        manifest = stack.enter_context(await _open_manifest(options.out)) if is_resumed else None
        identity, remaining = None, RemainingWork(retries=options.retry_failed)
        if is_resumed and not options.start_over:
            identity = await anyio.to_thread.run_sync(FolderIdentity.read, options.out)
            remaining.manifest = manifest
        if identity is not None:
            remaining.journaled = await _states_in_journal(session, options, identity)
        problems = await anyio.to_thread.run_sync(_print_problems, session, table, remaining, abandon_on_cancel=True)
        if problems:
            session.output.info(f"{format_count(problems, 'problem')} in {table.path}. Nothing was sent.")
            return ExitCode.USAGE
        if table.left_out:
            session.output.warn(describe_left_out(table.left_out))
        if manifest is None:
            manifest = await _open_new_manifest(stack, options.out, images=table.names_models)
        is_new = identity is None
        if identity is None:
            async with session.client(needs_key=False) as kie:
                identity = FolderIdentity(journal=await kie.journal_id(), origin=session.origin or "")
        record = RunRecord(
            table=table, options=options, manifest=manifest, identity=identity, forgotten=remaining.forgotten
        )
        batch_run = BatchRun(session=session, options=options, record=record, jobs=jobs, signals=signals)
        try:
            with signals.abort_scope:
                async with session.client(
                    limits=options.limits, retry=options.retry, on_event=jobs.observe_event
                ) as kie:
                    if not await confirm_run(session.output, options, remaining, total=table.count, kie=kie):
                        session.output.info("Nothing was sent.")
                        return ExitCode.INTERRUPTED
                    if options.start_over:
                        await anyio.to_thread.run_sync(manifest.clear)
                    if is_new:  # from here on, the jobs of the folder are found, wherever it is moved or copied to
                        await anyio.to_thread.run_sync(identity.write, options.out)
                    session.resume_info = jobs
                    await batch_run.execute(kie, may_pay=remaining.payable > 0)
            return await batch_run.finish()
        finally:
            signals.cancel_forced_exit()


def _make_table(session: Session, options: BatchOptions) -> Table:
    for option, model in (("--model", options.model), ("--set model", options.defaults.get(MODEL))):
        if model is not None and (problem := model_problem(model, unlisted=options.unlisted)) is not None:
            msg = "The options of batch are invalid."
            raise InvalidRequestError(msg, problems=[attrs.evolve(problem, field=option)])
    return Table(
        path=options.table,
        model=options.model,
        unlisted=options.unlisted,
        defaults=options.defaults,
        origins=_configured_origins(session),
    )


def _require_packages() -> None:
    """Check before anything is paid that the page and the copies of images can be written."""
    for module, package in (("jinja2", "jinja2"), ("PIL", "pillow")):
        try:
            import_module(module)
        except ImportError:
            msg = f"batch needs {package} for its page. Nothing was sent. Install it with: pip install 'kie-async[cli]'"
            raise ConfigurationError(msg) from None


def _configured_origins(session: Session) -> frozenset[str]:
    """Return the origins of the configured service, whose image URLs need not be public."""
    urls = (session.url, os.environ.get("KIE_BASE_URL"), os.environ.get("KIE_UPLOAD_URL"))
    origins = set()
    for url in filter(None, urls):
        try:
            origins.add(origin(url))
        except ValueError:
            continue  # the client reports it
    return frozenset(origins)


def _print_problems(session: Session, table: Table, remaining: RemainingWork) -> int:
    return session.output.errors(table.check(remaining.count_row, with_keys=remaining.needs_keys))


async def _states_in_journal(
    session: Session, options: BatchOptions, identity: FolderIdentity
) -> Mapping[str, EntryState | None]:
    """
    Return the states of the folder's rows that the journal has, by row key; no request is sent.

    Raises:
        ConfigurationError: If the folder is of another service, whose results would count, or if its jobs are in
            another journal: they might be paid again.
    """
    if session.origin not in (None, identity.origin):
        msg = (
            f"{options.out} has the results of {identity.origin}, and this run is for {session.origin}. Nothing was"
            f" sent: name another folder with --out, or set KIE_BASE_URL={identity.origin}."
        )
        raise ConfigurationError(msg)
    if await anyio.to_thread.run_sync(options.journal.exists):
        async with session.client(needs_key=False) as kie:
            if await kie.journal_id() == identity.journal:
                return states_by_row(await kie.keys(f"{identity.table}:"), identity.table)
    msg = (
        f"The journal of the jobs in {options.out} is not found: {options.journal} is missing, or is another one."
        " Nothing was sent, since shots might be paid twice. Name the journal of the earlier runs with --journal FILE"
        " (or KIE_JOURNAL), or pay for all shots again with --start-over."
    )
    raise ConfigurationError(msg)


def _require_new(folder: Path) -> None:
    """Refuse a folder, which is locked now, if another run has used it since it was looked at."""
    if (folder / IDENTITY).exists():
        msg = f"Another run has used {folder} in the meantime. Nothing was sent: run the same command again."
        raise ConfigurationError(msg)


async def _open_new_manifest(stack: ExitStack, folder: Path, *, images: bool) -> Manifest:
    if images:  # only the check of the table could tell that results may be images
        await anyio.to_thread.run_sync(partial(has_earlier_run, folder, images=True))
    manifest = stack.enter_context(await _open_manifest(folder))
    await anyio.to_thread.run_sync(_require_new, folder)
    return manifest


async def _open_manifest(folder: Path) -> Manifest:
    def open_manifest() -> Manifest:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Manifest(folder)
        except OSError as error:
            msg = f"The folder {folder} is not usable ({error.strerror}). Nothing was sent: use another --out."
            raise ConfigurationError(msg) from error

    return await anyio.to_thread.run_sync(open_manifest)
