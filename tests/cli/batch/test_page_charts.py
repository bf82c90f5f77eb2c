"""The charts of the page: their shapes agree with the figures."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kie_async.cli.batch.page import HEIGHT, WIDTH, ChartBar, draw_histogram, draw_timeline, percentile

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
