"""
How long tasks take, learned from those that have ended.

The distribution of one kind of task is kept as the share that has ended by each of 129 ages, eight to an octave from a
quarter of a second to four and a half hours. A task that ends adds one step to it, smoothed by 10 % of its age, and
what was believed before weighs a little less: after *n* tasks the belief that everything began with counts for
``1 / (n + 1)``, and what is older than some 200 tasks fades, since services change. What is asked for is computed from
that anew as soon as it may be two in a hundred off.

Three in a hundred tasks are believed to be of another sort: their chance to end in the next second is ``2 / age``, as
for things that last the longer the longer they have lasted. Without them a task that is older than all that were seen
would have to end at any moment, or never: it would be looked at without pause, or not at all.

What all this is for is the *expected unseen lag*: a task was seen running at the age *u*; if nobody has looked until
the age *t*, then it has been over, and nobody knew, for ``integral from u to t of (1 - S(x) / S(u)) dx`` seconds on
average, where ``S(x)`` is the share that lasts longer than *x*. This is the quantity of optimal inspection (Barlow,
Hunter and Proschan, "Optimum checking procedures", 1963). Between the ages ``S`` is taken as straight, so that the
integral is exact and costs two logarithms.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import log2
from typing import TypeAlias

import attrs

from kie_async._core.lenient_json import unwrapped
from kie_async.records import JSON

__all__ = ["Durations", "DurationsByKind", "Kind", "kind_of"]

#: The model, then ``name=value`` of each field that matters for duration and price.
Kind: TypeAlias = tuple[str, ...]

_PER_OCTAVE = 8
_OCTAVES = 16
_YOUNGEST = 0.25
_GRID = tuple(_YOUNGEST * 2.0 ** (step / _PER_OCTAVE) for step in range(_OCTAVES * _PER_OCTAVE + 1))
#: The ages at which the distribution is kept, in seconds.
_AGES = (0.0, *_GRID)
_OLDEST = _GRID[-1]
_LOG_AGES = tuple(math.log(age) for age in _GRID)
#: What leads from the binary logarithm of an age to the number of its cell; cell 0 ends at the youngest age.
_FIRST = 1.0 - _PER_OCTAVE * math.log2(_YOUNGEST)

#: The width of a step, in the logarithm: a task of 60 s says much about 54 to 66 s and little about 40.
_SMOOTHING = 0.1
#: A step lies within so many cells to either side of its middle: six times its width.
_STEP_CELLS = 8
#: Shares are written anew when what they are multiplied by has become as small as this.
_LEAST_KEPT = 1e-9
#: A task never counts for less than this, so that what was learned long ago fades.
_LEAST_WEIGHT = 1.0 / 200.0
#: What was learned is taken into account as soon as it weighs as much as this: to do so takes a tenth of a millisecond.
_MOST_IGNORED = 0.02
#: The share of tasks that are believed to be of the long-lasting sort.
_TAIL = 0.03

#: What is believed of a kind of which nothing is known. An image takes seconds, a video minutes; to look too early
#: costs a few looks, and to look too late costs the caller's time.
PRIOR_MEDIAN = 15.0
_PRIOR_SPREAD = 1.0

#: Kinds that are remembered at once; each takes some 20 kB.
MAX_KINDS = 64


@attrs.define(eq=False)
class Durations:
    """
    How long tasks of one kind take.

    Args:
        prior_median: What is believed at first: lognormal, with this median, in seconds, and a sigma of 1.

    >>> durations = Durations()
    >>> for seconds in [58.0, 60.0, 62.0] * 20:
    ...     durations.learn(seconds)
    >>> durations.survival(30.0) > 0.95, durations.survival(90.0) < 0.05
    (True, True)
    >>> durations.lag(50.0, 55.0) < 1.0 < 5.0 < durations.lag(50.0, 70.0)
    True
    """

    prior_median: float = PRIOR_MEDIAN
    #: How many tasks it was learned from.
    learned: int = attrs.field(default=0, init=False)
    # The share of tasks that end in each cell, times the weight that everything older has kept.
    _shares: list[float] = attrs.field(init=False, repr=False)
    _kept: float = attrs.field(default=1.0, init=False, repr=False)
    # What the tasks weigh that the cells do not know of.
    _ignored: float = attrs.field(default=0.0, init=False, repr=False)
    _mean: float = attrs.field(default=0.0, init=False, repr=False)
    # Of each cell (area, level, half): S(x) is level + 2 half x, and its integral from 0 is area + x (level + half x).
    # Empty when out of date.
    _cells: list[tuple[float, float, float]] = attrs.field(factory=list, init=False, repr=False)
    _generating: Durations | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        middle = math.log(self.prior_median)
        ended = [0.0, *(_normal((age - middle) / _PRIOR_SPREAD) for age in _LOG_AGES)]
        self._shares = [there - here for here, there in pairwise(ended)]

    @property
    def generating(self) -> Durations:
        """How long tasks of this kind take from the end of the queue on."""
        if self._generating is None:
            self._generating = Durations(self.prior_median)
        return self._generating

    @property
    def mean(self) -> float:
        """How long a task takes on average, in seconds, the long-lasting sort left out."""
        self._refresh()
        return self._mean

    def learn(self, seconds: float) -> None:
        """
        Take in that a task has ended.

        Args:
            seconds: Its duration; by clocks that disagree it may come out as nothing or less.
        """
        weight = max(1.0 / (self.learned + 2), _LEAST_WEIGHT)
        # Instead of all shares, what they are multiplied by becomes smaller: this is done for each task that ends.
        self._kept *= 1.0 - weight
        self._ignored += weight
        weight /= self._kept
        seconds = min(max(seconds, _YOUNGEST), _OLDEST)
        middle, cell, ended = math.log(seconds), _cell(seconds), 0.0
        for place in range(max(0, cell - _STEP_CELLS), min(cell + _STEP_CELLS, len(_GRID))):
            before, ended = ended, _normal((_LOG_AGES[place] - middle) / _SMOOTHING)
            self._shares[place] += weight * (ended - before)
        if self._kept < _LEAST_KEPT:
            self._shares = [share * self._kept for share in self._shares]
            self._kept = 1.0
        self.learned += 1
        if self._ignored >= _MOST_IGNORED:
            self._ignored = 0.0
            self._cells.clear()

    def survival(self, age: float) -> float:
        """The share of tasks that last longer than *age* seconds, for ages up to four and a half hours."""
        self._refresh()
        age = min(age, _OLDEST)
        _, level, half = self._cells[_cell(age)]
        return level + 2.0 * half * age

    def lag(self, seen: float, age: float) -> float:
        """
        The expected unseen lag.

        Args:
            seen: The age at which the task was last seen running, in seconds.

            age: Its age now, not less.

        Returns:
            For how long the task has been over on average, in seconds.
        """
        if age >= _OLDEST:
            # Only the long-lasting sort is left: S(x) goes by 1 / x².
            return (age - seen) ** 2 / age
        if not self._cells:
            self._refresh()
        cells = self._cells
        # The numbers of the cells as in _cell(), without the calls: this is asked 512 times for a look.
        area, level, half = cells[int(log2(seen) * _PER_OCTAVE + _FIRST) if seen > _YOUNGEST else 0]
        until_seen = area + seen * (level + half * seen)
        survival = level + 2.0 * half * seen
        area, level, half = cells[int(log2(age) * _PER_OCTAVE + _FIRST) if age > _YOUNGEST else 0]
        return age - seen - (area + age * (level + half * age) - until_seen) / survival

    def _refresh(self) -> None:
        """Compute what is asked for from what was learned, once for all that was learned meanwhile."""
        if self._cells:
            return
        lasting = [1.0, *(1.0 - self._kept * ended for ended in accumulate(self._shares))]
        self._mean = mean = sum(
            (there - here) * (more + less) / 2.0
            for (here, there), (more, less) in zip(pairwise(_AGES), pairwise(lasting), strict=True)
        )
        survival = [
            (1.0 - _TAIL) * share + _TAIL * min(1.0, mean / (age or mean)) ** 2
            for share, age in zip(lasting, _AGES, strict=True)
        ]
        integral = 0.0
        for (here, there), (more, less) in zip(pairwise(_AGES), pairwise(survival), strict=True):
            half = (less - more) / (there - here) / 2.0
            level = more - 2.0 * half * here
            area = integral - here * (level + half * here)
            self._cells.append((area, level, half))
            integral += (there - here) * (more + less) / 2.0
        # An age a hair below the oldest may have the same logarithm, and then counts as in the cell beyond it.
        self._cells.append(self._cells[-1])


class DurationsByKind:
    """
    The durations of the kinds that were used last.

    Args:
        prior_median: What is believed of a kind of which nothing is known: its median, in seconds.
    """

    def __init__(self, prior_median: float = PRIOR_MEDIAN) -> None:
        self._prior_median = prior_median
        self._kinds: OrderedDict[Kind, Durations] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kinds)

    def of(self, kind: Kind) -> Durations:
        """The durations of a kind; whoever holds them goes on with them when the kind is forgotten."""
        durations = self._kinds.get(kind)
        if durations is None:
            durations = self._kinds[kind] = Durations(self._prior_median)
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(kind)
        return durations


def _cell(age: float) -> int:
    return min(int(log2(age) * _PER_OCTAVE + _FIRST), len(_GRID) - 1) if age > _YOUNGEST else 0


def _normal(z: float) -> float:
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


# -- kinds of tasks ---------------------------------------------------------------------------------------------------

#: Fields of ``input`` that change a task's duration or price, by their names on the service's model pages.
_KIND_FIELDS = (
    "acceleration",
    "duration",
    "frames_per_second",
    "generate_audio",
    "image_resolution",
    "image_size",
    "max_images",
    "mode",
    "multi_shots",
    "n_frames",
    "num_frames",
    "num_images",
    "num_inference_steps",
    "output_resolution",
    "pe_fast_mode",
    "quality",
    "rendering_speed",
    "resolution",
    "size",
    "sound",
    "upscale_factor",
)
_KIND_FIELD_TYPES = (str, int, float)
#: A longer value is not a setting, and would make every task a kind of its own.
_LONGEST_SETTING = 32


def kind_of(model: str | None, input: JSON) -> Kind:  # noqa: A002 (the service's word)
    """
    Return the kind of a request: tasks of one kind should take about equally long and cost the same.

    Args:
        model: The model's name, or None if it is not known.

        input: The ``input`` object, decoded or as JSON; anything else is ignored.

    >>> kind_of("m", '{"prompt": "The cat turns its head", "resolution": "720p", "duration": 5}')
    ('m', 'duration=5', 'resolution=720p')
    >>> kind_of("m", None)
    ('m',)
    """
    decoded = unwrapped(input)
    given = decoded if isinstance(decoded, Mapping) else {}
    settings = (f"{name}={given[name]}" for name in _KIND_FIELDS if isinstance(given.get(name), _KIND_FIELD_TYPES))
    return (model or "", *(setting for setting in settings if len(setting) <= _LONGEST_SETTING))
