"""Shares of an account: the part of its polls and slots that one of several workers may use."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kie_async.policy import Limits
from kie_async.statistics import WorkerInfo

__all__ = ["polls_share", "slots_share", "strictest_limits"]

#: The part of the polls that is divided evenly, so that each worker can confirm callbacks for others' tasks.
_EVEN_PART = 0.2


def strictest_limits(workers: Collection[WorkerInfo], own: Limits) -> Limits:
    """Return the limits that hold for all workers of an account: of each value the strictest."""
    known = [own, *(worker.limits for worker in workers if worker.limits is not None)]
    slowest = min(known, key=lambda limits: limits.creates / limits.window)
    return Limits(
        creates=slowest.creates,
        window=slowest.window,
        in_flight=min(limits.in_flight for limits in known),
        polls_per_second=min(limits.polls_per_second for limits in known),
    )


def polls_share(workers: Collection[WorkerInfo], name: str) -> float:
    """
    Return the part of the account's polls that a worker may use, above 0 and at most 1.

    It follows the number of tasks that each worker polls; a worker without any, such as a new one, has an equal part.
    """
    watched = {worker.name: worker.watched for worker in workers}
    if not watched.get(name):
        return 1.0 / max(1, len(watched))
    return (1.0 - _EVEN_PART) * watched[name] / sum(watched.values()) + _EVEN_PART / len(watched)


def slots_share(workers: Collection[WorkerInfo], name: str, limit: int) -> int:
    """
    Return the number of slots that a worker may have taken until the next heartbeat, at least 1.

    Each worker gets what it uses and wants, up to an equal part of what the others leave; what is left is divided
    evenly. A worker waits for slots that others still hold, and keeps one in any case.
    """
    others = [worker for worker in workers if worker.name != name]
    own = next((worker for worker in workers if worker.name == name), None)
    demands = sorted(worker.in_flight + worker.wanting for worker in others)
    demand = 0 if own is None else own.in_flight + own.wanting
    free = limit - sum(worker.in_flight for worker in others)
    return max(1, min(free, _fair_part([*demands, demand], demand, limit)))


def _fair_part(demands: Sequence[int], own: int, limit: int) -> int:
    """Divide *limit* by max-min fairness, and return the part of one demand, with its part of what is left."""
    left, parties = limit, len(demands)
    for demand in sorted(demands):
        if demand * parties > left:  # this one and all larger ones get an equal part
            return left // parties if own >= demand else own
        left, parties = left - demand, parties - 1
    return own + left // len(demands)
