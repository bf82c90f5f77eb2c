"""What a user wants of a batch, and the commands that go on with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from kie_async import Limits, RetryPolicy
from kie_async.cli.batch.folder import JOURNAL

__all__ = ["Commands", "Order"]


@attrs.frozen(kw_only=True)
class Commands:
    """
    What goes on with a run, as lines for the shell.

    Attributes:
        again: The same command again.

        retry: The same, with failed tasks made again.

        richer: The same, with a larger budget to be put in.

        journal: What other commands must be given to find the journal, such as ``" --journal out/journal.db"``.
    """

    again: str
    retry: str
    richer: str
    journal: str


@attrs.frozen(kw_only=True)
class Order:
    """
    What is to be made.

    Attributes:
        table: A CSV or JSONL file, or a folder of images.

        out: The folder for results, journal, manifest and page.

        model: The model; None for Wan 2.2 Turbo.

        defaults: Cells for all rows that lack them, as texts.

        budget: What all rows may cost together, in credits, or None.

        price: What each row is taken to cost, or None for what is known.

        stop_after: After how many seconds nothing more is sent, or None.

        retry_failed: How often a failed task is made again that is worth it.

        ask: Asks whether to go on; None to go on unasked.

        limits: How much is asked of the account.

        retry: How often and for how long it is tried.
    """

    table: Path
    out: Path
    model: str | None = None
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    budget: float | None = None
    price: float | None = None
    stop_after: float | None = None
    retry_failed: int = 0
    ask: Callable[[], bool] | None = None
    limits: Limits = attrs.field(factory=Limits)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)

    def commands(self) -> Commands:
        """
        What goes on with it.

        >>> Order(table=Path("my shots.csv"), out=Path("out"), budget=500.0).commands().again
        "kie-async batch 'my shots.csv' --out out --budget 500"
        >>> Order(table=Path("shots.csv"), out=Path("out"), budget=500.0).commands().richer
        'kie-async batch shots.csv --out out --budget CREDITS'
        """
        return Commands(
            again=self._line(budget=self.budget, retries=self.retry_failed),
            retry=self._line(budget=self.budget, retries=max(1, self.retry_failed)),
            richer=self._line(budget="CREDITS", retries=self.retry_failed),
            journal=f" --journal {shlex.quote(str(self.out / JOURNAL))}",
        )

    def _line(self, *, budget: object, retries: int) -> str:
        rate = None if self.limits == Limits() else f"{self.limits.creates}/{self.limits.window:g}"
        options: list[tuple[str, object]] = [
            ("--model", self.model),
            *(("--set", f"{name}={value}") for name, value in self.defaults.items()),
            ("--budget", budget),
            ("--price", self.price),
            ("--stop-after", self.stop_after),
            ("--rate", rate),
            ("--retry-failed", retries or None),
        ]
        words = ["kie-async", "batch", str(self.table), "--out", str(self.out)]
        for name, value in options:
            if value is not None:
                words += [name, f"{value:.12g}" if isinstance(value, float) else str(value)]
        return shlex.join(words)
