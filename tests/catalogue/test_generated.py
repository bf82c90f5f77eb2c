"""The catalogue's files are those that its generator writes, and every documented model has a class."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import kie_async
from kie_async import catalogue
from kie_async.catalogue import Seedance15Pro
from kie_async.catalogue._data import models
from kie_async.requests._model import ModelRequest

ROOT = Path(__file__).parents[2]


def load_tool(name: str) -> ModuleType:
    """Import a script of ``tools``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool("catalogue")
#: Every class by its model.
CLASSES = {name: tool_class for name in catalogue.MODELS if (tool_class := catalogue.request_class(name)) is not None}


def test_generated_files_are_checked_in() -> None:
    for path, text in tool.render_all().items():
        assert path.read_text(encoding="utf-8") == text, f"run python tools/catalogue.py: {path.name} is not up to date"


def test_every_documented_model_has_a_class() -> None:
    """Retired and guessed models, and those of sound, speech and analysis, stay with ``MarketRequest``."""
    left_out = {name: facts for name, facts in models().items() if name not in CLASSES}

    assert 53 == sum(bool(models()[name]["image_to_video"]) for name in CLASSES)
    assert 94 == sum(not models()[name]["image_to_video"] for name in CLASSES)
    assert all(
        facts["status"] == "retired"
        or facts["confidence"] != "documented"
        or facts["kind"] in ("audio", "music", "image-analysis")
        for facts in left_out.values()
    )


@pytest.mark.parametrize("model", CLASSES)
def test_class_has_every_field_once(model: str) -> None:
    """The class that is written by hand has an older field more."""
    request = CLASSES[model]
    wires = [rule.wire for rule in request.field_rules()]
    older = ["aspect_ratio"] if request is kie_async.Wan22TurboImageToVideo else []

    assert sorted([*models()[model]["fields"], *older]) == sorted(wires)  # type: ignore[misc]  # a mapping in the data
    assert issubclass(request, ModelRequest)
    assert model == request.MODEL
    assert models()[model]["fields_seen"] == request.AS_OF
    assert request.__doc__ is not None
    assert {f"\n        {field.name}: " in request.__doc__ for field in attrs.fields(request)} == {True}


def test_index_lists_all_classes() -> None:
    names = {request.__name__ for request in CLASSES.values()}

    assert len(names) == len(CLASSES)
    assert names <= set(dir(catalogue))
    assert catalogue.Wan22TurboImageToVideo is kie_async.Wan22TurboImageToVideo
    assert catalogue.request_class("acme/none") is None
    with pytest.raises(AttributeError, match="Kling99"):
        catalogue.Kling99  # noqa: B018 (the point)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("bytedance", "25 (resolution 720p, with reference_videos)"),
        ("bytedance", "41 (resolution 720p, without reference_videos)"),
        ("bytedance", "The seconds of `reference_videos` are charged, too."),
        ("kling", "110 (duration 5, generate_audio on)"),
        ("kling", "The result is as long as `video` unless `duration` is given."),
        ("kling", "The result is as long as `audio`."),
        ("kling", "| `images` | `image_urls` | The first frame, or the first and the last frame: "),
        ("veo", "The first frame, or the first and the last frame: a list of 1 to 2"),
        ("minimax", "Each of the `reference_images` beyond 5 costs 4 more."),
        ("qwen", "Each of the `images` costs 0.5 more."),
        ("wan", "Each video has 5 seconds."),
    ],
)
def test_page_says_what_a_model_takes_and_costs(page: str, sentence: str) -> None:
    """A list is given or not, a flag is on or off; some files cost more."""
    assert sentence in (ROOT / "docs" / "models" / f"{page}.md").read_text(encoding="utf-8")


def test_one_idea_has_one_name() -> None:
    """Seedance calls the same option by two names."""
    fixed = Seedance15Pro(prompt="A cat", aspect_ratio="16:9", resolution="720p", duration=4, camera_fixed=True)

    assert fixed.input({})["fixed_lens"] is True
