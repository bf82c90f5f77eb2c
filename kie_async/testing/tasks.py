"""A task, as the service has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import attrs

from kie_async.testing import dialect

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["FakeTask", "Output", "Stages", "TaskFailure"]

#: What a model makes.
Output: TypeAlias = Literal["video", "image"]

#: States before the end, each with the share of the task's time at which it begins.
Stages: TypeAlias = tuple[tuple[float, str], ...]


class TaskFailure(NamedTuple):
    """
    Why a task fails.

    Attributes:
        code: The service's ``failCode``, a number as text.

        message: Its ``failMsg``.
    """

    code: str
    message: str


@attrs.define(kw_only=True, eq=False)
class FakeTask:
    """
    One task; the fake's truth hands these out, and ``FakeKie.finish()`` and ``fail()`` change them.

    Instants are the loop's, in seconds; those whose names end in ``_ms`` are the wall clock's, in milliseconds since
    the epoch.

    Attributes:
        task_id: The service's id.

        model: The model's name.

        input: The ``input`` of the create, with the defaults that the service adds.

        callback_url: Where the end is reported to, or None.

        output: What the task makes.

        created_at: When its create arrived.

        created_ms: The same by the wall clock.

        ends_at: When it ends; infinity for a task that hangs.

        stages: The states before the end.

        charged: What was taken for it, in credits.

        failure: Why it fails, or None if it succeeds.

        origin: Scheme, host and port under which the client reached the service; result URLs begin with it.
    """

    task_id: str
    model: str
    input: Mapping[str, JSON]
    callback_url: str | None
    output: Output
    created_at: float
    created_ms: int
    ends_at: float
    stages: Stages
    charged: float
    failure: TaskFailure | None
    origin: str
    _param: str | None = attrs.field(default=None, init=False, repr=False)

    def ended(self, now: float) -> bool:
        """Whether the task is over at *now*."""
        return now >= self.ends_at

    def state(self, now: float) -> str:
        """The task's state at *now*, in the service's words."""
        if self.ended(now):
            return "success" if self.failure is None else "fail"
        seconds = self.ends_at - self.created_at
        share = 0.0 if math.isinf(seconds) else (now - self.created_at) / seconds
        return [state for begins, state in self.stages if begins <= share][-1]

    def credits(self, now: float) -> float:
        """What the task costs, as far as is known at *now*: a failed one costs nothing."""
        return 0.0 if self.failure is not None and self.ended(now) else self.charged

    @property
    def ended_ms(self) -> int:
        """When the task ends by the wall clock."""
        return self.created_ms + round((self.ends_at - self.created_at) * 1000)

    @property
    def param(self) -> str:
        """The create as the service echoes it: JSON in which ``input`` is JSON once more."""
        if self._param is None:
            self._param = dialect.param(self.model, self.input, self.callback_url)
        return self._param

    @property
    def result_path(self) -> str:
        """The path of its result file."""
        return f"/results/{self.task_id}/{'video.mp4' if self.output == 'video' else 'image.png'}"

    @property
    def result_url(self) -> str:
        """Where its result is."""
        return self.origin + self.result_path
