"""A task of the fake service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import attrs

from kie_async.testing import responses

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["FakeTask", "Output", "Stages", "TaskFailure"]

#: The media that a model makes.
Output: TypeAlias = Literal["video", "image", "audio", "music", "object"]

#: The states before the end, each with the share of the task's duration at which it begins.
Stages: TypeAlias = tuple[tuple[float, str], ...]


class TaskFailure(NamedTuple):
    """
    The reason of a task's failure.

    Attributes:
        code: The service's ``failCode``, a number as a string.

        message: Its ``failMsg``.
    """

    code: str
    message: str


@attrs.define(kw_only=True, eq=False)
class FakeTask:
    """
    A task of the fake; ``FakeKie.finish()`` and ``fail()`` change it.

    Instants are the loop's, in seconds. Instants whose names end in ``_ms`` are those of the wall clock, in
    milliseconds since the epoch.

    Attributes:
        task_id: The service's id.

        model: The model's name.

        input: The ``input`` of the create request, with the defaults that the service adds.

        callback_url: The URL that receives the callback, or None.

        output: The result that the task makes.

        created_at: The arrival of the create request.

        created_ms: The same instant by the wall clock.

        ends_at: The end; infinity for a task that hangs.

        stages: The states before the end.

        charged: Its price in credits.

        failure: The reason of its failure, or None if it succeeds.

        origin: Scheme, host and port under which the client reached the service; result URLs begin with it.

        new_members: True if its record has the members of September 2026, too.
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
    new_members: bool = True

    def ended(self, now: float) -> bool:
        """Return True if the task has ended at *now*."""
        return now >= self.ends_at

    def state(self, now: float) -> str:
        """Return the service's name of the task's state at *now*."""
        if self.ended(now):
            return "success" if self.failure is None else "fail"
        seconds = self.ends_at - self.created_at
        share = 0.0 if math.isinf(seconds) else (now - self.created_at) / seconds
        return [state for begins, state in self.stages if begins <= share][-1]

    def credits(self, now: float) -> float:
        """Return the credits that the task has cost by *now*: 0 for a task that has failed."""
        return 0.0 if self.failure is not None and self.ended(now) else self.charged

    @property
    def ended_ms(self) -> int:
        """The end by the wall clock."""
        return self.created_ms + round((self.ends_at - self.created_at) * 1000)

    @cached_property
    def param(self) -> str:
        """The create request as the service echoes it: JSON in which ``input`` is encoded as JSON a second time."""
        return responses.encode_param(self.model, self.input, self.callback_url)

    @property
    def result_path(self) -> str:
        """The path of the result file."""
        name = {"video": "video.mp4", "image": "image.png"}.get(self.output, "audio.wav")
        return f"/results/{self.task_id}/{name}"

    @property
    def result_url(self) -> str:
        """The URL of the result file."""
        return self.origin + self.result_path

    @property
    def result(self) -> dict[str, JSON]:
        """The result, as ``resultJson`` has it."""
        match self.output:
            case "music":
                return {"data": [{"id": self.task_id, "audio_url": self.result_url}]}
            case "object":
                return {"resultObject": {"taskId": self.task_id}}
            case _:
                return {"resultUrls": [self.result_url]}
