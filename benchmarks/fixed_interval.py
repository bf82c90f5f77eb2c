"""The polling policy of most programs: one interval for every task. Benchmarks compare clients at equal intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kie_async._core.polling import PolledTask

__all__ = ["FixedInterval"]

#: The number of due tasks that are compared for one poll, as in ``LagPolicy``.
_SAMPLE = 512


@attrs.define
class FixedInterval:
    """
    Poll every task at one interval, the task with the oldest poll first.

    Args:
        interval: The interval, in seconds.
    """

    interval: float
    _turn: int = attrs.field(default=0, init=False)

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:  # noqa: ARG002  # the protocol's
        """Return the instant, not before *now*, at which the next poll of *task* is due."""
        return max(now, task.running_at + self.interval)

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:  # noqa: ARG002  # the protocol's
        """Return the index in *due* of the task with the oldest poll; of very many, every n-th is compared."""
        step = -(-len(due) // _SAMPLE)
        self._turn = first = (self._turn + 1) % step
        polled = [task.running_at for task in due[first::step]]
        return first + step * polled.index(min(polled))
