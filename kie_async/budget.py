"""``Budget``, the limit on what tasks may cost together, and ``Estimate``, the expected price of one task."""

from __future__ import annotations

from typing import Literal

import attrs

from kie_async._numbers import credits_field

__all__ = ["Budget", "Estimate"]


@attrs.frozen(kw_only=True)
class Budget:
    """
    The limit on what the rows of a ``map()`` may cost together.

    Before a create is sent, its price is reserved. When the task has ended, the reservation is replaced by the cost
    that the service reports. What a create in doubt may have cost stays reserved.

    A budget is for the table, however often its run is killed and started again: rows that an earlier run has sent
    count with what they have cost, or may have cost. The rows of a list or a tuple count before anything is sent, in
    whatever order they come. The rows of any other source count when they are read, since the source may be endless:
    new rows above them are sent without regard to them. If that may happen, pass what they have cost as *spent*.

    Args:
        credits: The limit.

        price: The price of each task, in credits. None for ``KieClient.estimate()``. While the price of such a task is
            unknown, one of them is sent at a time, and the budget may be exceeded by the price of that one.

        spent: The prior spend of this table's rows, in credits, before this run: ``KieClient.spent()`` returns it. It
            counts from the start; a row that it covers does not count again when it is read.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    credits: float = attrs.field(validator=credits_field)
    price: float | None = attrs.field(default=None, validator=attrs.validators.optional(credits_field))
    spent: float = attrs.field(default=0.0, validator=credits_field)


@attrs.frozen(kw_only=True)
class Estimate:
    """
    The expected price of a task. It is only an estimate: the service alone sets prices.

    A price is known for a *price class*: the model with all values of the input but free text, seeds, and the addresses
    of media.

    Attributes:
        credits: The price, in credits. If it is unknown, the highest price of other tasks of the model, or None.

        basis: ``"seen"`` if the journal has such tasks, ``"listed"`` if the price list has a higher or the only price,
            and ``"unknown"`` otherwise.

        source: The source of the estimate, for people.
    """

    credits: float | None
    basis: Literal["seen", "listed", "unknown"]
    source: str
