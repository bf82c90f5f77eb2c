"""What tasks may cost together, and what one is expected to cost: ``Budget`` and ``Estimate``."""

from __future__ import annotations

import attrs

from kie_async._numbers import credits_field

__all__ = ["Budget", "Estimate"]


@attrs.frozen(kw_only=True)
class Budget:
    """
    How much the rows of a ``map()`` may cost together.

    Before a create is sent its price is set aside, and when the task has ended what the service says it cost takes the
    place of that. What a create in doubt may have cost stays set aside.

    A budget is for the table, however often its run is killed and started again: rows that an earlier run has sent
    count with what they have cost, or may have. Of a list or a tuple all of them count before anything is sent, in
    whatever order they come. Of any other source each counts when it is read, since it may have no end: rows above it
    that were not sent before are sent without regard to it. Where that may happen, say what they have cost: *spent*.

    Args:
        credits: The limit.

        price: What each task is taken to cost, in credits. None for the highest price that the journal has seen lately
            for such a request, or else the one of a small price list; a request with neither is not sent.

        spent: What the rows of this table have cost before this run, in credits: ``KieClient.spent()`` tells it. It
            counts from the start; a row that it covers does not count again when it is read.

    Raises:
        ConfigurationError: If a value makes no sense.
    """

    credits: float = attrs.field(validator=credits_field)
    price: float | None = attrs.field(default=None, validator=attrs.validators.optional(credits_field))
    spent: float = attrs.field(default=0.0, validator=credits_field)


@attrs.frozen(kw_only=True)
class Estimate:
    """
    What a task of a request will probably cost. It is never more than that: the service alone sets prices.

    Attributes:
        credits: The price, in credits.

        source: Where it comes from, for people: such tasks that the journal has seen, or a price list with its date.
    """

    credits: float
    source: str
