"""Refused creates: the reaction of the client, measured at the service."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

from kie_async import (
    AuthenticationError,
    ConfigurationError,
    EventName,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    KieError,
    MaintenanceError,
    MarketRequest,
    ModelPausedError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SubmitInDoubtError,
    TaskTimeoutError,
    TransportError,
)
from kie_async.errors import APIError
from kie_async.testing import Fault
from tests.helpers import CALLBACKS, IMAGE, KEY, Setup, assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kie_async.testing.truth import LoggedCreate

LATENCY = (0.02, 0.2)
CLIP = 80.0
WAN = "wan/2-2-a14b-image-to-video-turbo"


async def all_of(setup: Setup, jobs: int, **how: Any) -> tuple[list[str], list[Exception]]:
    """Generate a number of jobs at once; return the ids of the successes and the errors of the others."""
    ended, refused = list[str](), list[Exception]()

    async def one(number: int) -> None:
        try:
            ended.append((await setup.kie.generate(make_request(number), **how)).task_id)
        except KieError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for number in range(jobs):
            group.start_soon(one, number)
    return ended, refused


def kinds(errors: Sequence[Exception]) -> dict[str, int]:
    return dict(Counter(type(error).__name__ for error in errors))


def prompt_of(post: LoggedCreate) -> str:
    body: Any = post.body
    return str(body["input"]["prompt"])


# -- 429 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 429], ids=["in the body", "bare"])
async def test_429_pauses_client_once_and_keeps_order(status: int) -> None:
    """A 429 on the 5th of 100 creates costs one request, and the refused job is in the next burst."""
    what: dict[str, Any] = {"kind": "html", "status": 429} if status == 429 else {"kind": "code", "code": 429}
    async with client_and_fake(faults=[Fault("create", nth=5, **what)], latency=LATENCY) as setup:
        ended, refused = await all_of(setup, 100)
        posts = setup.truth.create_requests
        (first,) = [post for post in posts if post.fault is not None]
        assert first.answered_at is not None
        later = [post for post in posts if post.at > first.answered_at]

        assert (100, []) == (len(ended), refused)
        assert 101 == len(posts)
        assert 20 == setup.truth.busiest_window(10.0)
        assert prompt_of(first) in [prompt_of(post) for post in later[:20]]
        assert later[0].at >= first.answered_at + 1.0
        assert 1 == len(setup.reported(EventName.RATE_LIMITED))
        await assert_settled(setup.kie)


async def test_job_refused_with_429_keeps_its_place() -> None:
    """Without latency the service receives the jobs in the order of the calls."""
    async with client_and_fake(faults=[Fault("create", "code", code=429, nth=20)]) as setup:
        await all_of(setup, 60)
        accepted = [prompt_of(post) for post in setup.truth.create_requests if post.task_id is not None]

        assert [make_request(number).prompt for number in range(60)] == accepted
        assert 61 == len(setup.truth.create_requests)


async def test_client_recovers_within_a_window_of_last_429() -> None:
    """No job is lost, and the client sends no more requests than the account allows."""
    async with client_and_fake(
        faults=[Fault("create", "code", code=429, between=(0.0, 600.0))], latency=LATENCY
    ) as setup:
        ended, refused = await all_of(setup, 30)
        accepted_at = [post.at for post in setup.truth.create_requests if post.task_id is not None]

        assert (30, []) == (len(ended), refused)
        assert setup.truth.busiest_window(10.0) <= 20
        assert 600.0 <= accepted_at[0] <= 611.0
        assert 30 == len(setup.truth.created)
        await assert_settled(setup.kie)


async def test_429_for_max_age_ends_in_rate_limit_error() -> None:
    """For every waiter after its own timeout, and nothing was paid."""
    policy = RetryPolicy(max_age=300.0)
    told_at: list[float] = []
    async with client_and_fake(
        client={"retry": policy}, faults=[Fault("create", "code", code=429)], latency=LATENCY
    ) as setup:

        async def latecomer() -> None:
            await anyio.sleep(200.0)
            with pytest.raises(RateLimitError, match="Nothing was paid"):
                await setup.kie.submit(make_request(99))
            told_at.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            group.start_soon(latecomer)
            ended, refused = await all_of(setup, 60)
            told_at.append(anyio.current_time())

        assert ([], {"RateLimitError": 60}) == (ended, kinds(refused))
        assert 300.0 <= told_at[0] <= 302.0
        assert 500.0 <= told_at[1] <= 502.0
        assert {"cancelled": 61} == await setup.states()
        assert len(setup.truth.create_requests) <= 20 + 500 / 10 + 4
        await assert_settled(setup.kie)


async def test_retry_after_is_honored() -> None:
    body = '{"code":429,"msg":"slow down"}'
    fault = Fault("create", "body", body=body, headers={"Retry-After": "30"}, nth=1)
    async with client_and_fake(faults=[fault]) as setup:
        ended, _ = await all_of(setup, 25)
        first, *rest = setup.truth.create_requests
        assert first.answered_at is not None
        meant = [post for post in rest if post.at > first.answered_at + 0.01]

        assert 25 == len(ended)
        assert meant[0].at >= first.answered_at + 30.0


@pytest.mark.parametrize("value", ["-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e9", ""])
async def test_invalid_retry_after_is_ignored(value: str) -> None:
    body = '{"code":429,"msg":"slow down"}'
    async with client_and_fake(
        faults=[Fault("create", "body", body=body, headers={"Retry-After": value}, nth=1)]
    ) as setup:
        await setup.kie.submit(make_request())

        assert anyio.current_time() < 11.0


async def test_shared_account_costs_few_429_and_no_job() -> None:
    async with client_and_fake(limit=8, latency=LATENCY) as setup:
        ended, refused = await all_of(setup, 60)

        assert (60, []) == (len(ended), refused)
        assert len(setup.truth.rate_limited) <= 12 + 3
        assert setup.truth.busiest_window(10.0, accepted=True) <= 8
        assert setup.truth.busiest_window(10.0) <= 20


# -- 455 --------------------------------------------------------------------------------------------------------------


async def test_hour_of_maintenance_is_waited_out() -> None:
    """With ``maintenance_timeout=7200`` all jobs succeed, and the whole client sends one probe a minute."""
    policy = RetryPolicy(maintenance_timeout=7200.0)
    async with client_and_fake(client={"retry": policy}, latency=LATENCY) as setup:
        setup.fake.maintenance = True

        async def reopen() -> None:
            await anyio.sleep(3600.0)
            setup.fake.maintenance = False

        async with anyio.create_task_group() as group:
            group.start_soon(reopen)
            ended, refused = await all_of(setup, 100)
        during = [post for post in setup.truth.create_requests if post.at < 3600.0]
        first = min(post.answered_at for post in during if post.answered_at is not None)
        probes = [post for post in during if post.at > first + 0.2]

        assert (100, []) == (len(ended), refused)
        assert 50 <= len(probes) <= 70
        assert len(during) - len(probes) <= 20
        assert all(later.at - earlier.at >= 59.0 for earlier, later in pairwise(probes))
        assert setup.truth.busiest_window(10.0) <= 20
        assert min(task.created_at for task in setup.truth.created) <= 3600.0 + 67.0
        await assert_settled(setup.kie)


async def test_maintenance_timeout_ends_the_wait() -> None:
    """``MaintenanceError`` for every waiter after 900 s, and nothing was paid."""
    async with client_and_fake(latency=LATENCY) as setup:
        setup.fake.maintenance = True
        ended, refused = await all_of(setup, 100)

        assert 900.0 <= anyio.current_time() <= 902.0
        assert ([], {"MaintenanceError": 100}) == (ended, kinds(refused))
        assert {"cancelled": 100} == await setup.states()
        assert len(setup.truth.create_requests) <= 20 + 16
        await assert_settled(setup.kie)


async def test_job_after_maintenance_is_sent_at_once() -> None:
    async with client_and_fake() as setup:
        setup.fake.maintenance = True
        with pytest.raises(MaintenanceError, match="try again later"):
            await setup.kie.submit(make_request(0))
        setup.fake.maintenance = False
        await anyio.sleep(3600.0)
        before = anyio.current_time()
        await setup.kie.submit(make_request(1))

        assert anyio.current_time() - before < 1.0


async def test_caller_timeout_ends_maintenance_wait() -> None:
    async with client_and_fake() as setup:
        setup.fake.maintenance = True
        with pytest.raises(TaskTimeoutError):
            await setup.kie.generate(make_request(), timeout=100.0)

        assert 100.0 <= anyio.current_time() <= 101.0
        await assert_settled(setup.kie)
        assert {"cancelled": 1} == await setup.states()


async def test_maintenance_timeout_is_per_job() -> None:
    async with client_and_fake() as setup:
        setup.fake.maintenance = True
        told_at: list[float] = []

        async def one(number: int) -> None:
            await anyio.sleep(600.0 * number)
            with pytest.raises(MaintenanceError):
                await setup.kie.submit(make_request(number))
            told_at.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            group.start_soon(one, 0)
            group.start_soon(one, 1)
        assert 900.0 <= told_at[0] <= 901.0
        assert 1500.0 <= told_at[1] <= 1501.0


# -- 401, 402, 433 ----------------------------------------------------------------------------------------------------


async def test_402_pauses_queue_until_paid() -> None:
    """
    Nothing is sent after the response was read, and every waiter of an unsent job gets the error.

    Unkeyed jobs are cancelled. Keyed ones resume with the same key or ``recover()`` after a successful create.
    """
    async with client_and_fake(credits=30 * CLIP, latency=LATENCY) as setup:
        kie, truth = setup.kie, setup.truth
        ended, refused = dict[int, str](), dict[int, KieError]()

        async def one(number: int) -> None:
            try:
                video = await kie.generate(make_request(number), key=f"order {number}" if number % 2 else None)
                ended[number] = video.task_id
            except KieError as error:
                refused[number] = error

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        read_at = min(
            post.answered_at for post in truth.create_requests if post.code == 402 and post.answered_at is not None
        )

        assert (30, 70) == (len(ended), len(refused))
        assert {"InsufficientCreditsError": 70} == kinds(list(refused.values()))
        assert [] == [post for post in truth.create_requests if post.at > read_at + LATENCY[1]]
        assert len(truth.create_requests) <= 40
        for number, error in refused.items():
            row = await setup.journal.get(error.job_id or "")
            assert row is not None
            assert ("intent" if number % 2 else "cancelled") == row.state
        await assert_settled(kie)

        # Without money the next submit is a probe and gets the same error.
        keyed = sorted(number for number in refused if number % 2)
        posts = len(truth.create_requests)
        with pytest.raises(InsufficientCreditsError):
            await kie.submit(make_request(keyed[0]), key=f"order {keyed[0]}")
        assert posts + 1 == len(truth.create_requests)

        setup.fake.credits = 1e6
        job = await kie.submit(make_request(keyed[0]), key=f"order {keyed[0]}")
        assert job.id == refused[keyed[0]].job_id
        others = await kie.recover()
        assert {refused[number].job_id for number in keyed} == {other.id for other in others}
        async with anyio.create_task_group() as group:
            for other in others:
                group.start_soon(other.wait)
        assert 30 + len(keyed) == len(truth.created)
        assert {"succeeded": 30 + len(keyed), "cancelled": 70 - len(keyed)} == await setup.states()
        await assert_settled(kie)


@pytest.mark.parametrize(
    ("fault", "expected", "code"),
    [
        ({"kind": "code", "code": 401}, AuthenticationError, 401),
        ({"kind": "code", "code": 402}, InsufficientCreditsError, 402),
        ({"kind": "code", "code": 433}, KeyLimitError, 433),
        (
            {"kind": "code", "code": 500, "msg": "Credits insufficient : Your current balance isn't enough"},
            InsufficientCreditsError,
            500,
        ),
    ],
    ids=["401", "402", "433", "402 by its text"],
)
async def test_account_error_pauses_all_jobs_until_probe_passes(
    fault: dict[str, Any], expected: type[APIError], code: int
) -> None:
    async with client_and_fake(faults=[Fault("create", between=(0.0, 60.0), **fault)]) as setup:
        ended, refused = await all_of(setup, 30)

        assert ([], {expected.__name__: 30}) == (ended, kinds(refused))
        assert {code} == {error.code for error in refused if isinstance(error, APIError)}
        assert 30 == len({error.job_id for error in refused if isinstance(error, KieError)})
        assert {"cancelled": 30} == await setup.states()
        assert len(setup.truth.create_requests) <= 20
        assert setup.reported(EventName.ACCOUNT_PAUSED)
        await assert_settled(setup.kie)

        await anyio.sleep(60.0)
        ended, refused = await all_of(setup, 30)
        assert (30, []) == (len(ended), refused)
        await assert_settled(setup.kie)


async def test_paused_account_still_polls_running_tasks() -> None:
    async with client_and_fake(credits=2 * CLIP, duration=300.0) as setup:
        jobs = [await setup.kie.submit(make_request(number)) for number in range(2)]
        with pytest.raises(InsufficientCreditsError):
            await setup.kie.submit(make_request(2))
        for job in jobs:
            await job

        assert {"succeeded": 2, "cancelled": 1} == await setup.states()


async def test_paused_account_sends_one_probe_at_a_time() -> None:
    """Fifty jobs after a 402 do not send fifty requests."""
    async with client_and_fake(credits=0.0, latency=LATENCY) as setup:
        with pytest.raises(InsufficientCreditsError):
            await setup.kie.submit(make_request(99))
        _, refused = await all_of(setup, 50)

        assert {"InsufficientCreditsError": 50} == kinds(refused)
        assert 2 == len(setup.truth.create_requests)
        assert {"cancelled": 51} == await setup.states()


# -- 500 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 501])
@pytest.mark.parametrize("after", [False, True], ids=["not created", "created"])
async def test_ambiguous_500_is_retried_with_new_attempt_number(
    code: int, caplog: pytest.LogCaptureFixture, *, after: bool
) -> None:
    """Two 500s and a success: three POSTs, numbered in the callback URL, and a warning for each retry."""
    fault = Fault("create", "code", code=code, times=2, after=after)
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[fault]) as setup:
        video = await setup.kie.generate(make_request())
        row = await setup.row()
        urls = [str(post.callback_url) for post in setup.truth.create_requests]
        warnings = [record for record in caplog.records if "may have been paid" in record.message]

        assert [f"{CALLBACKS}/{row.id}.{attempt}" for attempt in (1, 2, 3)] == [url.rpartition(".")[0] for url in urls]
        assert 3 == len(set(urls))
        assert ("succeeded", 2, 3) == (row.state, row.ambiguous_attempts, row.attempts)
        assert ["WARNING", "WARNING"] == [record.levelname for record in warnings]
        assert all(row.id in record.message for record in warnings)
        assert 2 == len(setup.reported(EventName.AMBIGUOUS))
        assert setup.truth.create_requests[2].task_id == video.task_id
        await assert_settled(setup.kie)


async def test_three_ambiguous_500s_end_in_server_error() -> None:
    async with client_and_fake(faults=[Fault("create", "code", code=500)]) as setup:
        with pytest.raises(ServerError) as raised:
            await setup.kie.generate(make_request())
        row = await setup.row()

        assert (500, row.id) == (raised.value.code, raised.value.job_id)
        assert ("rejected", 3) == (row.state, row.ambiguous_attempts)
        assert 3 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_server_error_attempts_is_the_total(attempts: int) -> None:
    policy = RetryPolicy(server_error_attempts=attempts)
    async with client_and_fake(client={"retry": policy}, faults=[Fault("create", "code", code=500)]) as setup:
        with pytest.raises(ServerError):
            await setup.kie.submit(make_request())

        assert attempts == len(setup.truth.create_requests) == (await setup.row()).ambiguous_attempts


@pytest.mark.parametrize("after", [False, True], ids=["not created", "created"])
async def test_on_server_error_in_doubt_never_retries(*, after: bool) -> None:
    policy = RetryPolicy(on_server_error="in_doubt")
    fault = Fault("create", "code", code=500, after=after)
    async with client_and_fake(client={"retry": policy}, faults=[fault]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.generate(make_request())
        row = await setup.row()

        assert ("in_doubt", 1, row.id) == (row.state, row.ambiguous_attempts, raised.value.job.id)
        await anyio.sleep(7200.0)
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


#: A response after which the service closes the connection, so that the next attempt must connect.
_LAST_WORDS: dict[str, Any] = {"kind": "body", "headers": {"Connection": "close"}}


async def _first_answer(setup: Setup) -> None:
    while not setup.truth.create_requests or setup.truth.create_requests[0].answered_at is None:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("then", "seconds"),
    [("refused connections", 151.0), ("402", 31.0), ("455", 931.0)],
)
async def test_after_ambiguous_500_nothing_is_called_unpaid(then: str, seconds: float) -> None:
    """A job with an ambiguous attempt is rejected, not cancelled, and the error is ``ServerError``."""
    fault = Fault("create", body='{"code":500,"msg":"Server exception"}', nth=1, **_LAST_WORDS)
    async with client_and_fake(faults=[fault]) as setup:

        async def worse() -> None:
            await _first_answer(setup)
            if then == "refused connections":
                await setup.fake.refuse_connections()
            elif then == "402":
                setup.fake.credits = 0.0
            else:
                setup.fake.maintenance = True

        async with anyio.create_task_group() as group:
            group.start_soon(worse)
            with pytest.raises(ServerError, match="may have been paid") as raised:
                await setup.kie.generate(make_request())
        row = await setup.row()

        assert ("rejected", 1, row.id) == (row.state, row.ambiguous_attempts, raised.value.job_id)
        assert anyio.current_time() <= seconds
        await assert_settled(setup.kie)


async def test_cancel_after_ambiguous_500_leaves_rejected_job() -> None:
    """It may have been paid: the journal keeps the attempt."""
    async with client_and_fake(faults=[Fault("create", "code", code=500)]) as setup:
        with anyio.move_on_after(30.0):
            async with anyio.create_task_group() as group:
                group.start_soon(setup.kie.generate, make_request())
                while not setup.reported(EventName.AMBIGUOUS):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        await anyio.sleep(1.0)
        row = await setup.row()

        assert ("rejected", 1) == (row.state, row.ambiguous_attempts)
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


# -- refused for good -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "resolution is not within the range of allowed options",
        "This aspect_ratio is not within the range of allowed options",
        "This field is required",
        "Value must be within the specified range",
        "CONTENT_POLICY_BLOCKED: The input or output was flagged as sensitive.",
    ],
)
async def test_500_about_a_parameter_is_not_retried(text: str) -> None:
    async with client_and_fake(faults=[Fault("create", "code", code=500, msg=text)]) as setup:
        with pytest.raises(InvalidRequestError) as raised:
            await setup.kie.generate(make_request())
        row = await setup.row()

        assert text == raised.value.service_message
        assert 1 == len(setup.truth.create_requests)
        assert ("rejected", 0, row.id) == (row.state, row.ambiguous_attempts, raised.value.job_id)
        await assert_settled(setup.kie)


async def test_rejection_quotes_the_service() -> None:
    """The service's 500 and 422 about a request are reported in its own words."""
    bad = MarketRequest(model=WAN, input={"prompt": "x", "image_url": IMAGE, "resolution": "1080p"})
    unknown = MarketRequest(model="acme/unheard-of", input={})
    async with client_and_fake() as setup:
        for request, words in ((bad, "resolution is not within"), (unknown, "not supported")):
            with pytest.raises(InvalidRequestError, match=words):
                await setup.kie.submit(request)
        assert 2 == len(setup.truth.create_requests)
        assert {"rejected": 2} == await setup.states()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "code", "code": 400}, InvalidRequestError),
        ({"kind": "code", "code": 403}, AuthenticationError),
        ({"kind": "code", "code": 404}, InvalidRequestError),
        ({"kind": "code", "code": 422}, InvalidRequestError),
        ({"kind": "code", "code": 451}, InvalidRequestError),
        ({"kind": "code", "code": 505}, ModelPausedError),
        ({"kind": "code", "code": 550}, ServerError),
        ({"kind": "body", "status": 403, "body": "error code: 1010"}, APIError),
        *(({"kind": "html", "status": status}, InvalidRequestError) for status in (400, 404, 413, 422)),
        *(({"kind": "redirect", "status": status}, ConfigurationError) for status in (301, 302, 307, 308)),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if isinstance(value, dict) else value.__name__,
)
async def test_permanent_rejection_is_not_retried(fault: dict[str, Any], expected: type[KieError]) -> None:
    """One POST, the typed error, and no redirect followed; the whole host answers so, not the create alone."""
    faults = [Fault("create", **fault), Fault("credit", **fault)]
    async with client_and_fake(faults=faults) as setup:
        with pytest.raises(KieError) as raised:
            await setup.kie.submit(make_request())
        row = await setup.row()

        assert expected is type(raised.value)
        assert row.id == raised.value.job_id
        assert "rejected" == row.state
        await anyio.sleep(3600.0)
        assert (1, []) == (len(setup.truth.create_requests), setup.truth.followed_redirects)
        await assert_settled(setup.kie)


async def test_proxy_403_is_not_an_authentication_error() -> None:
    async with client_and_fake(faults=[Fault("create", "body", status=403, body="error code: 1010")]) as setup:
        with pytest.raises(APIError, match="User-Agent"):
            await setup.kie.submit(make_request())


async def test_paused_model_stops_no_other() -> None:
    async with client_and_fake() as setup:
        setup.fake.paused_models.add("z-image")
        with pytest.raises(ModelPausedError):
            await setup.kie.generate(MarketRequest(model="z-image", input={"prompt": "x"}))
        await setup.kie.generate(make_request())

        assert {"rejected": 1, "succeeded": 1} == await setup.states()


async def test_http_status_makes_no_difference() -> None:
    """A service that also puts its codes into the HTTP status gets the same reaction."""
    async with client_and_fake(http_statuses=True, credits=CLIP) as setup:
        await setup.kie.generate(make_request(0))
        with pytest.raises(InsufficientCreditsError):
            await setup.kie.generate(make_request(1))


async def test_rejection_never_shows_key() -> None:
    """Not even if the service repeats it."""
    async with client_and_fake(api_keys=["another key"]) as setup:
        with pytest.raises(AuthenticationError) as raised:
            await setup.kie.submit(make_request())

        assert KEY not in f"{raised.value}{raised.value!r}{setup.events}{setup.kie!r}"


async def test_unsent_job_raises_transport_error() -> None:
    """Even after a 429: the error names the outage, and the timeout counts from its start."""
    fault = Fault("create", body='{"code":429,"msg":"slow down"}', nth=1, **_LAST_WORDS)
    async with client_and_fake(faults=[fault]) as setup:

        async def outage() -> None:
            await _first_answer(setup)
            await setup.fake.refuse_connections()

        async with anyio.create_task_group() as group:
            group.start_soon(outage)
            with pytest.raises(TransportError, match="Nothing was paid"):
                await setup.kie.submit(make_request())
        assert {"cancelled": 1} == await setup.states()
        assert 121.0 <= anyio.current_time() <= 152.0
        assert 1 == len(setup.truth.create_requests)
