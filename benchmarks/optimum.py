"""
When to look, if the distribution of durations is known: what no polling can pass.

For one task this is optimal inspection (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963), by dynamic
programming. A look costs *price* seconds. Seen running at *u*, with the next look at *t*, the task costs

    W(u) = min over t of  price S(u) + integral from u to t of (S(u) - S(x)) dx + W(t)

where S is the share that lasts longer. Each price gives one point: looks for a task, and its mean lag; the lower hull
of the points bounds every policy, also one that mixes. Many tasks under a budget cannot do better on average than one
task with its share of the budget, and never better than Little's law allows: tasks in flight = rate x (duration + lag),
and the rate cannot exceed the budget, since each end takes a look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

__all__ = ["Point", "bound", "frontier", "least_lag"]

#: Looks for a task, mean lag in seconds.
Point = tuple[float, float]

_STEP = 0.1
_END = 300.0
#: No look is further away than this, in seconds.
_FURTHEST = 120.0
_PRICES = [0.005 * 1.4**power for power in range(29)]


def frontier(survival: Callable[[float], float]) -> list[Point]:
    """
    The best that can be had for one task: from many looks and a short lag to few and a long one.

    Args:
        survival: The share of tasks that last longer than so many seconds; next to nothing at 300.
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
                break  # it only grows
            if wasted + cost[at] < best:
                best, best_at = wasted + cost[at], at
        cost[seen] = best + price * share
        polls[seen] = share + polls[best_at]
    return polls[0], cost[0] - price * polls[0]


def bound(points: Sequence[Point], mean: float, in_flight: int, budget: float) -> float:
    """
    The least mean lag that *in_flight* tasks can have on average, in seconds.

    Args:
        points: The frontier of one task.

        mean: What a task takes on average, in seconds.

        in_flight: Tasks at any time; each that ends is followed by another.

        budget: Looks a second for all of them.
    """
    little = in_flight / budget - mean
    low, high = 0.0, max(100.0, 2.0 * in_flight / budget)
    while high - low > 1e-3:
        lag = (low + high) / 2.0
        polls = budget * (mean + lag) / in_flight
        low, high = (low, lag) if least_lag(points, polls) <= lag else (lag, high)
    return max(little, high)


def least_lag(points: Sequence[Point], polls: float) -> float:
    """Where the hull of the frontier has *polls*: the largest of the tangents, each of which bounds from below."""
    # At an optimum for a price, lag + price x looks is least: no policy lies below that line.
    return max(lag + price * (at - polls) for price, (at, lag) in zip(_PRICES, points, strict=True))
