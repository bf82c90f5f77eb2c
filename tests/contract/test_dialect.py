"""What the fake says, held against what was recorded of the service."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from kie_async.testing import Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Serve

WAN = "wan/2-2-a14b-image-to-video-turbo"
BUSY = "Your call frequency is too high. Please try again later."


async def test_create_answers_with_one_id_twice(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.create()

        body = rb'\{"code":200,"msg":"success","data":\{"taskId":"([0-9a-f]{32})","recordId":"\1"\}\}'
        assert 200 == answer.status
        assert re.fullmatch(body, answer.body)


async def test_the_request_that_the_api_page_prints_is_accepted(serve: Serve) -> None:
    """Its ``aspect_ratio`` and its empty callback are no reason to refuse it."""
    page = {
        "model": WAN,
        "callBackUrl": "https://your-domain.com/api/callback",
        "input": {
            "image_url": "https://static.aiquickdraw.com/tools/example/1756166042585_LuiCfDAT.png",
            "prompt": "Overcast lighting",
            "resolution": "720p",
            "aspect_ratio": "auto",
            "enable_prompt_expansion": False,
            "seed": 0,
            "acceleration": "none",
        },
    }
    async with serve() as api:
        answer = await api.request("POST", "/api/v1/jobs/createTask", json=page)

        assert answer.body.startswith(b'{"code":200,"msg":"success","data":{"taskId":"')


async def test_a_running_task_is_recorded_word_by_word(serve: Serve) -> None:
    async with serve(duration=60.0, seed=1) as api:
        task_id = await api.task(callback_url="http://127.0.0.1:9/done", seed=7)
        (task,) = api.fake.truth.created
        answer = await api.poll(task_id)

        expected = (
            '{"code":200,"msg":"success","data":{"taskId":"%s","model":"wan/2-2-a14b-image-to-video-turbo",'
            '"state":"waiting","param":"{\\"input\\":\\"{\\\\\\"resolution\\\\\\":\\\\\\"720p\\\\\\",\\\\\\"seed\\\\\\":7,'
            '\\\\\\"acceleration\\\\\\":\\\\\\"none\\\\\\",\\\\\\"nsfw_checker\\\\\\":false,\\\\\\"prompt\\\\\\":'
            '\\\\\\"A cat\\\\\\",\\\\\\"image_url\\\\\\":\\\\\\"https://example.com/cat.png\\\\\\"}\\",'
            '\\"callBackUrl\\":\\"http://127.0.0.1:9/done\\",\\"model\\":\\"wan/2-2-a14b-image-to-video-turbo\\"}",'
            '"resultJson":"","failCode":null,"failMsg":null,"costTime":null,"completeTime":null,"createTime":%d,'
            '"creditsConsumed":80.0}}'
        )
        assert expected % (task_id, task.created_ms) == answer.body.decode()


async def test_a_finished_task_has_its_results_in_a_string_and_its_cost_in_seconds(serve: Serve) -> None:
    async with serve(duration=154.4) as api:
        task_id = await api.task(resolution="480p")
        await asyncio.sleep(155)
        record = await api.record(task_id)

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
            "creditsConsumed",
        ] == list(record)
        assert ("success", None, None, 154, 40.0) == (
            record["state"],
            record["failCode"],
            record["failMsg"],
            record["costTime"],
            record["creditsConsumed"],
        )
        assert 154_400 == record["completeTime"] - record["createTime"]
        assert f'{{"resultUrls":["{api.fake.url}/results/{task_id}/video.mp4"]}}' == record["resultJson"]


async def test_times_are_milliseconds_of_the_wall_clock(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        before = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]
        record = await api.record(await api.task())

        assert before * 1000 - 1 <= record["createTime"] <= before * 1000 + 1000
        assert isinstance(record["createTime"], int)


async def test_a_failed_task_has_a_numeric_code_as_text_and_costs_nothing(serve: Serve) -> None:
    async with serve(duration=60.0, fail_rate=1.0, fails=[("500", "the server is busy")]) as api:
        task_id = await api.task()
        running = await api.record(task_id)
        await asyncio.sleep(61)
        failed = await api.record(task_id)

        assert ("waiting", None, 80.0) == (running["state"], running["failCode"], running["creditsConsumed"])
        assert ("fail", "500", "the server is busy", "", 0.0) == (
            failed["state"],
            failed["failCode"],
            failed["failMsg"],
            failed["resultJson"],
            failed["creditsConsumed"],
        )


async def test_param_is_json_in_json_with_the_defaults_added(serve: Serve) -> None:
    async with serve() as api:
        record = await api.record(await api.task(resolution=None))

        param = json.loads(record["param"])
        assert ["input", "model"] == list(param)
        assert {
            "resolution": "720p",
            "seed": 0,
            "acceleration": "none",
            "nsfw_checker": False,
            "prompt": "A cat",
            "image_url": "https://example.com/cat.png",
        } == json.loads(param["input"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"resolution": "1080p"}, "resolution is not within the range of allowed options"),
        ({"resolution": "720P"}, "resolution is not within the range of allowed options"),
        ({"acceleration": "fast"}, "acceleration is not within the range of allowed options"),
        ({"seed": -1}, "Value must be within the specified range"),
        ({"seed": 2**31}, "Value must be within the specified range"),
        ({"seed": "7"}, "Value must be within the specified range"),
        ({"prompt": "x" * 5001}, "Value must be within the specified range"),
        ({"prompt": ""}, "This field is required"),
        ({"prompt": None}, "This field is required"),
        ({"image_url": ""}, "This field is required"),
    ],
)
async def test_bad_parameters_are_refused_under_code_500(serve: Serve, given: dict[str, Any], text: str) -> None:
    async with serve() as api:
        answer = await api.create(**given)

        assert (200, {"code": 500, "msg": text, "data": None}) == (answer.status, answer.json)
        assert [] == api.fake.truth.created
        assert 10_000.0 == await api.credits()


async def test_only_a_strict_fake_refuses_what_older_pages_allow(serve: Serve) -> None:
    async with serve() as lenient, serve(strict=True) as strict:
        old = {"aspect_ratio": "auto"}
        assert [200, 200] == [(await lenient.create(**given)).json["code"] for given in (old, {"resolution": "580p"})]
        assert (
            "This aspect_ratio is not within the range of allowed options" == (await strict.create(**old)).json["msg"]
        )
        assert 500 == (await strict.create(resolution="580p")).json["code"]


@pytest.mark.parametrize("model", ["no/such-model", "", "WAN/2-2-a14b-image-to-video-turbo"])
async def test_an_unknown_model_is_refused_with_422(serve: Serve, model: str) -> None:
    async with serve() as api:
        answer = await api.create(model)

        assert (
            b'{"code":422,"msg":"The model name you specified is not supported. Please verify your input and use one of'
            b' the supported models provided by KIE.","data":null}'
        ) == answer.body


async def test_further_models_can_be_named(serve: Serve) -> None:
    async with serve(models=["acme/text-to-video"], prices={"acme/text-to-video": 7.0}) as api:
        assert 7.0 == (await api.record(await api.task("acme/text-to-video")))["creditsConsumed"]


@pytest.mark.parametrize("key", [None, "", "other", "revoked"])
async def test_a_bad_key_is_refused_with_401_in_a_200(serve: Serve, key: str | None) -> None:
    async with serve(api_keys=["good", "revoked"]) as api:
        api.fake.revoke("revoked")
        refused = b'{"code":401,"msg":"You do not have access permissions","data":null}'

        assert (200, refused) == (await api.create(key=key))[::2]
        assert (200, refused) == (await api.poll("x", key=key))[::2]
        assert (200, refused) == (await api.request("GET", "/api/v1/chat/credit", key=key))[::2]
        assert 200 == (await api.create(key="good")).json["code"]


async def test_any_key_is_good_unless_told_otherwise(serve: Serve) -> None:
    async with serve() as api:
        assert [200, 401] == [(await api.create(key=key)).json["code"] for key in ("anything", "")]


async def test_credits_are_taken_at_once_and_given_back_on_failure(serve: Serve) -> None:
    async with serve(credits=200.0, duration=60.0) as api:
        well, badly = await api.task(resolution="480p"), await api.task(resolution="480p")
        assert 120.0 == await api.credits()

        api.fake.fail(badly)
        await asyncio.sleep(61)

        assert "success" == (await api.record(well))["state"]
        assert 160.0 == await api.credits() == api.fake.credits
        assert 40.0 == api.fake.truth.spent(asyncio.get_running_loop().time())


async def test_credit_is_a_float_in_an_envelope(serve: Serve) -> None:
    async with serve(credits=5916.25) as api:
        assert b'{"code":200,"msg":"success","data":5916.25}' == (await api.request("GET", "/api/v1/chat/credit")).body


async def test_without_enough_credits_a_create_is_refused_with_402(serve: Serve) -> None:
    async with serve(credits=79.0) as api:
        assert (
            b'{"code":402,"msg":"Credits insufficient : Your current balance isn\'t enough to run this request. Please'
            b' top up to continue.","data":null}'
        ) == (await api.create()).body
        api.fake.credits = 80.0
        assert 200 == (await api.create()).json["code"]


async def test_maintenance_paused_models_and_key_caps_have_their_codes(serve: Serve) -> None:
    async with serve() as api:
        api.fake.maintenance = True
        assert 455 == (await api.create()).json["code"]
        assert api.fake.maintenance
        api.fake.maintenance = False
        api.fake.paused.add("z-image")
        paused = {"code": 505, "msg": "This interface is temporarily paused.", "data": None}
        assert paused == (await api.create("z-image")).json
        assert 200 == (await api.create()).json["code"]
        api.fake.inject(Fault("create", "code", code=433))
        assert {"code": 433, "msg": "Request Limit - Sub-key Usage Exceeds Limit", "data": None} == (
            await api.create()
        ).json


async def test_an_unknown_task_is_a_record_that_is_null(serve: Serve) -> None:
    async with serve() as api:
        assert b'{"code":422,"msg":"recordInfo is null","data":null}' == (await api.poll("0" * 32)).body
        assert {"code": 400, "msg": "taskId parameter is required", "data": None} == (await api.poll("")).json


async def test_a_new_task_may_be_invisible_for_a_while(serve: Serve) -> None:
    async with serve(invisible_seconds=30.0, duration=60.0) as api:
        task_id = await api.task()
        assert "recordInfo is null" == (await api.poll(task_id)).json["msg"]
        await asyncio.sleep(30)
        assert task_id == (await api.record(task_id))["taskId"]


async def test_refusals_of_the_rate_limit_come_with_and_without_data(serve: Serve) -> None:
    async with serve(limit=0) as api:
        bodies = {(await api.create()).body for _ in range(20)}

        assert {
            f'{{"code":429,"msg":"{BUSY}","data":null}}'.encode(),
            f'{{"code":429,"msg":"{BUSY}"}}'.encode(),
        } == bodies


async def test_a_body_that_is_no_json_is_an_exception_of_the_server(serve: Serve) -> None:
    async with serve() as api:
        for body in (b"{", b"", b"\xff", b"[]", b"[" * 100_000):
            answer = await api.request("POST", "/api/v1/jobs/createTask", data=body)
            text = "Server exception, please try again later or contact customer service"
            assert {"code": 500, "msg": text, "data": None} == answer.json


async def test_answers_have_the_recorded_headers(serve: Serve) -> None:
    async with serve() as api:
        headers = (await api.create()).headers

        assert "application/json;charset=UTF-8" == headers["Content-Type"]
        assert ("gzip", "chunked") == (headers["Content-Encoding"], headers["Transfer-Encoding"])
        assert ("cloudflare", "DYNAMIC") == (headers["Server"], headers["CF-Cache-Status"])
        assert re.fullmatch(r"[0-9a-f]{16}-[A-Z]{3}", headers["CF-RAY"])
        assert headers["Set-Cookie"].startswith("JSESSIONID=")
        assert not {"Retry-After", "X-RateLimit-Limit"} & headers.keys()


async def test_statuses_can_be_those_of_the_codes(serve: Serve) -> None:
    async with serve(http_statuses=True, credits=0.0) as api:
        assert (402, 402) == ((answer := await api.create()).status, answer.json["code"])
        assert 422 == (await api.poll("?")).status
        assert 200 == (await api.request("GET", "/api/v1/chat/credit")).status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/jobs/cancelTask", 404),
        ("POST", "/api/v1/jobs/cancel", 404),
        ("GET", "/api/v1/jobs/list", 404),
        ("GET", "/", 404),
        ("GET", "/api/v1/jobs/createTask", 405),
    ],
)
async def test_what_the_service_does_not_have_the_fake_has_not(
    serve: Serve, method: str, path: str, status: int
) -> None:
    async with serve() as api:
        assert status == (await api.request(method, path)).status


async def test_older_clients_find_the_api_under_its_older_name(serve: Serve) -> None:
    async with serve() as api:
        body = {"model": "z-image", "input": {"prompt": "A cat"}}
        created = await api.request("POST", "/api/v1/playground/createTask", json=body)
        task_id = created.json["data"]["taskId"]
        record = await api.request("GET", "/api/v1/playground/recordInfo", params={"taskId": task_id})

        assert task_id == record.json["data"]["taskId"]


async def states_of(serve: Serve, model: str) -> set[tuple[str, ...]]:
    """The sequences of states that twenty tasks of *model* show to who looks every second."""
    async with serve(duration=20.0, queries_per_second=1000.0) as api:
        tasks = [await api.task(model) for _ in range(20)]
        seen: dict[str, list[str]] = {task_id: [] for task_id in tasks}
        for _ in range(22):
            for task_id in tasks:
                state = (await api.record(task_id))["state"]
                if state not in seen[task_id]:
                    seen[task_id].append(state)
            await asyncio.sleep(1)
        return {tuple(states) for states in seen.values()}


async def test_models_show_the_states_that_were_recorded(serve: Serve) -> None:
    assert {("waiting", "success"), ("waiting", "queuing", "generating", "success")} == await states_of(serve, WAN)
    assert {("waiting", "success")} == await states_of(serve, "bytedance/seedance-2")
    assert {("generating", "success")} == await states_of(serve, "kling-3.0/video")


async def test_a_task_without_an_end_stays_where_it_is(serve: Serve) -> None:
    async with serve(duration=float("inf")) as api:
        task_id = await api.task()
        await asyncio.sleep(86_400 * 30)
        record = await api.record(task_id)

        assert ("waiting", None, None) == (record["state"], record["completeTime"], record["costTime"])


async def test_durations_follow_what_was_asked_for(serve: Serve) -> None:
    async with (
        serve(limit=1000, credits=1e6) as lognormal,
        serve(duration=lambda model, _: len(model), speed=2.0) as chosen,
    ):
        for _ in range(300):
            await lognormal.create()
        seconds = sorted(task.ends_at - task.created_at for task in lognormal.fake.truth.created)
        await chosen.create("z-image")
        (task,) = chosen.fake.truth.created

        assert 55 < seconds[150] < 65
        assert 20 < seconds[0] < seconds[-1] < 200
        assert len("z-image") / 2 == pytest.approx(task.ends_at - task.created_at)
