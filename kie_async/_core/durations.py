"""
Distributions of how long tasks take, learned from those that have ended.

One kind of task has the share that has ended by each of 129 ages, eight to an octave, from 0.25 s to 4.5 h. Each task
that ends adds a step, smoothed by 10 % of its age; older ones fade. docs/explanation/polling.md has the theory: the
prior, the heavy tail of 3 %, and the *expected unseen lag* that polls are scheduled by.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import log2
from typing import TypeAlias

import attrs

from kie_async._core.lenient_json import unwrap_json
from kie_async.records import JSON

__all__ = ["Durations", "DurationsByKind", "Kind", "ended_task", "kind_of"]

#: The model, then ``name=value`` of each field that matters for the duration.
Kind: TypeAlias = tuple[str, ...]

_PER_OCTAVE = 8
_OCTAVES = 16
_YOUNGEST = 0.25
_GRID = tuple(_YOUNGEST * 2.0 ** (step / _PER_OCTAVE) for step in range(_OCTAVES * _PER_OCTAVE + 1))
#: The ages of the distribution, in seconds.
_AGES = (0.0, *_GRID)
_OLDEST = _GRID[-1]
_LOG_AGES = tuple(math.log(age) for age in _GRID)
#: Add this to the scaled binary logarithm of an age for the number of its cell; cell 0 ends at the youngest age.
_CELL_OFFSET = 1.0 - _PER_OCTAVE * math.log2(_YOUNGEST)

#: The width of a step, in the logarithm: a task of 60 s says much about 54 to 66 s and little about 40.
_SMOOTHING = 0.1
#: A step reaches this many cells to either side of its middle: six times its width.
_STEP_CELLS = 8
#: The shares are rescaled when their common factor has become smaller than this.
_MIN_SCALE = 1e-9
#: The least weight of a task, so that older tasks fade.
_MIN_WEIGHT = 1.0 / 200.0
#: The cells are computed again when tasks of this weight are missing in them: that takes a tenth of a millisecond.
_MAX_PENDING = 0.02
#: While most tasks of a kind that began still run, the ended ones were the short ones. The odds that a callback without
#: a trace was lost are then divided by up to nine, and tasks may last as long again as they have lasted.
_UNKNOWN_DOUBT = 8.0
#: The number of tasks that are always counted as running: what one task or two have taken says little.
_UNKNOWN_TASKS = 5.0
#: The age from which on they do, in seconds.
_UNKNOWN_AGE = 60.0
#: The share of tasks assumed to be in the heavy tail.
_TAIL = 0.03

#: The prior of an unknown kind. An image takes seconds, a video minutes; to poll too early costs a few polls, and to
#: poll too late costs the caller's time.
PRIOR_MEDIAN = 15.0
_PRIOR_SPREAD = 1.0

#: The number of kinds in memory; each takes about 20 kB.
MAX_KINDS = 64


@attrs.define(eq=False)
class Durations:
    """
    The distribution of the durations of one kind of task.

    Args:
        prior_median: The median of the prior, in seconds; it is lognormal with a sigma of 1.

    >>> durations = Durations()
    >>> for seconds in [58.0, 60.0, 62.0] * 20:
    ...     durations.learn(seconds)
    >>> durations.survival(30.0) > 0.95, durations.survival(90.0) < 0.05
    (True, True)
    >>> durations.lag(50.0, 55.0) < 1.0 < 5.0 < durations.lag(50.0, 70.0)
    True
    """

    prior_median: float = PRIOR_MEDIAN
    #: The number of tasks learned from.
    learned: int = attrs.field(default=0, init=False)
    #: The number of tasks that this process has begun to poll.
    began: int = attrs.field(default=0, init=False)
    # The share of tasks that end in each cell, divided by the common factor _scale.
    _shares: list[float] = attrs.field(init=False, repr=False)
    _scale: float = attrs.field(default=1.0, init=False, repr=False)
    # The weight of the tasks that are missing in _cells.
    _pending: float = attrs.field(default=0.0, init=False, repr=False)
    _mean: float = attrs.field(default=0.0, init=False, repr=False)
    # (area, level, half) of each cell: S(x) is level + 2 half x, and its integral from 0 is area + x (level + half x).
    # Empty when outdated.
    _cells: list[tuple[float, float, float]] = attrs.field(factory=list, init=False, repr=False)
    _generating: Durations | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        middle = math.log(self.prior_median)
        ended = [0.0, *(_normal((age - middle) / _PRIOR_SPREAD) for age in _LOG_AGES)]
        self._shares = [there - here for here, there in pairwise(ended)]

    @property
    def generating(self) -> Durations:
        """The distribution for tasks of this kind from the end of the queue."""
        if self._generating is None:
            self._generating = Durations(self.prior_median)
        return self._generating

    @property
    def mean(self) -> float:
        """The mean duration in seconds, without the heavy tail."""
        self._refresh()
        return self._mean

    def learn(self, seconds: float) -> None:
        """
        Learn from a task that has ended.

        Args:
            seconds: Its duration; zero or negative where clocks disagree.
        """
        weight = max(1.0 / (self.learned + 2), _MIN_WEIGHT)
        # Scale the common factor instead of all shares: this runs for each task that ends.
        self._scale *= 1.0 - weight
        self._pending += weight
        weight /= self._scale
        seconds = min(max(seconds, _YOUNGEST), _OLDEST)
        middle, cell, ended = math.log(seconds), _cell(seconds), 0.0
        for place in range(max(0, cell - _STEP_CELLS), min(cell + _STEP_CELLS, len(_GRID))):
            before, ended = ended, _normal((_LOG_AGES[place] - middle) / _SMOOTHING)
            self._shares[place] += weight * (ended - before)
        if self._scale < _MIN_SCALE:
            self._shares = [share * self._scale for share in self._shares]
            self._scale = 1.0
        self.learned += 1
        if self._pending >= _MAX_PENDING:
            self._pending = 0.0
            self._cells.clear()

    def survival(self, age: float) -> float:
        """Return the share of tasks that last longer than *age* seconds, for ages up to 4.5 h."""
        self._refresh()
        age = min(age, _OLDEST)
        _, level, half = self._cells[_cell(age)]
        return level + 2.0 * half * age

    def lag(self, seen: float, age: float, loss: float = 1.0) -> float:
        """
        Return the expected unseen lag.

        Args:
            seen: The age at which the task was last seen running, in seconds.

            age: Its age now, not less.

            loss: The probability, more than 0 and up to 1, that no callback reports the task's end. Below 1, the lag is
                the one to expect although no callback has come.

        Returns:
            The mean time since the task has ended, in seconds; zero where it has not.
        """
        if age >= _OLDEST:
            # Only the heavy tail is left: S(x) is proportional to 1 / x².
            return loss * (age - seen) ** 2 / age / (1.0 - (1.0 - loss) * (1.0 - (seen / age) ** 2))
        if not self._cells:
            self._refresh()
        cells = self._cells
        # The index as in _cell(), without the calls: to choose the task of one poll takes 512 calls of this method.
        area, level, half = cells[int(log2(seen) * _PER_OCTAVE + _CELL_OFFSET) if seen > _YOUNGEST else 0]
        until_seen = area + seen * (level + half * seen)
        survival = level + 2.0 * half * seen
        area, level, half = cells[int(log2(age) * _PER_OCTAVE + _CELL_OFFSET) if age > _YOUNGEST else 0]
        lag = age - seen - (area + age * (level + half * age) - until_seen) / survival
        if loss == 1.0:
            return lag
        unknown = max(0.0, 1.0 - self.learned / (self.began + _UNKNOWN_TASKS)) ** 4
        loss /= loss + (1.0 - loss) * (1.0 + _UNKNOWN_DOUBT * unknown)
        running = (level + 2.0 * half * age) / survival
        running += unknown * ((_UNKNOWN_AGE + seen) / (_UNKNOWN_AGE + age) - running)
        # Bayes: a task without a callback has ended and its callback is lost, or it runs.
        return loss * lag / (loss + (1.0 - loss) * running)

    def _refresh(self) -> None:
        """Compute the mean and the cells, if they are outdated."""
        if self._cells:
            return
        lasting = [1.0, *(1.0 - self._scale * ended for ended in accumulate(self._shares))]
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
        # An age just below the oldest may have the same logarithm, and then the index of a cell beyond the last.
        self._cells.append(self._cells[-1])


class DurationsByKind:
    """
    The distributions of the most recently used kinds.

    Args:
        prior_median: The median of the prior of each kind, in seconds.
    """

    def __init__(self, prior_median: float = PRIOR_MEDIAN) -> None:
        self._prior_median = prior_median
        self._kinds: OrderedDict[Kind, Durations] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kinds)

    def of_kind(self, kind: Kind) -> Durations:
        """Return the distribution of a kind; holders keep theirs when the kind is evicted."""
        durations = self._kinds.get(kind)
        if durations is None:
            durations = self._kinds[kind] = Durations(self._prior_median)
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(kind)
        return durations


def _cell(age: float) -> int:
    """Return the index of the cell of an age up to the oldest."""
    return min(int(log2(age) * _PER_OCTAVE + _CELL_OFFSET), len(_GRID) - 1) if age > _YOUNGEST else 0


def _normal(z: float) -> float:
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


# -- kinds of tasks ---------------------------------------------------------------------------------------------------

#: Fields of ``input`` that change a task's duration, by their names on the service's model pages.
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
    Return the kind of a request: tasks of one kind should take about equally long.

    Args:
        model: The model's name, or None if it is not known.

        input: The ``input`` object, decoded or as JSON; anything else is ignored.

    >>> kind_of("m", '{"prompt": "The cat turns its head", "resolution": "720p", "duration": 5}')
    ('m', 'duration=5', 'resolution=720p')
    >>> kind_of("m", None)
    ('m',)
    """
    decoded = unwrap_json(input)
    given = decoded if isinstance(decoded, Mapping) else {}
    settings = (f"{name}={given[name]}" for name in _KIND_FIELDS if isinstance(given.get(name), _KIND_FIELD_TYPES))
    return (model or "", *(setting for setting in settings if len(setting) <= _LONGEST_SETTING))


def ended_task(model: str, input: str, record: str) -> tuple[Kind, float] | None:  # noqa: A002 (the service's word)
    """Return the kind of a journaled task and its duration in seconds; None if its record does not report it."""
    fields = unwrap_json(record)
    if not isinstance(fields, Mapping):
        return None
    created_at, completed_at = fields.get("created_at"), fields.get("completed_at")
    if not isinstance(created_at, int | float) or not isinstance(completed_at, int | float):
        return None
    return kind_of(model, input), completed_at - created_at
