"""Shares of polls and slots: they add up to the account's, follow what is wanted, and starve no worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kie_async import Limits, WorkerInfo
from kie_async._core.fleet import polls_share, slots_share, stricter_worker

LIMITS = Limits(in_flight=500, polls_per_second=5.0)


def make_worker(number: int, watched: int = 0, taken: int = 0, wanting: int = 0, **limits: float) -> WorkerInfo:
    return WorkerInfo(
        name=f"worker-{number}",
        host="here",
        pid=number,
        started_at=0.0,
        heartbeat_at=0.0,
        watched=watched,
        in_flight=taken,
        wanting=wanting,
        limits=Limits(**limits) if limits else None,  # type: ignore[arg-type]  # of both kinds
    )


FIGURES = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600), st.integers(0, 600)), min_size=1, max_size=9)


@given(FIGURES)
def test_polls_of_workers_that_poll_add_up_to_the_accounts(figures: list[tuple[int, int, int]]) -> None:
    workers = [make_worker(number, *figure) for number, figure in enumerate(figures)]
    shares = {worker.name: polls_share(workers, worker.name, LIMITS) for worker in workers}

    assert min(shares.values()) > 0.0
    assert sum(shares[worker.name] for worker in workers if worker.watched) <= 5.0 + 1e-9
    if all(worker.watched for worker in workers):
        assert abs(sum(shares.values()) - 5.0) < 1e-9


def test_polls_follow_the_number_of_tasks() -> None:
    workers = [make_worker(1, 300), make_worker(2, 100), make_worker(3, 0), make_worker(4, 0)]

    assert [3.25, 1.25, 1.25] == [polls_share(workers, f"worker-{number}", LIMITS) for number in (1, 2, 3)]
    assert 5.0 == polls_share([], "new", LIMITS)


@given(FIGURES, st.integers(1, 1000))
def test_slots_are_exceeded_by_an_equal_part_at_most(figures: list[tuple[int, int, int]], limit: int) -> None:
    """Beyond what is taken already, also if every worker takes all that it may before the next heartbeat."""
    workers = [make_worker(number, *figure) for number, figure in enumerate(figures)]
    own = Limits(in_flight=limit)
    allowed = [slots_share(workers, worker.name, own) for worker in workers]

    assert min(allowed) >= 1
    new = sum(max(0, may - worker.in_flight) for may, worker in zip(allowed, workers, strict=True))
    assert new <= limit + max(limit, len(workers))


def test_one_worker_alone_has_all_slots() -> None:
    assert [500, 500, 500] == [
        slots_share([make_worker(1, 0, *has)], "worker-1", LIMITS) for has in [(0, 0), (9, 4), (500, 90)]
    ]
    assert 500 == slots_share([], "new", LIMITS)


def test_slots_are_divided_evenly_while_more_are_wanted() -> None:
    """A worker with all slots takes none until the others have theirs, and these get what it releases."""
    all_taken = [make_worker(1, 0, 500, 100), make_worker(2, 0, 0, 400), make_worker(3, 0, 0, 20)]
    half_way = [make_worker(1, 0, 300, 100), make_worker(2, 0, 100, 300), make_worker(3, 0, 20, 0)]

    assert [240, 1, 1] == [slots_share(all_taken, f"worker-{number}", LIMITS) for number in (1, 2, 3)]
    assert [240, 180, 100] == [slots_share(half_way, f"worker-{number}", LIMITS) for number in (1, 2, 3)]


def test_strictest_limits_count_and_their_worker_is_named() -> None:
    strict = make_worker(2, in_flight=60, polls_per_second=0.6)
    workers = [make_worker(1), make_worker(3, in_flight=100), strict]

    assert strict == stricter_worker(workers, LIMITS)
    assert stricter_worker(workers, Limits(in_flight=60, polls_per_second=0.6)) is None
    assert 0.2 == round(polls_share(workers, "worker-1", LIMITS), 9)
    assert 20 == slots_share(workers, "worker-1", LIMITS)
