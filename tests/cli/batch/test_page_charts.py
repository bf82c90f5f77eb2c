"""The page: its charts agree with the figures, and no edit of the manifest breaks it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import ConfigurationError
from kie_async.cli.batch.folder import MANIFEST, PAGE
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.page import (
    HEIGHT,
    WIDTH,
    ChartBar,
    PageHeader,
    draw_histogram,
    draw_timeline,
    percentile,
    write_page,
)

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


def stand_side_by_side(bars: list[ChartBar]) -> bool:
    """Return True if the bars lie within the chart, in order and without overlap."""
    within = all(0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.1 and 0 <= bar.y <= HEIGHT for bar in bars)
    return within and all(a.x + a.width <= b.x + 0.1 for a, b in pairwise(bars))


@given(TIMES, st.integers(1, 40), st.floats(0.01, 100))
def test_timeline_shows_the_fullest_window(times: list[float], limit: int, window: float) -> None:
    chart = draw_timeline(times, limit=limit, window=window)
    assert chart is not None
    fullest = max(sum(time - window < other <= time for other in times) for time in times)

    assert fullest == chart.peak == max(int(bar.label.split()[0]) for bar in chart.bars)
    assert stand_side_by_side(list(chart.bars))
    assert (chart.limit_y > min(bar.y for bar in chart.bars)) == (fullest > limit)


@given(TIMES)
def test_histogram_counts_each_task_once(seconds: list[float]) -> None:
    chart = draw_histogram(seconds)
    assert chart is not None

    assert len(seconds) == sum(int(bar.label.rpartition(": ")[2]) for bar in chart.bars)
    assert stand_side_by_side(list(chart.bars))
    assert all(-0.1 <= tick.x <= WIDTH + 0.1 for tick in [*chart.ticks, *chart.marks])


def test_long_pause_is_cut_out() -> None:
    """Two runs of a minute take half of the chart each."""
    evening = [place * 0.5 for place in range(120)]
    chart = draw_timeline([*evening, *(time + 36_000 for time in evening)], limit=20, window=10.0)
    assert chart is not None

    [cut] = chart.marks
    assert (320, "9:59 h") == (round(cut.x), cut.text)
    assert "10:01 h" == chart.ticks[-1].text


def test_used_up_limit_fills_the_chart() -> None:
    chart = draw_timeline([place * 0.5 for place in range(400)], limit=20, window=10.0)
    assert chart is not None
    full = [bar for bar in chart.bars if abs(bar.y - chart.limit_y) < 0.1]

    assert len(full) > 0.9 * len(chart.bars)


def test_no_data_gives_no_chart() -> None:
    assert (None, None) == (draw_timeline([], limit=20, window=10.0), draw_histogram([]))


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    value = percentile(sorted(values), share)

    assert value in values
    assert sum(other <= value for other in values) >= share * len(values) - 1e-9


def page_of(folder: Path, **edited: str) -> str:
    """Return the page of a folder in whose manifest a user has edited values of one row."""
    values = {"key": '"k"', "line": "2", "state": '"done"', "seconds": "3", "created_at": "1.5", **edited}
    line = ", ".join(f'"{name}": {value}' for name, value in values.items())
    other = {"key": "l", "line": 3, "state": "done", "credits": 1e308, "seconds": 3.0, "created_at": 1.0}
    (folder / MANIFEST).write_text(f"{{{line}}}\n{json.dumps(other)}\n")
    with Manifest(folder) as manifest:
        write_page(folder, manifest.entries(), PageHeader(title="t", total=2, written_at="today"))
    return (folder / PAGE).read_text()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, '"1"', "[1]"])
@pytest.mark.parametrize("name", ["credits", "seconds", "created_at"])
def test_number_that_cannot_be_drawn_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Line 1 of .* is invalid"):
        page_of(tmp_path, **{name: value})


@pytest.mark.parametrize("value", ["NaN", '{"seed": NaN}', '{"a": [{"b": -Infinity}]}', "[" * 100_000])
def test_input_that_is_not_json_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Line 1 of .* is invalid"):
        page_of(tmp_path, input=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("credits", "1e308"),
        ("credits", "-1e308"),
        ("seconds", "1e308"),
        ("seconds", "-1e308"),
        ("seconds", "1e-320"),
        ("created_at", "1e308"),
        ("created_at", "-1.7e308"),
        ("line", "1" + "0" * 400),
        ("file", '"\\ud800.mp4"'),
        ("image", '"\\udc80.jpg"'),
        ("more", '{"\\udfff.png": "", "</script>": "\\u2028"}'),
        ("input", '{"seed": 1e308, "\\ud800": "\\ud800"}'),
        ("input", '{"seed": ' + "[" * 600 + "]" * 600 + "}"),
        ("input", '{"</script><script>alert(1)//": "\\u2028\\u2029</script>", "prompt": {"a": null}}'),
        ("source", '"http://[x"'),
        ("reason", '"\\u0000</script>\\u2028"'),
    ],
)
def test_odd_values_do_not_break_the_page(tmp_path: Path, name: str, value: str) -> None:
    page = page_of(tmp_path, **{name: value})

    assert 2 == page.count('<li class="card')
    assert 1 == page.count("</script>")
