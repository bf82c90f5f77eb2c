"""Responses of the fake, compared with recorded responses of the service."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from kie_async.testing import Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Serve

WAN = "wan/2-2-a14b-image-to-video-turbo"
BUSY = "Your call frequency is too high. Please try again later."


async def test_create_response_has_the_id_twice(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.create()

        body = rb'\{"code":200,"msg":"success","data":\{"taskId":"([0-9a-f]{32})","recordId":"\1"\}\}'
        assert 200 == answer.status
        assert re.fullmatch(body, answer.body)


async def test_documented_request_is_accepted(serve: Serve) -> None:
    """Its ``aspect_ratio`` and its empty callback URL are accepted."""
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
async def test_invalid_input_is_refused_with_500(serve: Serve, given: dict[str, Any], text: str) -> None:
    async with serve() as api:
        answer = await api.create(**given)

        assert (200, {"code": 500, "msg": text, "data": None}) == (answer.status, answer.json)
        assert [] == api.fake.truth.created
        assert 10_000.0 == await api.credits()


async def test_strict_fake_refuses_older_values(serve: Serve) -> None:
    async with serve() as lenient, serve(strict=True) as strict:
        old = {"aspect_ratio": "auto"}
        assert [200, 200] == [(await lenient.create(**given)).json["code"] for given in (old, {"resolution": "580p"})]
        assert (
            "This aspect_ratio is not within the range of allowed options" == (await strict.create(**old)).json["msg"]
        )
        assert 500 == (await strict.create(resolution="580p")).json["code"]


@pytest.mark.parametrize("model", ["no/such-model", "", "WAN/2-2-a14b-image-to-video-turbo"])
async def test_unknown_model_is_refused_with_422(serve: Serve, model: str) -> None:
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
async def test_invalid_key_is_refused_with_401_in_a_200(serve: Serve, key: str | None) -> None:
    async with serve(api_keys=["good", "revoked"]) as api:
        api.fake.revoke_key("revoked")
        refused = b'{"code":401,"msg":"You do not have access permissions","data":null}'

        assert (200, refused) == (await api.create(key=key))[::2]
        assert (200, refused) == (await api.poll("x", key=key))[::2]
        assert (200, refused) == (await api.request("GET", "/api/v1/chat/credit", key=key))[::2]
        assert 200 == (await api.create(key="good")).json["code"]


async def test_every_key_is_valid_by_default(serve: Serve) -> None:
    async with serve() as api:
        assert [200, 401] == [(await api.create(key=key)).json["code"] for key in ("anything", "")]


async def test_failed_task_is_refunded(serve: Serve) -> None:
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


async def test_create_without_credits_is_refused_with_402(serve: Serve) -> None:
    async with serve(credits=79.0) as api:
        assert (
            b'{"code":402,"msg":"Credits insufficient : Your current balance isn\'t enough to run this request. Please'
            b' top up to continue.","data":null}'
        ) == (await api.create()).body
        api.fake.credits = 80.0
        assert 200 == (await api.create()).json["code"]


async def test_maintenance_and_paused_models_have_codes(serve: Serve) -> None:
    async with serve() as api:
        api.fake.maintenance = True
        assert 455 == (await api.create()).json["code"]
        assert api.fake.maintenance
        api.fake.maintenance = False
        api.fake.paused_models.add("z-image")
        paused = {"code": 505, "msg": "This interface is temporarily paused.", "data": None}
        assert paused == (await api.create("z-image")).json
        assert 200 == (await api.create()).json["code"]
        api.fake.inject(Fault("create", "code", code=433))
        assert {"code": 433, "msg": "Request Limit - Sub-key Usage Exceeds Limit", "data": None} == (
            await api.create()
        ).json


async def test_rate_limit_refusal_with_and_without_data(serve: Serve) -> None:
    async with serve(limit=0) as api:
        bodies = {(await api.create()).body for _ in range(20)}

        assert {
            f'{{"code":429,"msg":"{BUSY}","data":null}}'.encode(),
            f'{{"code":429,"msg":"{BUSY}"}}'.encode(),
        } == bodies


async def test_body_without_json_is_a_server_exception(serve: Serve) -> None:
    async with serve() as api:
        for body in (b"{", b"", b"\xff", b"[]", b"[" * 100_000):
            answer = await api.request("POST", "/api/v1/jobs/createTask", data=body)
            text = "Server exception, please try again later or contact customer service"
            assert {"code": 500, "msg": text, "data": None} == answer.json


async def test_responses_have_the_recorded_headers(serve: Serve) -> None:
    async with serve() as api:
        headers = (await api.create()).headers

        assert "application/json;charset=UTF-8" == headers["Content-Type"]
        assert ("gzip", "chunked") == (headers["Content-Encoding"], headers["Transfer-Encoding"])
        assert ("cloudflare", "DYNAMIC") == (headers["Server"], headers["CF-Cache-Status"])
        assert re.fullmatch(r"[0-9a-f]{16}-[A-Z]{3}", headers["CF-RAY"])
        assert headers["Set-Cookie"].startswith("JSESSIONID=")
        assert not {"Retry-After", "X-RateLimit-Limit"} & headers.keys()


async def test_http_statuses_may_equal_the_codes(serve: Serve) -> None:
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
async def test_unknown_routes_are_not_found(serve: Serve, method: str, path: str, status: int) -> None:
    async with serve() as api:
        assert status == (await api.request(method, path)).status


async def test_api_has_its_older_path_too(serve: Serve) -> None:
    async with serve() as api:
        body = {"model": "z-image", "input": {"prompt": "A cat"}}
        created = await api.request("POST", "/api/v1/playground/createTask", json=body)
        task_id = created.json["data"]["taskId"]
        record = await api.request("GET", "/api/v1/playground/recordInfo", params={"taskId": task_id})

        assert task_id == record.json["data"]["taskId"]
