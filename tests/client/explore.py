"""``python -m tests.client.explore``: run the state machine of the client as often as wanted, and shrink failures."""

from __future__ import annotations

import logging
import time
from typing import Annotated

import typer
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.client.planted_bugs import PLANTED, NoMac
from tests.client.stateful_client import ClientMachine, TwoWorkersMachine

PLANTS = {plant.__name__: plant for plant in (*PLANTED, NoMac)}


def main(
    examples: int = 3000,
    *,
    disk: Annotated[bool, typer.Option(help="Two workers that share a journal on disk.")] = False,
    plant: Annotated[str | None, typer.Option(help=f"Plant a bug: {', '.join(PLANTS)}.")] = None,
) -> None:
    """Run the state machine."""
    logging.getLogger("kie_async").addHandler(logging.NullHandler())
    machine = TwoWorkersMachine if disk else ClientMachine
    runs = 0

    class Machine(machine):  # type: ignore[misc, valid-type]  # one of two
        client = machine.client if plant is None else PLANTS[plant]

        def __init__(self) -> None:
            nonlocal runs
            runs += 1
            super().__init__()

    began = time.monotonic()
    checks = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        # Shrinking a planted bug would only take time.
        phases=[Phase.generate] if plant is not None else list(Phase),
    )
    try:
        run_state_machine_as_test(Machine, settings=checks)
    finally:
        print(f"{runs} runs in {time.monotonic() - began:.0f} s")  # noqa: T201 (a command)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
