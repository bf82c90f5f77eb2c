"""Price estimates: a small price list, overridden by the prices that were seen. Neither is authoritative."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from types import MappingProxyType

from kie_async._core.durations import Kind
from kie_async.budget import Estimate
from kie_async.records import JSON

__all__ = ["PRICE_LIST", "PRICE_LIST_SOURCE", "SeenPrices", "listed_price"]

#: Credits for a task, by model and by resolution; "" is the service's default resolution.
PRICE_LIST: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "wan/2-2-a14b-image-to-video-turbo": {"": 80.0, "480p": 40.0, "580p": 60.0, "720p": 80.0},
    }
)
#: The source of the list.
PRICE_LIST_SOURCE = "price list of kie.ai, read on 2026-06-30"

#: The number of prices that are kept of each kind of task, and the number of kinds.
_PRICES_OF_KIND = 20
_KINDS = 500


def listed_price(model: str, given: Mapping[str, JSON]) -> Estimate | None:
    """
    Return the estimate of the price list, or None.

    >>> listed_price("wan/2-2-a14b-image-to-video-turbo", {"resolution": "480p"}).credits
    40.0
    """
    price = PRICE_LIST.get(model, {}).get(str(given.get("resolution") or ""))
    return None if price is None else Estimate(credits=price, source=PRICE_LIST_SOURCE)


class SeenPrices:
    """
    The latest prices of tasks, by their kind.

    The estimate is the highest of the last few: a budget that is based on the lowest could be exceeded.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, deque[float]] = OrderedDict()

    def record_price(self, kind: Kind, credits: float | None) -> None:
        """Record what a task that has succeeded has cost; None is ignored."""
        if credits is None:
            return
        self._kinds.setdefault(kind, deque(maxlen=_PRICES_OF_KIND)).append(credits)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def estimate(self, kind: Kind) -> Estimate | None:
        """Return the estimate for a kind of task, or None if none was seen."""
        seen = self._kinds.get(kind)
        if seen is None:
            return None
        last = "the last such task" if len(seen) == 1 else f"the last {len(seen)} such tasks"
        return Estimate(credits=max(seen), source=f"the highest of {last} in the journal")
