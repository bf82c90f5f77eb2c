"""``python -m benchmarks NAME``: runs one benchmark, or all of them, and prints what it found."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Annotated

import typer

import benchmarks

NAMES = [
    name
    for _, name, has_parts in pkgutil.iter_modules(benchmarks.__path__)
    if not has_parts and name not in ("__main__", "fixed_interval", "optimum", "plots", "processes", "report")
]


app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which to run: {', '.join(NAMES)}. All by default.")
    ] = None,
    *,
    save: Annotated[bool, typer.Option(help="Keep the figures in benchmarks/results.")] = False,
) -> None:
    """Run benchmarks and print a table each."""
    if unknown := set(names or ()) - set(NAMES):
        msg = f"There is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}."
        raise typer.BadParameter(msg)
    for name in names or NAMES:
        report = import_module(f"benchmarks.{name}").run()
        print(report.text())
        if save:
            print(f"\nSaved as {report.save()}")


if __name__ == "__main__":
    app()
