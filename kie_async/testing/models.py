"""The models of the fake service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from kie_async.testing import responses

if TYPE_CHECKING:
    from random import Random

    from kie_async.records import JSON
    from kie_async.testing.tasks import Output, Stages

__all__ = ["MODELS", "WAN_22_TURBO", "FakeModel", "choose_stages", "other_model"]

WAN_22_TURBO = "wan/2-2-a14b-image-to-video-turbo"

#: The price in credits of a model without a known price; ``FakeKie(prices=...)`` overrides it.
OTHER_PRICE = 50.0

#: The prices in credits of a clip of ``WAN_22_TURBO`` by resolution (price list of 2026-06-30).
CLIP_PRICES = MappingProxyType({"480p": 40.0, "580p": 60.0, "720p": 80.0})

_MAX_PROMPT = 5000
_MAX_SEED = 2_147_483_647

# Recorded: some models have only one state before the end, others have several.
WAITING: Stages = ((0.0, "waiting"),)
GENERATING: Stages = ((0.0, "generating"),)
ALL_STAGES: Stages = ((0.0, "waiting"), (0.15, "queuing"), (0.4, "generating"))
_ONLY_WAITING = ("bytedance/seedance-2", "wan/2-7-", "happyhorse", "grok-imagine/", "gpt-image-2-image")
_ONLY_GENERATING = ("kling-3.0/video", "seedream/5-lite", "gpt-image-2-text")


@attrs.frozen(kw_only=True)
class FakeModel:
    """
    A model.

    Attributes:
        name: The name.

        output: The result that it makes.

        defaults: The fields that the service adds to an ``input`` that lacks them.

        price: Returns the price of an ``input`` in credits.

        check: Returns the text that refuses an ``input`` (with code 500), or None.
    """

    name: str
    output: Output = "video"
    defaults: Mapping[str, JSON] = attrs.field(factory=dict)
    price: Callable[[Mapping[str, JSON]], float] = lambda _given: OTHER_PRICE
    check: Callable[[Mapping[str, JSON], bool], str | None] = lambda _given, _strict: None


def choose_stages(model: str, rng: Random) -> Stages:
    """Choose the states of a task of *model* before its end."""
    if model.startswith(_ONLY_WAITING):
        return WAITING
    if model.startswith(_ONLY_GENERATING):
        return GENERATING
    return ALL_STAGES if rng.random() < 0.3 else WAITING  # noqa: PLR2004 (a share; nothing recorded)


def _check_wan_22_turbo(given: Mapping[str, JSON], strict: bool) -> str | None:  # noqa: FBT001 (a check)
    """
    Return the service's text that refuses an input of ``WAN_22_TURBO``, or None.

    Args:
        given: The input.

        strict: True to refuse the values that the documentation of 2025 allowed and that of 2026 omits.
    """
    image, prompt = given.get("image_url"), given.get("prompt")
    if not (isinstance(image, str) and image and isinstance(prompt, str) and prompt):
        return responses.REQUIRED
    if len(prompt) > _MAX_PROMPT:
        return responses.OUT_OF_RANGE
    resolutions = ("480p", "720p") if strict else tuple(CLIP_PRICES)
    for field, allowed in (("resolution", resolutions), ("acceleration", ("none", "regular"))):
        if given.get(field) not in (None, *allowed):
            return responses.not_in_range(field)
    if strict and given.get("aspect_ratio") is not None:
        return responses.not_in_range("aspect_ratio")
    seed = given.get("seed")
    if seed is None or (isinstance(seed, int | float) and not isinstance(seed, bool) and 0 <= seed <= _MAX_SEED):
        return None
    return responses.OUT_OF_RANGE


def _price_wan_22_turbo(given: Mapping[str, JSON]) -> float:
    return CLIP_PRICES[str(given.get("resolution") or "720p")]


# The models of createTask in the documentation of October 2026. Of ai-music-api/* there are twenty more.
_VIDEO = """
    bytedance/seedance-1.5-pro bytedance/seedance-2 bytedance/seedance-2-5 bytedance/seedance-2-fast
    bytedance/seedance-2-mini bytedance/v1-lite-image-to-video bytedance/v1-lite-text-to-video
    bytedance/v1-pro-fast-image-to-video bytedance/v1-pro-image-to-video bytedance/v1-pro-text-to-video
    gemini-omni-video google/gemini-omni-flash-1-1 grok-imagine-video-1-5-preview grok-imagine/extend
    grok-imagine/image-to-video grok-imagine/text-to-video grok-imagine/upscale hailuo/02-image-to-video-pro
    hailuo/02-image-to-video-standard hailuo/02-text-to-video-pro hailuo/02-text-to-video-standard
    hailuo/2-3-image-to-video-pro hailuo/2-3-image-to-video-standard happyhorse-1-1/image-to-video
    happyhorse-1-1/reference-to-video happyhorse-1-1/text-to-video happyhorse/image-to-video
    happyhorse/reference-to-video happyhorse/text-to-video happyhorse/video-edit infinitalk/from-audio
    kling-2.6/image-to-video kling-2.6/motion-control kling-2.6/text-to-video kling-3.0-omni/image-to-video
    kling-3.0-omni/reference-to-video kling-3.0-omni/text-to-video kling-3.0-omni/transformation
    kling-3.0/motion-control kling-3.0/video kling/ai-avatar-pro kling/ai-avatar-standard
    kling/v2-1-master-image-to-video kling/v2-1-master-text-to-video kling/v2-1-pro kling/v2-1-standard
    kling/v2-5-turbo-image-to-video-pro kling/v2-5-turbo-text-to-video-pro kling/v3-turbo-image-to-video
    kling/v3-turbo-text-to-video minimax-h3/image-to-video minimax-h3/reference-to-video minimax-h3/text-to-video
    omnihuman-1-5 pixverse-v6/extend pixverse-v6/image-to-video pixverse-v6/reference-to-video
    pixverse-v6/text-to-video pixverse-v6/transition runway runway/extend-ai-video runway/gen4-aleph
    topaz/video-upscale veo-3-1 veo/extend veo/get-1080p-video veo/get-4k-video volcengine/video-to-video-lip-sync
    wan/2-2-a14b-speech-to-video-turbo wan/2-2-a14b-text-to-video-turbo wan/2-2-animate-move wan/2-2-animate-replace
    wan/2-5-image-to-video wan/2-5-text-to-video wan/2-6-flash-image-to-video wan/2-6-flash-video-to-video
    wan/2-6-image-to-video wan/2-6-text-to-video wan/2-6-video-to-video wan/2-7-image-to-video wan/2-7-r2v
    wan/2-7-text-to-video wan/2-7-videoedit wan/3-0-video wan/3-0-video-prime
"""
_IMAGE = """
    4o-image-api bytedance/seedream bytedance/seedream-v4-edit bytedance/seedream-v4-text-to-image
    flux-2/flex-image-to-image flux-2/flex-text-to-image flux-2/pro-image-to-image flux-2/pro-text-to-image
    flux1-kontext google/imagen4 google/imagen4-fast google/imagen4-ultra google/nano-banana google/nano-banana-edit
    gpt-image-2-5-flare-image-to-image gpt-image-2-5-flare-text-to-image gpt-image-2-5-sunburst-image-to-image
    gpt-image-2-5-sunburst-text-to-image gpt-image-2-image-to-image gpt-image-2-text-to-image
    gpt-image/1.5-image-to-image gpt-image/1.5-text-to-image grok-imagine-image-2-0/image-edit
    grok-imagine-image-2-0/segment-edit grok-imagine-image-2-0/text-to-image grok-imagine/image-to-image
    grok-imagine/text-to-image ideogram/character ideogram/character-edit ideogram/character-remix ideogram/v3-edit
    ideogram/v3-remix ideogram/v3-text-to-image nano-banana-2 nano-banana-2-1 nano-banana-2-lite nano-banana-pro
    qwen/image-edit qwen/image-to-image qwen/text-to-image qwen2-1/image-to-image qwen2-1/text-to-image
    qwen2/image-edit qwen2/text-to-image qwen3/image-to-image qwen3/pro-image-to-image qwen3/pro-text-to-image
    qwen3/text-to-image recraft/crisp-upscale recraft/remove-background seedream/4.5-edit seedream/4.5-text-to-image
    seedream/5-flash-image-to-image seedream/5-flash-layer-decomposition seedream/5-flash-text-to-image
    seedream/5-lite-image-to-image seedream/5-lite-text-to-image seedream/5-pro-image-to-image
    seedream/5-pro-layer-decomposition seedream/5-pro-text-to-image topaz/image-upscale wan/2-7-image
    wan/2-7-image-pro z-image
"""

_AUDIO = """
    elevenlabs/audio-isolation elevenlabs/text-to-dialogue-v3 elevenlabs/text-to-speech-multilingual-v2
    elevenlabs/text-to-speech-turbo-2-5 google/gemini-2-5-pro-tts google/gemini-3-1-flash-tts
"""
_MUSIC = "ai-music-api/generate ai-music-api/sounds"
_OBJECT = """
    ai-music-api/timeStamped-lyrics grok-imagine-image-2-0/segment-map omnihuman-1-5/human-identification
    omnihuman-1-5/subject-detection
"""
_NAMES: Mapping[Output, str] = {"video": _VIDEO, "image": _IMAGE, "audio": _AUDIO, "music": _MUSIC, "object": _OBJECT}

#: Every model by its name.
MODELS: Mapping[str, FakeModel] = MappingProxyType(
    {
        **{name: FakeModel(name=name, output=output) for output, names in _NAMES.items() for name in names.split()},
        WAN_22_TURBO: FakeModel(
            name=WAN_22_TURBO,
            defaults={"resolution": "720p", "seed": 0, "acceleration": "none", "nsfw_checker": False},
            price=_price_wan_22_turbo,
            check=_check_wan_22_turbo,
        ),
    }
)


def other_model(name: str) -> FakeModel:
    """
    Return a model of which only the name is known, such as a model of a test.

    >>> other_model("acme/text-to-image").output
    'image'
    """
    return FakeModel(name=name, output="image" if "image" in name and "video" not in name else "video")
