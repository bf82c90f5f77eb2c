"""The fake checks the inputs of every model as strictly as its page does, and responds as the service does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from kie_async.testing.catalogue import load_facts
from kie_async.testing.input_checks import Refusal, check_input
from kie_async.testing.tasks import TaskFailure
from tests.catalogue.samples import CLASSES, schema
from tests.contract.inputs import inputs_of, load_models, valid_value, wrong_values
from tests.requests.samples import GIF, PNG, png_of

if TYPE_CHECKING:
    from tests.contract.conftest import Api, Serve

MODELS = load_models()
LIVE = [name for name, facts in MODELS.items() if facts["status"] == "live"]
TEXTS = re.compile(
    r"This field is required|Value must be within the specified range"
    r"|(This )?[^ ]+ is not within the range of allowed options"
)
FRAME, REFERENCE = "https://example.com/frame.png", "https://example.com/reference.png"


async def post(api: Api, model: str, given: dict[str, Any], **body: str) -> dict[str, Any]:
    """Send an input, and return the body of the response."""
    sent = {"model": model, "input": given, **body}
    answer: dict[str, Any] = (await api.request("POST", "/api/v1/jobs/createTask", json=sent)).json
    return answer


def check(model: str, given: dict[str, Any], *, strict: bool = False) -> Refusal | TaskFailure | None:
    """Check an input without uploads."""
    return check_input(load_facts()[model], given, strict=strict, find_file=lambda _url: None)


async def test_every_live_model_takes_its_smallest_and_its_fullest_inputs(serve: Serve) -> None:
    """Each makes a task that succeeds, also at a fake that follows the pages to the letter."""
    async with serve(limit=10_000, credits=1e9, strict=True, duration=0.0) as api:
        sent = 0
        for name in LIVE:
            for given in (*inputs_of(MODELS[name], full=False), *inputs_of(MODELS[name], full=True)):
                answer = await post(api, name, given, callBackUrl="http://127.0.0.1:9/")
                assert 200 == answer["code"], (name, given, answer)
                sent += 1

        tasks = api.fake.truth.created
        assert sent == len(tasks) > 2 * len(LIVE)
        assert [] == [(task.model, task.failure) for task in tasks if task.failure is not None]
        for task in tasks:
            kind = MODELS[task.model]["kind"]
            output = "object" if task.output == "object" else kind if kind in ("audio", "music") else task.output
            assert output == task.output
            assert (task.output == "image") == kind.endswith("to-image"), task.model


def test_every_wrong_value_is_refused() -> None:
    """Each refusal has a recorded text: the client takes any other one for an ambiguous server error."""
    count = 0
    for name in LIVE:
        if MODELS[name]["confidence"] == "guessed":
            continue
        for variant in inputs_of(MODELS[name], full=False):
            for field, facts in MODELS[name]["fields"].items():
                for value in wrong_values(facts):
                    refusal = check(name, {**variant, field: value})
                    assert isinstance(refusal, Refusal), (name, field, value)
                    assert 500 == refusal.code
                    assert TEXTS.fullmatch(refusal.text), refusal
                    count += 1
    assert count > 4000


@pytest.mark.parametrize("model", CLASSES)
def test_fake_and_json_schema_agree(model: str) -> None:
    """Another checker of the same facts, for right and wrong values; the schema has no guesses and no pairs."""
    facts = MODELS[model]
    validator = jsonschema.Draft202012Validator(schema(model))
    wrong = []
    for base in (*inputs_of(facts, full=False), *inputs_of(facts, full=True)):
        documented = {name: field for name, field in facts["fields"].items() if field.get("confidence") != "guessed"}
        for name, field in documented.items():
            common = (0, -1, 5, "5", True, [FRAME], *field.get("enum", ()))
            for value in (*wrong_values(field), valid_value(field), valid_value(field, full=True), *common):
                given = {**base, name: value}
                if validator.is_valid(given) != (check(model, given, strict=True) is None):
                    wrong.append((name, value))
    assert [] == [found for found in wrong if "never" not in facts and "needs" not in facts]


def test_missing_field_is_refused_unless_its_default_is_documented() -> None:
    """A fake that follows the pages to the letter refuses each of them."""
    for name in LIVE:
        if MODELS[name]["confidence"] == "guessed" or "variants" in MODELS[name]:
            continue
        (smallest,) = inputs_of(MODELS[name], full=False)
        for field in smallest:
            given = {key: value for key, value in smallest.items() if key != field}
            missing = Refusal(500, "This field is required")
            assert missing == check(name, given, strict=True)
            assert ("default" not in MODELS[name]["fields"][field]) == (missing == check(name, given)), (name, field)


@pytest.mark.parametrize(
    ("model", "given", "text"),
    [
        ("kling/v2-1-pro", {"duration": 5}, "duration is not within the range of allowed options"),
        ("kling/v2-1-pro", {"cfg_scale": 1.5}, "Value must be within the specified range"),
        ("wan/3-0-video", {"resolution": "720p"}, "resolution is not within the range of allowed options"),
        ("wan/3-0-video", {"duration": 31}, "Value must be within the specified range"),
        ("happyhorse/text-to-video", {"prompt": "x" * 5001}, "Value must be within the specified range"),
        ("kling-2.6/text-to-video", {"sound": "true"}, "sound is not within the range of allowed options"),
        (
            "kling-3.0-omni/image-to-video",
            {"image_urls": [FRAME], "multi_prompt": [{"prompt": "x"}]},
            "This field is required",
        ),
        ("pixverse-v6/image-to-video", {"image_urls": [FRAME]}, "This field is required"),
        (
            "hailuo/2-3-image-to-video-pro",
            {"duration": "10", "resolution": "1080P"},
            "duration is not within the range of allowed options",
        ),
        ("google/gemini-omni-flash-1-1", {"last_frame_url": FRAME}, "This field is required"),
        (
            "grok-imagine/image-to-video",
            {"image_urls": [FRAME], "task_id": "1"},
            "task_id is not within the range of allowed options",
        ),
    ],
)
async def test_refusal_has_the_text_of_the_service(serve: Serve, model: str, given: dict[str, Any], text: str) -> None:
    async with serve() as api:
        smallest = next(inputs_of(MODELS[model], full=False))
        smallest = {} if model.startswith(("grok", "pixverse")) else smallest

        assert {"code": 500, "msg": text, "data": None} == await post(
            api, model, {**smallest, "prompt": "A cat", **given}
        )
        assert [] == api.fake.truth.created


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ({"prompt": "A cat"}, True),
        ({"first_frame_url": FRAME}, True),
        ({"prompt": "A cat", "first_frame_url": FRAME, "last_frame_url": FRAME}, True),
        ({"prompt": "A cat", "reference_image_urls": [REFERENCE]}, True),
        ({"duration": -1, "prompt": "A cat"}, True),
        ({}, False),
        ({"prompt": "A cat", "last_frame_url": FRAME}, False),
        ({"reference_image_urls": [REFERENCE]}, False),
    ],
)
def test_input_is_one_of_the_alternatives(given: dict[str, Any], *, accepted: bool) -> None:
    """Text, frames or references: no last frame without a first one, and no references without a prompt."""
    assert accepted == (check("bytedance/seedance-2", given) is None)


async def test_mix_of_frames_and_references_fails_as_recorded(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        given = {"prompt": "A cat", "first_frame_url": FRAME, "reference_image_urls": [REFERENCE]}
        task_id = (await post(api, "bytedance/seedance-2", given))["data"]["taskId"]
        record = await api.record(task_id)

        text = "first/last frame content cannot be mixed with reference media content"
        assert ("fail", "500", text, 0.0) == tuple(
            record[k] for k in ("state", "failCode", "failMsg", "creditsConsumed")
        )


@pytest.mark.parametrize("url", ["cat.png", "data:image/png;base64,aGk=", "/tmp/cat.png"])
async def test_path_in_place_of_a_url_fails_the_task(serve: Serve, url: str) -> None:
    async with serve(duration=0.0) as api:
        record = await api.record(await api.task(image_url=url))

        assert ("fail", "422", "Your media file is unavailable, please replace it.") == tuple(
            record[k] for k in ("state", "failCode", "failMsg")
        )


@pytest.mark.parametrize(
    ("model", "content", "msg"),
    [
        ("kling/v2-1-pro", PNG, "success"),
        ("kling/v2-1-pro", b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(14), "image_url file type is not supported"),
        ("kling/v2-1-pro", GIF, "image_url file type is not supported"),
        ("kling/v2-1-pro", png_of(10 * 2**20 + 1), "image_url file size exceeds the limit"),
        ("wan/2-2-a14b-image-to-video-turbo", b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(14), "success"),
        ("wan/2-2-a14b-image-to-video-turbo", b"no picture", "image_url file type is not supported"),
    ],
)
async def test_uploads_are_checked_by_type_and_size(serve: Serve, model: str, content: bytes, msg: str) -> None:
    async with serve() as api:
        url = (await api.upload(content)).json["data"]["downloadUrl"]
        answer = await post(api, model, {"prompt": "A cat", "image_url": url, "duration": "5"})

        assert (200 if msg == "success" else 422, msg) == (answer["code"], answer["msg"])


def test_unknown_fields_and_guessed_models_are_accepted() -> None:
    """The service adds fields before its pages have them, and a guess must not refuse what works."""
    assert check("kling/v2-1-pro", {"prompt": "A cat", "image_url": FRAME, "new_field": [1]}) is None
    assert check("flux1-kontext", {"aspect_ratio": 7}) is None
    assert check("veo-3-1", {"prompt": "A cat", "model": "veo4"}) is None


async def test_strict_fake_requires_a_callback_url_where_the_page_does(serve: Serve) -> None:
    given = next(inputs_of(MODELS["kling-3.0/motion-control"], full=True))
    async with serve() as lenient, serve(strict=True) as strict:
        assert 200 == (await post(lenient, "kling-3.0/motion-control", given))["code"]
        assert "This field is required" == (await post(strict, "kling-3.0/motion-control", given))["msg"]


async def test_retired_models_are_unknown_and_named_models_accept_every_input(serve: Serve) -> None:
    async with serve(models=["kling/v2-1-pro"]) as api:
        assert 422 == (await post(api, "sora-2-image-to-video", {"prompt": "A cat"}))["code"]
        assert 200 == (await post(api, "kling/v2-1-pro", {}))["code"]


async def test_record_has_the_documented_defaults(serve: Serve) -> None:
    async with serve() as api:
        task_id = await api.task("kling/v2-1-pro", duration="10")
        echo = json.loads(json.loads((await api.record(task_id))["param"])["input"])

        assert {"duration": "10", "cfg_scale": 0.5} == {k: v for k, v in echo.items() if re.match("dur|cfg", k)}
