"""
Draws the saved results as SVG for the documentation: ``python -m benchmarks.plots``.

It measures nothing; it draws the files that ``--save`` has written into ``results``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import RESULTS

PLOTS = Path(__file__).parents[1] / "docs" / "plots"

Row: TypeAlias = Mapping[str, str | float]

OURS, OTHERS = "#1f6feb", "#8b949e"
GRAYS = ("#424a53", "#6e7781", "#8c959f", "#afb8c1", "#d0d7de")
#: The size of a figure in inches; at this width its text is as large as the document's.
SIZE = (7.2, 3.6)


def results(name: str) -> list[Row]:
    """Return the rows of the saved result of a benchmark."""
    rows: list[Row] = json.loads((RESULTS / f"{name}.json").read_text())["results"]
    return rows


def number(value: str | float) -> float:
    """Return a cell that must be a number."""
    if isinstance(value, str):
        msg = f"Invalid cell {value!r}: expected a number."
        raise TypeError(msg)
    return value


def polling(axes: Axes) -> None:
    """Draw the mean lag of each contender where the polls do not suffice for all; the least possible as a line."""
    rows = [row for row in results("polling") if row["durations"] == "60 s, sigma .35"]
    rows = [row for row in rows if str(row["in flight"]).isdigit() and int(row["in flight"]) > 1]
    groups = list(dict.fromkeys(str(row["in flight"]) for row in rows))
    contenders = list(dict.fromkeys(str(row["contender"]) for row in rows))
    width = 0.8 / len(contenders)
    for place, contender in enumerate(contenders):
        lags = [number(row["mean lag"]) for row in rows if row["contender"] == contender]
        at = [nth + width * (place - len(contenders) / 2 + 0.5) for nth in range(len(groups))]
        color = OURS if contender == "kie_async" else GRAYS[place - 1]
        bars = axes.bar(at, lags, width=width, color=color, label=contender)
        axes.bar_label(bars, fmt="{:.1f}", fontsize=6, padding=1)
    least = [next(number(row["least"]) for row in rows if row["in flight"] == group) for group in groups]
    axes.hlines(
        least,
        [nth - 0.42 for nth in range(len(groups))],
        [nth + 0.42 for nth in range(len(groups))],
        color="black",
        lw=1,
        ls=":",
        label="least possible",
    )
    axes.set(xlabel="tasks in flight, each of about a minute", ylabel="mean lag, s", xticks=range(len(groups)))
    axes.set_xticklabels(groups)
    axes.set_title("How late an end is found, with 10 polls a second for all")
    axes.legend(fontsize=7, frameon=False)


def lost_callbacks(axes: Axes) -> None:
    """Draw the mean and the 95th percentile of the lags of lost callbacks, on a logarithmic axis."""
    rows = [row for row in results("lost_callbacks") if "lost" in str(row["case"]) and number(row["lost"]) > 0]
    cases = list(dict.fromkeys((str(row["case"]), str(row["durations"])) for row in rows))
    for contender, color, offset in (
        ("kie_async", OURS, -0.2),
        ("interval / loss rate", GRAYS[1], 0.0),
        ("no callback_url", GRAYS[3], 0.2),
    ):
        found = {(str(row["case"]), str(row["durations"])): row for row in rows if row["contender"] == contender}
        shown = [nth for nth, case in enumerate(cases) if case in found]
        means = [number(found[cases[nth]]["mean lag"]) for nth in shown]
        bars = axes.barh([nth + offset for nth in shown], means, height=0.2, color=color, label=contender)
        p95 = [number(found[cases[nth]]["p95"]) for nth in shown]
        axes.bar_label(
            bars,
            [f"{mean:.0f} s, p95 {most:.0f} s" for mean, most in zip(means, p95, strict=True)],
            fontsize=5,
            padding=2,
        )
    axes.set(xscale="log", xlim=(1, 2000), xlabel="mean lag of the results whose callback is lost, s")
    axes.set_yticks(range(len(cases)), [f"{case} ({durations})" for case, durations in cases], fontsize=6)
    axes.invert_yaxis()
    axes.set_title("Lost callbacks, 20 jobs per 10 s and 5 polls a second")
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.3, -0.12), ncols=3)


def limits(axes: Axes) -> None:
    """Draw the used share of the limit and the refusals of each contender in each case, with the sliding window."""
    rows = [row for row in results("limits") if row["service counts by"] == "sliding"]
    cases = list(dict.fromkeys(str(row["case"]) for row in rows))
    contenders = list(dict.fromkeys(str(row["contender"]) for row in rows))
    height = 0.8 / len(contenders)
    for place, contender in enumerate(contenders):
        found = {str(row["case"]): row for row in rows if row["contender"] == contender}
        shown = [nth for nth, case in enumerate(cases) if case in found]
        color = OURS if contender == "kie_async" else GRAYS[place - 1]
        bars = axes.barh(
            [nth + height * (place - len(contenders) / 2) for nth in shown],
            [number(found[cases[nth]]["used %"]) for nth in shown],
            height=height,
            color=color,
            label=contender,
        )
        axes.bar_label(
            bars, [f"{number(found[cases[nth]]['refused']):.0f} refused" for nth in shown], fontsize=5, padding=2
        )
    axes.set(xlim=(0, 120), xlabel="% of the limit used", yticks=range(len(cases)))
    axes.set_yticklabels(cases, fontsize=7)
    axes.invert_yaxis()
    axes.set_title("20 creates in 10 s, at a service that counts in a sliding window")
    axes.margins(y=0.01)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=5)


def wrong_limits(axes: Axes) -> None:
    """Draw the refused creates by setting, on a logarithmic axis: ours for each way of counting, and the others."""
    rows = results("wrong_limits")
    configured = list(dict.fromkeys(str(row["configured"]) for row in rows))
    lines = list(dict.fromkeys((str(row["contender"]), str(row["service counts by"])) for row in rows))
    for place, (contender, counting) in enumerate(lines):
        ours = contender == "kie_async"
        found = [row for row in rows if (row["contender"], row["service counts by"]) == (contender, counting)]
        axes.plot(
            [configured.index(str(row["configured"])) for row in found],
            [number(row["refused"]) for row in found],
            marker="osx^vD"[place % 6],
            markersize=4,
            lw=1.5 if ours else 1,
            color=OURS if ours else GRAYS[place - 3],
            alpha=0.6 if ours else 1,
            label=f"{contender}, {counting}" if ours else contender,
        )
    axes.set(
        yscale="symlog",
        ylim=(0, None),
        xticks=range(len(configured)),
        xlabel="creates configured for 10 s",
        ylabel="refused",
    )
    axes.set_xticklabels(configured, fontsize=7)
    axes.set_title("Refused of 400 creates, where the account takes 20 in 10 s")
    axes.legend(fontsize=7, frameon=False)


def overhead(axes: Axes) -> None:
    """Draw the client's CPU time per job of each contender, on a logarithmic axis."""
    rows = [row for row in results("overhead") if row["figure"] == "CPU ms a job"]
    rows = [row for row in rows if row["case"] == rows[0]["case"]]
    names = [str(row["contender"]) for row in rows]
    spent = [number(row["value"]) for row in rows]
    bars = axes.barh(names, spent, color=[OURS if name == "kie_async" else OTHERS for name in names])
    axes.bar_label(bars, [f"{ms:.2f} ms" for ms in spent], fontsize=8, padding=3)
    axes.set(xscale="log", xlabel="ms of CPU for a job of three requests", xlim=(min(spent) / 2, 4 * max(spent)))
    axes.invert_yaxis()
    axes.set_title(f"What a job costs the client ({rows[0]['case']})")


PLOTTERS: dict[str, tuple[Callable[[Axes], None], tuple[float, float]]] = {
    "limits": (limits, (7.2, 9.5)),
    "wrong_limits": (wrong_limits, SIZE),
    "polling": (polling, SIZE),
    "lost_callbacks": (lost_callbacks, (7.2, 5.5)),
    "overhead": (overhead, (7.2, 2.2)),
}


def draw() -> None:
    """Draw all saved results into ``docs/plots``; equal results give equal bytes."""
    rcParams.update({"svg.hashsalt": "kie_async", "svg.fonttype": "none", "font.size": 8})
    PLOTS.mkdir(exist_ok=True)
    for name, (draw_axes, size) in PLOTTERS.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw_axes(axes)
        figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
