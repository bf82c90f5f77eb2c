"""The fake lists its models, and describes them as the service does."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.contract.inputs import load_models

if TYPE_CHECKING:
    from tests.contract.conftest import Api, Serve

MODELS = load_models()
LIVE = {name for name, facts in MODELS.items() if facts["status"] == "live"}


async def ask(api: Api, path: str = "", **query: str) -> Any:
    """Ask about the models after a pause, and return the ``data``."""
    await asyncio.sleep(1)
    answer = (await api.request("GET", "/api/v1/models" + path, params=query)).json
    assert (200, "success") == (answer["code"], answer["msg"])
    return answer["data"]


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, whose parts are percent-encoded; the names of components are literal."""
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[unquote(part)]
        node = target
    return node


async def test_list_has_every_live_model_and_a_chat_model(serve: Serve) -> None:
    async with serve() as api:
        data = await ask(api)
        entry = next(entry for entry in data["models"] if entry["model"] == "kling/v2-1-pro")

        assert LIVE | {"gemini-3-flash"} == {entry["model"] for entry in data["models"]}
        assert data["total"] == len(data["models"])
        assert ["model", "slug", "title", "provider", "taskType", "description", "pricingDesc"] == list(entry)
        assert ("Kling", ["Image to Video"]) == (entry["provider"], entry["taskType"])
        assert 'Each task with duration "5" costs 50 credits ($0.25).' in entry["pricingDesc"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            {"taskType": "Image to Video", "provider": "Pixverse"},
            {"pixverse-v6/image-to-video", "pixverse-v6/transition"},
        ),
        ({"q": "sora"}, set()),
        ({"taskType": "text to video,image to video", "q": "wan/3-0"}, {"wan/3-0-video", "wan/3-0-video-prime"}),
    ],
)
async def test_list_is_filtered(serve: Serve, query: dict[str, str], expected: set[str]) -> None:
    """A filter that nothing matches is no error."""
    async with serve() as api:
        data = await ask(api, **query)

        assert (expected, len(expected)) == ({entry["model"] for entry in data["models"]}, data["total"])


async def test_schema_has_references_and_literal_names(serve: Serve) -> None:
    """Spaces and slashes in references are percent-encoded, and some names end with a blank."""
    async with serve() as api:
        data = await ask(api, "/wan/2-6-image-to-video/schema")
        document = data["openapi"]
        operation = document["paths"]["/api/v1/jobs/createTask"]["post"]
        body = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
        given = resolve(document, body["properties"]["input"])

        assert "wan/2-6-image-to-video" == data["model"]
        assert {"$ref": "#/components/responses/Error%20"} == operation["responses"]["500"]
        assert ["Error "] == list(document["components"]["responses"])
        assert {"$ref": "#/components/schemas/input%20of%20wan%2F2-6-image-to-video"} == body["properties"]["input"]
        assert "image_urls " in given["properties"]
        assert "image_urls " in given["required"]
        assert ["5", "10", "15"] == given["properties"]["duration"]["enum"]
        assert 5000 == given["properties"]["prompt"]["maxLength"]
        assert "Max size: 10.0MB" in given["properties"]["image_urls "]["description"]


async def test_schema_has_alternatives_and_objects(serve: Serve) -> None:
    async with serve() as api:
        document = (await ask(api, "/kling-3.0-omni/image-to-video/schema"))["openapi"]
        given = document["components"]["schemas"]["input of kling-3.0-omni/image-to-video"]

        assert ["Single First Frame", "First and Last Frames"] == [branch["title"] for branch in given["oneOf"]]
        assert [1, 2] == [branch["properties"]["image_urls"]["maxItems"] for branch in given["oneOf"]]
        shots = resolve(document, given["oneOf"][0]["properties"]["multi_prompt"]["items"])
        assert ["duration", "prompt"] == shots["required"]
        assert 512 == shots["properties"]["prompt"]["maxLength"]


async def test_some_models_have_no_schema_and_some_another_path(serve: Serve) -> None:
    async with serve() as api:
        assert {"model": "nano-banana-2-1", "openapi": None} == await ask(api, "/nano-banana-2-1/schema")
        chat = (await ask(api, "/gemini-3-flash/schema"))["openapi"]
        assert ["/gemini-3-flash/v1/chat/completions"] == list(chat["paths"])


async def test_price_is_a_text_or_null(serve: Serve) -> None:
    async with serve() as api:
        listed = {entry["model"]: entry["pricingDesc"] for entry in (await ask(api))["models"]}
        unpriced = next(name for name in LIVE if MODELS[name]["price"] is None)

        assert {"model": unpriced, "pricingDesc": None} == await ask(api, f"/{unpriced}/price")
        assert listed["veo-3-1"] == (await ask(api, "/veo-3-1/price"))["pricingDesc"]
        assert {"model": "veo-3-1", "points": []} == await ask(api, "/veo-3-1/success-rate")


@pytest.mark.parametrize("path", ["no/such-model/schema", "sora-2-image-to-video/price", "veo-3-1/color"])
async def test_unknown_model_is_refused_with_404_in_a_200(serve: Serve, path: str) -> None:
    async with serve() as api:
        answer = await api.request("GET", f"/api/v1/models/{path}")

        assert (200, 404) == (answer.status, answer.json["code"])
        assert answer.json["msg"].startswith("The model name you specified is not supported.")


async def test_questions_about_models_share_one_per_second(serve: Serve) -> None:
    """All keys of the account share it; other queries do not count."""
    async with serve() as api:
        codes = [
            json.loads((await api.request("GET", path, key=key)).body)["code"]
            for path, key in (
                ("/api/v1/models", "a"),
                ("/api/v1/models/veo-3-1/price", "b"),
                ("/api/v1/models/veo-3-1/schema", "a"),
                ("/api/v1/chat/credit", "a"),
                ("/api/v1/models", ""),
            )
        ]
        await asyncio.sleep(1)
        codes.append((await api.request("GET", "/api/v1/models/veo-3-1/schema")).json["code"])

        assert [200, 429, 429, 200, 401, 200] == codes
        assert ["models", "models", "models", "credit", "models", "models"] == [q.place for q in api.fake.truth.queries]
