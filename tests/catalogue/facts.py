"""The facts about models for tests: inputs in which a price depends on nothing else, and an oracle of their prices."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

__all__ = [
    "CLIP",
    "COMPLETE",
    "MODELS",
    "PRICED",
    "ROOT",
    "UNBOUNDED",
    "choices",
    "expected",
    "named_in_prices",
    "oracle",
    "required_input",
]

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

#: The seconds of models whose result is as long as a file, at most.
FILE_SECONDS = {
    "kling/ai-avatar-pro": 300, "kling/ai-avatar-standard": 300, "omnihuman-1-5": 60, "kling-2.6/motion-control": 30,
    "kling-3.0/motion-control": 30, "happyhorse/video-edit": 60,
}  # fmt: skip
#: The number of seconds of models without a duration; for others, their field.
SECONDS = {**FILE_SECONDS, "wan/2-2-a14b-image-to-video-turbo": 5, "wan/2-2-a14b-text-to-video-turbo": 5}
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
#: The files that cost more: the field, their number that costs nothing, and the credits for each further one.
FILES = {
    "qwen3/image-to-image": ("image_urls", 0, 0.5), "qwen3/pro-image-to-image": ("image_urls", 0, 0.5),
    "minimax-h3/reference-to-video": ("reference_image_urls", 5, 4),
}  # fmt: skip
#: Models with a list of shots whose flag is ``customize_multi_shots``.
OMNI = [f"kling-3.0-omni/{kind}-to-video" for kind in ("image", "reference", "text")]


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


def named_in_prices(facts: dict[str, Any]) -> list[str]:
    """Return the names of what rates and numbers of units depend on; some are no fields."""
    named = {name.removeprefix("input.") for rate in facts["price"]["rates"] for name in rate["when"]}
    return sorted(named | {name for name in ("duration", IMAGES.get(facts["model"], "")) if name in facts["fields"]})


def complete_inputs(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return inputs in which every field that a price depends on has a value."""
    fields = [name for name in named_in_prices(facts) if name in facts["fields"]]
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
    with_list = [rate for rate in rates if any(isinstance(given.get(name), list) for name in rate["when"])]
    if not rates:
        return None
    [rate] = {rate["credits"] for rate in with_list or rates}
    if price["unit"] == "task":
        return float(rate)
    field, free, each = FILES.get(model, ("", 0, 0.0))
    files = max(0, len(given.get(field) or ()) - free) * each
    if price["unit"] == "second":
        return float(rate * _seconds(model, given) + files)
    images = int(given[IMAGES[model]]) if model in IMAGES else 1
    return float(rate * images * (1.048576 if price["unit"] == "megapixel" else 1) + files)


def _seconds(model: str, given: dict[str, Any]) -> float:
    if model == "wan/2-2-a14b-speech-to-video-turbo":
        return float(given.get("num_frames") or 80) / float(given.get("frames_per_second") or 16)
    seconds = SECONDS.get(model) or float(given["duration"])
    if _has_shots(model, given):
        seconds = max(seconds, _shots(given))
    if model == "wan/2-7-videoedit" and not seconds:
        seconds = 10  # as long as the source, at most
    return seconds + (REFERENCE_SECONDS.get(model, 0) if given.get("reference_video_urls") else 0)


def _has_shots(model: str, given: dict[str, Any]) -> bool:
    """Return True if the shots may count: by the flag, or by their list where the flag may be on by default."""
    names = {"kling-3.0/video": "multi_shots"} | dict.fromkeys(OMNI, "customize_multi_shots")
    if model not in names:
        return False
    flag = given.get(names[model], PRICED[model]["fields"][names[model]].get("default"))
    return flag is not False and bool(given.get("multi_prompt") or given.get(names[model]))


def _shots(given: dict[str, Any]) -> float:
    return sum(float(shot["duration"]) for shot in given.get("multi_prompt") or () if "duration" in shot)


def oracle(model: str, given: dict[str, Any]) -> tuple[float, bool] | None:
    """
    Return the highest price of all complete inputs that fit an input, and True if it is an upper bound.

    Returns:
        None if no rate holds for any of them.
    """
    facts = PRICED[model]
    if model in UNBOUNDED:
        return None
    names = named_in_prices(facts)
    combinations = itertools.product(*(_possible(facts, name, given) for name in names))
    found = {expected(facts, {**given, **dict(zip(names, values, strict=True))}) for values in combinations} - {None}
    prices = {price for price in found if price is not None}
    if not prices:
        return None
    count = given.get(IMAGES.get(model, ""))
    is_bound = (
        len(prices) > 1
        or model in FILE_SECONDS
        or facts["price"]["unit"] == "megapixel"
        or bool(model in REFERENCE_SECONDS and given.get("reference_video_urls"))
        or (IMAGES.get(model) == "n" and (count is None or count > 1))
        or (IMAGES.get(model) == "max_images" and count is not None and count > 1)
        or (_has_shots(model, given) and _shots(given) != float(given.get("duration") or 5))
        or (model == "kling-3.0-omni/transformation" and not given.get("duration"))
        or (model == "wan/2-7-videoedit" and not given.get("duration"))
    )
    return max(prices), is_bound


def _possible(facts: dict[str, Any], name: str, given: dict[str, Any]) -> list[Any]:
    """Return the values that something may have by an input: its own, the documented default, or else any."""
    field, value = facts["fields"].get(name), given.get(name)
    if field is None:
        return [text for rate in facts["price"]["rates"] for text in [rate["when"][name]]]
    if field["type"] == "array":
        return [value or None]
    if name == "duration" and given.get("template_id"):  # they exclude each other
        value = None
    elif value is None and field.get("confidence") != "guessed":
        value = field.get("default")
    is_chosen = value is None or value == "auto" or (name == "duration" and float(value) <= 0)
    if not is_chosen:
        return [value]
    other = {"n": [12], "duration": [16]}.get(name, [])
    return [choice for choice in choices(facts, name) or other if name != "duration" or float(choice) > 0]


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
