"""The two charts of the page, as shapes with coordinates: creates against the limit, and how long tasks took."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import attrs

__all__ = ["Bar", "Histogram", "Tick", "Timeline", "histogram", "percentile", "timeline"]

#: The drawing area of a chart, in its own units; around it there is room for words.
WIDTH, HEIGHT = 640.0, 132.0

_BARS = 96
_BINS = 20
#: A pause this long, in windows of the limit, is cut out: a run that was stopped for a night is two runs to look at.
_LONG = 12.0
_CUT = 18.0
#: The service's clock tells milliseconds.
_SHORTEST = 0.001
#: Room above the line of the limit.
_ROOM = 1.25
_STEPS = (1.0, 2.0, 5.0, 10.0)

_MINUTE, _DAY = 60, 24


@attrs.frozen
class Bar:
    """
    A bar, and what it says.

    Attributes:
        x, y, width, height: Where it is.

        says: Its figure, for who points at it.
    """

    x: float
    y: float
    width: float
    height: float
    says: str


@attrs.frozen
class Tick:
    """
    A place on an axis.

    Attributes:
        at: Where.

        text: What it is called.
    """

    at: float
    text: str


@attrs.frozen(kw_only=True)
class Timeline:
    """
    The creates of a run, as far as the service has said when they were.

    Attributes:
        bars: How many creates there were in the fullest window that ends in each stretch of time.

        ticks: Times, from the first create.

        cuts: Where a pause was cut out, and how long it was.

        limit_at: Where the line of the limit is.

        limit: How many creates any window may have.

        window: Its length, in seconds.

        peak: The fullest window.
    """

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    cuts: Sequence[Tick]
    limit_at: float
    limit: int
    window: float
    peak: int


@attrs.frozen(kw_only=True)
class Histogram:
    """
    How long tasks took.

    Attributes:
        bars: How many took how long.

        ticks: Seconds.

        marks: The median and the 95th percentile.
    """

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    marks: Sequence[Tick]


def timeline(instants: Sequence[float], *, limit: int, window: float) -> Timeline | None:
    """
    The creates of a run against the limit.

    Args:
        instants: When the service created each task, in seconds since the epoch.

        limit: How many creates any window may have.

        window: Its length, in seconds.

    Returns:
        The chart; None where there was no create.

    >>> chart = timeline([0.0, 1.0, 2.0, 11.5], limit=4, window=10.0)
    >>> chart.peak, len(chart.cuts)
    (3, 0)
    """
    times = sorted(instants)
    if not times:
        return None
    breaks = [place for place in range(1, len(times)) if times[place] - times[place - 1] > _LONG * window]
    parts = [times[a:b] for a, b in pairwise([0, *breaks, len(times)])]
    length = max(sum(part[-1] - part[0] for part in parts), _SHORTEST)
    # However short a part is, it is a bar; and however many there are, bars and cuts take no more than half of it all.
    least, cut = min(WIDTH / _BARS, WIDTH / 4 / len(parts)), min(_CUT, WIDTH / 4 / len(parts))
    scale = (WIDTH - least * len(parts) - cut * len(breaks)) / length
    peak = max(_within(times, time, window) for time in times)
    top = max(limit, peak) * _ROOM
    bars: list[Bar] = []
    cuts: list[Tick] = []
    x = 0.0
    for place, part in enumerate(parts):
        if place:
            cuts.append(Tick(round(x + cut / 2, 1), _span(part[0] - parts[place - 1][-1])))
            x += cut
        breadth = least + (part[-1] - part[0]) * scale
        bars += _fullest(part, window=window, x=x, breadth=breadth, top=top)
        x += breadth
    ticks = [Tick(0.0, "0"), Tick(WIDTH, _span(times[-1] - times[0]))]
    if not breaks and len(times) > 1:
        step = _nice(length / 6)
        inner = [place * step for place in range(1, math.ceil(length / step)) if place * step < length * 0.9]
        ticks[1:1] = [Tick(round(at / length * WIDTH, 1), _span(at)) for at in inner]
    return Timeline(
        bars=bars,
        ticks=ticks,
        cuts=cuts,
        limit_at=round(HEIGHT * (1 - limit / top), 1),
        limit=limit,
        window=window,
        peak=peak,
    )


def _within(times: Sequence[float], until: float, window: float) -> int:
    """How many there were in the window that ends then."""
    return bisect_right(times, until) - bisect_right(times, until - window)


def _fullest(times: Sequence[float], *, window: float, x: float, breadth: float, top: float) -> list[Bar]:
    """Bars for a part of a run: the fullest window that ends in each stretch of it."""
    number = max(1, round(breadth / WIDTH * _BARS))
    length = (times[-1] - times[0]) / number
    bars = []
    for place in range(number):
        begin = times[0] + place * length
        end = begin + length if place < number - 1 else times[-1]
        inside = times[bisect_left(times, begin) : bisect_right(times, end)]
        count = max(_within(times, at, window) for at in [begin, *inside])
        says = f"{count} in {window:g} s, after {_span(begin - times[0])}"
        bars.append(_bar(x + place * breadth / number, breadth / number, count / top, says))
    return bars


def histogram(seconds: Sequence[float]) -> Histogram | None:
    """
    How long tasks took.

    Args:
        seconds: The service's times.

    Returns:
        The chart; None where there is none.

    >>> chart = histogram([10.0, 11.0, 12.0, 30.0])
    >>> [bar.says for bar in chart.bars]
    ['10 to 11 s: 1', '11 to 12 s: 1', '12 to 13 s: 1', '30 to 31 s: 1']
    """
    times = sorted(seconds)
    if not times:
        return None
    step = _nice(max((times[-1] - times[0]) / _BINS, 0.01))
    begin = math.floor(times[0] / step)
    bins = math.floor(times[-1] / step) - begin + 1
    counts = [0] * bins
    for time in times:
        counts[min(max(math.floor(time / step) - begin, 0), bins - 1)] += 1
    breadth, top = WIDTH / bins, max(counts) * _ROOM
    bars = [
        _bar(place * breadth, breadth, count / top, f"{_edge(edge, step)} to {_edge(edge + 1, step)} s: {count}")
        for place, (edge, count) in enumerate(enumerate(counts, begin))
        if count
    ]
    every = max(1, math.ceil(bins / 7))
    ticks = [Tick(round(place * breadth, 1), f"{_edge(begin + place, step)} s") for place in range(0, bins + 1, every)]
    marks = [
        Tick(round((percentile(times, share) / step - begin) * breadth, 1), name)
        for share, name in ((0.5, "median"), (0.95, "95 %"))
    ]
    return Histogram(bars=bars, ticks=ticks, marks=marks)


def percentile(values: Sequence[float], share: float) -> float:
    """
    The smallest value that no less than *share* of all values do not exceed.

    Args:
        values: At least one, in ascending order.

        share: From 0 to 1.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return values[max(math.ceil(len(values) * share) - 1, 0)]


def _bar(x: float, breadth: float, share: float, says: str) -> Bar:
    height = max(share * HEIGHT, 1.0)
    gap = min(1.5, breadth / 5)
    return Bar(round(x + gap / 2, 2), round(HEIGHT - height, 2), round(breadth - gap, 2), round(height, 2), says)


def _nice(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))


def _edge(place: int, step: float) -> str:
    return f"{place * step:.6g}"


def _span(seconds: float) -> str:
    """A length of time, as short as can be."""
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if minutes < _MINUTE:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02} h" if hours < 2 * _DAY else f"{hours // _DAY} days"
