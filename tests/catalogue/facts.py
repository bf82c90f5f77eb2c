"""The facts about models for tests: inputs in which a price depends on nothing else, and an oracle of their prices."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

__all__ = ["CLIP", "COMPLETE", "MODELS", "PRICED", "ROOT", "UNBOUNDED", "choices", "expected", "required_input"]

ROOT = Path(__file__).parents[2]
MODELS: dict[str, Any] = {
    facts["model"]: facts
    for facts in json.loads((ROOT / "kie_async" / "catalogue" / "models.json").read_text())["models"]
}
PRICED = {name: facts for name, facts in MODELS.items() if facts["price"]}
CLIP = "https://media.example.com/clip.mp4"

#: The result is as long as a file, and no page says how long a file may be.
UNBOUNDED = {
    "infinitalk/from-audio", "topaz/video-upscale", "volcengine/video-to-video-lip-sync", "wan/2-2-animate-move",
    "wan/2-2-animate-replace",
}  # fmt: skip

# -- the oracle: one line for each model whose number of units is not the value of a field ---------------------------

#: The number of seconds of models without a duration; for others, their field.
SECONDS = {
    "wan/2-2-a14b-image-to-video-turbo": 5, "wan/2-2-a14b-text-to-video-turbo": 5, "kling/ai-avatar-pro": 300,
    "kling/ai-avatar-standard": 300, "omnihuman-1-5": 60, "kling-2.6/motion-control": 30,
    "kling-3.0/motion-control": 30, "happyhorse/video-edit": 60, "wan/2-2-a14b-speech-to-video-turbo": 80 / 16,
}  # fmt: skip
#: The seconds of reference videos that are charged at most.
REFERENCE_SECONDS = {
    "bytedance/seedance-2": 15, "bytedance/seedance-2-5": 30, "bytedance/seedance-2-fast": 15,
    "bytedance/seedance-2-mini": 15, "wan/3-0-video": 15, "wan/3-0-video-prime": 15,
}  # fmt: skip
#: The field with the number of images.
IMAGES = {
    "ideogram/character": "num_images", "ideogram/character-edit": "num_images",
    "ideogram/character-remix": "num_images", "ideogram/v3-remix": "num_images", "qwen/image-edit": "num_images",
    "bytedance/seedream-v4-edit": "max_images", "bytedance/seedream-v4-text-to-image": "max_images",
    "wan/2-7-image": "n", "wan/2-7-image-pro": "n",
}  # fmt: skip


def choices(facts: dict[str, Any], name: str) -> list[Any]:
    """Return some values of a field: all choices, or the ends of its range."""
    field = facts["fields"].get(name, {})
    if field.get("type") == "boolean":
        return [False, True]
    if "enum" in field:
        return [value for value in field["enum"] if value != "auto"]  # the model chooses
    if field.get("type") == "array":
        return [None, [CLIP]]
    values = [field[end] for end in ("min", "max") if end in field]
    return [str(value) if field["type"] == "string" else value for value in values]


def complete_inputs(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return inputs in which every field that a price depends on has a value."""
    named = {name for rate in facts["price"]["rates"] for name in rate["when"]}
    named |= {"duration", IMAGES.get(facts["model"], "duration")}
    fields = sorted(name for name in {name.removeprefix("input.") for name in named} if name in facts["fields"])
    values = [choices(facts, name) or [3] for name in fields]
    return [dict(zip(fields, chosen, strict=True)) for chosen in itertools.product(*values)]


def holds(rate: dict[str, Any], given: dict[str, Any]) -> bool:
    """Return True if a rate holds for a complete input."""
    for name, wanted in rate["when"].items():
        value = given.get(name.removeprefix("input."))
        if isinstance(wanted, bool):
            if bool(value) is not wanted:
                return False
        elif str(value) not in str(wanted).split("|"):
            return False
    return True


def expected(facts: dict[str, Any], given: dict[str, Any]) -> float | None:
    """Return the price of a complete input, from the rates; None if none holds."""
    model, price = facts["model"], facts["price"]
    rates = [rate for rate in price["rates"] if holds(rate, given)]
    with_list = [rate for rate in rates if any(given.get(name) == [CLIP] for name in rate["when"])]
    if not rates:
        return None
    [rate] = {rate["credits"] for rate in with_list or rates}
    if price["unit"] == "task":
        return float(rate)
    if price["unit"] == "second":
        seconds = SECONDS.get(model) or float(given["duration"])
        seconds = 10 if (model, seconds) == ("wan/2-7-videoedit", 0) else seconds  # as long as the source, at most 10
        return float(rate * (seconds + (REFERENCE_SECONDS.get(model, 0) if given.get("reference_video_urls") else 0)))
    images = int(given[IMAGES[model]]) if model in IMAGES else 1
    return float(rate * images * (1.048576 if price["unit"] == "megapixel" else 1))


COMPLETE = [
    (name, given)
    for name, facts in PRICED.items()
    if not UNBOUNDED & {name}
    and all(key.removeprefix("input.") in facts["fields"] for rate in facts["price"]["rates"] for key in rate["when"])
    for given in complete_inputs(facts)
]


def required_input(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (choices(facts, name) or [CLIP])[-1] for name, field in facts["fields"].items() if field.get("required")
    }
