"""The command ``workers``: the clients that share a journal, once or until Ctrl-C."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import anyio
import typer
from rich.live import Live
from rich.table import Table

from kie_async import JSON, AccountInfo, WorkerInfo
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalOption, JsonOption
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session

__all__ = ["run_workers", "workers"]

#: The interval between two readings of the journal, in seconds.
_INTERVAL = 1.0
#: The number of characters at the end of a name that tell workers apart.
_NAME_LENGTH = 8


async def run_workers(session: Session) -> ExitCode:
    """
    Show the workers of the journal: until Ctrl-C on a terminal, else once.

    Args:
        session: The command's session.

    Raises:
        JournalError: If the journal cannot be read or written.
    """
    output = session.output
    async with session.client(needs_key=False) as kie:
        found, account = await kie.workers(), await kie.account()
        if output.as_json:
            output.result("", _fields(found, account))
            return ExitCode.DONE
        if not output.interactive:
            output.table(_table(found, account))
            return ExitCode.DONE
        with Live(_table(found, account), console=output.messages, auto_refresh=False) as live:
            while True:
                await anyio.sleep(_INTERVAL)
                live.update(_table(await kie.workers(), await kie.account()), refresh=True)


def _others(found: Sequence[WorkerInfo]) -> list[tuple[WorkerInfo, float]]:
    """Return the workers, without this command, and the ages of their heartbeats: that of the command is from now."""
    here, now = (platform.node(), os.getpid()), max((worker.heartbeat_at for worker in found), default=0.0)
    return [(worker, now - worker.heartbeat_at) for worker in found if (worker.host, worker.pid) != here]


def _fields(found: Sequence[WorkerInfo], account: AccountInfo) -> dict[str, JSON]:
    others = _others(found)
    return {
        "workers": [
            {
                "name": worker.name,
                "host": worker.host,
                "pid": worker.pid,
                "started_at": worker.started_at,
                "heartbeat": round(age, 1),
                "jobs": dict(worker.jobs),
                "watched": worker.watched,
                "in_flight": worker.in_flight,
                "wanting": worker.wanting,
                "slots": worker.slots,
                "polls_per_second": round(worker.polls_per_second, 3),
                "recovers": worker.recovers,
            }
            for worker, age in others
        ],
        "in_flight": sum(worker.in_flight for worker, _ in others),
        "wanting": sum(worker.wanting for worker, _ in others),
        "account": account.name,
        "creates": account.creates,
        "window": account.window,
        "tokens": account.tokens,
        "tokens_in_use": account.tokens_in_use,
        "gate": account.gate,
        "opens_in": None if account.opens_in is None else round(account.opens_in, 1),
    }


def _table(found: Sequence[WorkerInfo], account: AccountInfo) -> Table:
    others = _others(found)
    taken = sum(worker.in_flight for worker, _ in others)
    used = f"{account.tokens_in_use} of {account.tokens} creates in {account.window:g} s used"
    opens = f" (opens in {account.opens_in:.0f} s)" if account.opens_in else ""
    caption = f"workers: {len(others)}, slots taken: {taken}, {used}, gate: {account.gate}{opens}"
    table = Table(box=None, caption=caption)
    for name in ("worker", "host"):
        table.add_column(name, no_wrap=True)
    for name in ("pid", "heartbeat", "slots", "wanting", "polls/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("jobs")
    for worker, age in others:
        jobs = ", ".join(f"{count} {state}" for state, count in sorted(worker.jobs.items()))
        table.add_row(
            worker.name[-_NAME_LENGTH:],
            worker.host,
            str(worker.pid),
            f"{age:.1f} s ago",
            *(f"{worker.in_flight} of {worker.slots}", str(worker.wanting), f"{worker.polls_per_second:.2f}"),
            jobs,
        )
    return table


def workers(context: typer.Context, *, journal: JournalOption = None, as_json: JsonOption = False) -> None:
    """Show the clients that share the journal, and their parts of the account."""
    run_with_journal(context, run_workers, as_json=as_json, journal=journal)
