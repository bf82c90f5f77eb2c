"""``Budget``, the limit on what tasks may cost together, and ``Estimate``, the expected price of one task."""

from __future__ import annotations

from typing import Literal

import attrs

from kie_async._keys import is_encodable
from kie_async._numbers import credits_field, refuse

__all__ = ["Budget", "BudgetInfo", "Estimate"]

#: The greatest length of a budget's name, in characters.
_LONGEST_NAME = 100


def _check_name(_: object, __: attrs.Attribute[str | None], name: object) -> None:
    if name is not None and not (
        isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and is_encodable(name)
    ):
        refuse("Budget", "name", name, f"a printable string of 1 to {_LONGEST_NAME} characters, or None")


@attrs.frozen(kw_only=True)
class Budget:
    """
    The limit on what the rows of a ``map()`` may cost together, or the rows of all runs that name the same budget.

    Before a create is sent, its price is reserved. When the task has ended, the reservation is replaced by the cost
    that the service reports. What a create in doubt may have cost stays reserved.

    A budget is for the table, however often its run is killed and started again: rows that an earlier run has sent
    count with what they have cost, or may have cost. The rows of a list or a tuple count before anything is sent, in
    whatever order they come. The rows of any other source count when they are read, since the source may be endless:
    new rows above them are sent without regard to them. If that may happen, pass what they have cost as *spent*.

    With a name, the budget is shared by all runs, clients and processes that use the same journal. Each create is
    checked against it in the transaction that journals the create. ``KieClient.budgets()`` returns what is left.
    A job that was journaled under a name keeps that budget until a run with another name sends it: also a call that
    names none raises ``BudgetExceededError`` if the budget has no room.

    Args:
        credits: The limit. For a name that the journal knows, the same limit; ``KieClient.raise_budget()`` raises it.

        price: The price of each task, in credits. None for ``KieClient.estimate()``. While the price of such a task is
            unknown, one of them is sent at a time, and the budget may be exceeded by the price of that one. While it is
            only listed, further ones are sent only if the budget has room for four times their price.

        spent: The prior spend of this table's rows, in credits, before this run: ``KieClient.spent()`` returns it. It
            counts from the start; a row that it covers does not count again when it is read. Not with a name: the
            journal knows what was spent under it.

        name: The name of a budget that all runs of one journal file and one service share, or None. A journal in
            memory shares it within one client.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    credits: float = attrs.field(validator=credits_field)
    price: float | None = attrs.field(default=None, validator=attrs.validators.optional(credits_field))
    spent: float = attrs.field(default=0.0, validator=credits_field)
    name: str | None = attrs.field(default=None, validator=_check_name)

    def __attrs_post_init__(self) -> None:
        """Refuse a prior spend of a named budget."""
        if self.name is not None and self.spent:
            refuse("Budget", "spent", self.spent, "no prior spend with a name, since the journal knows it")


@attrs.frozen(kw_only=True)
class BudgetInfo:
    """
    The state of a named budget.

    Attributes:
        name: Its name.

        credits: The limit.

        spent: The cost of the tasks that have ended. Creates that may have been paid count once their job has ended.

        running: The reserved prices of tasks that run or are being sent.

        held: The reserved prices of jobs that are unresolved or stalled, and of attempts that may have been paid.
    """

    name: str
    credits: float
    spent: float = 0.0
    running: float = 0.0
    held: float = 0.0

    @property
    def reserved(self) -> float:
        """The credits that are reserved: of running tasks, and of what may have been paid."""
        return self.running + self.held

    @property
    def left(self) -> float:
        """The credits that are left; negative if tasks have cost more than was expected."""
        return self.credits - self.spent - self.reserved


@attrs.frozen(kw_only=True)
class Estimate:
    """
    The expected price of a task. It is only an estimate: the service alone sets prices.

    A price is known for a *price class*: the model with all values of the input but free text, seeds, and the addresses
    of media.

    Attributes:
        credits: The price, in credits. If it is unknown, the highest price of other tasks of the model, or None.

        basis: ``"seen"`` if the journal has such tasks, ``"listed"`` if it has none and the price list has a price, and
            ``"unknown"`` otherwise. If such tasks have cost different amounts, the price list may know better, too.

        source: The source of the estimate, for people.

        upper_bound: True if the price list gives an upper bound only; see ``ListPrice``.
    """

    credits: float | None
    basis: Literal["seen", "listed", "unknown"]
    source: str
    upper_bound: bool = False
