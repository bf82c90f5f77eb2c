"""Shares of an account: the part of its polls and slots that one of several workers may use."""

from __future__ import annotations

from collections.abc import Collection

from kie_async.policy import Limits
from kie_async.statistics import WorkerInfo

__all__ = ["polls_share", "slots_share", "stricter_worker"]

#: The part of the polls that is divided evenly, so that each worker can confirm callbacks for others' tasks.
_EVEN_PART = 0.2


def stricter_worker(workers: Collection[WorkerInfo], own: Limits) -> WorkerInfo | None:
    """Return the worker that limits the account's polls or slots most, and more than *own*; None if none does."""
    stricter = [
        worker
        for worker in workers
        if worker.limits is not None
        and (worker.limits.polls_per_second < own.polls_per_second or worker.limits.in_flight < own.in_flight)
    ]
    return min(stricter, key=_strictness, default=None)


def _strictness(worker: WorkerInfo) -> tuple[float, int, str]:
    limits = worker.limits or Limits()
    return limits.polls_per_second, limits.in_flight, worker.name


def polls_share(workers: Collection[WorkerInfo], name: str, own: Limits) -> float:
    """
    Return the polls per second that a worker may send until the next heartbeat.

    They follow the number of tasks that each worker polls; a worker without any, such as a new one, has an equal part.

    Args:
        workers: The workers that are alive.

        name: The name of the worker.

        own: Its limits; of all workers' limits, the strictest counts.
    """
    watched = {worker.name: worker.watched for worker in workers}
    rate = min([own, *_limits(workers)], key=lambda limits: limits.polls_per_second).polls_per_second
    if not watched.get(name):
        return rate / max(1, len(watched))
    return rate * ((1.0 - _EVEN_PART) * watched[name] / sum(watched.values()) + _EVEN_PART / len(watched))


def slots_share(workers: Collection[WorkerInfo], name: str, own: Limits) -> int:
    """
    Return the number of slots that a worker may have taken until the next heartbeat, at least 1.

    The account's slots are divided by max-min fairness: while one worker wants more than an equal part, no other gets
    more than that; slots that no worker wants are divided evenly. A worker waits for slots that others still hold. One
    that wants fewer than an equal part may grow to it at once, so the limit may be exceeded until the next heartbeat.

    Args:
        workers: The workers that are alive.

        name: The name of the worker.

        own: Its limits; of all workers' limits, the strictest counts.
    """
    limit = min([own, *_limits(workers)], key=lambda limits: limits.in_flight).in_flight
    demands = {worker.name: worker.in_flight + worker.wanting for worker in workers}
    mine = demands.setdefault(name, 0)
    spare, others = limit, len(demands)
    for demand in sorted(demands.values()):
        if demand > (part := spare // others):
            # All that want more than an equal part of what is left get that; the others may grow to one of all.
            part = part if mine > part else max(mine, limit // len(demands))
            break
        spare, others = spare - demand, others - 1
    else:
        part = mine + spare // len(demands)
    held = sum(worker.in_flight for worker in workers if worker.name != name)
    return max(1, min(part, limit - held))


def _limits(workers: Collection[WorkerInfo]) -> list[Limits]:
    return [worker.limits for worker in workers if worker.limits is not None]
