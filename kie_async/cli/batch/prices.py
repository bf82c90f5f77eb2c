"""What a run will probably cost: the rows by what their price hangs on, and a price for each kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs

from kie_async import Estimate, Request

__all__ = ["Forecast", "Kinds"]

#: How many kinds of rows are told apart; what comes beyond them has no price.
_MOST = 500

#: Of how many tasks a price is: of kinds with different numbers it is said once, without them.
_COUNTED = re.compile(r"the last (?:\d+ such tasks|such task)\b")

#: What a price does not hang on.
_FREE = frozenset({"prompt", "seed"})


@attrs.frozen
class Forecast:
    """
    What rows will probably cost.

    Attributes:
        credits: Together, as far as there are prices.

        priced: For how many of them there are.

        sources: Where the prices come from.
    """

    credits: float
    priced: int
    sources: tuple[str, ...]


@attrs.define
class Kinds:
    """The kinds of rows that a table has; one request of each is enough to ask for its price."""

    _counts: Counter[str] = attrs.field(factory=Counter)
    _samples: dict[str, Request] = attrs.field(factory=dict)

    def note(self, request: Request) -> None:
        """Count a row."""
        images = request.images()
        told = request.input(dict.fromkeys(images, ""))
        options = {name: value for name, value in told.items() if name not in images and name not in _FREE}
        kind = f"{request.model} {sorted(options.items())!r}"
        if kind in self._samples or len(self._samples) < _MOST:
            self._counts[kind] += 1
            self._samples.setdefault(kind, request)

    async def forecast(self, estimate: Callable[[Request], Awaitable[Estimate | None]]) -> Forecast:
        """
        What the rows will cost.

        Args:
            estimate: The price of one.
        """
        total, priced, sources = 0.0, 0, dict[str, str]()
        for kind, count in self._counts.items():
            if (price := await estimate(self._samples[kind])) is not None:
                total, priced = total + price.credits * count, priced + count
                plain = _COUNTED.sub("the last such tasks", price.source)
                sources[plain] = price.source if sources.get(plain, price.source) == price.source else plain
        return Forecast(total, priced, tuple(sources.values()))
