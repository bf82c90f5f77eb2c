"""Count the remaining work of a run, print its estimated cost, and ask for confirmation."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio.to_thread
import attrs
import typer

from kie_async import AuthenticationError, ConfigurationError, KieError, Problem, Request
from kie_async._display import shown
from kie_async._keys import price_class
from kie_async.cli.batch.columns import KEY
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.output import Output

if TYPE_CHECKING:
    from kie_async import KieClient

__all__ = ["RemainingWork", "ask_user", "confirm_run", "format_count"]

_STATE_WORDS = {
    EntryState.DONE: "done already",
    EntryState.RUNNING: "running at the service",
    EntryState.IN_DOUBT: "in doubt",
}
#: The maximum number of price groups; rows beyond them count as rows without a price.
_MAX_GROUPS = 500
#: Stands for the URLs of local images: the price does not depend on them.
_ANY_URLS: Mapping[str, str] = defaultdict(lambda: "https://image.invalid")


@attrs.define(kw_only=True)
class RemainingWork:
    """
    The rows of a table, counted by what remains to be done for them.

    Args:
        manifest: The manifest of earlier runs; None for a new folder.

        journaled: The states of the rows that the journal has; None where nothing may come.

        retries: The maximum number of retries of a failed task.

    Attributes:
        forgotten: The states of rows that were sent and that the journal has forgotten, by key: sending them would pay
            again.

        states: The number of rows that are done, running or in doubt.

        payable: The number of rows that may still cost something.
    """

    manifest: Manifest | None = None
    journaled: Mapping[str, EntryState | None] = attrs.field(factory=dict)
    retries: int = 0
    forgotten: dict[str, EntryState] = attrs.field(factory=dict, init=False)
    states: Counter[EntryState] = attrs.field(factory=Counter, init=False)
    payable: int = attrs.field(default=0, init=False)
    _keys_with_job: set[str] = attrs.field(factory=set, init=False)
    #: Payable rows by their price class, and a sample request of each.
    _groups: Counter[str] = attrs.field(factory=Counter, init=False)
    _samples: dict[str, Request] = attrs.field(factory=dict, init=False)

    @property
    def needs_keys(self) -> bool:
        """True if rows are compared with earlier runs, which takes their keys and content hashes."""
        return bool(self.journaled) or (self.manifest is not None and len(self.manifest) > 0)

    def count_row(self, request: Request, key: str, input_hash: str) -> list[Problem]:
        """
        Count a row.

        Args:
            request: The request of the row.

            key: The row key; empty if ``needs_keys`` is false and the row has none of its own.

            input_hash: The content hash; empty if ``needs_keys`` is false.

        Returns:
            The problems of the row, given what earlier runs have sent for it.
        """
        entry = None if self.manifest is None or not key else self.manifest.entry(key)
        if entry is not None and entry.job_id is not None and entry.input_hash != input_hash:
            allowed = "what was sent under this key; another shot needs a key of its own"
            return [Problem(KEY, f"{shown(key)} with another content than before", allowed)]
        state = self._free_state(key, entry)
        if state is None:
            self.payable += 1
            self._add_to_price_group(request)
        else:
            self.states[state] += 1
        return []

    def jobs_without_row(self) -> int:
        """Return the number of unfinished jobs whose rows are not in the table."""
        unfinished = (EntryState.RUNNING, EntryState.IN_DOUBT)
        return sum(state in unfinished for key, state in self.journaled.items() if key not in self._keys_with_job)

    async def cost_sentence(self, kie: KieClient, price: float | None) -> str:
        """
        Return a sentence on the estimated cost of the payable rows.

        Args:
            kie: The client, which knows prices.

            price: The price of each row, if the user has given one.
        """
        total, priced, sources = 0.0, 0, dict[str, None]()
        if price is not None:
            total, priced, sources = price * self.payable, self.payable, {"--price": None}
        for group, count in self._groups.items() if price is None else ():
            estimate = await kie.estimate(self._samples[group])
            if estimate.credits is not None and estimate.basis != "unknown":
                total, priced = total + estimate.credits * count, priced + count
                sources[estimate.source] = None
        if not self.payable:
            return "No remaining shot costs anything."
        if not priced:
            return "The price of a shot is unknown."
        some = "" if priced == self.payable else f", for the {priced:,} whose price is known"
        return (
            f"The remaining shots will cost about {total:,.0f} credits{some} ({'; '.join(sources)}); the"
            " service alone sets prices."
        )

    def _add_to_price_group(self, request: Request) -> None:
        group = price_class(request.model, request.input(_ANY_URLS))
        if group in self._samples or len(self._samples) < _MAX_GROUPS:
            self._groups[group] += 1
            self._samples.setdefault(group, request)

    def _free_state(self, key: str, entry: ManifestEntry | None) -> EntryState | None:
        """Return the state of a row that costs nothing more; None for a row that may."""
        if (state := self.journaled.get(key)) is not None:
            self._keys_with_job.add(key)
            return state
        if entry is None or entry.state == EntryState.SKIPPED:
            return None
        if entry.job_id is not None and key not in self.journaled:
            self.forgotten[key] = EntryState(entry.state)
            return self.forgotten[key]
        if entry.state == EntryState.FAILED and (entry.task_id is None or self.retries):
            return None
        return EntryState(entry.state)


async def confirm_run(
    output: Output, options: BatchOptions, remaining: RemainingWork, *, total: int, kie: KieClient
) -> bool:
    """
    Print the remaining work and its estimated cost, and ask for confirmation.

    Args:
        output: The output.

        options: The options of the run.

        remaining: The remaining work.

        total: The number of rows in the table.

        kie: The client, which knows prices and the account's balance.

    Returns:
        True if the user has agreed, or need not be asked: nothing remains to be paid.

    Raises:
        AuthenticationError: If the API key is invalid.
    """
    known = [
        f"{remaining.states[state]:,} of them {words}"
        for state, words in _STATE_WORDS.items()
        if remaining.states[state]
    ]
    output.info(f"{options.table}: {', '.join([format_count(total, 'shot'), *known])}.")
    if orphans := remaining.jobs_without_row():
        output.warn(
            f"{format_count(orphans, 'job')} of rows that are no longer in the table:"
            f" kie-async recover{options.journal.option} resumes unfinished jobs."
        )
    if remaining.forgotten:
        output.warn(
            f"The journal has forgotten {format_count(len(remaining.forgotten), 'shot')}: nothing is sent for them, and"
            " the manifest keeps their outcomes."
        )
    cost = await remaining.cost_sentence(kie, options.price)
    output.info(f"{cost} {await _balance_sentence(kie)}".strip())
    if options.budget is not None:
        output.info(f"The budget is {options.budget:,.12g} credits: nothing is sent that might exceed it.")
    if options.ask is None or not remaining.payable:
        return True
    return await anyio.to_thread.run_sync(options.ask, abandon_on_cancel=True)


async def _balance_sentence(kie: KieClient) -> str:
    """Return a sentence on the account's balance; an invalid API key raises, any other error leaves it out."""
    try:
        return f"The account has {format_count(await kie.credits(), 'credit')}."
    except AuthenticationError:
        raise
    except KieError:
        return ""


def format_count(number: float, noun: str) -> str:
    """
    Format a count with its noun.

    >>> format_count(1, "shot"), format_count(2000, "shot"), format_count(0.5, "credit")
    ('1 shot', '2,000 shots', '0.5 credits')
    """
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"


def ask_user() -> bool:
    """
    Ask the user whether to continue.

    Raises:
        ConfigurationError: If standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        msg = "Standard input is not a terminal, so nothing can be asked. Nothing was sent: add --yes to run unasked."
        raise ConfigurationError(msg)
    try:
        return typer.confirm("Continue?", default=False, err=True)
    except typer.Abort:  # the end of the input
        return False
