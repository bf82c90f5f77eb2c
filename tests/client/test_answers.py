"""The service's answers as recorded in 2026: broken echoes, new members, missing ids, other results."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import AuthenticationError, NoResultError, TaskFailedError
from kie_async.testing import Fault
from tests.helpers import assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from tests.helpers import Setup


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about polls."""
    return [record.getMessage() for record in caplog.records if "brought no record" in record.getMessage()]


def broken_body(setup: Setup, prompt: str, **data: Any) -> str:
    """Return an answer about the only task, with two echoes in which nothing is escaped."""
    echo = f'{{"input":"{{"prompt":"{prompt}"}}","model":"suno"}}'
    members = {"taskId": setup.tasks[0], "model": "suno", "state": "success", "param": "<echo>", "resultJson": ""}
    times = {
        "failCode": None,
        "failMsg": None,
        "costTime": 60,
        "completeTime": 1_765_172_582_239,
        "createTime": 1_765_172_522_239,
    }
    body = json.dumps({"code": 200, "msg": "success", "data": {**members, **times, **data, "paramJson": "<echo>"}})
    return body.replace("<echo>", echo)


@pytest.mark.parametrize("prompt", ["A cat", 'say "hi"', '","a":"b' * 4000, '","state":"fail","x":"'])
async def test_a_result_beside_two_broken_echoes_is_read(prompt: str) -> None:
    async with client_and_fake(duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        url = "https://tempfile.aiquickdraw.com/a.mp4"
        body = broken_body(setup, prompt, resultJson=json.dumps({"resultUrls": [url]}), creditsConsumed=12)
        setup.fake.inject(Fault("poll", "body", body=body))
        video = await job

        assert ((url,), 12.0) == (video.urls, video.credits)
        await assert_settled(setup.kie)


async def test_a_result_that_a_prompt_could_have_written_ends_no_job(caplog: pytest.LogCaptureFixture) -> None:
    """The record counts as unusable, and the next one ends the job."""
    async with client_and_fake(duration=5.0) as setup:
        job = await setup.kie.submit(make_request())
        forged = json.dumps(json.dumps({"resultUrls": ["https://evil.example/1.mp4"]}))
        body = broken_body(setup, f'"}}"}}","resultJson":{forged},"x":"{{"y":"{{"z":"', resultJson="")
        setup.fake.inject(Fault("poll", "body", body=body, nth=range(1, 5)))
        video = await job

        assert (setup.truth.created[0].result_url,) == video.urls
        assert len(setup.truth.polls) >= 5
        assert 1 == len(warnings(caplog))
        assert "cannot be read without doubt" in warnings(caplog)[0]


@pytest.mark.parametrize("task_id", [None, "", "  "])
@pytest.mark.parametrize("state", ["success", "fail"])
async def test_a_record_without_an_id_ends_its_job(task_id: str | None, state: str) -> None:
    faults = [Fault("poll", "alter", data={"taskId": task_id})]
    async with client_and_fake(faults=faults, duration=5.0, fail_rate=float(state == "fail")) as setup:
        job = await setup.kie.submit(make_request())
        if state == "fail":
            with pytest.raises(TaskFailedError):
                await job
        else:
            assert (setup.truth.created[0].result_url,) == (await job).urls
        assert setup.tasks == [(await setup.row()).task_id]


async def test_a_record_with_another_id_ends_no_job(caplog: pytest.LogCaptureFixture) -> None:
    faults = [Fault("poll", "alter", data={"taskId": "another"}, nth=range(1, 6))]
    async with client_and_fake(faults=faults, duration=0.0) as setup:
        await setup.kie.generate(make_request())

        assert 6 == len(setup.truth.polls)
        assert ["another"] == [text.split("the record of another task, ")[1].split(".")[0] for text in warnings(caplog)]


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "html": ({"kind": "html"}, "HTTP 502"),
    "server error": ({"kind": "code", "code": 500}, "code 500"),
    "maintenance": ({"kind": "code", "code": 455}, "code 455"),
    "no state": ({"kind": "alter", "data": {"taskId": "", "state": None}}, "without a state"),
    "no data": ({"kind": "body", "body": '{"code":505,"msg":"x"}'}, "no record"),
    "cut off": ({"kind": "truncated_json"}, "HTTP 200"),
    "closed": ({"kind": "close"}, "recordInfo"),
    "denied": ({"kind": "code", "code": 401}, "API key"),
    "too often": ({"kind": "code", "code": 429}, "too many"),
    "silence": ({"kind": "silence"}, ""),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_three_unusable_polls_in_a_row_are_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    fault, reason = UNUSABLE[name]
    async with client_and_fake(faults=[Fault("poll", **fault, nth=range(1, 10))], duration=0.0) as setup:
        job = await setup.kie.submit(make_request())
        await anyio.sleep(600.0)
        with suppress(AuthenticationError):
            await job

        (message,) = warnings(caplog)
        assert job.id in message
        assert setup.tasks[0] in message
        assert reason in message
        assert logging.WARNING == next(r.levelno for r in caplog.records if r.getMessage() == message)


async def test_two_unusable_polls_in_a_row_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    bad = [1, 2, 4, 5, 7, 8]
    faults = [Fault("poll", "html", nth=bad), Fault("poll", "alter", data={"state": "waiting"}, nth=range(3, 9))]
    async with client_and_fake(faults=faults, duration=0.0) as setup:
        await setup.kie.generate(make_request())

        assert [] == warnings(caplog)


async def test_a_new_task_that_is_invisible_at_first_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with client_and_fake(invisible_seconds=60.0, duration=0.0) as setup:
        await setup.kie.generate(make_request())

        assert len(setup.truth.polls) > 3
        assert [] == warnings(caplog)


#: Results, and the paths of their files.
RESULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"code": 200, "data": [{"audio_url": "/a.mp3", "prompt": "A"}, {"audio_url": "/b.mp3"}]}, ["/a.mp3", "/b.mp3"]),
    ({"video_url": "/a.mp4", "prompt": "see https://a.example"}, ["/a.mp4"]),
    ({"images": [{"url": "/a.png"}, {"url": "/a.png"}]}, ["/a.png"]),
]


@pytest.mark.parametrize(("result", "paths"), RESULTS)
@pytest.mark.parametrize("member", ["resultJson", "response"])
async def test_every_url_of_a_result_is_found(member: str, result: dict[str, Any], paths: list[str]) -> None:
    host = "https://tempfile.aiquickdraw.com"
    shown = json.loads(json.dumps(result).replace('"/', f'"{host}/'))
    data = {"resultJson": "", "response": None, member: shown}
    async with client_and_fake(faults=[Fault("poll", "alter", data=data)], duration=0.0) as setup:
        assert [host + path for path in paths] == list((await setup.kie.generate(make_request())).urls)


async def test_an_envelope_without_files_is_no_result() -> None:
    data: dict[str, Any] = {"resultJson": '{"code":200,"data":[],"msg":"success","task_id":"1"}', "response": None}
    async with client_and_fake(faults=[Fault("poll", "alter", data=data)], duration=0.0) as setup:
        with pytest.raises(NoResultError):
            await setup.kie.generate(make_request())
