"""The outcomes of a run on their way to the caller: as they come, or in the order of the rows."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kie_async.outcomes import Outcome

__all__ = ["OutcomeQueue"]


class OutcomeQueue:
    """
    Holds outcomes until they are taken.

    Args:
        ordered: Whether they are taken in the order of the rows.

    Attributes:
        untaken: How many rows were read whose outcome was not taken.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[Outcome] = deque()
        # Those that wait for an earlier one; None for a row without one.
        self._parked: dict[int, Outcome | None] = {}
        self._read = 0
        self._next = 0
        self.untaken = 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def expect(self) -> int:
        """A row was read; returns its place."""
        self.untaken += 1
        self._read += 1
        return self._read - 1

    def put(self, index: int, outcome: Outcome | None) -> None:
        """What a row has come to; None where it has no outcome."""
        if not self._ordered:
            self._make_ready(outcome)
            return
        self._parked[index] = outcome
        while self._next in self._parked:
            self._make_ready(self._parked.pop(self._next))
            self._next += 1

    def take(self) -> Outcome:
        """The next outcome; there is one."""
        self.untaken -= 1
        return self._ready.popleft()

    def drop(self) -> None:
        """Forget what nobody will take."""
        self._ready.clear()
        self._parked.clear()

    def _make_ready(self, outcome: Outcome | None) -> None:
        if outcome is None:
            self.untaken -= 1
        else:
            self._ready.append(outcome)
