"""One siege from its beginning to its end, and what was wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice, product
from typing import TYPE_CHECKING

import attrs

from kie_async import Statistics
from kie_async.states import JobState
from tests.helpers import KEY
from tests.hostile.attacks import FIXED, WAYS, Attack, Way, drawn
from tests.hostile.siege import LIMITS, OLD_KEY, WEBHOOK_KEY, Siege, besieged
from tests.hostile.watch import Log, held_by, resident

if TYPE_CHECKING:
    from kie_async._io.journals.journal import Journal

__all__ = ["SIGNED", "Report", "batches", "survive"]

#: The part of all attacks against which signatures help.
SIGNED = 0.7
#: Attacks in one batch.
BATCH = 500
#: Memory is compared between the end and this many attacks.
WARM = 2000
#: What the client may hold more then, in bytes, since jobs come and go. 60 bytes for each request of a tenth are more.
SLACK = 300_000
#: What the whole process may use more then, in bytes, the tools of the test with it.
SLACK_RESIDENT = 16_000_000
#: What some callers at least must have been told.
OUTCOMES = {"Generation", "TaskFailedError", "TaskTimeoutError", "SubmitInDoubtError"}
#: The least that the polling looks in any ten seconds in which it has to, whatever is posted: one in five would be ten.
LEAST_NET = 8


@attrs.frozen(kw_only=True)
class Report:
    """
    What has happened.

    Attributes:
        siege: What was seen.

        log: What was logged.

        posted: How many attacks there were.

        held: Bytes that the client held after ``WARM`` attacks, and after the last one.

        resident: Bytes that the process used then.

        net: Looks of the polling in each ten seconds of the siege in which some were due all the time.

        polls: All looks in that time.

        confirmations: Those of them that callbacks have caused.

        left: The client's statistics when all was over.
    """

    siege: Siege
    log: Log
    posted: int
    held: tuple[int, int]
    resident: tuple[int, int]
    net: list[int]
    polls: int
    confirmations: int
    left: Statistics

    @property
    def server_errors(self) -> int:
        """How many answers were of 5xx."""
        return sum(count for status, count in self.siege.answers.items() if status is not None and status >= 500)

    @property
    def problems(self) -> list[str]:
        """All that was wrong."""
        siege = self.siege
        grown, more = self.held[1] - self.held[0], self.resident[1] - self.resident[0]
        least = min(self.net, default=0)
        unseen = sorted(set(JobState) - set(siege.seen))
        untold = sorted(OUTCOMES - set(siege.results))
        bounds = {
            f"{self.server_errors} answers of 5xx": self.server_errors > 0,
            f"{siege.busiest_second} looks in one second": siege.busiest_second > LIMITS.polls_per_second,
            f"only {least} looks of the polling in ten seconds": least < LEAST_NET,
            f"the client holds {grown} bytes more": grown > SLACK,
            f"the process uses {more} bytes more": more > SLACK_RESIDENT,
            f"no job was ever {unseen}": bool(unseen),
            f"no caller was told {untold}": bool(untold),
            f"left: {self.left}": self.left != Statistics(),
        }
        leaks = [f"leaked: {text}" for text in self.log.leaks]
        return [*siege.wrong, *self.log.exceptions, *leaks, *(what for what, broken in bounds.items() if broken)]

    def __str__(self) -> str:
        siege, log = self.siege, self.log
        held, resident = ([f"{size / 1e6:.2f} MB" for size in sizes] for sizes in (self.held, self.resident))
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(siege.answers.items(), key=str))
        told = ", ".join(f"{count} x {kind}" for kind, count in siege.results.items())
        return (
            f"{self.posted} hostile requests: {len(siege.wrong)} wrong results or answers,"
            f" {self.server_errors} answers of 5xx,"
            f" {len(log.exceptions)} exceptions and {len(log.leaks)} secrets logged\n"
            f"answers: {answers}\n"
            f"callers were told: {told}\n"
            f"polls: {self.polls}, of which confirmations {self.confirmations}; at most {siege.busiest_second} in a"
            f" second (allowed: {LIMITS.polls_per_second:g}); of the polling, at least"
            f" {min(self.net, default=0)} in any 10 s in which some were due ({len(self.net)} such)\n"
            f"after {WARM} requests and at the end the client holds {held[0]} and {held[1]}, and the process uses"
            f" {resident[0]} and {resident[1]}"
        )


def batches(count: int, *, seed: int = 0) -> Iterator[list[tuple[Attack, Way]]]:
    """Batches: of the fixed list, each time at other jobs, and of hypothesis, in turn; both go to both adapters."""
    fixed = enumerate(cycle(product(FIXED, WAYS)))
    for begin in range(0, count, BATCH):
        half = min(BATCH, count - begin) // 2
        listed = [(attrs.evolve(attack, number=attack.number + nth), way) for nth, (attack, way) in islice(fixed, half)]
        yield [one for pair in zip(listed, zip(drawn(seed + begin, half), cycle(WAYS)), strict=False) for one in pair]


async def survive(count: int, *, journal: Journal, signed: bool, seed: int = 0) -> Report:
    """
    Go through a siege.

    Args:
        count: How many attacks; at least ``WARM``.

        journal: The client's journal.

        signed: Whether callbacks are signed.

        seed: Seeds the attacks.
    """
    log, posted = Log([KEY, OLD_KEY, WEBHOOK_KEY]), 0
    memory: list[tuple[int, int]] = []
    with log.reading():
        async with besieged(journal=journal, signed=signed) as siege:
            before, quiet = siege.kie.statistics(), len(siege.net) + 1
            for attacks in batches(count, seed=seed):
                await siege.post(attacks)
                posted += len(attacks)
                del attacks
                if posted in (WARM, count):
                    memory.append((held_by(siege.kie), resident()))
            net, after = siege.net[quiet:], siege.kie.statistics()
    return Report(
        siege=siege,
        log=log,
        posted=posted,
        held=(memory[0][0], memory[-1][0]),
        resident=(memory[0][1], memory[-1][1]),
        net=net,
        polls=after.polls - before.polls,
        confirmations=after.confirmations - before.confirmations,
        left=siege.left,
    )
