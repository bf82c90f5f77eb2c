"""``python -m benchmarks NAME`` runs one benchmark or all of them, and prints the results."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Annotated

import typer

import benchmarks

NAMES = [
    name
    for _, name, is_package in pkgutil.iter_modules(benchmarks.__path__)
    if not is_package and name not in ("__main__", "fixed_interval", "optimum", "plots", "processes", "report")
]


app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"The benchmarks: {', '.join(NAMES)}. By default all.")
    ] = None,
    *,
    save: Annotated[bool, typer.Option(help="Save the figures in benchmarks/results.")] = False,
) -> None:
    """Run benchmarks and print a table for each."""
    if unknown := set(names or ()) - set(NAMES):
        msg = f"Unknown: {', '.join(sorted(unknown))}. Expected {', '.join(NAMES)}."
        raise typer.BadParameter(msg)
    for name in names or NAMES:
        report = import_module(f"benchmarks.{name}").run()
        print(report.text())
        if save:
            print(f"\nSaved as {report.save()}")


if __name__ == "__main__":
    app()
