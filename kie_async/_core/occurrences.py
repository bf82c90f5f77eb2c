"""
How often each of a million things has come, in 13 bytes for each.

A thing is known by 64 bits of its hash. They lie in sorted arrays, one for each value of the first byte, so that an
insertion moves a few thousand numbers at most; a dict of numbers would take ten times the memory. Two things of one
hash are counted as one: of a million, that happens to one pair in 40 million runs.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left

__all__ = ["Occurrences", "short_hash"]

_SHARDS = 256
_SHIFT = 56
_MOST = 2**32 - 1


def short_hash(text: str) -> int:
    """
    64 bits of a text's hash.

    >>> short_hash("a") == short_hash("a") != short_hash("b")
    True
    """
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Occurrences:
    """
    Counts things by their 64-bit hashes.

    >>> seen = Occurrences()
    >>> [seen.add(5), seen.add(7), seen.add(5)], 7 in seen, 8 in seen, len(seen)
    ([1, 1, 2], True, False, 2)
    """

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(_SHARDS)]
        self._counts = [array("I") for _ in range(_SHARDS)]

    def add(self, hashed: int) -> int:
        """Count one more, and return how often it has come by now."""
        shard = hashed >> _SHIFT
        hashes, counts = self._hashes[shard], self._counts[shard]
        place = bisect_left(hashes, hashed)
        if place == len(hashes) or hashes[place] != hashed:
            hashes.insert(place, hashed)
            counts.insert(place, 1)
        elif counts[place] < _MOST:
            counts[place] += 1
        return counts[place]

    def __contains__(self, hashed: int) -> bool:
        hashes = self._hashes[hashed >> _SHIFT]
        place = bisect_left(hashes, hashed)
        return place < len(hashes) and hashes[place] == hashed

    def __len__(self) -> int:
        return sum(map(len, self._hashes))
