"""Keys of jobs and rows: checks, retry keys, default keys and the fingerprint they consist of; and price classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from kie_async._display import shown
from kie_async._urls import looks_like_url
from kie_async.errors import ConfigurationError
from kie_async.records import JSON

__all__ = [
    "MAX_KEY",
    "ContentKey",
    "DefaultKeys",
    "TableKey",
    "check_key",
    "differs",
    "fingerprint",
    "is_encodable",
    "is_retry_key",
    "own_key",
    "price_class",
    "retry_key",
    "row_key",
    "table_key",
    "with_values",
]

#: The greatest length of a key, in characters.
MAX_KEY = 512
#: The ending of retry keys. No other key may have it: a row could be taken for the retry of another row.
_RETRY_ENDING = re.compile(r"~retry[1-9][0-9]*\Z")
#: The number of hexadecimal digits of a fingerprint in a default key: 96 bits.
_DIGITS = 24
#: A string of this length or longer is text or encoded media; the longest documented setting has 29 characters.
_LONG = 48
#: A name with one of these endings has free text, however short, and a name of a seed has a number without a meaning.
_TEXT = re.compile(
    r"(?:.*_)?(?:prompts?|texts?|lyrics|titles?|captions?|scripts?|descriptions?|scenes?|context|tags)\Z"
)
_SEED = re.compile(r"(?:.*_)?seeds?\Z")
#: An id of this length or longer names a task, a voice or an upload, as a URL does.
_ID, _LONG_ID = re.compile(r".*(?:id|ids|Id|Ids)\Z"), 16
#: The last characters of a name tell all of that, so that no long name is kept.
_LONGEST_ENDING = 40
#: Inputs are refused at a smaller depth.
_DEEPEST = 20
#: Longer integers are refused later, and Python refuses to write the longest of them; no float is as great.
_MOST_BITS = 2000
#: The hashes of price classes, since most rows of a table have the same: to write and hash one takes 6 µs.
_known_classes: dict[str, str] = {}
_MOST_KNOWN, _LONGEST_KNOWN = 1000, 500


def check_key(key: object) -> None:
    """
    Refuse an invalid idempotency key; None is valid.

    Raises:
        ConfigurationError: If the key is not a string of 1 to ``MAX_KEY`` characters, or has the ending of a retry key.
    """
    if key is None:
        return
    if not (isinstance(key, str) and 0 < len(own_key(key)) <= MAX_KEY and is_encodable(key)):
        of = f"a string of 1 to {MAX_KEY} characters"
        msg = f"Invalid key={shown(key, longest=80)}: expected {of}. Use a different key."
        raise ConfigurationError(msg)
    if is_retry_key(key):
        msg = f"Invalid key={key[-80:]!r}: keys with this ending belong to the retries of map(). Use a different key."
        raise ConfigurationError(msg)


def is_encodable(text: str) -> bool:
    """Return True if *text* has no half of a surrogate pair: such a string cannot be written to a file or a network."""
    try:
        text.encode()  # a loop over the characters would take 80 ms for an input of 1 MB, in the event loop
    except UnicodeEncodeError:
        return False
    return True


def retry_key(key: str, number: int) -> str:
    """
    Return the journal's key of a row's retry; for number 0, the first attempt, the row's own key.

    >>> retry_key("shot", 0), retry_key("shot", 2)
    ('shot', 'shot~retry2')
    """
    return f"{key}~retry{number}" if number else key


def is_retry_key(key: str) -> bool:
    """
    Return True if a key has the ending of the keys that ``map()`` gives to the retries of a row.

    >>> is_retry_key("shot-7~retry1"), is_retry_key("shot-7~retry"), is_retry_key("shot-7~retry01")
    (True, False, False)
    """
    return _RETRY_ENDING.search(key) is not None


def row_key(key: str) -> str:
    """
    Return the key of the row that a job of ``map()`` belongs to, from the key of an attempt or a retry.

    >>> row_key("shot-7~retry1"), row_key("shot-7")
    ('shot-7', 'shot-7')
    """
    return _RETRY_ENDING.sub("", key)


class TableKey(str):
    """
    The key of a row in a journal that many tables share: the id of the table, a colon, and the row's own key.

    >>> TableKey("3f9a:shot 7").own
    'shot 7'
    """

    __slots__ = ()

    @property
    def own(self) -> str:
        """The row's own key, by which its files are named."""
        return self.partition(":")[2]


class ContentKey(TableKey):
    """A default key: it is made of the content of its row, and must not be used for any other content."""

    __slots__ = ()

    @property
    def own(self) -> str:
        """The row's own key; the whole key if no table precedes it."""
        return self.rpartition(":")[2]

    def fits(self, content_hash: str) -> bool:
        """Return True if the key is made of the content with this fingerprint."""
        return self.own.startswith(content_hash[:_DIGITS])


def own_key(key: str) -> str:
    """Return the own key of a row, without the id of its table."""
    return key.own if isinstance(key, TableKey) else key


def table_key(table: str, key: str) -> TableKey:
    """
    Return the journal's key of a table's row.

    Args:
        table: The id of the table, without a colon.

        key: The row's own key.
    """
    return (ContentKey if isinstance(key, ContentKey) else TableKey)(f"{table}:{key}")


class DefaultKeys:
    """
    The default keys of one table's rows, for ``map()`` and ``kie-async batch``.

    A key consists of the fingerprint's first 24 digits and, from the second row with the same content on, of the
    occurrence number. A row therefore keeps its key when other rows are added, removed, or reordered.

    >>> keys = DefaultKeys()
    >>> [keys.next_key("0123456789abcdef0123456789abcdef") for _ in range(3)]
    ['0123456789abcdef01234567', '0123456789abcdef01234567.2', '0123456789abcdef01234567.3']
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def next_key(self, content_hash: str) -> ContentKey:
        """
        Return the key of the table's next row.

        Args:
            content_hash: The fingerprint of the row's request.
        """
        digits = content_hash[:_DIGITS]
        number = int(digits, 16)
        count = self._counts[number] = self._counts.get(number, 0) + 1
        return ContentKey(digits if count == 1 else f"{digits}.{count}")


def fingerprint(model: str, input: Mapping[str, JSON], images: Mapping[str, str]) -> str:  # noqa: A002 (the service's word)
    """
    Hash a request's content: equal for equal requests, in any order of fields and for any upload URLs of their images.

    Args:
        model: The model's name.

        input: The ``input`` object; URLs under the names in *images* are left out.

        images: The hash of the content of each uploaded file, by its path in the input (``"image_urls[1]"``).

    Returns:
        64 hexadecimal digits.

    >>> a = fingerprint("m", {"seed": 1, "image_url": "https://a.example/1"}, {"image_url": "c0ffee"})
    >>> a == fingerprint("m", {"image_url": "https://b.example/2", "seed": 1}, {"image_url": "c0ffee"})
    True
    """
    import hashlib  # on first use: naming the client must stay cheap

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
    Name the fields in which two requests differ.

    Args:
        model_a: The model of the first request, as for ``fingerprint``.

        input_a: The input of the first request.

        images_a: The image hashes of the first request.

        model_b: The model of the second request.

        input_b: The input of the second request.

        images_b: The image hashes of the second request.

    Returns:
        ``"model"`` and the service's names of fields; empty if and only if the fingerprints are equal.

    >>> differs("m", {"seed": 1, "prompt": "x"}, {}, "m", {"prompt": "x", "seed": 2}, {})
    ('seed',)
    """
    a, b = _parts(model_a, input_a, images_a), _parts(model_b, input_b, images_b)
    return tuple(name for _, name in sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key)))


def _parts(model: str, input: Mapping[str, JSON], images: Mapping[str, str]) -> dict[tuple[int, str], str]:  # noqa: A002 (the service's word)
    """Split a request into strings. The model ranks before the fields, one of which may also be called "model"."""
    # A file of a list is named by its path ("image_urls[1]").
    inner = {path: f"image {content}" for path, content in images.items() if "[" in path}
    given = with_values(input, inner) if inner else input
    fields = {(1, name): _canonical([value]) for name, value in given.items()}
    contents = {(1, name): f"image {content}" for name, content in images.items() if name not in inner}
    return {(0, "model"): model, **fields, **contents}


def with_values(input: Mapping[str, JSON], values: Mapping[str, str]) -> dict[str, JSON]:  # noqa: A002 (the service's word)
    """
    Return a copy of an input in which some values are replaced.

    Args:
        input: The ``input`` object.

        values: The new values by their paths in the input; a path that leads nowhere is ignored.

    >>> with_values({"image_urls": ["a", "b"], "seed": 1}, {"image_urls[1]": "c"})
    {'image_urls': ['a', 'c'], 'seed': 1}
    """
    return {name: _with_values(name, value, values) for name, value in input.items()}


def _with_values(path: str, value: JSON, values: Mapping[str, str]) -> JSON:
    if path in values:
        return values[path]
    if isinstance(value, Mapping):
        return {name: _with_values(f"{path}.{name}", inner, values) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_values(f"{path}[{index}]", inner, values) for index, inner in enumerate(value)]
    return value


#: Created once: ``json.dumps`` would create an encoder for each value.
_canonical = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"), default=dict).encode


def price_class(model: str, input: JSON) -> str:  # noqa: A002 (the service's word)
    """
    Hash what the price of a request may depend on: all but free text, seeds, and the addresses of media.

    A list of media counts by its length. A value that is none of these counts as it is, at any depth.

    Args:
        model: The model's name.

        input: The ``input`` object.

    Returns:
        16 hexadecimal digits.

    >>> a = price_class("m", {"prompt": "A cat", "seed": 1, "image_url": "https://a.example/1", "audio": True})
    >>> b = price_class("m", {"audio": True, "image_url": "https://b.example/2", "prompt": "A dog"})
    >>> a == b, a == price_class("m", {"prompt": "A cat", "audio": True})
    (True, False)
    """
    part = _price_part("", input, 0)
    text = repr((model, part))
    if (known := _known_classes.get(text)) is None:
        import hashlib

        known = hashlib.sha256(_tolerant([model, part]).encode()).hexdigest()[:16]
        if len(text) <= _LONGEST_KNOWN:
            if len(_known_classes) >= _MOST_KNOWN:
                _known_classes.clear()
            _known_classes[text] = known
    return known


@lru_cache(maxsize=2000)  # more than a table has columns
def _kind_of_name(ending: str) -> tuple[bool, bool, bool]:
    """Return True for the ending of the name of a seed, of free text, and of an id; all rows have the same names."""
    lowered = ending.lower()
    return bool(_SEED.match(lowered)), bool(_TEXT.match(lowered)), bool(_ID.match(ending))


def _price_part(name: str, value: JSON, depth: int) -> JSON:
    """Return the part of a value on which a price may depend; None for none."""
    is_seed, is_text, is_id = _kind_of_name(name[-_LONGEST_ENDING:])
    if is_seed or depth > _DEEPEST:
        return None
    if isinstance(value, str):
        if looks_like_url(value) or (is_id and len(value) >= _LONG_ID):
            return {}  # that it is there counts, and its value does not
        if is_text:
            return None
        return value if len(value) < _LONG else {}
    if isinstance(value, Mapping):
        return {
            str(inner): part
            for inner, child in value.items()
            if (part := _price_part(str(inner), child, depth + 1)) is not None
        }
    if isinstance(value, (list, tuple)):
        return [_price_part(name, child, depth + 1) for child in value]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return {}
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: Writes the values of an invalid request, too: an estimate is made before the request is checked.
_tolerant = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr).encode
