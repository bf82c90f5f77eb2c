"""Test the bucket that learns the account's limit: expired tokens return by probes, and longer windows are learned."""

from __future__ import annotations

import heapq
import math
from statistics import fmean

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async._core.adaptive_bucket import MAX_LEASES, AdaptiveBucket
from kie_async._core.token_buckets import LEAST_ROUND_TRIPS, TokenLease
from kie_async.testing.account import LimiterKind, RateLimiter, make_limiter
from tests import profile
from tests.core.strategies import durations, instants
from tests.core.traffic import Limit, SlidingLog, Traffic, TwoCounters, available, most_in_a_window, return_times

NEVER = math.inf


# -- a client that is driven by a script --------------------------------------------------------------------------


@attrs.frozen
class Trip:
    """One request: its delay after the previous one, its travel times, and its end."""

    after: float
    there: float
    back: float
    end: str


@attrs.define
class Caller:
    """A client that asks a bucket before it sends, and the instants at which its requests arrive."""

    bucket: AdaptiveBucket
    now: float
    arrivals: list[float] = attrs.field(factory=list, init=False)
    _under_way: list[tuple[float, int, TokenLease, str]] = attrs.field(factory=list, init=False)

    def send_all(self, trips: list[Trip]) -> None:
        """Send one request after the other, each as soon as the bucket allows it."""
        for number, trip in enumerate(trips):
            self.read_answers_until(self.now + trip.after)
            while (ready_at := self.bucket.ready_at(self.now)) != self.now:
                later = min([at for at in (ready_at,) if at is not None] + [at for at, *_ in self._under_way[:1]])
                assert later > self.now, "the client waits, and its clock stands still"
                self.read_answers_until(later)
            lease = self.bucket.lease_token(self.now)
            if trip.end != "unsent":
                self.bucket.mark_written(lease, self.now)
                self.arrivals.append(self.now + trip.there)
            heapq.heappush(self._under_way, (self.now + trip.there + trip.back, number, lease, trip.end))

    def read_answers_until(self, instant: float) -> None:
        """Read the answers that arrive until *instant*, and set the clock to it."""
        while self._under_way and self._under_way[0][0] <= instant:
            self.now, _, lease, end = heapq.heappop(self._under_way)
            end_lease(self.bucket, lease, self.now, end)
        self.now = instant


def end_lease(bucket: AdaptiveBucket, lease: TokenLease, now: float, end: str = "passed") -> None:
    """End a lease."""
    if end == "unsent":
        bucket.cancel_lease(lease)
    elif end == "refused":
        bucket.expire_token(lease, now=now)
    else:
        bucket.consume_token(lease, answered_at=now, passed=end == "passed")


def leases(bucket: AdaptiveBucket, now: float, count: int) -> list[TokenLease]:
    """Lease *count* tokens at once, and write their requests."""
    found = [bucket.lease_token(now) for _ in range(count)]
    for lease in found:
        bucket.mark_written(lease, now)
    return found


def use_all(bucket: AdaptiveBucket, now: float, end: str = "passed") -> None:
    """Lease all tokens, and end all leases at once in the same way."""
    for lease in [bucket.lease_token(now) for _ in range(available(bucket, now))]:
        end_lease(bucket, lease, now, end)


def bucket_with(bucket: AdaptiveBucket, tokens: int, now: float = 0.0) -> AdaptiveBucket:
    """Return *bucket* after refusals of all but *tokens* requests."""
    leases = [bucket.lease_token(now) for _ in range(bucket.limit)]
    for number, lease in enumerate(leases):
        end_lease(bucket, lease, now, "passed" if number < tokens else "refused")
    return bucket


def next_probe(bucket: AdaptiveBucket, now: float) -> TokenLease:
    """Use tokens until a lease is a probe, and return that lease."""
    while not (lease := bucket.lease_token(ready(bucket, now))).probe:
        now = lease.leased_at
        assert now < 1e4, "no probe is sent"
        end_lease(bucket, lease, now)
    return lease


def ready(bucket: AdaptiveBucket, now: float) -> float:
    """Return the instant of the next lease, which must not depend on an answer."""
    ready_at = bucket.ready_at(now)
    assert ready_at is not None
    return ready_at


# -- the limit holds ----------------------------------------------------------------------------------------------

limits = st.integers(1, 5)
windows = st.floats(1e-3, 1e3)
#: Travel times from zero to several windows, some of them equal: ties expose rounding errors.
legs = st.sampled_from([0.0, 0.1, 0.2, 10.0]) | durations
ends = st.sampled_from(["passed", "passed", "passed", "refused", "lost", "unsent"])
trips = st.lists(st.builds(Trip, st.just(0.0) | legs, legs, legs, ends), max_size=40)


@given(limits, windows, trips, instants)
def test_no_window_exceeds_the_configured_limit(limit: int, window: float, trips: list[Trip], start: float) -> None:
    """Any network, any refusals, any probes: refused requests count as well."""
    caller = Caller(AdaptiveBucket(limit, window), start)
    caller.send_all(trips)
    caller.read_answers_until(NEVER)

    assert most_in_a_window(sorted(caller.arrivals), window) <= limit
    assert 0 == caller.bucket.leased


@given(limits, windows, trips, instants, st.lists(durations, min_size=LEAST_ROUND_TRIPS, max_size=6))
def test_the_limit_holds_within_the_polls_round_trips(
    limit: int, window: float, trips: list[Trip], start: float, polls: list[float]
) -> None:
    """Answers may be late or lost."""
    bucket = AdaptiveBucket(limit, window)
    for poll in polls:
        bucket.learn_round_trip(poll, answered_at=start)
    caller = Caller(bucket, start)
    caller.send_all([attrs.evolve(trip, there=min(trip.there, bucket.deliveries.margin)) for trip in trips])
    caller.read_answers_until(NEVER)

    assert most_in_a_window(sorted(caller.arrivals), window) <= limit


# -- ready_at is exact --------------------------------------------------------------------------------------------

#: The calls made on a bucket, each with its delay after the previous one.
call_names = ["lease", "lease", "write", "passed", "lost", "refused", "unsent", "round trip", "nothing"]
calls = st.lists(st.tuples(st.sampled_from(call_names), durations), max_size=60)


def assert_sound(bucket: AdaptiveBucket, now: float) -> None:
    """Check the invariants of a bucket."""
    assert 0 <= bucket.tokens <= bucket.limit
    assert bucket.window <= bucket.learned_window <= bucket.window + 2 * max(6 * bucket.window, 60.0)
    assert bucket.leased <= MAX_LEASES
    ready_at = bucket.ready_at(now)
    if ready_at is None:
        assert bucket.leased, "only an answer can be waited for"
    elif ready_at > now:
        with pytest.raises(ValueError, match="no token is free"):
            bucket.lease_token(now)
        # Sleeping until then makes progress, in one step.
        assert ready_at == bucket.ready_at(ready_at)
    else:
        assert now == ready_at


@given(limits, windows, instants, calls)
def test_ready_at_is_exact_and_no_token_is_lost(
    limit: int, window: float, now: float, calls: list[tuple[str, float]]
) -> None:
    bucket, unwritten, written = AdaptiveBucket(limit, window), list[TokenLease](), list[TokenLease]()
    for call, pause in calls:
        now += pause
        if call == "lease" and bucket.ready_at(now) == now:
            unwritten.append(bucket.lease_token(now))
        elif call == "write" and unwritten:
            written.append(unwritten.pop(0))
            bucket.mark_written(written[-1], now)
        elif call == "unsent" and unwritten:
            bucket.cancel_lease(unwritten.pop())
        elif call in ("passed", "lost", "refused") and written:
            end_lease(bucket, written.pop(0), now, call)
        elif call == "round trip":
            bucket.learn_round_trip(pause, answered_at=now)

        assert len(unwritten) + len(written) == bucket.leased
        assert_sound(bucket, now)
    for lease in unwritten:
        bucket.cancel_lease(lease)
    for lease in written:
        end_lease(bucket, lease, now)
    later = now + 8 * window + 60.0 + bucket.learned_window
    assert bucket.tokens == available(bucket, later)
    assert later == bucket.ready_at(later)


# -- a window after the answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "window", "named"),
    [(0, 10.0, "limit"), (20, 0.0, "window"), (20, float("inf"), "window"), (20, float("nan"), "window")],
)
def test_invalid_arguments_are_refused(limit: int, window: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        AdaptiveBucket(limit, window)


def test_a_lease_ends_once() -> None:
    bucket = AdaptiveBucket(1, 10.0)
    lease = bucket.lease_token(0.0)
    bucket.cancel_lease(lease)

    with pytest.raises(ValueError, match="no token is leased"):
        bucket.cancel_lease(lease)


def test_no_lease_is_given_before_a_token_is_free() -> None:
    bucket = AdaptiveBucket(1, 10.0)
    lease = bucket.lease_token(0.0)
    assert bucket.lease_if_ready(1.0, 1.0) is None, "the token is under way"
    with pytest.raises(ValueError, match="no token is free"):
        bucket.lease_token(1.0)
    bucket.mark_written(lease, 0.0)
    end_lease(bucket, lease, 1.0)

    assert 11.0 == bucket.lease_if_ready(2.0, 2.0)
    with pytest.raises(ValueError, match="no token is free"):
        bucket.lease_token(2.0)
    assert 11.0 == bucket.lease_token(2.0, horizon=9.0).leased_at


def test_counted_lease_may_be_counted_again_or_cancelled() -> None:
    """The first instant stands, and a request that was counted keeps its token for a window."""
    bucket = AdaptiveBucket(1, 10.0)
    lease = bucket.lease_token(0.0)
    bucket.count_lease(lease.number, 1.0)
    bucket.count_lease(lease.number, 5.0)
    bucket.count_lease(lease.number + 1, 5.0)
    bucket.cancel_lease(lease)

    assert 11.0 == bucket.ready_at(6.0)


def test_all_instants_move_with_the_clock() -> None:
    bucket = AdaptiveBucket(3, 10.0)
    counted, open_lease, ended = (bucket.lease_token(100.0) for _ in range(3))
    bucket.count_lease(counted.number, 101.0)
    bucket.mark_written(ended, 100.0)
    end_lease(bucket, ended, 102.0)
    bucket.shift(-90.0)

    assert 10.0 == open_lease.leased_at
    assert 11.0 == counted.counted_at
    assert 21.0 == bucket.ready_at(12.0)


def test_cancelled_leases_are_free_consumed_ones_wait() -> None:
    bucket = AdaptiveBucket(1, 10.0)
    bucket.cancel_lease(bucket.lease_token(0.0))
    lease = bucket.lease_token(0.5)
    bucket.mark_written(lease, 0.5)
    assert bucket.ready_at(5.0) is None
    end_lease(bucket, lease, 60.5, "lost")

    assert 70.5 == bucket.ready_at(60.5)


def test_a_slow_create_returns_its_token_by_polls() -> None:
    """A window after the earlier of its answer, and its writing + 1.25 * the longest of the last 64 round trips."""
    bucket = AdaptiveBucket(2, 10.0)
    slow, quick = bucket.lease_token(0.0), bucket.lease_token(0.0)
    bucket.mark_written(slow, 1.0)
    bucket.mark_written(quick, 1.0)
    end_lease(bucket, quick, 1.1)
    assert 11.1 == bucket.ready_at(1.1)
    for seconds in [9.0, *[0.4] * 64]:
        bucket.learn_round_trip(seconds, answered_at=1.1)
    assert 0.5 == bucket.deliveries.margin

    bucket.lease_token(11.1)
    assert 11.5 == bucket.ready_at(11.2)
    end_lease(bucket, slow, 11.3)
    assert 11.5 == bucket.ready_at(11.3)
    assert 1 == bucket.leased


@pytest.mark.parametrize("what", ["a poll", "a create", "a refused create"])
def test_a_create_may_be_stuck_until_an_answer(what: str) -> None:
    """An answer to a later request disproves it, and so does any answer after the longest round trip."""
    bucket = AdaptiveBucket(3, 10.0)
    for _ in range(LEAST_ROUND_TRIPS):
        bucket.learn_round_trip(0.4, answered_at=0.0)
    early, stuck, late = bucket.lease_token(1.0), bucket.lease_token(1.0), bucket.lease_token(1.0)
    bucket.mark_written(early, 2.0)
    bucket.mark_written(stuck, 3.0)
    bucket.mark_written(late, 4.0)
    bucket.learn_round_trip(0.4, answered_at=3.3)
    end_lease(bucket, early, 3.3)
    assert (13.3, 2) == (bucket.ready_at(3.3), bucket.leased)
    bucket.lease_token(13.3)
    assert bucket.ready_at(13.3) is None

    if what == "a poll":
        bucket.learn_round_trip(0.4, answered_at=14.0)
    else:
        end_lease(bucket, late, 14.0, "passed" if what == "a create" else "refused")
    assert 24.0 == bucket.ready_at(14.0)


def test_few_round_trips_do_not_return_a_token() -> None:
    """All of them may have been quick by chance."""
    bucket = AdaptiveBucket(1, 10.0)
    slow = bucket.lease_token(0.0)
    bucket.mark_written(slow, 0.0)
    for _ in range(LEAST_ROUND_TRIPS - 1):
        bucket.learn_round_trip(0.1, answered_at=1.0)
    assert bucket.ready_at(1.0) is None

    bucket.learn_round_trip(0.1, answered_at=1.0)
    assert 11.0 == bucket.ready_at(1.0)


def test_return_times_assume_answers_now() -> None:
    bucket = AdaptiveBucket(3, 10.0)
    lease, _ = bucket.lease_token(0.0), bucket.lease_token(0.0)
    end_lease(bucket, lease, 1.0)

    assert [11.0, 15.0] == return_times(bucket, 5.0)


# -- expired tokens and probes ------------------------------------------------------------------------------------


def test_a_lower_limit_is_learned_in_one_window() -> None:
    bucket = bucket_with(AdaptiveBucket(20, 10.0), 12)

    assert (12, 0.0) == (bucket.tokens, bucket.refused_since)
    assert 10.0 == bucket.ready_at(0.0)
    assert 12 == available(bucket, 10.0)


def test_pauses_double_after_refused_probes() -> None:
    """They start at two windows and grow to a minute."""
    bucket, now, probed_at = bucket_with(AdaptiveBucket(3, 10.0), 2), 0.0, list[float]()
    for _ in range(5):
        probe = next_probe(bucket, now)
        now = probe.leased_at
        probed_at.append(now)
        bucket.expire_token(probe, now=now)

    assert [20.0, 40.0, 80.0, 140.0, 200.0] == probed_at
    assert 2 == bucket.tokens


def test_probes_are_sent_one_at_a_time() -> None:
    """A probe counts as a token in use: if it is accepted, it may have replaced one."""
    bucket = bucket_with(AdaptiveBucket(4, 10.0), 2)
    probe = next_probe(bucket, 0.0)
    assert 20.0 == probe.leased_at
    assert not bucket.lease_token(ready(bucket, 30.0)).probe

    assert bucket.ready_at(100.0) is None
    bucket.cancel_lease(probe)
    assert 100.0 == bucket.ready_at(100.0)


def test_an_accepted_probe_adds_a_token() -> None:
    """The next probe follows at once, so that a raised limit is regained in a round trip per token."""
    bucket, now = bucket_with(AdaptiveBucket(5, 10.0), 1), 0.0
    for tokens in (2, 3, 4, 5):
        probe = next_probe(bucket, now)
        now = probe.leased_at + 0.2
        end_lease(bucket, probe, now)
        assert tokens == bucket.tokens

    assert 20.0 + 4 * 0.2 == pytest.approx(now)
    assert bucket.lease_token(ready(bucket, now)).probe is False


def test_the_pause_is_reset_when_all_tokens_are_back() -> None:
    """If the limit is really lower, one accepted probe must not make the next probes earlier."""
    bucket = bucket_with(AdaptiveBucket(3, 10.0), 1)
    bucket.expire_token(next_probe(bucket, 0.0), now=20.0)
    accepted = next_probe(bucket, 20.0)
    end_lease(bucket, accepted, accepted.leased_at)
    bucket.expire_token(next_probe(bucket, 40.0), now=40.0)
    again = next_probe(bucket, 40.0)
    assert (2, 40.0, 80.0) == (bucket.tokens, accepted.leased_at, again.leased_at)
    end_lease(bucket, again, 80.0)
    assert 3 == bucket.tokens

    lease = bucket.lease_token(ready(bucket, 100.0))
    bucket.expire_token(lease, now=100.0)
    for probed_at in (120.0, 140.0):
        probe = next_probe(bucket, 100.0)
        assert probed_at == probe.leased_at
        bucket.expire_token(probe, now=probed_at)


def test_a_regained_token_that_expires_doubles_the_pause() -> None:
    """It counts as a refused probe: the pauses are 20, 20, 40, 60."""
    bucket = bucket_with(AdaptiveBucket(4, 10.0), 1)
    bucket.expire_token(next_probe(bucket, 0.0), now=20.0)
    accepted = next_probe(bucket, 20.0)
    end_lease(bucket, accepted, 40.0)
    assert (2, 40.0) == (bucket.tokens, accepted.leased_at)
    lease = bucket.lease_token(60.0)
    bucket.expire_token(lease, now=60.0)
    assert (1, False) == (bucket.tokens, lease.probe)

    probe = next_probe(bucket, 60.0)
    bucket.expire_token(probe, now=100.0)
    assert (100.0, 160.0) == (probe.leased_at, next_probe(bucket, 100.0).leased_at)


def test_a_probe_without_an_answer_changes_nothing() -> None:
    bucket = bucket_with(AdaptiveBucket(3, 10.0), 2)
    probe = next_probe(bucket, 0.0)
    end_lease(bucket, probe, 25.0, "lost")

    assert 2 == bucket.tokens
    assert len(return_times(bucket, 25.0)) > bucket.tokens, "the service may have counted it for a window"
    assert 45.0 == next_probe(bucket, 25.0).leased_at


def test_a_late_refusal_expires_a_token() -> None:
    bucket = AdaptiveBucket(2, 10.0)
    slow = bucket.lease_token(0.0)
    bucket.mark_written(slow, 0.0)
    for _ in range(LEAST_ROUND_TRIPS):
        bucket.learn_round_trip(0.4, answered_at=0.5)
    assert 2 == available(bucket, 11.0)
    bucket.expire_token(slow, now=11.0)

    assert (1, 0) == (bucket.tokens, bucket.leased)
    assert 1 == available(bucket, 11.0)


def test_refused_since() -> None:
    bucket = AdaptiveBucket(5, 10.0)
    leases = [bucket.lease_token(0.0) for _ in range(5)]
    seen: list[float | None] = []
    for now, end in enumerate(["refused", "refused", "lost", "passed", "refused"]):
        end_lease(bucket, leases[now], now, end)
        seen.append(bucket.refused_since)

    assert [0, 0, 0, None, 4] == seen


# -- blackout -----------------------------------------------------------------------------------------------------


def test_blackout_pauses_are_1_2_4_up_to_a_window() -> None:
    """The window must have room for the probe: refused requests of a burst count in it as well."""
    bucket, now, pauses = bucket_with(AdaptiveBucket(20, 10.0), 1), 10.0, list[float]()
    bucket.expire_token(bucket.lease_token(now), now=now)
    for _ in range(6):
        probed_at = ready(bucket, now)
        pauses.append(probed_at - now)
        probe, now = bucket.lease_token(probed_at), probed_at
        assert bucket.ready_at(now) is None
        bucket.expire_token(probe, now=now)

    assert [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] == pauses
    assert 0 == bucket.tokens


def test_the_first_accepted_request_ends_a_blackout() -> None:
    """It may have been under way already, with its token expired by late answers."""
    bucket = AdaptiveBucket(1, 10.0)
    slow = bucket.lease_token(0.0)
    bucket.mark_written(slow, 0.0)
    for _ in range(LEAST_ROUND_TRIPS):
        bucket.learn_round_trip(0.4, answered_at=0.5)
    other = bucket.lease_token(11.0)
    bucket.expire_token(slow, now=11.0)
    assert 0 == bucket.tokens
    end_lease(bucket, other, 11.2)

    assert 1 == bucket.tokens


def end_blackout_after(bucket: AdaptiveBucket, seconds: float) -> float:
    """Refuse all requests for *seconds*, a window after the last success; return the instant of the next success."""
    use_all(bucket, 0.0)
    use_all(bucket, 10.0, "refused")
    while (now := ready(bucket, 10.0)) < 10.0 + seconds:
        bucket.expire_token(bucket.lease_token(now), now=now)
    probe = bucket.lease_token(now)
    end_lease(bucket, probe, now)
    return now


@pytest.mark.parametrize(("seconds", "span"), [(11.0, 10.0), (40.0, None), (65.0, 10.0), (600.0, 10.0)])
def test_a_blackout_teaches_a_longer_window(seconds: float, span: float | None) -> None:
    """Earlier requests were counted until it ended. A long blackout is an outage."""
    bucket = AdaptiveBucket(5, 10.0)
    over_at = end_blackout_after(bucket, seconds)

    assert (over_at if span is None else span) == bucket.learned_window
    assert 1 == bucket.tokens


def test_an_accepted_probe_shortens_a_learned_window() -> None:
    """With all tokens in use, it proves that the oldest request is not counted any more."""
    bucket = AdaptiveBucket(2, 10.0)
    now = end_blackout_after(bucket, 40.0)
    end_lease(bucket, next_probe(bucket, now), now)
    assert (2, now) == (bucket.tokens, bucket.learned_window)
    bucket.expire_token(next_probe(bucket, now), now=now + 10.0)
    probe = next_probe(bucket, now + 10.0)
    assert now + 30.0 == probe.leased_at
    end_lease(bucket, probe, now + 30.0)

    assert 30.0 == bucket.learned_window
    assert 2 == bucket.tokens
    # It is never shorter than the one configured.
    end_lease(bucket, next_probe(bucket, now + 40.0), now + 40.0)
    assert 10.0 == bucket.learned_window


# -- a limit that is set too high ---------------------------------------------------------------------------------


def test_at_most_48_requests_are_under_way() -> None:
    bucket = AdaptiveBucket(100_000, 10.0)
    under_way = leases(bucket, 0.0, MAX_LEASES)
    assert (48, None) == (MAX_LEASES, bucket.ready_at(0.0))

    end_lease(bucket, under_way[0], 0.1)
    assert 0.1 == bucket.ready_at(0.1)


def test_refusals_in_a_window_reveal_a_much_lower_limit() -> None:
    """One may be noise. After the next one, there are as many tokens as requests that may have been accepted."""
    bucket = AdaptiveBucket(1000, 10.0)
    under_way = leases(bucket, 0.0, 30)
    for lease in under_way[:4]:
        end_lease(bucket, lease, 0.1)
    end_lease(bucket, under_way[4], 0.2, "refused")
    assert (999, 0.2) == (bucket.tokens, bucket.ready_at(0.2))

    end_lease(bucket, under_way[5], 0.2, "refused")
    assert (28, 10.1) == (bucket.tokens, bucket.ready_at(0.2))
    for lease in under_way[6:14]:
        end_lease(bucket, lease, 0.3, "refused")
    for lease in under_way[14:]:
        end_lease(bucket, lease, 0.3)
    assert (20, False) == (bucket.tokens, bucket.paced)
    assert 20 == available(bucket, 10.3)


def test_single_refusals_in_their_windows_expire_single_tokens() -> None:
    bucket = AdaptiveBucket(1000, 10.0)
    for now in (0.0, 10.0, 25.0):
        bucket.expire_token(bucket.lease_token(now), now=now)

    assert 997 == bucket.tokens


def test_one_refused_job_does_not_use_up_the_limit() -> None:
    """Another program uses the account: the second refusal begins a blackout, and a probe is sent a second later."""
    bucket = AdaptiveBucket(20, 10.0)
    for now in (0.0, 0.1):
        bucket.expire_token(bucket.lease_token(now), now=now)

    assert (0, 1.1) == (bucket.tokens, bucket.ready_at(0.1))


def test_late_refusals_do_not_count_as_accepted() -> None:
    """The polls have shown that the requests were counted, but the answers say that they were refused."""
    bucket = AdaptiveBucket(1000, 10.0)
    under_way = leases(bucket, 0.0, 48)
    for _ in range(LEAST_ROUND_TRIPS):
        bucket.learn_round_trip(0.2, answered_at=0.5)
    assert 48 == len(return_times(bucket, 0.5))
    for number, lease in enumerate(under_way):
        end_lease(bucket, lease, 2.0, "passed" if number < 20 else "refused")

    assert (20, False) == (bucket.tokens, bucket.paced)
    assert 20 == len(return_times(bucket, 2.0))


def test_tokens_regained_since_the_last_refusal_expire_together() -> None:
    """The first refusal may be noise; the second shows that the service has taken a burst, and not a higher limit."""
    bucket, now = bucket_with(AdaptiveBucket(40, 10.0), 20), 0.0
    while bucket.tokens < 30:
        probe = next_probe(bucket, now)
        now = probe.leased_at + 0.2
        end_lease(bucket, probe, now)
    under_way = leases(bucket, now + 10.0, 30)

    for lease, tokens in zip(under_way[:4], (29, 20, 20, 20), strict=True):
        bucket.expire_token(lease, now=now + 10.2)
        assert tokens == bucket.tokens


def test_a_probe_waits_until_no_other_request_is_under_way() -> None:
    """The probe could take the place of the other request, and prove nothing; after a tenth of a window it is sent."""
    bucket = bucket_with(AdaptiveBucket(3, 10.0), 2)
    other, last = leases(bucket, 19.9, 2)
    end_lease(bucket, other, 20.1)
    assert 21.0 == bucket.ready_at(20.1)

    end_lease(bucket, last, 20.2)
    assert 20.2 == bucket.ready_at(20.2)
    assert bucket.lease_token(20.2).probe


def test_a_short_window_is_not_probed_many_times_a_second() -> None:
    """The pauses of a blackout double up to ten seconds, and the window of the service is learned."""
    bucket, now, pauses = AdaptiveBucket(2, 0.1), 1.0, list[float]()
    use_all(bucket, 0.0)
    use_all(bucket, 1.0, "refused")
    for _ in range(5):
        pauses.append(ready(bucket, now) - now)
        now += pauses[-1]
        probe = bucket.lease_token(now)
        end_lease(bucket, probe, now, "refused" if len(pauses) < 5 else "passed")

    assert [1.0, 2.0, 4.0, 8.0, 10.0] == pytest.approx(pauses)
    assert 25.1 == pytest.approx(bucket.learned_window)


def test_in_a_long_window_the_first_probe_does_not_follow_a_burst() -> None:
    """The service counts in 10 s: 45 s after the refusals, and 15 s before the tokens return, it takes more."""
    bucket = AdaptiveBucket(100, 60.0)
    for number, lease in enumerate(leases(bucket, 0.0, 40)):
        end_lease(bucket, lease, 0.1, "passed" if number < 20 else "refused")

    assert 45.1 == bucket.ready_at(0.1)


# -- pacing -------------------------------------------------------------------------------------------------------


def test_learning_a_lower_limit_keeps_bursts() -> None:
    bucket = bucket_with(AdaptiveBucket(3, 10.0), 2)

    assert not bucket.paced
    assert 2 == available(bucket, 10.0)


def test_an_unexplained_refusal_starts_pacing() -> None:
    """Requests keep a gap of 0.95 * window / (tokens + 1) until all tokens are back."""
    bucket = bucket_with(AdaptiveBucket(5, 10.0), 4)
    bucket.expire_token(bucket.lease_token(10.0), now=10.0)
    assert (3, True) == (bucket.tokens, bucket.paced)
    taken_at: list[float] = []
    for _ in range(3):
        lease = bucket.lease_token(ready(bucket, 11.0 if not taken_at else taken_at[-1]))
        taken_at.append(lease.leased_at)
        end_lease(bucket, lease, lease.leased_at)
    assert [12.375, 14.75, 17.125] == taken_at

    now = 17.125
    while bucket.tokens < 5:
        probe = next_probe(bucket, now)
        now = probe.leased_at
        end_lease(bucket, probe, now)
    assert not bucket.paced


# -- against models of the service --------------------------------------------------------------------------------


def always(limit: int) -> Limit:
    return lambda _: limit


def twenty_eight_twenty(now: float) -> int:
    return 8 if 150.0 <= now < 350.0 else 20


@attrs.define
class FixedLimiter:
    """One of the fake's limiters, as a model of the service."""

    limiter: RateLimiter

    def admits(self, now: float) -> bool:
        return self.limiter.admit(now)


@settings(max_examples=profile.examples(15))
@given(
    configured=st.integers(20, 100_000) | st.sampled_from([20, 21, 25, 40, 60, 68, 100, 1000, 100_000]),
    kind=st.sampled_from(["sliding", "fixed", "bucket"]),
    shortest=st.floats(0.01, 0.07),
    spread=st.floats(1.0, 3.0),
    create_seconds=st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    seed=st.integers(0, 10_000),
)
def test_a_limit_set_too_high_is_no_attack(
    *, configured: int, kind: LimiterKind, shortest: float, spread: float, create_seconds: float, seed: int
) -> None:
    """At most 48 + 20 are refused in the first window, then about one in ten seconds, and the limit is used."""
    service = FixedLimiter(make_limiter(kind, limit=20, window=10.0))
    traffic = Traffic(
        service,
        [AdaptiveBucket(configured, 10.0)],
        seed,
        way=(shortest, spread * shortest),
        create_seconds=create_seconds,
    )
    traffic.run(200.0)
    first = [at for at in traffic.refused if at < 10.0]

    assert len(first) <= 68
    assert len(traffic.refused) - len(first) <= 25
    assert len(traffic.accepted[0]) >= 0.93 * 20 * (200.0 / (10.0 + 2 * spread * shortest + create_seconds)) - 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("limit", "capacity", "refusals", "used"),
    [
        pytest.param(always(20), 1200, 0, 0.97, id="20"),
        pytest.param(always(12), 720, 25, 0.97, id="12"),
        pytest.param(twenty_eight_twenty, 960, 16, 0.93, id="20, 8, 20"),
    ],
)
def test_ten_minutes_at_another_limit(limit: Limit, capacity: int, refusals: int, used: float, seed: int) -> None:
    traffic = Traffic(SlidingLog(limit), [AdaptiveBucket(20, 10.0)], seed)
    traffic.run(600.0)

    assert len(traffic.refused) <= refusals
    assert len([at for at in traffic.refused if at < 10.0]) <= 10
    assert len(traffic.accepted[0]) >= used * capacity
    assert most_in_a_window(sorted([*traffic.accepted[0], *traffic.refused]), 10.0) <= 20


@pytest.mark.parametrize("seed", range(5))
def test_three_independent_clients_share_an_account(seed: int) -> None:
    """They use the whole limit together and none is starved; the shares vary for minutes."""
    traffic = Traffic(SlidingLog(always(20)), [AdaptiveBucket(20, 10.0) for _ in range(3)], seed)
    traffic.run(600.0)
    accepted = [len(times) for times in traffic.accepted]

    assert len(traffic.refused) <= 0.08 * sum(accepted)
    assert sum(accepted) >= 0.97 * 1200
    assert min(accepted) >= 0.15 * sum(accepted)


def test_a_longer_window_is_learned() -> None:
    traffic = Traffic(SlidingLog(always(20), window=60.0), [AdaptiveBucket(20, 10.0)])
    traffic.run(1200.0)

    assert 50.0 <= traffic.buckets[0].learned_window <= 70.0
    assert len(traffic.refused) <= 60


def test_a_service_that_refuses_bursts_is_paced() -> None:
    """Without pacing 65 are refused in ten minutes, and 68 % of the limit is used."""
    used, refused = list[float](), list[float]()
    for seed in range(5):
        traffic = Traffic(TwoCounters(20), [AdaptiveBucket(20, 10.0)], seed)
        traffic.run(600.0)
        used.append(len(traffic.accepted[0]) / 1200)
        refused.append(len(traffic.refused))

    assert fmean(used) >= 0.8
    assert fmean(refused) <= 50
