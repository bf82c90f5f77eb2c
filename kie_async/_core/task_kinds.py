"""What kind of task a request makes, as far as its duration and its price are concerned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from kie_async._core.lenient_json import unwrapped
from kie_async.records import JSON

__all__ = ["Kind", "kind_of"]

#: The model, then ``name=value`` of what else matters.
Kind: TypeAlias = tuple[str, ...]

#: Fields of ``input`` that make a task longer or shorter, or dearer, in the words of the service's model pages.
_TELLING = (
    "acceleration",
    "duration",
    "frames_per_second",
    "generate_audio",
    "image_resolution",
    "image_size",
    "max_images",
    "mode",
    "multi_shots",
    "n_frames",
    "num_frames",
    "num_images",
    "num_inference_steps",
    "output_resolution",
    "pe_fast_mode",
    "quality",
    "rendering_speed",
    "resolution",
    "size",
    "sound",
    "upscale_factor",
)
_SETTING = (str, int, float)
#: A longer value is no setting; it would only be kept.
_LONGEST = 32


def kind_of(model: str | None, input: JSON) -> Kind:  # noqa: A002 (the service's word)
    """
    The kind of a request: tasks of one kind should take about as long as each other, and cost the same.

    Args:
        model: The model's name, where it is known.

        input: The ``input`` object, as it is or as JSON; of anything else, the model alone counts.

    >>> kind_of("m", '{"prompt": "The cat turns its head", "resolution": "720p", "duration": 5}')
    ('m', 'duration=5', 'resolution=720p')
    >>> kind_of("m", None)
    ('m',)
    """
    read = unwrapped(input)
    given = read if isinstance(read, Mapping) else {}
    settings = (f"{name}={given[name]}" for name in _TELLING if name in given and isinstance(given[name], _SETTING))
    return (model or "", *(setting for setting in settings if len(setting) <= _LONGEST))
