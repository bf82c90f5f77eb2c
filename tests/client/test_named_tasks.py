"""Odd answers to a create that name a task: it is kept, confirmed by recordInfo, and bound if it is ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from kie_async import JournalError, KieClient, SqliteJournal, SubmitInDoubtError, TaskTimeoutError
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.client.backend import client_with_callbacks
from tests.client.gateway import Answer, behind_gateway, running_gateway, task_id_in
from tests.helpers import CALLBACKS, KEY, JournalClient, assert_settled, create_foreign_task, make_request


def envelope(code: object, msg: str = "success", **members: object) -> Answer:
    """Answer with other members around the id, which is written where they say ``ID``."""

    def answer(real: bytes) -> web.Response:
        document = {**({} if code is ... else {"code": code}), "msg": msg, **members}
        return web.json_response(text=json.dumps(document).replace("ID", task_id_in(real)))

    return answer


def changed(change: Callable[[bytes, bytes], bytes], **how: Any) -> Answer:
    """Answer with the service's body, changed by a function of it and the id."""
    how = {"content_type": "application/json", **how}
    return lambda real: web.Response(body=change(real, task_id_in(real).encode()), **how)


DATA = {"taskId": "ID"}
PARAMETER_FAULT = "Value must be within the specified range"
ODD: dict[str, Answer] = {
    "code 0": envelope(0, data=DATA),
    "code 201": envelope(201, data=DATA),
    "code 202": envelope(202, data=DATA),
    "no code": envelope(..., data=DATA),
    "code null": envelope(None, data=DATA),
    "code true": envelope(bool(DATA), data=DATA),
    "code a fraction": envelope(200.5, data=DATA),
    "code a word": envelope("success", data=DATA),
    "code 777": envelope(777, data=DATA),
    "code 500": envelope(500, "Server exception", data=DATA),
    "code 501": envelope(501, "failed", data=DATA),
    "code 500 and a text of refusal": envelope(500, PARAMETER_FAULT, data=DATA),
    "code 401": envelope(401, "no", data=DATA),
    "code 402": envelope(402, "no", data=DATA),
    "code 422": envelope(422, "no", data=DATA),
    "code 429": envelope(429, "slow down", data=DATA),
    "code 433": envelope(433, "no", data=DATA),
    "code 455": envelope(455, "maintenance", data=DATA),
    "code 505": envelope(505, "paused", data=DATA),
    "data.task_id": envelope(200, data={"task_id": "ID"}),
    "data.id": envelope(200, data={"id": "ID"}),
    "data.recordId": envelope(200, data={"recordId": "ID"}),
    "taskId at the top": envelope(200, taskId="ID", data=None),
    "task_id at the top": envelope(0, task_id="ID"),
    "recordId at the top": envelope(200, recordId="ID", data={}),
    "a list of tasks": envelope(200, data=[DATA]),
    "a list of ids": envelope(200, data=["ID"]),
    "a list in taskId": envelope(200, data={"taskId": ["ID"]}),
    "data is the id": envelope(200, data="ID"),
    "code 500 and data.task_id": envelope(500, "Server exception", data={"task_id": "ID"}),
    "text after the answer": changed(lambda real, _: real + b"<!-- cached -->"),
    "the answer twice": changed(lambda real, _: real * 2),
    "text before the answer": changed(lambda real, _: b")]}'," + real),
    "cut off after the id": changed(lambda real, task: real[: real.index(task) + len(task) + 1]),
    "not UTF-8": changed(lambda real, _: real.replace(b"success", b"\xff\xfe")),
    "too long": changed(lambda real, _: real + b" " * 2**21),
    "HTTP 302": changed(lambda real, _: real.replace(b"200", b"302"), status=302),
    "HTTP 401 and code 0": changed(lambda real, _: real.replace(b"200", b"0"), status=401),
}

#: Answers that are the service's own, whatever is around them.
READ = {
    "as HTML": changed(lambda real, _: real, content_type="text/html"),
    "under HTTP 401": changed(lambda real, _: real, status=401),
    "under HTTP 502": changed(lambda real, _: real, status=502, content_type="text/html"),
    "with a byte order mark": changed(lambda real, _: b"\xef\xbb\xbf" + real),
    "code a string": changed(lambda real, _: real.replace(b"200", b'"200"')),
}


@pytest.mark.parametrize("name", [*ODD, *READ])
async def test_a_task_in_an_odd_answer_is_bound_and_nothing_is_sent_again(name: str) -> None:
    async with behind_gateway(duration=20.0) as (setup, gateway):
        gateway.replace("create", {**ODD, **READ}[name])
        video = await setup.kie.generate(make_request(0))
        row = await setup.row()

        assert [video.task_id] == setup.tasks
        assert (1, "succeeded", ()) == (gateway.seen["create"], row.state, row.callback_task_ids)
        assert anyio.current_time() <= 60.0
        await assert_settled(setup.kie)


@pytest.mark.parametrize("name", ["code 0", "code 500", "code 429", "code 402", "cut off after the id"])
async def test_our_token_in_the_echo_binds_the_task(name: str) -> None:
    async with behind_gateway(client={"callback_url": CALLBACKS}, duration=20.0) as (setup, gateway):
        gateway.replace("create", ODD[name])
        job = await setup.kie.submit(make_request(0))

        assert [job.task_id] == setup.tasks
        assert 1 == gateway.seen["create"]
        await job


@pytest.mark.parametrize("kind", ["half_body", "slow_body"])
async def test_a_task_in_an_answer_that_breaks_off_is_bound(kind: str) -> None:
    """The first half ends after the id: the connection closes, or the rest does not come in time."""
    body = {"code": 200, "data": {"taskId": "ID"}, "trace": "x" * 4000}
    async with behind_gateway(duration=20.0) as (setup, gateway):
        gateway.replace("create", lambda real: _Broken(json.dumps(body).replace("ID", task_id_in(real)), kind))
        video = await setup.kie.generate(make_request(0))
        await anyio.sleep(90.0)

        assert [video.task_id] == setup.tasks
        assert 1 == gateway.seen["create"]


class _Broken(web.Response):
    """A response that ends, or falls silent, in its middle."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text=text, content_type="application/json")
        self._kind = kind

    async def write_eof(self, _: bytes = b"") -> None:
        """Write the first half of the body."""
        await super().write(str(self.text)[:2000].encode())
        if self._kind == "slow_body":
            await anyio.sleep(90.0)  # the client gives up after 60 s
        assert self._req is not None
        assert self._req.transport is not None
        self._req.transport.close()


@pytest.mark.parametrize("code", [0, 500, 429, 455, 402])
async def test_an_unproved_task_is_neither_bound_nor_a_reason_to_send_again(code: int) -> None:
    """The gateway answers in place of the service, and names a task that other software has created."""
    async with behind_gateway(checked=False, duration=20.0) as (setup, gateway):
        foreign = await create_foreign_task(setup.fake.url)
        document = {"code": code, "msg": "Server exception", "data": {"taskId": foreign}}
        gateway.replace("create", lambda _: web.json_response(document), nth=[1], forward=False)
        with pytest.raises(SubmitInDoubtError, match=foreign):
            await setup.kie.generate(make_request(0))
        await anyio.sleep(3600.0)

        assert [foreign] == setup.tasks
        assert (1, "unresolved", (foreign,)) == (
            gateway.seen["create"],
            (row := await setup.row()).state,
            row.callback_task_ids,
        )


async def test_the_task_of_another_job_is_disproved_and_the_create_is_sent_again() -> None:
    async with behind_gateway(duration=20.0) as (setup, gateway):
        first = await setup.kie.submit(make_request(0))
        document = {"code": 500, "msg": "Server exception", "data": {"taskId": first.task_id}}
        gateway.replace("create", lambda _: web.json_response(document), nth=[2], forward=False)
        second = await setup.kie.generate(make_request(1))

        assert [first.task_id, second.task_id] == setup.tasks
        assert 3 == gateway.seen["create"]


#: Ways in which the service may echo a request otherwise than it was sent.
ECHOES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a blank more": lambda echo: echo["input"].update(prompt=echo["input"]["prompt"] + " "),
    "another type": lambda echo: echo["input"].update(prompt=[echo["input"]["prompt"]]),
    "a member less": lambda echo: echo["input"].pop("prompt"),
    "no input": lambda echo: echo.pop("input"),
    "another URL": lambda echo: echo["input"].update(image_url="https://cdn.example.com/1.png"),
    "an alias of the model": lambda echo: echo.update(model="wan-2.2"),
    "no model": lambda echo: echo.pop("model"),
}


def echoed(change: Callable[[dict[str, Any]], None]) -> Answer:
    """Answer a poll with an echo that is written otherwise."""

    def answer(real: bytes) -> web.Response:
        document = json.loads(real)
        if document.get("data"):
            echo = json.loads(document["data"]["param"])
            if isinstance(echo["input"], str):
                echo["input"] = json.loads(echo["input"])
            change(echo)
            document["data"]["param"] = json.dumps(echo)
        return web.json_response(document)

    return answer


@pytest.mark.parametrize("code", [500, 429, 0])
@pytest.mark.parametrize("name", ECHOES)
async def test_an_echo_that_is_written_otherwise_is_no_reason_to_send_again(name: str, code: int) -> None:
    async with behind_gateway(duration=20.0) as (setup, gateway):
        gateway.replace("create", envelope(code, "no", data=DATA), nth=[1])
        gateway.replace("poll", echoed(ECHOES[name]))
        with pytest.raises(SubmitInDoubtError, match="could not be confirmed") as raised:
            await setup.kie.generate(make_request(0))
        await anyio.sleep(600.0)
        assert 1 == gateway.seen["create"] == len(setup.tasks)

        await raised.value.job.resolve(setup.tasks[0])
        assert setup.tasks[0] == (await raised.value.job).task_id


@pytest.mark.parametrize("name", ECHOES)
async def test_our_token_proves_a_task_whose_echo_is_written_otherwise(name: str) -> None:
    async with behind_gateway(client={"callback_url": CALLBACKS}, duration=20.0) as (setup, gateway):
        gateway.replace("create", envelope(500, "no", data=DATA), nth=[1])
        gateway.replace("poll", echoed(ECHOES[name]))
        assert [(await setup.kie.generate(make_request(0))).task_id] == setup.tasks
        assert 1 == gateway.seen["create"]


@pytest.mark.parametrize("code", [500, 429, 777])
async def test_no_create_is_resent_while_its_task_is_unknown(code: int) -> None:
    async with behind_gateway() as (setup, gateway):
        document = {"code": code, "msg": "no", "data": {"taskId": "b" * 32}}
        gateway.replace("create", lambda _: web.json_response(document), forward=False)
        with pytest.raises(SubmitInDoubtError, match="b" * 32):
            await setup.kie.generate(make_request(0))
        assert 60.0 <= anyio.current_time() <= 180.0
        await anyio.sleep(3600.0)

        assert 1 == gateway.seen["create"]
        assert "unresolved" == (await setup.row()).state
        await assert_settled(setup.kie)


async def test_a_repeated_answer_never_gives_two_jobs_one_task() -> None:
    """Two equal requests: a gateway repeats the answer to the first, with a code that is not 200."""
    async with behind_gateway(duration=20.0) as (setup, gateway):
        first = await setup.kie.generate(make_request(0), key="a")
        document = {"code": 0, "data": {"taskId": first.task_id}}
        gateway.replace("create", lambda _: web.json_response(document), nth=[2], forward=False)
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.generate(make_request(0), key="b")

        assert [first.task_id] == setup.tasks


async def test_a_page_names_no_task() -> None:
    page = '<html><script>var task = {\'code\': 200, "taskId": "' + "c" * 32 + '"}</script></html>'
    async with behind_gateway() as (setup, gateway):
        gateway.replace("create", lambda _: web.Response(text=page, content_type="text/html"))
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.submit(make_request(0))

        assert anyio.current_time() <= 1.0
        assert 0 == gateway.seen["poll"]


async def test_a_task_that_appears_late_is_bound() -> None:
    """The service does not show the task for the first minute, and then the polls fail for another one."""
    faults = [Fault("poll", "code", code=422, msg="recordInfo is null", between=(0.0, 60.0))]
    async with behind_gateway(duration=20.0, faults=faults) as (setup, gateway):
        gateway.replace("create", ODD["code 500"])
        video = await setup.kie.generate(make_request(0))

        assert [video.task_id] == setup.tasks


async def test_a_task_is_confirmed_after_the_wait_too() -> None:
    """No poll is answered for ten minutes: the job is in doubt, and is bound when they are."""
    async with behind_gateway(duration=20.0, faults=[Fault("poll", "html", between=(0.0, 300.0))]) as (setup, gateway):
        gateway.replace("create", ODD["code 201"])
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.generate(make_request(0))
        assert raised.value.job is not None
        await anyio.sleep(300.0)

        assert setup.tasks == [(await raised.value.job).task_id]


async def test_a_journaled_candidate_survives_the_process(tmp_path: Path) -> None:
    """The process ends while it confirms the task; ``recover()`` of the next one continues that."""
    journal = SqliteJournal(tmp_path / "kie.db")
    async with FakeKie(duration=20.0) as fake, running_gateway(fake.url) as gateway:
        gateway.replace("create", ODD["code 500"])
        gateway.replace("poll", lambda _: web.Response(status=503), nth=range(4))
        async with KieClient(KEY, base_url=gateway.url, journal=journal) as kie:
            job = await kie.submit(make_request(0), wait=False)
            await anyio.sleep(2.0)
            await kie.aclose(drain=0.0)
        async with KieClient(KEY, base_url=gateway.url, journal=journal) as kie:
            await kie.recover()
            await anyio.sleep(5.0)
            video = await kie.job(job.id)

        assert [video.task_id] == [*fake.truth.tasks]
        assert 1 == gateway.seen["create"]


async def test_candidates_that_cannot_be_journaled_are_confirmed_all_the_same() -> None:
    class Failing(MemoryJournal):
        async def update_fields(self, *_: Any, **__: Any) -> None:
            msg = "The disk is full."
            raise JournalError(msg)

    async with behind_gateway(client={"journal": Failing()}, duration=20.0) as (setup, gateway):
        gateway.replace("create", ODD["data.id"])
        video = await setup.kie.generate(make_request(0))

        assert [video.task_id] == setup.tasks


# -- code 200 and the task of another job -----------------------------------------------------------------------------


def repeating(task_id: str, **members: object) -> Answer:
    """Answer as the service does, with the task of another job."""
    document = {"code": 200, "msg": "success", "data": {"taskId": task_id, **members}}
    return lambda _: web.json_response(document)


@pytest.mark.parametrize("same", [True, False], ids=["an equal request", "another request"])
@pytest.mark.parametrize("lands", [True, False], ids=["landed", "not landed"])
@pytest.mark.parametrize("how", ["memory", "file"])
async def test_a_repeated_success_binds_no_task_twice(how: str, tmp_path: Path, *, lands: bool, same: bool) -> None:
    journal: Any = MemoryJournal() if how == "memory" else tmp_path / "kie.db"
    async with (
        FakeKie(duration=20.0) as fake,
        running_gateway(fake.url) as gateway,
        JournalClient(KEY, base_url=gateway.url, journal=journal) as kie,
    ):
        first = await kie.generate(make_request(0), key="a")
        gateway.replace("create", repeating(first.task_id), nth=[2], forward=lands)
        with pytest.raises(SubmitInDoubtError, match=f"{first.task_id}, another job's task") as raised:
            await kie.generate(make_request(1 - same), key="b")
        await anyio.sleep(7200.0)

        assert (2, 1 + lands) == (gateway.seen["create"], len(fake.truth.created))
        info = await raised.value.job.info()
        assert info is not None
        assert ("unresolved", None) == (info.state, info.task_id)
        if lands:
            own = fake.truth.created[1].task_id
            await raised.value.job.resolve(own)
            assert own == (await raised.value.job).task_id


async def test_a_callback_finds_the_task_that_a_repeated_success_hid() -> None:
    async with client_with_callbacks(duration=20.0) as (setup, _):
        first = await setup.kie.generate(make_request(0))
        setup.fake.inject(Fault("create", "alter", after=True, data={"taskId": first.task_id}, times=1))
        second = await setup.kie.generate(make_request(1))

        assert [first.task_id, second.task_id] == setup.tasks
        await assert_settled(setup.kie)


async def test_one_of_many_jobs_gets_the_task_that_all_their_answers_name() -> None:
    async with behind_gateway(checked=False, duration=20.0) as (setup, gateway):
        named: list[str] = []

        def answer(real: bytes) -> web.Response:
            named.append(task_id_in(real))
            return repeating(named[0])(real)

        gateway.replace("create", answer)
        ends: list[str] = []

        async def submit(number: int) -> None:
            try:
                ends.append((await setup.kie.generate(make_request(number))).task_id)
            except SubmitInDoubtError:
                ends.append("in doubt")

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(submit, number)

        assert ["in doubt"] * 7 + [named[0]] == sorted(ends, key=lambda end: end != "in doubt")
        assert 8 == gateway.seen["create"] == len(setup.tasks)


async def test_a_repeated_success_is_known_while_the_first_is_not_on_disk() -> None:
    """The first job's task is in memory only: the journal could not be written then."""

    class Failing(MemoryJournal):
        full = True

        async def transition(
            self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Any
        ) -> Intent | None:
            if self.full and state is JobState.SUBMITTED:
                msg = "The disk is full."
                raise JournalError(msg)
            return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)

    journal = Failing()
    async with behind_gateway(client={"journal": journal}, checked=False, duration=200.0) as (setup, gateway):
        job = await setup.kie.submit(make_request(0))
        journal.full = False
        gateway.replace("create", repeating(setup.tasks[0]), nth=[2])
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.generate(make_request(1))

        assert setup.tasks[0] == (await job).task_id


async def test_the_same_id_at_another_service_is_another_task(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "kie.db")
    for _ in range(2):
        async with FakeKie(duration=20.0) as fake, running_gateway(fake.url) as gateway:
            gateway.replace("create", repeating("1" * 12), forward=False)
            async with KieClient(KEY, base_url=gateway.url, journal=journal) as kie:
                assert "1" * 12 == (await kie.submit(make_request(0))).task_id


# -- interruptions of the confirmation ---------------------------------------------------------------------------------


async def test_a_wait_that_times_out_meanwhile_ends_alone() -> None:
    """The create is neither sent again nor forgotten; a later wait gets the result."""
    faults = [Fault("poll", "code", code=422, msg="recordInfo is null", between=(0.0, 30.0))]
    async with behind_gateway(duration=20.0, faults=faults) as (setup, gateway):
        gateway.replace("create", ODD["code 500"])
        with pytest.raises(TaskTimeoutError):
            await setup.kie.generate(make_request(0), key="a", timeout=5.0)
        video = await setup.kie.generate(make_request(0), key="a")

        assert [video.task_id] == setup.tasks
        assert 1 == gateway.seen["create"]
        await assert_settled(setup.kie)


@pytest.mark.parametrize("seconds", [0.2, 1.5, 20.0])
async def test_a_caller_who_leaves_meanwhile_takes_nothing_along(seconds: float) -> None:
    faults = [Fault("poll", "code", code=422, msg="recordInfo is null", between=(0.0, 30.0))]
    async with behind_gateway(duration=20.0, faults=faults) as (setup, gateway):
        gateway.replace("create", ODD["code 0"])
        with anyio.move_on_after(seconds):
            await setup.kie.generate(make_request(0))
        await anyio.sleep(120.0)

        assert "succeeded" == (await setup.row()).state
        assert 1 == gateway.seen["create"]
