"""
The optimal times to poll if the distribution of durations is known: a bound for any polling.

For one task this is optimal inspection (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963), by dynamic
programming. A poll costs *price* seconds. Seen running at *u*, with the next poll at *t*, the task costs

    W(u) = min over t of  price S(u) + integral from u to t of (S(u) - S(x)) dx + W(t)

where S is the share that lasts longer. Each price gives one point: polls per task, and the mean lag. The lower hull of
the points bounds every policy, also mixed ones. Many tasks under a budget cannot do better on average than one task
with its share of the budget, and never better than Little's law allows: tasks in flight = rate x (duration + lag). The
rate cannot exceed the budget, because each end takes a poll.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

__all__ = ["Point", "bound", "frontier", "least_lag"]

#: Polls per task, mean lag in seconds.
Point = tuple[float, float]

_STEP = 0.1
_END = 300.0
#: The longest interval between two polls, in seconds.
_FURTHEST = 120.0
_PRICES = [0.005 * 1.4**power for power in range(29)]


def frontier(survival: Callable[[float], float]) -> list[Point]:
    """
    Return the optimal points for one task, from many polls and a short lag to few polls and a long lag.

    Args:
        survival: Returns the share of tasks that last longer than a number of seconds; almost 0 at 300.
    """
    shares = [survival(_STEP * place) for place in range(round(_END / _STEP) + 1)]
    area = list(accumulate(((more + less) / 2.0 * _STEP for more, less in pairwise(shares)), initial=0.0))
    return [_optimum(shares, area, price) for price in _PRICES]


def _optimum(shares: Sequence[float], area: Sequence[float], price: float) -> Point:
    last = len(shares) - 1
    reach = round(_FURTHEST / _STEP)
    cost, polls = [0.0] * (last + 1), [0.0] * (last + 1)
    for seen in range(last - 1, -1, -1):
        share = shares[seen]
        best, best_at = math.inf, last
        for at in range(seen + 1, min(last, seen + reach) + 1):
            wasted = (at - seen) * _STEP * share - (area[at] - area[seen])
            if wasted > best:
                break  # it only grows from here
            if wasted + cost[at] < best:
                best, best_at = wasted + cost[at], at
        cost[seen] = best + price * share
        polls[seen] = share + polls[best_at]
    return polls[0], cost[0] - price * polls[0]


def bound(points: Sequence[Point], mean: float, in_flight: int, budget: float) -> float:
    """
    Return the least mean lag that *in_flight* tasks can have on average, in seconds.

    Args:
        points: The frontier of one task.

        mean: The mean duration of a task, in seconds.

        in_flight: The number of tasks at any time; each that ends is followed by another.

        budget: The polls per second for all tasks.
    """
    little = in_flight / budget - mean
    low, high = 0.0, max(100.0, 2.0 * in_flight / budget)
    while high - low > 1e-3:
        lag = (low + high) / 2.0
        polls = budget * (mean + lag) / in_flight
        low, high = (low, lag) if least_lag(points, polls) <= lag else (lag, high)
    return max(little, high)


def least_lag(points: Sequence[Point], polls: float) -> float:
    """Return the lag of the frontier's hull at *polls*: the largest of the tangents, which bound it from below."""
    # At the optimum for a price, lag + price x polls is least: no policy lies below that line.
    return max(lag + price * (at - polls) for price, (at, lag) in zip(_PRICES, points, strict=True))
