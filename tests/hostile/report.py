"""One siege from begin to end, and its report."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice, product
from typing import TYPE_CHECKING

import attrs

from kie_async import Statistics
from kie_async.states import JobState
from tests.helpers import KEY
from tests.hostile.attacks import FIXED, WAYS, Attack, Way, draw_attacks
from tests.hostile.siege import LIMITS, OLD_KEY, WEBHOOK_KEY, Siege, running_siege
from tests.hostile.watch import Log, held_by, resident

if TYPE_CHECKING:
    from kie_async._io.journals.journal import Journal

__all__ = ["SIGNED", "Report", "batches", "run_siege"]

#: The share of attacks on a client that requires signatures.
SIGNED = 0.7
#: The number of attacks in a batch.
BATCH = 500
#: The number of attacks after which memory is measured first.
WARM = 2000
#: The allowed growth of the client's memory in bytes, since jobs come and go.
SLACK = 300_000
#: The allowed growth in bytes with each request, by whether callbacks are signed: jobs that callbacks have named are
#: remembered until all that they named is settled, at most 10,000 jobs with 64 ids each. Of 1,000 requests without
#: signatures, 70 name another job and 160 another id of it; a job takes 600 bytes, and an id takes 250.
SLACK_PER_REQUEST = {True: 40, False: 120}
#: The allowed growth of the process's memory in bytes, including the test's tools.
SLACK_RESIDENT = 16_000_000
#: The kinds of results that must occur.
OUTCOMES = {"Generation", "TaskFailedError", "TaskTimeoutError", "SubmitInDoubtError"}
#: The least number of planned polls in ten seconds while some are due; one poll in five would be ten.
MIN_PLANNED_POLLS = 8


@attrs.frozen(kw_only=True)
class Report:
    """
    The results of one siege.

    Attributes:
        siege: The observations.

        log: The log.

        posted: The number of attacks.

        signed: True if callbacks were signed.

        held: The bytes of the client after ``WARM`` attacks, and after the last one.

        resident: The bytes of the process at those times.

        planned_polls: The planned polls in each ten seconds of the siege during which some were always due.

        polls: All polls during the siege.

        confirmations: The polls caused by callbacks.

        left: The client's statistics at the end.
    """

    siege: Siege
    log: Log
    posted: int
    signed: bool
    held: tuple[int, int]
    resident: tuple[int, int]
    planned_polls: list[int]
    polls: int
    confirmations: int
    left: Statistics

    @property
    def server_errors(self) -> int:
        """The number of answers with status 5xx."""
        return sum(count for status, count in self.siege.answers.items() if status is not None and status >= 500)

    @property
    def problems(self) -> list[str]:
        """The descriptions of all failed checks."""
        siege = self.siege
        grown, more = self.held[1] - self.held[0], self.resident[1] - self.resident[0]
        allowed = SLACK + SLACK_PER_REQUEST[self.signed] * self.posted
        least, warned = min(self.planned_polls, default=0), max(self.log.warned.values(), default=0)
        missing_states = sorted(set(JobState) - set(siege.seen))
        missing_results = sorted(OUTCOMES - set(siege.results))
        bounds = {
            f"{self.server_errors} answers of 5xx": self.server_errors > 0,
            f"{siege.busiest_second} polls in one second": siege.busiest_second > LIMITS.polls_per_second,
            f"only {least} planned polls in ten seconds": least < MIN_PLANNED_POLLS,
            f"the client's memory has grown by {grown} bytes": grown > allowed,
            f"the process's memory has grown by {more} bytes": more > SLACK_RESIDENT,
            f"{warned} warnings about one job in one state": warned > 1,
            f"no job was ever {missing_states}": bool(missing_states),
            f"no caller got {missing_results}": bool(missing_results),
            f"left: {self.left}": self.left != Statistics(),
        }
        leaks = [f"leaked: {text}" for text in self.log.leaks]
        return [
            *siege.problems,
            *self.log.exceptions,
            *leaks,
            *(problem for problem, broken in bounds.items() if broken),
        ]

    def __str__(self) -> str:
        siege, log = self.siege, self.log
        held, resident = ([f"{size / 1e6:.2f} MB" for size in sizes] for sizes in (self.held, self.resident))
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(siege.answers.items(), key=str))
        results = ", ".join(f"{count} x {kind}" for kind, count in siege.results.items())
        return (
            f"{self.posted} hostile requests: {len(siege.problems)} wrong results or answers,"
            f" {self.server_errors} answers of 5xx,"
            f" {len(log.exceptions)} exceptions and {len(log.leaks)} secrets logged\n"
            f"answers: {answers}\n"
            f"results: {results}\n"
            f"polls: {self.polls}, of which confirmations {self.confirmations}; at most {siege.busiest_second} in a"
            f" second (allowed: {LIMITS.polls_per_second:g}); planned polls: at least"
            f" {min(self.planned_polls, default=0)} in any 10 s while some were due ({len(self.planned_polls)} such)\n"
            f"after {WARM} requests and at the end the client uses {held[0]} and {held[1]}, and the process"
            f" {resident[0]} and {resident[1]}"
        )


def batches(count: int, *, seed: int = 0) -> Iterator[list[tuple[Attack, Way]]]:
    """Yield batches: attacks of the fixed list and of hypothesis by turns, for both adapters, with changing jobs."""
    fixed = enumerate(cycle(product(FIXED, WAYS)))
    for begin in range(0, count, BATCH):
        half = min(BATCH, count - begin) // 2
        listed = [(attrs.evolve(attack, number=attack.number + nth), way) for nth, (attack, way) in islice(fixed, half)]
        drawn = zip(draw_attacks(seed + begin, half), cycle(WAYS))
        yield [posted for pair in zip(listed, drawn, strict=False) for posted in pair]


async def run_siege(count: int, *, journal: Journal, signed: bool, seed: int = 0) -> Report:
    """
    Run a siege.

    Args:
        count: The number of attacks; at least ``WARM``.

        journal: The client's journal.

        signed: True if callbacks are signed.

        seed: The seed of the attacks.
    """
    log, posted = Log([KEY, OLD_KEY, WEBHOOK_KEY]), 0
    memory: list[tuple[int, int]] = []
    with log.reading():
        async with running_siege(journal=journal, signed=signed) as siege:
            before, quiet = siege.kie.statistics(), len(siege.planned_polls) + 1
            for attacks in batches(count, seed=seed):
                await siege.post(attacks)
                posted += len(attacks)
                del attacks
                if posted in (WARM, count):
                    memory.append((held_by(siege.kie), resident()))
            planned_polls, after = siege.planned_polls[quiet:], siege.kie.statistics()
    return Report(
        siege=siege,
        log=log,
        posted=posted,
        signed=signed,
        held=(memory[0][0], memory[-1][0]),
        resident=(memory[0][1], memory[-1][1]),
        planned_polls=planned_polls,
        polls=after.polls - before.polls,
        confirmations=after.confirmations - before.confirmations,
        left=siege.left,
    )
