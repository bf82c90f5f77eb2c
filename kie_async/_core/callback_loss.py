"""
How likely a promised callback is to be lost: learned from which ones have come.

Polling is the net under the callbacks. What a look at a task is worth is the chance that nothing else would tell of its
end, so that is the weight of its polls: small where callbacks come, and never zero.
"""

from __future__ import annotations

import attrs

__all__ = ["CallbackLoss"]

#: What is assumed of a receiver of ours before the first callback was due (limits of the field: about 2 in 100).
_ASSUMED = 0.02
#: How many callbacks' worth of belief that assumption has: the first loss counts for more than it does.
_BELIEF = 1.0
#: What is remembered: older callbacks fade out, so that a receiver that breaks is noticed within some tens of jobs.
_MEMORY = 50.0


@attrs.define
class CallbackLoss:
    """
    The chance that a callback is lost: the mean of a beta distribution with a fading memory.

    Args:
        receiving: Whether a receiver of ours is in use. Until it is, or callbacks come all the same (to another process
            that shares the journal), none is expected.

    >>> loss = CallbackLoss(receiving=True)
    >>> loss.chance_lost
    0.02
    >>> loss.lost()
    >>> loss.chance_lost
    0.51
    """

    receiving: bool = False
    _came: float = attrs.field(default=0.0, init=False)
    _lost: float = attrs.field(default=0.0, init=False)

    @property
    def chance_lost(self) -> float:
        """The chance that the next callback is lost, from 0.02 to 1."""
        assumed = _ASSUMED if self.receiving else 1.0
        chance = (self._lost + assumed * _BELIEF) / (self._came + self._lost + _BELIEF)
        return max(_ASSUMED, chance)

    def came(self) -> None:
        """A callback has come."""
        self._fade()
        self._came += 1.0

    def lost(self) -> None:
        """A callback has not come, although its task has ended."""
        self._fade()
        self._lost += 1.0

    def _fade(self) -> None:
        total = self._came + self._lost
        if total >= _MEMORY:
            kept = (_MEMORY - 1.0) / total
            self._came *= kept
            self._lost *= kept
