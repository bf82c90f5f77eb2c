"""The shared time never steps, whatever is done to the server's clock."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.shared_clock import SharedClock

PAUSES = st.floats(0.0, 600.0)
TRIPS = st.floats(0.0, 0.2)
#: Two clocks may drift apart by so many seconds within the longest of these tests.
UNSEEN = 20.0
STEPS = st.sampled_from([0.0, 0.0, 3.0, -3.0, 10_800.0, -10_800.0])


@given(st.lists(st.tuples(st.integers(0, 2), PAUSES, TRIPS, TRIPS, STEPS), min_size=1, max_size=30))
def test_shared_time_follows_the_true_time(readings: list[tuple[int, float, float, float, float]]) -> None:
    """
    Three workers read the clock, which is set between readings; each keeps its sum of steps in the journal.

    A worker learns a step with an error of a round trip, so errors add up, but a step never appears as time. One that
    undoes another, as far as a worker can see, is none: it cannot know what others have found in between.
    """
    workers = [SharedClock() for _ in range(3)]
    starts = (0.0, 1000.0, 5.0)  # their own clocks count from other instants
    true, stepped, steps, error = 0.0, 0.0, 0.0, 0.01
    past = [0.0]
    for worker in range(3):  # all have read it before it is first set
        workers[worker].read(true, steps=0.0, before=true + starts[worker], after=true + starts[worker])
        workers[worker].keep()
    for worker, pause, there, back, step in readings:
        true += pause
        stepped += step
        while step and any(abs(stepped - other) <= UNSEEN for other in past[:-1]):
            stepped += UNSEEN
        past.append(stepped)
        error += there + back + (0.01 + 0.0005 * 600 * len(readings) if step else 0.0)
        before = true + starts[worker]
        true += there
        now, steps = workers[worker].read(
            true + stepped, steps=steps, before=before, after=true + back + starts[worker]
        )
        workers[worker].keep()
        true += back
        assert abs(now - (true - back)) <= error


def test_reading_that_was_not_written_is_repeated() -> None:
    """Another worker was faster: its sum of steps has the step already, and it does not count twice."""
    clock = SharedClock()
    clock.read(100.0, steps=0.0, before=0.0, after=0.0)
    clock.keep()

    assert (101.0, 50.0) == clock.read(151.0, steps=0.0, before=1.0, after=1.0)
    assert (101.5, 50.0) == clock.read(151.5, steps=50.0, before=1.5, after=1.5)
    clock.keep()
    assert (102.0, 50.0) == clock.read(152.0, steps=50.0, before=2.0, after=2.0)


def test_worker_that_comes_after_a_step_agrees_with_the_others() -> None:
    """It has read the clock before another worker has noticed that it was set: neither undoes what the other finds."""
    old, new = SharedClock(), SharedClock()
    old.read(100.0, steps=0.0, before=0.0, after=0.0)
    old.keep()
    new.read(3701.0, steps=0.0, before=501.0, after=501.0)
    new.keep()

    assert _read_by_turns({old: 2.0, new: 502.0}, 3702.0) == [(102.0 + second, 3600.0) for second in range(6)]


def test_worker_whose_own_clock_stood_still_agrees_with_the_others() -> None:
    """Its machine was stopped for a minute: to it, the server's clock was set."""
    stopped, other = SharedClock(), SharedClock()
    for clock, own in ((stopped, 60.0), (other, 500.0)):
        clock.read(160.0, steps=0.0, before=own, after=own)
        clock.keep()

    assert _read_by_turns({stopped: 62.0, other: 562.0}, 222.0) == [(162.0 + second, 60.0) for second in range(6)]


def _read_by_turns(own: Mapping[SharedClock, float], server: float) -> list[tuple[float, float]]:
    """Let workers read each second, beginning when their own clocks and the server's have these times."""
    found, steps = list[tuple[float, float]](), 0.0
    for second, clock in enumerate([*own] * 3):
        now = own[clock] + second
        shared, steps = clock.read(server + second, steps=steps, before=now, after=now)
        clock.keep()
        found.append((shared, steps))
    return found


def test_slow_drift_is_no_step() -> None:
    clock = SharedClock()
    for second in range(1000):
        now, steps = clock.read(second * 1.0004, steps=0.0, before=float(second), after=float(second))
        clock.keep()
        assert (now, steps) == (second * 1.0004, 0.0)
