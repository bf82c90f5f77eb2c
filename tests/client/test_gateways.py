"""Answers of gateways and proxies in place of the service: one ends no table, and nothing that was paid is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from kie_async import (
    JSON,
    APIError,
    AuthenticationError,
    Budget,
    ClientClosedError,
    ConfigurationError,
    EventName,
    Failed,
    InDoubt,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    KeyLimitError,
    Outcome,
    Problem,
    ServerError,
    SubmitInDoubtError,
    TaskFailedError,
    TaskTimeoutError,
)
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.requests.media import MediaSource
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.client.backend import client_with_callbacks
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, drain_run, make_rows, run_map
from tests.helpers import KEY, PROMPT, JournalClient, Setup, assert_settled, client_and_fake, make_request
from tests.profile import sample, scaled
from tests.requests.samples import PNG

#: Answers of other software: they tell nothing about the key, the account or a task.
FOREIGN: dict[str, dict[str, Any]] = {
    **{
        f"page {status}": {"kind": "html", "status": status} for status in (200, 401, 402, 403, 407, 421, 426, 451, 511)
    },
    **{f"page {status}": {"kind": "html", "status": status} for status in range(500, 531)},
    **{f"empty {status}": {"kind": "body", "body": "", "status": status} for status in (200, 401, 402, 403, 407, 503)},
    **{
        f"JSON {number} {status}": {"kind": "body", "body": json.dumps(body), "status": status}
        for number, body in enumerate(
            ({"error": "unauthorized"}, {"message": "No API key found in request"}, {"code": "UNAUTHENTICATED"}, [401])
        )
        for status in (200, 401, 403)
    },
    "gRPC": {"kind": "body", "body": '{"code":16,"message":"unauthenticated","details":[]}', "status": 401},
    "error": {"kind": "body", "body": '{"error":{"code":401,"message":"no"}}', "status": 401},
    "challenge": {"kind": "body", "body": "", "status": 401, "headers": {"WWW-Authenticate": 'Basic realm="proxy"'}},
    "captcha": {"kind": "body", "body": "\n <!DOCTYPE html><title>Just a moment...</title>", "status": 200},
    "text": {"kind": "body", "body": "upstream connect error", "status": 407},
    "broken gzip": {"kind": "body", "body": b"\x1f\x8bno", "headers": {"Content-Encoding": "gzip"}, "status": 401},
}


def fault(place: Any, name: str, **when: Any) -> Fault:
    how = dict(FOREIGN[name])
    return Fault(place, how.pop("kind"), **how, **when)


def lost(setup: Setup, found: list[Outcome]) -> set[str]:
    """Return the paid tasks that no outcome tells: neither by their id, nor as a row in doubt."""
    told = {outcome.task_id for outcome in found}
    numbers = (outcome.key.removeprefix("shot-") for outcome in found if isinstance(outcome, InDoubt))
    in_doubt = {f"{PROMPT}, take {number}" for number in numbers}
    return {
        task.task_id
        for task in setup.truth.created
        if task.task_id not in told and task.input["prompt"] not in in_doubt
    }


# -- must show 6 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["memory", "file", "callbacks"])
async def test_a_table_survives_each_odd_answer_at_each_place(how: str, tmp_path: Path) -> None:
    """Each answer is given to one poll, one upload, one download and one create, which has landed every other time."""
    names, count = sample(list(FOREIGN), check=0.25), scaled(quick=40, check=110, nightly=300)
    faults = [
        place
        for number, name in enumerate(names)
        for place in (
            fault("poll", name, nth=5 + 7 * number),
            fault("upload", name, nth=2 + 3 * number),
            fault("download", name, nth=3 + 4 * number),
            fault("create", name, nth=4 + 4 * number, after=number % 2 == 0),
        )
    ]
    rows = [(f"shot-{number}", Song(number)) for number in range(count)]
    async with _service(how, tmp_path, faults=faults, duration=20.0, credits=1e6) as setup:
        async with setup.kie.map(rows, save_to=tmp_path / "{key}.mp4") as run:
            found, error = await drain_run(run)
        kinds = count_types(found)

        assert error is None
        assert {key for key, _ in rows} == by_key(found).keys()
        assert set() == lost(setup, found)
        assert kinds["Done"] >= count - 2 * len(names)
        assert all(outcome.generation or not outcome.task_id for outcome in found if isinstance(outcome, Failed))
        assert len(setup.truth.created) <= count
        await assert_settled(setup.kie)


@attrs.frozen
class Song:
    """A request with a file, whose result the fake makes in no time."""

    number: int
    model: str = "ai-music-api/generate"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:  # noqa: ARG002 (the Protocol's)
        return []

    def check(self) -> None: ...

    def files(self) -> Mapping[str, MediaSource]:
        return {"image_url": MediaSource(PNG + b"%d" % self.number)}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        required: dict[str, JSON] = {"custom_mode": False, "instrumental": False, "model": "V6"}
        return {"prompt": f"{PROMPT}, take {self.number}", **required, **uploaded}


@asynccontextmanager
async def _service(how: str, path: Path, **service: Any) -> AsyncIterator[Setup]:
    if how == "callbacks":
        async with client_with_callbacks(**service) as (setup, _):
            yield setup
    elif how == "memory":
        async with client_and_fake(**service) as setup:
            yield setup
    else:
        async with FakeKie(**service) as fake, JournalClient(KEY, base_url=fake.url, journal=path / "kie.db") as kie:
            yield Setup(kie, fake, MemoryJournal())


# -- one answer, and the second ---------------------------------------------------------------------------------------

#: A second answer of a gateway to a poll, and what is asked then.
TWICE = fault("poll", "page 401", nth=(4, 9))


@pytest.mark.parametrize("place", ["poll", "create", "upload"])
@pytest.mark.parametrize("name", ["page 401", "empty 403", "JSON 0 401", "captcha"])
async def test_one_answer_of_a_gateway_counts_nowhere(name: str, place: str) -> None:
    async with client_and_fake(faults=[fault(place, name, nth=3)], duration=20.0) as setup:
        found = await run_map(setup, [make_request(number, image=PNG + b"%d" % number) for number in range(10)])

        assert {"Done": 10 - (place == "create"), **({"InDoubt": 1} if place == "create" else {})} == count_types(found)
        assert [] == setup.truth.queries
        assert [] == setup.reported(EventName.ACCOUNT_PAUSED)


@pytest.mark.parametrize("places", [("poll", "poll"), ("poll", "create"), ("upload", "poll"), ("create", "create")])
async def test_the_second_one_asks_for_the_balance_once(places: tuple[str, str]) -> None:
    faults = [fault(places[0], "page 401", nth=2), fault(places[1], "page 403", nth=range(6, 9))]
    async with client_and_fake(faults=faults, duration=20.0) as setup:
        rows = [make_request(number, image=PNG + b"%d" % number) for number in range(20)]
        async with setup.kie.map(rows) as run:
            found, error = await drain_run(run)

        assert error is None
        assert 20 == len(found)
        assert ["credit"] == [query.place for query in setup.truth.queries]


async def test_questions_are_a_minute_apart() -> None:
    """A gateway answers every poll for a quarter of an hour, and the question, too."""
    faults = [fault(place, "page 403", between=(0.0, 900.0)) for place in ("poll", "credit")]
    async with client_and_fake(faults=faults, duration=20.0) as setup:
        await run_map(setup, make_rows(10))

        asked_at = [query.at for query in setup.truth.queries]
        assert 5 <= len(asked_at) <= 16
        assert all(later - earlier >= 60.0 for earlier, later in pairwise(asked_at))
        assert {"succeeded": 10} == await setup.states()


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ({"kind": "code", "code": 401}, AuthenticationError),
        ({"kind": "code", "code": 401, "status": 401}, AuthenticationError),
        ({"kind": "code", "code": 402}, InsufficientCreditsError),
        ({"kind": "code", "code": 433}, KeyLimitError),
    ],
)
async def test_the_services_own_refusal_ends_the_table(question: dict[str, Any], kind: type[APIError]) -> None:
    """Each row that was paid has an outcome; the account's refusals do not end the waits for running tasks."""
    faults = [TWICE, Fault("credit", **question)]
    async with client_and_fake(faults=faults, duration=60.0) as setup:
        async with setup.kie.map(make_rows(60)) as run:
            found, error = await drain_run(run)

        assert kind is type(error)
        assert set() == lost(setup, found)
        assert len(setup.tasks) == len(found) < 60
        if kind is not AuthenticationError:
            assert {"Done": len(found)} == count_types(found)
        await anyio.sleep(60.0)  # the next polls tell that the key is good
        assert {"Done": 60} == count_types(await run_map(setup, make_rows(60)))


@pytest.mark.parametrize(
    "question",
    [
        {"kind": "html", "status": 401},
        {"kind": "body", "body": '{"error":"no"}', "status": 401},
        {"kind": "code", "code": 500},
        {"kind": "code", "code": 777},
        {"kind": "reset"},
        {"kind": "silence"},
    ],
    ids=lambda question: "-".join(str(value) for value in question.values()),
)
async def test_an_unclear_answer_to_the_question_pauses_nothing(question: dict[str, Any]) -> None:
    async with client_and_fake(faults=[TWICE, Fault("credit", **question)], duration=60.0) as setup:
        async with setup.kie.map(make_rows(50)) as run:
            found, error = await drain_run(run)

        assert error is None
        assert {"Done": 50} == count_types(found)


async def test_maintenance_in_the_answer_delays_creates_only() -> None:
    async with client_and_fake(faults=[TWICE, Fault("credit", "code", code=455)], duration=60.0) as setup:
        assert {"Done": 50} == count_types(await run_map(setup, make_rows(50)))
        assert anyio.current_time() >= 60.0


async def test_pages_instead_of_creates_end_a_submit_in_doubt_and_then_in_the_refusal() -> None:
    faults = [fault("create", "page 401"), Fault("credit", "code", code=401)]
    async with client_and_fake(faults=faults) as setup:
        for number in range(2):
            with pytest.raises(SubmitInDoubtError, match="gateway"):
                await setup.kie.submit(make_request(number))
        job = await setup.kie.submit(make_request(2), wait=False)
        await anyio.sleep(5.0)
        assert job.state in {"cancelled", "in_doubt"}
        await anyio.sleep(700.0)


# -- the end of a key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True], ids=["by the service", "by pages, and the service"])
async def test_a_key_revoked_for_good_ends_with_an_outcome_for_each_paid_row(*, bare: bool) -> None:
    faults = [fault("poll", "page 401", between=(30.0, 1e9))] if bare else []
    async with client_and_fake(duration=60.0, api_keys=[KEY], faults=faults) as setup:
        async with setup.kie.map(make_rows(60)) as run:
            await anyio.sleep(30.0)
            setup.fake.revoke_key(KEY)
            found, error = await drain_run(run)

        assert isinstance(error, AuthenticationError)
        assert set() == lost(setup, found)
        assert all(outcome.task_id for outcome in found)
        assert anyio.current_time() <= 120.0


async def test_a_gateway_that_blocks_everything_ends_with_an_outcome_for_each_row() -> None:
    faults = [fault(place, "page 407", between=(8.0, 1e9)) for place in ("create", "poll", "credit")]
    async with client_and_fake(duration=60.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(25)) as run:
            found, error = await drain_run(run)

        assert error is None
        assert 25 == len(found)
        assert set() == lost(setup, found)
        assert {TaskTimeoutError} == {type(outcome.error) for outcome in found if isinstance(outcome, Failed)}


# -- codes of polls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [501, 531])
async def test_code_501_of_a_poll_is_the_failure_of_its_task(code: int) -> None:
    fault = Fault("poll", "code", code=code, msg="Playground task failed.")
    async with client_and_fake(faults=[fault], duration=20.0, fail_rate=1.0) as setup:
        with pytest.raises(TaskFailedError, match="Playground task failed") as raised:
            await setup.kie.generate(make_request())

        assert (str(code), setup.tasks[0]) == (raised.value.fail_code, raised.value.task_id)
        assert anyio.current_time() <= 30.0
        await assert_settled(setup.kie)


@pytest.mark.parametrize("times", [1, 6])
async def test_code_408_of_a_poll_is_asked_again(times: int) -> None:
    async with client_and_fake(faults=[Fault("poll", "code", code=408, times=times)], duration=5.0) as setup:
        await setup.kie.generate(make_request())


async def test_lasting_408_stalls_a_job_which_may_still_end() -> None:
    async with client_and_fake(faults=[Fault("poll", "code", code=408, times=20)], duration=5.0) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(TaskTimeoutError):
            await job
        assert anyio.current_time() <= 900.0
        assert "stalled" == job.state

        assert setup.tasks[0] == (await job.wait(timeout=36_000.0)).task_id


async def test_lasting_408_ends_the_wait_for_a_task_of_another_program() -> None:
    async with client_and_fake(faults=[Fault("poll", "code", code=408)], duration=5.0) as setup:
        task_id = (await setup.kie.submit(make_request())).task_id
        async with JournalClient(KEY, base_url=setup.fake.url) as other:
            with pytest.raises(TaskTimeoutError):
                await other.job(str(task_id))
            with pytest.raises(ServerError, match="408"):
                await other.job(str(task_id)).status()
            assert anyio.current_time() <= 900.0


# -- bare refusals of creates -----------------------------------------------------------------------------------------

#: Refusals without a code: a gateway may give them after the service has accepted, and so may a wrong base URL.
BARE: dict[str, dict[str, Any]] = {
    **{f"page {status}": {"kind": "html", "status": status} for status in (400, 404, 413, 422)},
    **{f"empty {status}": {"kind": "body", "body": "", "status": status} for status in (400, 404, 413, 422)},
    "JSON 404": {"kind": "body", "body": '{"message":"no Route matched with those values"}', "status": 404},
    "JSON 422": {"kind": "body", "body": '{"detail":[{"loc":["body"],"msg":"field required"}]}', "status": 422},
    "text 404": {"kind": "body", "body": "404 page not found", "status": 404},
    "code a word 404": {"kind": "body", "body": '{"code":"NOT_FOUND"}', "status": 404},
    **{f"redirect {status}": {"kind": "redirect", "status": status} for status in (301, 302, 303, 307, 308)},
}


def bare(place: Any, name: str, **when: Any) -> Fault:
    how = dict(BARE[name])
    return Fault(place, how.pop("kind"), **how, **when)


@pytest.mark.parametrize("nth", [1, 2], ids=["the first create", "a later create"])
@pytest.mark.parametrize("name", BARE)
async def test_a_bare_refusal_after_the_service_accepted_loses_no_task(name: str, nth: int) -> None:
    async with client_and_fake(faults=[bare("create", name, after=True, nth=nth)], duration=20.0) as setup:
        for number in range(nth - 1):
            await setup.kie.generate(make_request(number))
        with pytest.raises(SubmitInDoubtError, match="check the base URL") as raised:
            await setup.kie.generate(make_request(nth))
        await raised.value.job.resolve(setup.tasks[-1])

        assert setup.tasks[-1] == (await raised.value.job).task_id
        assert nth == len(setup.truth.create_requests) == len(setup.tasks)
        assert (2 - nth) == len(setup.truth.queries)


@pytest.mark.parametrize("name", BARE)
async def test_a_wrong_base_url_is_an_error_at_once(name: str) -> None:
    """No answer of its host is the service's: each create is refused, and nothing is in doubt."""
    faults = [bare(place, name) for place in ("create", "poll", "credit")]
    async with client_and_fake(faults=faults, client={"callback_url": "https://app.example.com/kie"}) as setup:
        for number in range(3):
            with pytest.raises((ConfigurationError, InvalidRequestError), match=r"base URL|Correct|smaller"):
                await setup.kie.generate(make_request(number))

        assert anyio.current_time() <= 5.0
        assert {"rejected": 3} == await setup.states()
        assert 3 == len(setup.truth.create_requests)


@pytest.mark.parametrize("kind", ["reset", "silence", "close"])
async def test_a_question_without_an_answer_refuses_nothing(kind: Any) -> None:
    async with client_and_fake(faults=[bare("create", "page 404", after=True), Fault("credit", kind)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        assert anyio.current_time() <= 60.0
        await raised.value.job.abandon()
        await assert_settled(setup.kie)


async def test_a_callback_finds_the_task_behind_a_bare_refusal() -> None:
    faults = [bare("create", "page 404", after=True, nth=range(2, 4))]
    async with client_with_callbacks(faults=faults, duration=20.0) as (setup, _):
        for number in range(4):
            await setup.kie.generate(make_request(number))
        assert 4 == len(setup.truth.create_requests)


async def test_a_gateway_that_refuses_everything_later_loses_no_task() -> None:
    faults = [bare(place, "page 404", between=(8.0, 1e9), after=True) for place in ("create", "poll", "credit")]
    async with client_and_fake(duration=60.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(25)) as run:
            found, _ = await drain_run(run)

        assert 25 == len(found)
        assert set() == lost(setup, found)


async def test_a_create_that_waits_for_the_question_survives_the_close(tmp_path: Path) -> None:
    """The row is SENDING until the answer: the next process finds it in doubt."""
    faults = [bare("create", "page 404", after=True), Fault("credit", "silence")]
    async with FakeKie(faults=faults) as fake:
        async with JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            job = await kie.submit(make_request(), wait=False)
            await anyio.sleep(2.0)
            await kie.aclose(drain=0.0)
        async with JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await kie.job(job.id)
        assert 1 == len(fake.truth.create_requests)


# -- the ends of a table ----------------------------------------------------------------------------------------------


BEFORE_THE_END = [
    *(fault(place, "page 401", nth=(3, 9)) for place in ("poll", "credit")),
    fault("create", "page 502", nth=5, after=True),
]


class Full(MemoryJournal):
    """A journal that cannot write a state any more, from its twelfth row on."""

    def __init__(self, state: JobState) -> None:
        super().__init__()
        self.state, self.writes = state, 0

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Any
    ) -> Intent | None:
        self.writes += state is self.state
        if state is self.state and self.writes >= 12:
            msg = "The disk is full."
            raise JournalError(msg, job_id=seen.id)
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)


@pytest.mark.parametrize("end", ["401", "402", "433", "sending", "submitted", "succeeded", "budget", "disk"])
async def test_what_ends_a_table_leaves_an_outcome_for_each_paid_row(end: str) -> None:
    """Odd answers come before the end, and tasks are in flight at the end."""
    journal, options = MemoryJournal(), dict[str, Any]()
    faults = list(BEFORE_THE_END)
    if end.isdecimal():
        faults.append(Fault("create", "code", code=int(end), nth=range(12, 10**6)))
    elif end == "budget":
        options["budget"] = Budget(credits=1000.0, price=80.0)
    elif end == "disk":
        options["save_to"] = "/dev/full/{key}.mp4"
    else:
        journal = Full(JobState(end))
    async with client_and_fake_unchecked(journal=journal, faults=faults, duration=20.0, credits=1e6) as setup:
        async with setup.kie.map(make_rows(40), **options) as run:
            found, _ = await drain_run(run)

        assert set() == lost(setup, found)
        assert by_key(found)
        assert len(setup.truth.created) == len({str(task.input["prompt"]) for task in setup.truth.created})


async def test_the_next_run_has_the_outcomes_that_a_close_has_left_out() -> None:
    """A closed client cannot know how the tasks end, and an outcome is final."""
    async with client_and_fake(faults=BEFORE_THE_END, duration=20.0, credits=1e6) as setup:
        async with setup.kie.map(make_rows(40)) as run, anyio.create_task_group() as group:

            async def close() -> None:
                await anyio.sleep(12.0)
                await setup.kie.aclose(drain=0.0)

            group.start_soon(close)
            found, error = await drain_run(run)
        assert isinstance(error, ClientClosedError)
        async with setup.kie:
            again = await run_map(setup, make_rows(40))

        assert set() == lost(setup, [*found, *again])
        assert 40 == len(by_key(again)) == len(setup.truth.created)
