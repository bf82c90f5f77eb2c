"""What is said before anything is spent: how many shots, what they will probably cost, what there is; and asked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anyio.to_thread
import typer

from kie_async import AuthenticationError, ConfigurationError, KieError
from kie_async.cli.batch.entry import State
from kie_async.cli.batch.options import Order
from kie_async.cli.batch.prices import Forecast
from kie_async.cli.batch.remaining import Tally
from kie_async.cli.output import Output

if TYPE_CHECKING:
    from kie_async import KieClient

__all__ = ["agreed", "ask", "counted"]

_OF_THEM = {State.DONE: "done already", State.RUNNING: "at work at the service", State.IN_DOUBT: "in doubt"}


async def agreed(output: Output, order: Order, tally: Tally, *, total: int, kie: KieClient) -> bool:
    """
    Say what will be made and what it will probably cost, and ask.

    Args:
        output: Where.

        order: What is to be made.

        tally: What is left of it.

        total: How many rows the table has.

        kie: The client; it knows prices, and what the account has.

    Returns:
        Whether the user has agreed.

    Raises:
        AuthenticationError: If the key is no good.
    """
    known = [f"{tally.states[state]:,} of them {words}" for state, words in _OF_THEM.items() if tally.states[state]]
    output.info(f"{order.table}: {', '.join([counted(total, 'shot'), *known])}.")
    if strays := tally.strays():
        output.warn(
            f"{counted(len(strays), 'job')} of rows that the table does not have any more:"
            f" kie-async recover{order.commands().journal} goes on with what is unfinished."
        )
    forecast = (
        await tally.kinds.forecast(kie.estimate)
        if order.price is None
        else Forecast(order.price * tally.left, tally.left, ("--price",))
    )
    output.info(f"{_cost(forecast, tally.left)} {await _balance(kie)}".strip())
    if order.budget is not None:
        output.info(f"Nothing is sent that would cost more than {order.budget:,.12g} credits in all.")
    if order.ask is None:
        return True
    return await anyio.to_thread.run_sync(order.ask, abandon_on_cancel=True)


def _cost(forecast: Forecast, left: int) -> str:
    if not left:
        return "Nothing is left that costs anything."
    if not forecast.priced:
        return "What a shot costs is not known here."
    some = "" if forecast.priced == left else f", for the {forecast.priced:,} whose price is known"
    return (
        f"What is left will cost about {forecast.credits:,.0f} credits{some} ({'; '.join(forecast.sources)}); the"
        " service alone sets prices."
    )


async def _balance(kie: KieClient) -> str:
    """What the account has; a key that is no good ends it here."""
    try:
        return f"The account has {counted(await kie.credits(), 'credit')}."
    except AuthenticationError:
        raise
    except KieError:
        return ""


def counted(number: float, noun: str) -> str:
    """
    So many of something.

    >>> counted(1, "shot"), counted(2000, "shot"), counted(0.5, "credit")
    ('1 shot', '2,000 shots', '0.5 credits')
    """
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"


def ask() -> bool:
    """
    Ask the user whether to go on.

    Raises:
        ConfigurationError: If nobody can be asked.
    """
    if not sys.stdin.isatty():
        msg = "Nobody can be asked whether to go on. Nothing was sent: add --yes to go on unasked."
        raise ConfigurationError(msg)
    return typer.confirm("Go on?", default=False, err=True)
