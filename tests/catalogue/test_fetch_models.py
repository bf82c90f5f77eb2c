"""The tool that brings the data up to date reads the service's answers, and keeps what they lack."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio.to_thread
import pytest

from kie_async.testing import FakeKie, Fault

ROOT = Path(__file__).parents[2]
DATA = ROOT / "kie_async" / "catalogue" / "models.json"
TODAY = "2027-01-02"
KLING, OMNI = "kling/v2-1-pro", "kling-3.0-omni/image-to-video"
DATES = {"required_seen", "fields_seen", "seen"}


def load_tool() -> ModuleType:
    """Import the tool."""
    spec = importlib.util.spec_from_file_location("fetch_models", ROOT / "tools" / "fetch_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_models"] = module
    spec.loader.exec_module(module)
    return module


fetch_models = load_tool()


def load_data() -> dict[str, Any]:
    """Return the data of the package."""
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def by_name(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the models of *data* by name."""
    return {model["model"]: model for model in data["models"]}


def without_dates(data: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without the days on which they were read."""
    found = {}
    for name, model in by_name(data).items():
        price = model["price"] and {key: value for key, value in model["price"].items() if key != "date"}
        found[name] = {**{key: value for key, value in model.items() if key not in DATES}, "price": price}
    return found


async def fetch(*names: str, **options: Any) -> dict[str, Any]:
    """Read the models of a fake."""
    async with FakeKie(**options) as fake:
        listed: dict[str, Any] = await fetch_models.read_service(fake.url, "any key", names)
        # After a reset, aiohttp repeats a GET at once.
        assert options or {200} == {query.code for query in fake.truth.queries}
        return listed


def test_data_is_written_as_it_was_read() -> None:
    assert DATA.read_text(encoding="utf-8") == fetch_models.dump(load_data())


async def test_fetch_of_unchanged_models_changes_dates_only() -> None:
    """One request per second; the model that is not used by createTask is left out."""
    data = load_data()
    service = await fetch()
    merged, lines = fetch_models.merge(data, service, TODAY)
    live = {name for name, model in by_name(data).items() if model["status"] == "live"}

    assert live == set(service)
    assert [] == lines
    assert without_dates(data) == without_dates(merged)
    assert TODAY == by_name(merged)[KLING]["fields_seen"] == by_name(merged)[KLING]["price"]["date"]
    assert data["models"] == load_data()["models"]


async def test_differences_are_taken_over_and_printed() -> None:
    """Hand-made facts stay: the types and sizes of files, older values, alternatives, guessed fields, formulas."""
    data = load_data()
    old = copy.deepcopy(data)
    models = by_name(old)
    kling = models[KLING]["fields"]
    kling["duration"]["enum"] = ["5"]
    kling["prompt"]["required"] = False
    kling["gone"] = {"type": "string", "required": False}
    kling["guess"] = {"type": "string", "required": False, "confidence": "guessed"}
    kling["image_url"]["remark"] = "ours"
    del kling["tail_image_url"]
    omni = models[OMNI]
    omni["variants"][0]["limits"]["image_urls"]["max_items"] = 3
    models["kling-3.0/motion-control"].pop("also_required_in_body")
    models["z-image"]["price"]["rates"][0]["credits"] = 77
    models[KLING]["price"]["rates"][0]["credits"] = 49
    old["models"] = [model for name, model in models.items() if name != "wan/3-0-video"]

    merged, lines = fetch_models.merge(old, await fetch(), TODAY)
    new, right = by_name(merged), by_name(data)

    assert '~ kling/v2-1-pro: duration: enum: ["5"] -> ["5", "10"]' in lines
    assert "~ kling/v2-1-pro: prompt: required: false -> true" in lines
    assert "- kling/v2-1-pro: gone" in lines
    assert any(line.startswith("+ kling/v2-1-pro: tail_image_url: {") for line in lines)
    assert any(line.startswith("+ wan/3-0-video: new, text-or-image-to-video, with ") for line in lines)
    assert '~ kling-3.0/motion-control: also_required_in_body: none -> ["callBackUrl"]' in lines
    assert "? kling/v2-1-pro: price: the service names 50, 100 credits, the data 49, 100: change it by hand" in lines
    assert any(line.startswith("~ z-image: price: ") for line in lines)
    fields = new[KLING]["fields"]
    assert {"guess", "ours"} == {"guess" if "guess" in fields else "", fields["image_url"]["remark"]}
    assert right[KLING]["fields"]["tail_image_url"] == fields["tail_image_url"]
    assert right["z-image"]["price"]["rates"] == new["z-image"]["price"]["rates"]
    first = new[OMNI]["variants"][0]
    assert (1, ["prompt", "image_urls"]) == (first["limits"]["image_urls"]["max_items"], first["required"])
    assert right["bytedance/seedance-2"]["variants"] == new["bytedance/seedance-2"]["variants"]
    assert right["wan/3-0-video"]["fields"].keys() == new["wan/3-0-video"]["fields"].keys()
    assert "image" == new["wan/3-0-video"]["fields"]["first_frame_url"]["format"]
    assert (None, "wan") == (new["wan/3-0-video"]["price"], new["wan/3-0-video"]["vendor"])


async def test_model_that_the_service_no_longer_lists_is_retired() -> None:
    data = load_data()
    service = await fetch(KLING)
    few = {name: {**model, "status": "retired"} for name, model in by_name(data).items() if name not in (KLING, OMNI)}
    old = {"models": [*few.values(), by_name(data)[KLING], by_name(data)[OMNI]]}
    merged, lines = fetch_models.merge(old, service, TODAY)

    assert ["- kling-3.0-omni/image-to-video: the service does not list it any more; its status is retired"] == lines
    assert "retired" == by_name(merged)[OMNI]["status"]
    assert [] == fetch_models.merge(data, service, TODAY, partial=True)[1]
    with pytest.raises(fetch_models.FetchError, match=r"lacks 161 of ours\. Nothing was written"):
        fetch_models.merge(data, service, TODAY)


async def test_refusals_by_the_rate_limit_and_lost_answers_are_repeated() -> None:
    faults = [
        Fault("models", "code", code=429, nth=1),
        Fault("models", "html", nth=3),
        Fault("models", "reset", nth=4),
    ]
    assert [KLING] == list(await fetch(KLING, faults=faults))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("models", "code", code=401), "code 401: You do not have access permissions"),
        (Fault("models", "html"), "JSONDecodeError"),
        (Fault("models", "null_data"), "code 200: success"),
    ],
)
async def test_failed_fetch_says_why(fault: Fault, words: str) -> None:
    async with FakeKie(faults=[fault]) as fake:
        with pytest.raises(fetch_models.FetchError, match=f"{words}.*Nothing was written"):
            await fetch_models.read_service(fake.url, "any key")


def test_references_in_circles_and_into_nothing_are_errors() -> None:
    document = {"a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}
    with pytest.raises(fetch_models.FetchError, match="in a circle"):
        fetch_models.resolve(document, {"$ref": "#/a"})
    with pytest.raises(fetch_models.FetchError, match="leads nowhere"):
        fetch_models.resolve(document, {"$ref": "#/a/c%20d"})


@pytest.mark.parametrize(
    ("text", "rates", "expected", "remark"),
    [
        (None, [4], [4], None),
        ("Ask us.", [4], [4], None),
        ("5 credits ($0.025) per image", [4], [5], None),
        ("4 credits, or 6 credits at 4K", [4], [4], None),
        ("2.5 credits per second", [4], [2.5], None),
        ("5 credits, or 6 credits at 4K", [4], [4], "the service names 5, 6 credits, the data 4: change it by hand"),
        ("5 credits", None, None, "the service names 5 credits, and the data has no price: add it by hand"),
    ],
)
def test_price_changes_only_where_words_leave_no_choice(
    text: str | None, rates: list[float] | None, expected: list[float] | None, remark: str | None
) -> None:
    old = rates and {"rates": [{"when": {}, "credits": rate} for rate in rates], "date": "2026-01-01"}
    price, said = fetch_models.merge_price(old, text, TODAY)

    assert (expected, remark) == (price and [rate["credits"] for rate in price["rates"]], said)


async def test_command_without_a_valid_key_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.json"
    file.write_text("{}")
    monkeypatch.delenv("KIE_API_KEY", raising=False)
    assert 2 == fetch_models.main(["--data", str(file)])
    assert "Set KIE_API_KEY" in capsys.readouterr().err

    monkeypatch.setenv("KIE_API_KEY", "wrong")
    async with FakeKie(api_keys=["another"]) as fake:
        code = await anyio.to_thread.run_sync(fetch_models.main, ["--data", str(file), "--base-url", fake.url])

    assert (1, "{}") == (code, file.read_text())
    assert "code 401" in capsys.readouterr().err
