"""The callbacks of the fake, as a receiver sees them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from kie_async.testing import Fault
from kie_async.testing.callbacks import sign

if TYPE_CHECKING:
    from tests.contract.conftest import Serve


class Receiver:
    """A receiver that records callbacks and responds with given statuses."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.pause = 0.0
        self.got: list[tuple[float, Mapping[str, str], bytes]] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Record a callback, and respond with the next of ``statuses``, else 200."""
        self.got.append((asyncio.get_running_loop().time(), request.headers, await request.read()))
        await asyncio.sleep(self.pause)
        return web.json_response({"code": 200, "msg": "success"}, status=self.statuses.pop(0) if self.statuses else 200)

    @property
    def times(self) -> list[float]:
        """Return the arrival times, rounded to a tenth of a second."""
        return [round(at, 1) for at, _, _ in self.got]

    def body(self, number: int = 0) -> Any:
        """Return the decoded body of a callback."""
        return json.loads(self.got[number][2])


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/done", receiver.receive)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{site.port}/done"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def test_success_callback_is_as_documented(serve: Serve) -> None:
    async with listening() as receiver, serve(duration=60.0) as api:
        task_id = await api.task(callback_url=receiver.url)
        (task,) = api.fake.truth.created
        await asyncio.sleep(59)
        assert [] == receiver.got
        await asyncio.sleep(2)

        (post,) = receiver.got
        assert "application/json" == post[1]["Content-Type"]
        assert not {"X-Webhook-Timestamp", "X-Webhook-Signature"} & set(post[1])
        assert {"code": 200, "msg": "Playground task completed successfully."} == {
            key: receiver.body()[key] for key in ("code", "msg")
        }
        data = receiver.body()["data"]
        assert [
            "taskId",
            "model",
            "state",
            "param",
            "resultJson",
            "failCode",
            "failMsg",
            "costTime",
            "completeTime",
            "createTime",
            "operationType",
            "response",
            "successFlag",
            "paramJson",
            "updateTime",
            "creditsConsumed",
        ] == list(data)
        record = await api.record(task_id)
        same = data.keys() - {"completeTime", "createTime", "updateTime"}
        assert {key: record[key] for key in same} == {key: data[key] for key in same}
        assert task.created_ms // 1000 * 1000 == data["createTime"]
        assert data["completeTime"] == data["updateTime"] == task.ended_ms // 1000 * 1000
        assert receiver.url == json.loads(data["param"])["callBackUrl"]


async def test_failure_callback_has_code_501_and_no_result(serve: Serve) -> None:
    async with (
        listening() as receiver,
        serve(duration=5.0, fail_rate=1.0, failures=[("500", "the server is busy")]) as api,
    ):
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(6)

        assert (501, "Playground task failed.") == (receiver.body()["code"], receiver.body()["msg"])
        data = receiver.body()["data"]
        assert {
            "taskId": task_id,
            "model": "wan/2-2-a14b-image-to-video-turbo",
            "state": "fail",
            "param": data["param"],
            "failCode": "500",
            "failMsg": "the server is busy",
            "operationType": "generate",
            "successFlag": 3,
            "paramJson": data["param"],
            "creditsConsumed": 0.0,
        } == data


async def test_callbacks_stay_on_this_machine(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        await api.create()
        await api.create(callback_url="https://app.example.com/kie")
        await api.create(callback_url="http://[")
        await asyncio.sleep(60)

        assert ["not on this machine, and not one of callback_hosts"] * 2 == [
            callback.error for callback in api.fake.truth.callbacks
        ]


async def test_another_host_can_be_allowed(serve: Serve) -> None:
    async with serve(duration=1.0, callback_hosts=["receiver.invalid"]) as api:
        await api.create(callback_url="http://receiver.invalid/done")
        await asyncio.sleep(60)

        assert 3 == len(api.fake.truth.callbacks)
        assert all(
            (callback.error or "").startswith("ClientConnectorDNSError") for callback in api.fake.truth.callbacks
        )


@pytest.mark.parametrize(
    ("statuses", "posts"),
    [([], 1), ([500], 2), ([404, 302], 3), ([500, 500, 500], 3), ([201], 2)],
)
async def test_callback_has_three_attempts(serve: Serve, statuses: list[int], posts: int) -> None:
    async with listening() as receiver, serve(duration=10.0, callback_retry_delay=7.0) as api:
        receiver.statuses = list(statuses)
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(100)

        assert [10.0, 17.0, 24.0][:posts] == receiver.times
        expected = [(task_id, number + 1, status) for number, status in enumerate([*statuses, 200][:posts])]
        assert expected == [(post.task_id, post.attempt, post.status) for post in api.fake.truth.callbacks]


async def test_receiver_timeout_is_fifteen_seconds(serve: Serve) -> None:
    async with listening() as receiver, serve(duration=10.0, callback_retry_delay=5.0) as api:
        receiver.pause = 20.0
        await api.create(callback_url=receiver.url)
        await asyncio.sleep(200)

        assert [10.0, 30.0, 50.0] == receiver.times
        assert ["TimeoutError: "] * 3 == [post.error for post in api.fake.truth.callbacks]


async def test_unreachable_receiver_has_three_attempts(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        await api.create(callback_url="http://127.0.0.1:9/done")
        await asyncio.sleep(60)

        assert ["ClientConnectorError"] * 3 == [(post.error or "").split(":")[0] for post in api.fake.truth.callbacks]


def test_signature_matches_the_documentation() -> None:
    """
    Computed independently.

    ``printf '%s' 'abc.1767225600' | openssl dgst -sha256 -hmac 'secret' -binary | base64``
    """
    assert {
        "X-Webhook-Timestamp": "1767225600",
        "X-Webhook-Signature": "kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo=",
    } == sign("secret", "abc", 1767225600)


async def test_callbacks_are_signed_with_the_key(serve: Serve) -> None:
    async with listening() as receiver, serve(duration=10.0, webhook_key="secret") as api:
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(11)
        now = int(asyncio.get_running_loop().wall_time())  # type: ignore[attr-defined]

        headers = receiver.got[0][1]
        assert now - 2 <= int(headers["X-Webhook-Timestamp"]) <= now
        assert sign("secret", task_id, int(headers["X-Webhook-Timestamp"])).items() <= dict(headers).items()
        assert sign("secret", task_id, now) == api.fake.sign(task_id)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Fault("callback", "lost"), []),
        (Fault("callback", "slow", seconds=3600.0), [3610.0]),
        (Fault("callback", "copies", copies=3), [10.0, 10.0, 10.0]),
        (Fault("callback", "lost", nth=2), [10.0]),
    ],
)
async def test_callbacks_are_lost_late_or_copied(serve: Serve, fault: Fault, times: list[float]) -> None:
    async with listening() as receiver, serve(duration=10.0, faults=[fault]) as api:
        await api.create(callback_url=receiver.url)
        await asyncio.sleep(4000)

        assert times == receiver.times


async def test_altered_callback_contains_the_given_data(serve: Serve) -> None:
    forged = {"taskId": "f" * 32, "resultJson": '{"resultUrls":["https://example.com/evil.mp4"]}'}
    async with listening() as receiver, serve(duration=1.0, faults=[Fault("callback", "alter", data=forged)]) as api:
        await api.create(callback_url=receiver.url)
        await asyncio.sleep(2)

        assert forged.items() <= receiver.body()["data"].items()
        assert "success" == receiver.body()["data"]["state"]


async def test_early_callback_reports_the_coming_end(serve: Serve) -> None:
    """The order of callback and recordInfo is not known from recordings; no second callback follows at the end."""
    early = Fault("callback", "early", seconds=4.0)
    async with listening() as receiver, serve(duration=60.0, webhook_key="secret", faults=[early]) as api:
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(57)
        running = await api.record(task_id)
        await asyncio.sleep(100)
        ended, reported = await api.record(task_id), receiver.body()["data"]

        assert [56.0] == receiver.times
        assert running["state"] not in ("success", "fail")
        assert ("", "success") == (running["resultJson"], reported["state"])
        assert [ended[key] for key in ("resultJson", "costTime")] == [
            reported[key] for key in ("resultJson", "costTime")
        ]
        headers = receiver.got[0][1]
        assert sign("secret", task_id, int(headers["X-Webhook-Timestamp"])).items() <= dict(headers).items()


async def test_callback_may_be_as_early_as_the_create(serve: Serve) -> None:
    """A task shorter than its callback is early is reported at once; a longer one is not."""
    faults = [Fault("callback", "early", seconds=math.inf, nth=2)]
    async with listening() as receiver, serve(duration=10.0, faults=faults) as api:
        tasks = [await api.task(callback_url=receiver.url) for _ in range(2)]
        await asyncio.sleep(60)

        assert [0.0, 10.0] == receiver.times
        assert tasks[::-1] == [receiver.body(number)["data"]["taskId"] for number in range(2)]


@pytest.mark.parametrize(("pause", "times", "state"), [(5.0, [5.0], "fail"), (58.0, [56.0], "success")])
async def test_early_callback_uses_the_planned_end(serve: Serve, pause: float, times: list[float], state: str) -> None:
    """A task that the test ends earlier is reported then; an already reported one is not reported again."""
    early = Fault("callback", "early", seconds=4.0)
    async with listening() as receiver, serve(duration=60.0, faults=[early]) as api:
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(pause)
        api.fake.fail(task_id)
        await asyncio.sleep(100)

        assert times == receiver.times
        assert state == receiver.body()["data"]["state"]
        assert "fail" == (await api.record(task_id))["state"]


async def test_early_callback_faults_count_separately(serve: Serve) -> None:
    """Early callbacks count creates; other callback faults count ends."""
    faults = [Fault("callback", "early", seconds=4.0, nth=1), Fault("callback", "lost", nth=1)]
    async with listening() as receiver, serve(duration=10.0, faults=faults) as api:
        first, *_ = [await api.task(callback_url=receiver.url) for _ in range(3)]
        await asyncio.sleep(60)

        assert [6.0, 10.0] == receiver.times
        assert first == receiver.body()["data"]["taskId"]


@pytest.mark.parametrize(("kind", "good"), [("alter", True), ("copies", True), ("wrong_signature", False)])
async def test_callback_is_signed_for_the_replaced_task(serve: Serve, kind: Any, *, good: bool) -> None:
    """The worst callbacks that can be posted with the key, and without it."""
    fault = Fault("callback", kind, data={"taskId": "f" * 32}, copies=2)
    async with listening() as receiver, serve(duration=1.0, webhook_key="secret", faults=[fault]) as api:
        await api.create(callback_url=receiver.url)
        await asyncio.sleep(2)
        headers = dict(receiver.got[0][1])
        right = sign("secret", "f" * 32, int(headers["X-Webhook-Timestamp"]))

        assert "f" * 32 == receiver.body()["data"]["taskId"]
        assert good is (right.items() <= headers.items())


@pytest.mark.parametrize(
    ("kind", "signed", "age"),
    [("unsigned", None, 0), ("wrong_signature", False, 0), ("stale", True, 600)],
)
async def test_signature_faults(serve: Serve, kind: Any, *, signed: bool | None, age: int) -> None:
    fault = Fault("callback", kind, seconds=600.0)
    async with listening() as receiver, serve(duration=1.0, webhook_key="secret", faults=[fault]) as api:
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(2)
        headers = dict(receiver.got[0][1])

        if signed is None:
            assert not {"X-Webhook-Timestamp", "X-Webhook-Signature"} & headers.keys()
        else:
            now = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]
            assert age == pytest.approx(now - int(headers["X-Webhook-Timestamp"]), abs=3)
            right = sign("secret", task_id, int(headers["X-Webhook-Timestamp"]))
            assert signed is (right.items() <= headers.items())


async def test_callback_may_precede_the_create_response(serve: Serve) -> None:
    slow = Fault("create", "slow", seconds=30.0, after=True)
    async with listening() as receiver, serve(duration=5.0, faults=[slow]) as api:
        await api.create(callback_url=receiver.url)

        assert 25 == pytest.approx(asyncio.get_running_loop().time() - receiver.got[0][0], abs=0.1)


async def test_callback_delay_applies_to_all(serve: Serve) -> None:
    async with listening() as receiver, serve(duration=10.0, callback_delay=20.0, speed=2.0) as api:
        await api.create(callback_url=receiver.url)
        await asyncio.sleep(60)

        assert [15.0] == receiver.times


async def test_each_end_is_reported_once_and_in_time(serve: Serve) -> None:
    async with listening() as receiver, serve(limit=1000, credits=1e6, duration=(60.0, 0.5)) as api:
        for _ in range(100):
            await api.create(callback_url=receiver.url)
        await asyncio.sleep(600)

        ends = sorted((round(task.ends_at, 1), task.task_id) for task in api.fake.truth.created)
        assert [at for at, _ in ends] == receiver.times
        assert {task_id for _, task_id in ends} == {receiver.body(number)["data"]["taskId"] for number in range(100)}


async def test_ending_a_task_sends_its_callback_once(serve: Serve) -> None:
    async with listening() as receiver, serve(duration=60.0) as api:
        task_id = await api.task(callback_url=receiver.url)
        await asyncio.sleep(5)
        api.fake.fail(task_id)
        await asyncio.sleep(100)

        assert [5.0] == receiver.times
        assert "fail" == receiver.body()["data"]["state"]
