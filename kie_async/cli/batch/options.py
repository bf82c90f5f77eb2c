"""The options of ``batch``, and the command that resumes a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from kie_async import Limits, RetryPolicy
from kie_async._urls import without_url_secrets
from kie_async.cli.options import CommandJournal

__all__ = ["BatchOptions", "shown_input"]

#: A file in base64, in one piece or in lines: a picture would show its EXIF, and with it the place.
_ENCODED = re.compile(
    r"(?<![A-Za-z0-9+/\\_-])"  # a long run is tried once
    r"(?:[A-Za-z0-9+/\\_-]{200,}={0,2}|(?:[A-Za-z0-9+/_-]{60,76}\s+){2,}[A-Za-z0-9+/_=-]*)"
)


@attrs.frozen(kw_only=True)
class BatchOptions:
    """
    The options of a run.

    Attributes:
        table: A CSV or JSONL file, or a folder of images.

        out: The folder for results, manifest and page.

        journal: The journal.

        start_over: True to leave the earlier jobs of the folder alone, and to pay for all rows again.

        model: The model of rows that name none; None for Wan 2.2 Turbo.

        unlisted: True to allow models that are like those of the catalogue, and not among them.

        defaults: Cells for rows that lack them, as strings.

        budget: The maximum cost of all rows, in credits, or None.

        budget_name: The name of the budget, which all runs on the journal that name it share, or None.

        price: The assumed cost of each row, or None for the known prices.

        stop_after: The number of seconds after which nothing more is sent, or None.

        retry_failed: The maximum number of retries of a failed task that is worth retrying.

        allow_networks: Networks that results may be fetched from although they are not public.

        ask: Asks the user for confirmation; None to run without asking.

        limits: The account's limits.

        retry: The retry policy.
    """

    table: Path
    out: Path
    journal: CommandJournal
    start_over: bool = False
    model: str | None = None
    unlisted: bool = False
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    budget: float | None = None
    budget_name: str | None = None
    price: float | None = None
    stop_after: float | None = None
    retry_failed: int = 0
    allow_networks: Sequence[str] = ()
    ask: Callable[[], bool] | None = None
    limits: Limits = attrs.field(factory=Limits)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)

    def resume_command(self, *, retry: bool = False, raise_budget: bool = False) -> str:
        """
        Return the shell command that resumes the run; it may be shown, so URLs in it have placeholders for secrets.

        Args:
            retry: True to retry failed tasks.

            raise_budget: True for a placeholder in place of the budget.

        >>> from kie_async.cli.options import JournalFile
        >>> journal = JournalFile(Path("kie.db"), option=" --journal kie.db")
        >>> options = BatchOptions(table=Path("my shots.csv"), out=Path("out"), journal=journal, budget=500.0)
        >>> options.resume_command()
        "kie-async batch 'my shots.csv' --out out --budget 500 --journal kie.db"
        >>> options.resume_command(raise_budget=True)
        "kie-async batch 'my shots.csv' --out out --budget CREDITS --journal kie.db"
        >>> attrs.evolve(options, budget=None, allow_networks=["10.0.0.0/8"]).resume_command()
        "kie-async batch 'my shots.csv' --out out --allow-networks 10.0.0.0/8 --journal kie.db"
        """
        rate = None if self.limits == Limits() else f"{self.limits.creates}/{self.limits.window:g}"
        options: list[tuple[str, object]] = [
            ("--model", self.model),
            *(("--set", f"{name}={_shown_default(value)}") for name, value in self.defaults.items()),
            ("--budget", "CREDITS" if raise_budget else self.budget),
            ("--budget-name", self.budget_name),
            ("--price", self.price),
            ("--stop-after", self.stop_after),
            ("--rate", rate),
            ("--retry-failed", max(self.retry_failed, int(retry)) or None),
            ("--allow-networks", ",".join(self.allow_networks) or None),
        ]
        words = ["kie-async", "batch", str(self.table), "--out", str(self.out)]
        words += ["--unlisted"] if self.unlisted else []
        for name, value in options:
            if value is not None:
                words += [name, f"{value:.12g}" if isinstance(value, float) else str(value)]
        return shlex.join(words) + self.journal.option


def shown_input(text: str, *, user: str = "", query: str = "") -> str:
    """
    Return a text of a request's input that may be shown: without the secrets of URLs, and without encoded files.

    Args:
        text: The text.

        user: Stands in place of a user name and a password.

        query: Stands in place of a query and a fragment.

    >>> shown_input("/9j/" + 100 * "4QAY", query="?QUERY"), shown_input("See https://example.com/a.png?sig=abc")
    ('…', 'See https://example.com/a.png')
    """
    return _ENCODED.sub("…", without_url_secrets(text, user=user, query=query))


def _shown_default(value: str) -> str:
    return shown_input(value, user="USER:PASSWORD@", query="?QUERY")
