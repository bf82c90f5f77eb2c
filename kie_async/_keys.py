"""Keys of rows and jobs, and the fingerprint of a request's content that default keys are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from kie_async.records import JSON

__all__ = ["DefaultKeys", "differs", "fingerprint"]

#: The number of hexadecimal digits of a fingerprint in a default key: 96 bits.
_DIGITS = 24


class DefaultKeys:
    """
    The default keys of one table's rows, for ``map()`` and ``kie batch`` alike.

    A key consists of the fingerprint's first 24 digits and, from the second row with the same content on, of the
    occurrence number. A row therefore keeps its key when other rows are added, removed, or reordered.

    >>> keys = DefaultKeys()
    >>> [keys.next_key("0123456789abcdef0123456789abcdef") for _ in range(3)]
    ['0123456789abcdef01234567', '0123456789abcdef01234567.2', '0123456789abcdef01234567.3']
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def next_key(self, content_hash: str) -> str:
        """
        Return the key of the table's next row.

        Args:
            content_hash: The fingerprint of the row's request.
        """
        digits = content_hash[:_DIGITS]
        number = int(digits, 16)
        count = self._counts[number] = self._counts.get(number, 0) + 1
        return digits if count == 1 else f"{digits}.{count}"


def fingerprint(model: str, input: Mapping[str, JSON], images: Mapping[str, str]) -> str:  # noqa: A002 (the service's word)
    """
    What a request is: equal for equal requests, however they are ordered and wherever their images were uploaded to.

    Args:
        model: The model's name.

        input: The ``input`` object; URLs under the names in *images* are left out.

        images: For each uploaded image, the service's field name to the hash of its content.

    Returns:
        64 hexadecimal digits.

    >>> a = fingerprint("m", {"seed": 1, "image_url": "https://a.example/1"}, {"image_url": "c0ffee"})
    >>> a == fingerprint("m", {"image_url": "https://b.example/2", "seed": 1}, {"image_url": "c0ffee"})
    True
    """
    parts = sorted(_parts(model, input, images).items())
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


def differs(
    model_a: str,
    input_a: Mapping[str, JSON],
    images_a: Mapping[str, str],
    model_b: str,
    input_b: Mapping[str, JSON],
    images_b: Mapping[str, str],
) -> tuple[str, ...]:
    """
    Name what makes the fingerprints of two requests differ.

    Args:
        model_a: As for ``fingerprint``, of the one request.

        input_a: Likewise.

        images_a: Likewise.

        model_b: Of the other request.

        input_b: Likewise.

        images_b: Likewise.

    Returns:
        ``"model"`` and the service's names of fields; empty if and only if the fingerprints are equal.

    >>> differs("m", {"seed": 1, "prompt": "x"}, {}, "m", {"prompt": "x", "seed": 2}, {})
    ('seed',)
    """
    a, b = _parts(model_a, input_a, images_a), _parts(model_b, input_b, images_b)
    return tuple(name for _, name in sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key)))


def _parts(model: str, input: Mapping[str, JSON], images: Mapping[str, str]) -> dict[tuple[int, str], str]:  # noqa: A002 (likewise)
    """The parts of a request as text; the model ranks before the fields, of which one may be called "model" too."""
    fields = {(1, name): _canonical([value]) for name, value in input.items()}
    contents = {(1, name): f"image {content}" for name, content in images.items()}
    return {(0, "model"): model, **fields, **contents}


#: Made once: ``json.dumps`` would make an encoder for each value.
_canonical = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"), default=dict).encode
