"""Records of the fake, compared with recorded responses of recordInfo."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.contract.inputs import inputs_of, load_models

if TYPE_CHECKING:
    from tests.contract.conftest import Serve

WAN = "wan/2-2-a14b-image-to-video-turbo"
MODELS = load_models()


async def test_record_of_a_running_task(serve: Serve) -> None:
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
            '"creditsConsumed":80.0,"operationType":"generate","successFlag":0,"paramJson":%s}}'
        )
        param = json.dumps(answer.json["data"]["param"])
        assert expected % (task_id, task.created_ms, param) == answer.body.decode()


async def test_record_of_a_finished_task(serve: Serve) -> None:
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
            "operationType",
            "response",
            "successFlag",
            "paramJson",
        ] == list(record)
        assert (json.loads(record["resultJson"]), 1) == (record["response"], record["successFlag"])
        assert record["param"] == record["paramJson"]
        assert ("success", None, None, 154, 40.0) == (
            record["state"],
            record["failCode"],
            record["failMsg"],
            record["costTime"],
            record["creditsConsumed"],
        )
        assert 154_400 == record["completeTime"] - record["createTime"]
        assert f'{{"resultUrls":["{api.fake.url}/results/{task_id}/video.mp4"]}}' == record["resultJson"]


async def test_records_before_september_2026_have_fewer_members(serve: Serve) -> None:
    async with serve(duration=5.0, new_members=False) as api:
        task_id = await api.task()
        await asyncio.sleep(6)

        assert not {"operationType", "response", "successFlag", "paramJson"} & (await api.record(task_id)).keys()


async def test_success_flag_follows_the_state(serve: Serve) -> None:
    async with serve(duration=60.0, fail_rate=1.0) as api:
        task_id = await api.task()
        running = await api.record(task_id)
        await asyncio.sleep(61)
        failed = await api.record(task_id)

        assert (0, 3) == (running["successFlag"], failed["successFlag"])
        assert not {"response"} & (running.keys() | failed.keys())


async def test_times_are_wall_clock_milliseconds(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        before = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]
        record = await api.record(await api.task())

        assert before * 1000 - 1 <= record["createTime"] <= before * 1000 + 1000
        assert isinstance(record["createTime"], int)


async def test_failed_task_costs_nothing(serve: Serve) -> None:
    async with serve(duration=60.0, fail_rate=1.0, failures=[("500", "the server is busy")]) as api:
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


async def test_param_is_json_in_json_with_defaults(serve: Serve) -> None:
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


async def test_unknown_task_has_a_null_record(serve: Serve) -> None:
    async with serve() as api:
        assert b'{"code":422,"msg":"recordInfo is null","data":null}' == (await api.poll("0" * 32)).body
        assert {"code": 400, "msg": "taskId parameter is required", "data": None} == (await api.poll("")).json


async def test_new_task_may_be_invisible_at_first(serve: Serve) -> None:
    async with serve(invisible_seconds=30.0, duration=60.0) as api:
        task_id = await api.task()
        assert "recordInfo is null" == (await api.poll(task_id)).json["msg"]
        await asyncio.sleep(30)
        assert task_id == (await api.record(task_id))["taskId"]


async def states_of(serve: Serve, model: str) -> set[tuple[str, ...]]:
    """Return the sequences of states of twenty tasks of *model*, polled every second."""
    async with serve(duration=20.0, queries_per_second=1000.0, credits=1e6) as api:
        tasks = [await api.task(model, **next(inputs_of(MODELS[model], full=False))) for _ in range(20)]
        seen: dict[str, list[str]] = {task_id: [] for task_id in tasks}
        for _ in range(22):
            for task_id in tasks:
                state = (await api.record(task_id))["state"]
                if state not in seen[task_id]:
                    seen[task_id].append(state)
            await asyncio.sleep(1)
        return {tuple(states) for states in seen.values()}


async def test_models_have_the_recorded_states(serve: Serve) -> None:
    assert {("waiting", "success"), ("waiting", "queuing", "generating", "success")} == await states_of(serve, WAN)
    assert {("waiting", "success")} == await states_of(serve, "bytedance/seedance-2")
    assert {("generating", "success")} == await states_of(serve, "kling-3.0/video")


async def test_task_of_infinite_duration_never_ends(serve: Serve) -> None:
    async with serve(duration=float("inf")) as api:
        task_id = await api.task()
        await asyncio.sleep(86_400 * 30)
        record = await api.record(task_id)

        assert ("waiting", None, None) == (record["state"], record["completeTime"], record["costTime"])


async def test_durations_follow_the_distribution(serve: Serve) -> None:
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


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("veo-3-1", "video/mp4"),
        ("veo/get-4k-video", "video/mp4"),
        ("4o-image-api", "image/png"),
        ("flux1-kontext", "image/png"),
        ("nano-banana-2-1", "image/png"),
        ("seedream/5-pro-layer-decomposition", "image/png"),
        ("google/gemini-3-1-flash-tts", "audio/wav"),
        ("elevenlabs/text-to-dialogue-v3", "audio/wav"),
        ("ai-music-api/generate", "audio/wav"),
    ],
)
async def test_each_kind_of_model_has_its_kind_of_result(serve: Serve, model: str, kind: str) -> None:
    """Music is under ``data``, everything else under ``resultUrls``."""
    async with serve(duration=1.0) as api:
        body = {"model": model, "input": next(inputs_of(MODELS[model], full=False))}
        task_id = (await api.request("POST", "/api/v1/jobs/createTask", json=body)).json["data"]["taskId"]
        await asyncio.sleep(2)
        result = json.loads((await api.record(task_id))["resultJson"])
        url = result["data"][0]["audio_url"] if "music" in model else result["resultUrls"][0]
        file = await api.request("GET", url)

        assert (200, kind) == (file.status, file.headers["Content-Type"])


async def test_analysis_of_an_image_has_an_object_as_its_result(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        task_id = await api.task("omnihuman-1-5/subject-detection")
        await asyncio.sleep(2)

        assert ["resultObject"] == list(json.loads((await api.record(task_id))["resultJson"]))


@pytest.mark.parametrize("model", ["sora-2-image-to-video", "sora-2-pro-image-to-video", "sora-2-text-to-video"])
async def test_retired_models_are_not_supported(serve: Serve, model: str) -> None:
    async with serve() as api:
        assert 422 == (await api.create(model)).json["code"]
