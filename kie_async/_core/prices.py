"""What a task will probably cost: a small price list, overridden by what was seen. Neither is the truth."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from types import MappingProxyType

from kie_async._core.durations import Kind
from kie_async.budget import Estimate
from kie_async.records import JSON

__all__ = ["PRICE_LIST", "PRICE_LIST_SOURCE", "SeenPrices", "listed"]

#: Credits for a task, by model and by resolution; "" is the resolution that the service takes by itself.
PRICE_LIST: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "wan/2-2-a14b-image-to-video-turbo": {"": 80.0, "480p": 40.0, "580p": 60.0, "720p": 80.0},
    }
)
#: Where the list is from.
PRICE_LIST_SOURCE = "price list of kie.ai, read on 2026-06-30"

#: How many prices are remembered of each kind, and how many kinds.
_LAST = 20
_KINDS = 500


def listed(model: str, given: Mapping[str, JSON]) -> Estimate | None:
    """
    What the price list says, or None.

    >>> listed("wan/2-2-a14b-image-to-video-turbo", {"resolution": "480p"}).credits
    40.0
    """
    price = PRICE_LIST.get(model, {}).get(str(given.get("resolution") or ""))
    return None if price is None else Estimate(credits=price, source=PRICE_LIST_SOURCE)


class SeenPrices:
    """
    What tasks have cost lately, by their kind.

    The highest of the last few is the estimate: a budget that was made of the lowest would not hold.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, deque[float]] = OrderedDict()

    def learn(self, kind: Kind, credits: float | None) -> None:
        """Take what a task that has succeeded has cost; a failed one costs nothing, and says nothing."""
        if credits is None:
            return
        self._kinds.setdefault(kind, deque(maxlen=_LAST)).append(credits)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def of(self, kind: Kind) -> Estimate | None:
        """The estimate for a kind of task, or None where none was seen."""
        seen = self._kinds.get(kind)
        if seen is None:
            return None
        last = "the last such task" if len(seen) == 1 else f"the last {len(seen)} such tasks"
        return Estimate(credits=max(seen), source=f"the highest of {last} in the journal")
