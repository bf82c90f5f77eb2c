"""``index.html``: one self-contained page with results, figures and two charts, made from the manifest alone."""

from __future__ import annotations

import base64
import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kie_async.cli.batch.folder import PAGE, atomic_write
from kie_async.cli.batch.manifest import EntryState, ManifestEntry

__all__ = [
    "HEIGHT",
    "MAX_CARDS",
    "WIDTH",
    "ChartBar",
    "PageHeader",
    "draw_histogram",
    "draw_timeline",
    "percentile",
    "write_page",
]

#: The maximum number of shots on the page: browsers are slow with more. Shots that need attention come first.
MAX_CARDS = 2000

_STATE_LABELS: Mapping[str, str] = {
    EntryState.DONE: "Done",
    EntryState.FAILED: "Failed",
    EntryState.IN_DOUBT: "In doubt",
    EntryState.RUNNING: "Running",
    EntryState.SKIPPED: "Not sent",
}
#: The maximum number of models that are named above the shots.
_MOST_MODELS = 50
#: Durations from this number of seconds on are shown without tenths.
_COARSE_FROM = 20.0
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")
_VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".m4v")
_AUDIO_SUFFIXES = (".mp3", ".m4a", ".wav", ".aac", ".flac", ".ogg", ".weba")

#: The drawing area of a chart, in its own units; the template adds room for labels.
WIDTH, HEIGHT = 640.0, 132.0
#: The maximum number of bars of the timeline and of the histogram.
_TIMELINE_BARS, _HISTOGRAM_BARS = 96, 20
#: A pause of more windows than this is cut out of the timeline: a run resumed the next day is two stretches.
_MAX_PAUSE = 12.0
#: The width of such a cut.
_CUT_WIDTH = 18.0
#: The resolution of the service's clock, in seconds.
_CLOCK_RESOLUTION = 0.001
#: The height of the drawing area, relative to the highest value.
_HEADROOM = 1.25
_MINUTE, _DAY = 60, 24


@attrs.frozen(kw_only=True)
class PageHeader:
    """
    The facts on the run as a whole.

    Attributes:
        title: The name of the table.

        total: The number of rows in the table.

        written_at: The time at which the page is written, as text.

        limit: The maximum number of creates in any window.

        window: The length of the window, in seconds.

        resume_command: The command that resumes the run; None if nothing remains to be done.

        stop_reason: The reason why the run ended early, as text, or None.

        is_running: True if the run has not ended.
    """

    title: str
    total: int
    written_at: str
    limit: int = 20
    window: float = 10.0
    resume_command: str | None = None
    stop_reason: str | None = None
    is_running: bool = False


def write_page(folder: Path, entries: Iterable[ManifestEntry], header: PageHeader) -> None:
    """
    Write the page atomically; blocks: call it in a worker thread.

    Args:
        folder: The folder of the results.

        entries: The outcome of each row.

        header: The facts on the run.

    Raises:
        OSError: If it cannot be written, for example because the disk is full; the page is then unchanged.
    """
    states: Counter[str] = Counter()
    urgent: list[ManifestEntry] = []
    done: list[ManifestEntry] = []
    credits, durations, created_at = 0.0, list[float](), list[float]()
    models: Counter[str] = Counter()
    for entry in entries:
        states[entry.state] += 1
        models[entry.model] += bool(entry.model)
        credits += entry.credits or 0.0
        if entry.seconds is not None and entry.state == EntryState.DONE:
            durations.append(entry.seconds)
        if entry.created_at is not None:
            created_at.append(entry.created_at)
        cards = done if entry.state == EntryState.DONE else urgent
        if len(cards) < MAX_CARDS:
            cards.append(entry)
    known = states.total()
    durations.sort()
    style, script = _template_part("page.css"), _template_part("page.js")
    environment = Environment(
        loader=PackageLoader("kie_async.cli.batch", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    for function in (_format_figure, _format_duration, _format_value, _remote_image, _media_kind, _quote):
        filters[function.__name__.removeprefix("_")] = function
    page = environment.get_template("page.html").stream(
        header=header,
        entries=sorted([*urgent, *done][:MAX_CARDS], key=lambda entry: entry.line),
        models=[(model, count) for model, count in models.most_common(_MOST_MODELS) if count],
        labels=_STATE_LABELS,
        known=known,
        whole=max(header.total, known),
        states=[(state, label, states[state]) for state, label in _STATE_LABELS.items() if states[state]],
        left=max(0, header.total - known),
        credits=credits,
        median=percentile(durations, 0.5) if durations else None,
        slow=percentile(durations, 0.95) if durations else None,
        timeline=draw_timeline(created_at, limit=header.limit, window=header.window),
        histogram=draw_histogram(durations),
        width=WIDTH,
        height=HEIGHT,
        style=Markup(style),  # noqa: S704 (a file of the package, not user input)
        script=Markup(script),  # noqa: S704 (a file of the package, not user input)
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )
    page.enable_buffering(64)
    with atomic_write(folder / PAGE) as file:
        for part in page:
            file.write(part.encode(errors="replace"))


def _template_part(name: str) -> str:
    return (files("kie_async.cli.batch") / "template" / name).read_text("utf-8").strip()


def _csp_hash(text: str) -> str:
    """Return the hash by which the page's content security policy admits its own style and script, and no others."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _remote_image(source: str | None) -> tuple[str, str] | None:
    """Return the URL and the host of an image that is not in the folder, or None; the page does not fetch it."""
    try:
        url = urlsplit(source or "")
    except ValueError:
        return None
    return (source or "", url.hostname) if url.scheme in ("http", "https") and url.hostname else None


def _media_kind(file: str) -> str:
    """Return the way in which a result is shown: ``"video"``, ``"image"``, ``"audio"`` or ``"link"``."""
    kinds = {"video": _VIDEO_SUFFIXES, "image": _IMAGE_SUFFIXES, "audio": _AUDIO_SUFFIXES}
    return next((kind for kind, suffixes in kinds.items() if file.lower().endswith(suffixes)), "link")


def _format_value(value: object) -> str:
    try:
        return str(value).lower() if isinstance(value, bool) else str(value)
    except RecursionError:  # a user has nested it more deeply than any request can be
        return "…"


def _quote(path: str) -> str:
    """Return the URL of a file in the folder, also of a name that is not text."""
    return quote(path, errors="surrogatepass")


def _format_figure(value: float) -> str:
    """
    Format a figure, with narrow spaces between thousands.

    >>> _format_figure(40.0), _format_figure(0.25)
    ('40', '0.25')
    """
    return f"{round(value, 2):,.12g}".replace(",", "\u202f")


def _format_duration(seconds: float) -> str:
    """
    Format a duration in seconds.

    >>> _format_duration(4.21), _format_duration(83.4)
    ('4.2 s', '83 s')
    """
    return f"{seconds:.1f} s" if seconds < _COARSE_FROM else f"{seconds:.0f} s"


@attrs.frozen
class ChartBar:
    """
    A bar of a chart.

    Attributes:
        x, y, width, height: Its position and size.

        label: Its figure, as a tooltip.
    """

    x: float
    y: float
    width: float
    height: float
    label: str


@attrs.frozen
class _ChartTick:
    """
    A labeled position on an axis.

    Attributes:
        x: The position.

        text: The label.
    """

    x: float
    text: str


@attrs.frozen(kw_only=True)
class _Chart:
    """
    A bar chart.

    Attributes:
        bars: The bars.

        ticks: The labels of the horizontal axis.

        marks: Labeled vertical lines.

        limit_y: The position of the limit's line.

        peak: The highest value.
    """

    bars: Sequence[ChartBar]
    ticks: Sequence[_ChartTick]
    marks: Sequence[_ChartTick]
    limit_y: float = 0.0
    peak: int = 0


def draw_timeline(created_at: Sequence[float], *, limit: int, window: float) -> _Chart | None:
    """
    Draw the creates of a run against the limit: for each interval, the fullest window that ends in it.

    Long pauses are cut out; a mark shows the length of each.

    Args:
        created_at: The service's time of each create, in seconds since the epoch.

        limit: The maximum number of creates in any window.

        window: The length of the window, in seconds.

    Returns:
        The chart; None if there was no create.

    >>> chart = draw_timeline([0.0, 1.0, 2.0, 11.5], limit=4, window=10.0)
    >>> chart.peak, len(chart.marks)
    (3, 0)
    """
    times = sorted(created_at)
    if not times:
        return None
    breaks = [index for index in range(1, len(times)) if times[index] - times[index - 1] > _MAX_PAUSE * window]
    stretches = [times[a:b] for a, b in pairwise([0, *breaks, len(times)])]
    length = max(sum(stretch[-1] - stretch[0] for stretch in stretches), _CLOCK_RESOLUTION)
    # The shortest stretch has a visible bar, and minimum widths and cuts together take at most half of the chart.
    min_width = min(WIDTH / _TIMELINE_BARS, WIDTH / 4 / len(stretches))
    cut_width = min(_CUT_WIDTH, WIDTH / 4 / len(stretches))
    scale = (WIDTH - min_width * len(stretches) - cut_width * len(breaks)) / length
    peak = max(_creates_in_window(times, time, window) for time in times)
    top = max(limit, peak) * _HEADROOM
    bars: list[ChartBar] = []
    cuts: list[_ChartTick] = []
    x = 0.0
    for index, stretch in enumerate(stretches):
        if index:
            cuts.append(_ChartTick(round(x + cut_width / 2, 1), _format_span(stretch[0] - stretches[index - 1][-1])))
            x += cut_width
        width = min_width + (stretch[-1] - stretch[0]) * scale
        bars += _timeline_bars(stretch, window=window, x=x, width=width, top=top)
        x += width
    ticks = [_ChartTick(0.0, "0"), _ChartTick(WIDTH, _format_span(times[-1] - times[0]))]
    if not breaks and len(times) > 1:
        step = _round_step(length / 6)
        inner = [index * step for index in range(1, math.ceil(length / step)) if index * step < length * 0.9]
        ticks[1:1] = [_ChartTick(round(time / length * WIDTH, 1), _format_span(time)) for time in inner]
    limit_y = round(HEIGHT * (1 - limit / top), 1)
    return _Chart(bars=bars, ticks=ticks, marks=cuts, limit_y=limit_y, peak=peak)


def _creates_in_window(times: Sequence[float], end: float, window: float) -> int:
    """Return the number of creates in the window that ends at *end*."""
    return bisect_right(times, end) - bisect_right(times, end - window)


def _timeline_bars(times: Sequence[float], *, window: float, x: float, width: float, top: float) -> list[ChartBar]:
    """Return the bars of one stretch: for each interval, the fullest window that ends in it."""
    count = max(1, round(width / WIDTH * _TIMELINE_BARS))
    length = (times[-1] - times[0]) / count
    bars = []
    for index in range(count):
        start = times[0] + index * length
        end = start + length if index < count - 1 else times[-1]
        inside = times[bisect_left(times, start) : bisect_right(times, end)]
        creates = max(_creates_in_window(times, time, window) for time in [start, *inside])
        label = f"{creates} in {window:g} s, after {_format_span(start - times[0])}"
        bars.append(_chart_bar(x + index * width / count, width / count, creates / top, label))
    return bars


def draw_histogram(seconds: Sequence[float]) -> _Chart | None:
    """
    Draw the distribution of task durations, with marks for the median and the 95th percentile.

    Args:
        seconds: The durations, by the service's clock.

    Returns:
        The chart; None if there are no durations.

    >>> chart = draw_histogram([10.0, 11.0, 12.0, 30.0])
    >>> [bar.label for bar in chart.bars]
    ['10 to 11 s: 1', '11 to 12 s: 1', '12 to 13 s: 1', '30 to 31 s: 1']
    """
    times = sorted(seconds)
    if not times:
        return None
    step = _round_step(max((times[-1] - times[0]) / _HISTOGRAM_BARS, 0.01))
    first = math.floor(times[0] / step)
    counts = [0] * (math.floor(times[-1] / step) - first + 1)
    for time in times:
        counts[min(max(math.floor(time / step) - first, 0), len(counts) - 1)] += 1
    width, top = WIDTH / len(counts), max(counts) * _HEADROOM
    edges = [f"{index * step:.6g}" for index in range(first, first + len(counts) + 1)]
    bars = [
        _chart_bar(index * width, width, count / top, f"{edges[index]} to {edges[index + 1]} s: {count}")
        for index, count in enumerate(counts)
        if count
    ]
    ticks = [
        _ChartTick(round(index * width, 1), f"{edges[index]} s")
        for index in range(0, len(edges), max(1, math.ceil(len(counts) / 7)))
    ]
    marks = [
        _ChartTick(round((percentile(times, share) / step - first) * width, 1), name)
        for share, name in ((0.5, "median"), (0.95, "95 %"))
    ]
    return _Chart(bars=bars, ticks=ticks, marks=marks)


def percentile(values: Sequence[float], share: float) -> float:
    """
    Return the smallest value that at least *share* of all values do not exceed.

    Args:
        values: At least one value, in ascending order.

        share: A number from 0 to 1.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return values[max(math.ceil(len(values) * share) - 1, 0)]


def _chart_bar(x: float, width: float, share: float, label: str) -> ChartBar:
    height = max(share * HEIGHT, 1.0)
    gap = min(1.5, width / 5)
    return ChartBar(round(x + gap / 2, 2), round(HEIGHT - height, 2), round(width - gap, 2), round(height, 2), label)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least *least*."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= least * (1 - 1e-9))


def _format_span(seconds: float) -> str:
    """Format a length of time briefly."""
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if minutes < _MINUTE:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02} h" if hours < 2 * _DAY else f"{hours // _DAY} days"
