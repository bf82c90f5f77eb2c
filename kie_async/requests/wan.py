"""Wan 2.2 Turbo of Kie.ai's market: turns an image and a prompt into a clip of about five seconds."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs

from kie_async.requests._model import Choice, Flag, Integer, MediaFile, ModelRequest, Text
from kie_async.requests.media import MediaSource, as_image

__all__ = ["Wan22TurboImageToVideo"]


@attrs.frozen(kw_only=True, repr=False)
class Wan22TurboImageToVideo(ModelRequest):
    """
    A request for a video of about five seconds that begins with an image.

    Only set fields are sent; the service's defaults apply to the others. Nothing is refused before ``check()``, which
    a client calls automatically before anything is paid.

    Args:
        image: The first frame: a public http(s) URL, a path, bytes, or an open binary file (read at once). JPEG, PNG or
            WebP by content, at most 10 MB (10 · 1024 · 1024 bytes); local images are uploaded first. In a server, pass
            ``local_files=False`` to the client: a string of a stranger could be a path.

        prompt: A description of the action; 1 to 5000 characters.

        resolution: The height of the video; the service's default is 720p. 580p, from older documentation, passes with
            a warning in the log.

        seed: An integer from 0 to 2147483647, for reproducible results.

        acceleration: ``"none"`` or ``"regular"``.

        enable_prompt_expansion: True to let a language model add details to the prompt.

        nsfw_checker: True to let the service filter unsafe content.

        aspect_ratio: A field of older documentation: sent if set, with a warning in the log.

        extra: Fields that the service has added since ``AS_OF``, in its own names; they are sent unchecked.

    Source: docs.kie.ai/market/wan/2-2-a14b-image-to-video-turbo, as of 2026; ``aspect_ratio`` as of 2025.

    >>> request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt="The cat turns", seed=7)
    >>> request.input({})
    {'image_url': 'https://example.com/cat.png', 'prompt': 'The cat turns', 'seed': 7}
    """

    MODEL: ClassVar[str] = "wan/2-2-a14b-image-to-video-turbo"
    AS_OF: ClassVar[str] = "2026-09-25"

    image: str | MediaSource = attrs.field(converter=as_image, metadata=MediaFile("image_url").metadata)
    prompt: str = attrs.field(metadata=Text(longest=5000).metadata)
    resolution: Literal["480p", "720p"] | None = attrs.field(
        default=None, metadata=Choice(("480p", "720p"), older=("580p",)).metadata
    )
    seed: int | None = attrs.field(default=None, metadata=Integer(0, 2**31 - 1).metadata)
    acceleration: Literal["none", "regular"] | None = attrs.field(
        default=None, metadata=Choice(("none", "regular")).metadata
    )
    enable_prompt_expansion: bool | None = attrs.field(default=None, metadata=Flag().metadata)
    nsfw_checker: bool | None = attrs.field(default=None, metadata=Flag().metadata)
    aspect_ratio: Literal["auto", "16:9", "9:16", "1:1"] | None = attrs.field(
        default=None, metadata=Choice(("auto", "16:9", "9:16", "1:1"), gone=True).metadata
    )
