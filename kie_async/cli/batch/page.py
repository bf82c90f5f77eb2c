"""``index.html``: one file beside the results, to look at them, made of the manifest alone."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, urlsplit

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kie_async.cli.batch.atomic_files import replaced
from kie_async.cli.batch.charts import HEIGHT, WIDTH, histogram, percentile, timeline
from kie_async.cli.batch.entry import Entry, State
from kie_async.cli.batch.folder import PAGE

__all__ = ["MOST", "Facts", "write_page"]

#: How many shots the page shows; a browser is slow with more. Those that need somebody come before those that are done.
MOST = 2000

#: What each state is called.
_WORDS: Mapping[str, str] = {
    State.DONE: "Done",
    State.FAILED: "Failed",
    State.IN_DOUBT: "In doubt",
    State.RUNNING: "Running",
    State.SKIPPED: "Not sent",
}
#: From so many seconds on, tenths do not matter.
_LONG = 20.0
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")
_FILMS = (".mp4", ".webm", ".mov", ".m4v")


@attrs.frozen(kw_only=True)
class Facts:
    """
    What the page says of the run as a whole.

    Attributes:
        title: What the table is called.

        total: How many rows it has.

        made_at: When the page was made, for people.

        limit: How many creates any window may have.

        window: Its length, in seconds.

        command: What goes on with the run; None where nothing is left to be done.

        stopped: Why it has ended before its end, for people, or None.

        going: Whether it is still at work.
    """

    title: str
    total: int
    made_at: str
    limit: int = 20
    window: float = 10.0
    command: str | None = None
    stopped: str | None = None
    going: bool = False


@attrs.frozen
class _Card:
    """One shot as the page shows it: an entry, and where things are."""

    entry: Entry

    @property
    def word(self) -> str:
        return _WORDS.get(self.entry.state, self.entry.state)

    @property
    def prompt(self) -> str:
        return str(self.entry.input.get("prompt", ""))

    @property
    def options(self) -> Sequence[tuple[str, str]]:
        """What the service was told besides the prompt and images, for people."""
        told = {name: value for name, value in self.entry.input.items() if name != "prompt" and value is not None}
        return [(name.replace("_", " "), _shown(value)) for name, value in told.items()]

    @property
    def seed(self) -> str:
        return _shown(self.entry.input.get("seed", ""))

    @property
    def image(self) -> str | None:
        return None if self.entry.image is None else quote(self.entry.image)

    @property
    def remote(self) -> tuple[str, str] | None:
        """Where an image is that the page does not have: its URL, which nothing fetches, and its host."""
        if self.entry.source is None:
            return None
        try:
            url = urlsplit(self.entry.source)
        except ValueError:
            return None
        return (self.entry.source, url.hostname) if url.scheme in ("http", "https") and url.hostname else None

    @property
    def file(self) -> str | None:
        return None if self.entry.file is None else quote(self.entry.file)

    @property
    def kind(self) -> str:
        """How the result is shown: as a film, as a picture, or as a link."""
        name = (self.entry.file or "").lower()
        return "film" if name.endswith(_FILMS) else "picture" if name.endswith(_PICTURES) else "link"

    @property
    def more(self) -> Sequence[tuple[str, str]]:
        return [(quote(name), name) for name in self.entry.more]


@attrs.define
class _Sum:
    """What the page says of all entries, however many of them it shows."""

    states: Counter[str] = attrs.field(factory=Counter)
    credits: float = 0.0
    seconds: list[float] = attrs.field(factory=list)
    created: list[float] = attrs.field(factory=list)

    def add(self, entry: Entry) -> Entry:
        self.states[entry.state] += 1
        self.credits += entry.credits or 0.0
        if entry.seconds is not None and entry.state == State.DONE:
            self.seconds.append(entry.seconds)
        if entry.created_at is not None:
            self.created.append(entry.created_at)
        return entry


def write_page(folder: Path, entries: Iterable[Entry], facts: Facts) -> None:
    """
    Write the page, in one step; blocks, so it is a matter for a thread.

    Args:
        folder: The folder of the results.

        entries: What became of each row.

        facts: What is said of the run.

    Raises:
        OSError: If the disk is full, or worse; the page is then as it was.
    """
    total = _Sum()
    urgent: list[Entry] = []
    rest: list[Entry] = []
    for entry in map(total.add, entries):
        chosen = rest if entry.state == State.DONE else urgent
        if len(chosen) < MOST:
            chosen.append(entry)
    shown = sorted([*urgent, *rest][:MOST], key=lambda entry: entry.line)
    seconds = sorted(total.seconds)
    style, script = _part("page.css"), _part("page.js")
    environment = Environment(
        loader=PackageLoader("kie_async.cli.batch", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "took": _took}
    page = environment.get_template("page.html").stream(
        facts=facts,
        cards=[_Card(entry) for entry in shown],
        known=total.states.total(),
        whole=max(facts.total, total.states.total()),
        states=[(state, word, total.states[state]) for state, word in _WORDS.items() if total.states[state]],
        left=max(0, facts.total - total.states.total()),
        credits=total.credits,
        median=percentile(seconds, 0.5) if seconds else None,
        slow=percentile(seconds, 0.95) if seconds else None,
        timeline=timeline(total.created, limit=facts.limit, window=facts.window),
        histogram=histogram(seconds),
        width=WIDTH,
        height=HEIGHT,
        style=Markup(style),  # noqa: S704 (a file of the package, which nobody's input reaches)
        script=Markup(script),  # noqa: S704 (likewise)
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    page.enable_buffering(64)
    with replaced(folder / PAGE) as file:
        for part in page:
            file.write(part.encode(errors="replace"))


def _part(name: str) -> str:
    return (files("kie_async.cli.batch") / "template" / name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    """What the page's policy calls one of its own parts: nothing else may style it, or run in it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _figure(value: float | None) -> str:
    """
    A figure, with narrow spaces between thousands.

    >>> _figure(40.0), _figure(0.25)
    ('40', '0.25')
    """
    return "" if value is None else f"{round(value, 2):,.12g}".replace(",", "\u202f")


def _took(seconds: float | None) -> str:
    """
    A time, as precise as it matters.

    >>> _took(4.21), _took(83.4)
    ('4.2 s', '83 s')
    """
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < _LONG else f"{seconds:.0f} s"
