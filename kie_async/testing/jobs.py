"""The jobs API: what becomes of a create, or of a look at a task."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, MutableMapping
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from kie_async.testing import dialect
from kie_async.testing.answers import FakeResponse, envelope_response
from kie_async.testing.models import MODELS, FakeModel, choose_stages, other_model
from kie_async.testing.tasks import FakeTask, TaskFailure

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.account import FakeAccount
    from kie_async.testing.truth import LoggedCreate, LoggedPoll

__all__ = ["FAILURES", "UPLOADS", "Duration", "TaskApi", "image_of", "read_json"]

#: How long a task takes, in seconds: always the same, or the median and sigma of a lognormal distribution, or a
#: function of the model's name and the fake's randomness.
Duration: TypeAlias = float | tuple[float, float] | Callable[[str, Random], float]

#: What is said of tasks that fail, as recorded: failures that were transient, and cost nothing.
FAILURES: tuple[TaskFailure, ...] = (
    TaskFailure("500", "Internal Error, Please try again later."),
    TaskFailure("500", "The upstream API service timed out and no results were returned, please try again."),
    TaskFailure("500", "the server is busy"),
)

#: Where inputs name a picture, in the order in which they are looked at.
_IMAGE_FIELDS = (
    "image_url",
    "image_urls",
    "input_urls",
    "first_frame_url",
    "reference_image_urls",
    "reference_image",
    "image",
)

#: Where uploads are found.
UPLOADS = "/tempfile/"

_UNREADABLE = envelope_response(500)


class TaskApi:
    """
    The jobs API of one fake.

    Args:
        account: Who pays.

        tasks: Where tasks are kept, by id.

        seed: Seeds ids, durations and failures.

        duration: See ``Duration``.

        speed: Divides it.

        fail_rate: The share of tasks that fail, 0 to 1.

        failures: What is said of them, with equal chances.

        models: Further models that exist.

        prices: Credits by model, where they differ from the fake's own idea.

        strict: Whether values are refused that only older pages name.

        invisible_seconds: How long after its creation a task cannot be found.

        holds: Whether the fake holds the upload at a URL of its own; asked of no other.

    Attributes:
        maintenance: While true, creates are refused with 455.

        paused_models: Names of models that are refused with 505.
    """

    def __init__(
        self,
        *,
        account: FakeAccount,
        tasks: MutableMapping[str, FakeTask],
        seed: int,
        duration: Duration,
        speed: float,
        fail_rate: float,
        failures: Collection[tuple[str, str]],
        models: Collection[str],
        prices: Mapping[str, float],
        strict: bool,
        invisible_seconds: float,
        holds: Callable[[str], bool],
    ) -> None:
        self.maintenance = False
        self.paused_models: set[str] = set()
        self.fail_rate = fail_rate
        self._duration = duration
        self._speed = speed
        self._account = account
        self._tasks = tasks
        # One stream of randomness each, so that a fault in one place does not reshuffle the others.
        self._ids, self._durations, self._fates, self._forms = (
            Random(f"{seed} {name}") for name in ("ids", "durations", "fates", "forms")
        )
        self._failures = [TaskFailure(*failure) for failure in failures]
        self._models = {**MODELS, **{name: other_model(name) for name in models}}
        self._prices = dict(prices)
        self._strict = strict
        self._invisible_seconds = invisible_seconds
        self._holds = holds

    def create(
        self, post: LoggedCreate, *, key: str | None, origin: str, epoch: float, numeric: bool
    ) -> tuple[FakeResponse, FakeTask | None]:
        """
        Take a create, or refuse it.

        Args:
            post: What arrived.

            key: The API key if it is good, else None.

            origin: Scheme, host and port that the client used.

            epoch: The wall clock at the post's arrival, in seconds.

            numeric: Whether the new id is to be a number.

        Returns:
            The answer, and the task if there is one.
        """
        if key is None:
            return envelope_response(401), None
        if self.maintenance:
            return envelope_response(455), None
        if not self._account.creates.admit(post.at):
            return self._too_fast(), None
        if not isinstance(post.body, Mapping):
            return _UNREADABLE, None
        model = self._models.get(post.model or "")
        if model is None:
            return envelope_response(422), None
        if model.name in self.paused_models:
            return envelope_response(505), None
        given = post.body.get("input")
        given = given if isinstance(given, Mapping) else {}
        if (text := model.check(given, strict=self._strict)) is not None:
            return envelope_response(500, text), None
        price = self._prices.get(model.name, model.price(given))
        if self._account.credits(post.at) < price:
            return envelope_response(402), None
        task = self._start(model, given, post, price=price, origin=origin, epoch=epoch, numeric=numeric)
        shown = int(task.task_id) if numeric else task.task_id
        return FakeResponse(body=dialect.created(shown), code=200), task

    def record_info(self, poll: LoggedPoll, *, key: str | None) -> FakeResponse:
        """Say how a task is."""
        if key is None:
            return envelope_response(401)
        if not self._account.admit_query(key, poll.at):
            return self._too_fast()
        if not poll.task_id:
            return envelope_response(400, dialect.NO_TASK_ID)
        task = self._tasks.get(poll.task_id)
        if task is None or poll.at < task.created_at + self._invisible_seconds:
            return envelope_response(422, dialect.NO_RECORD)
        poll.state = task.state(poll.at)
        return envelope_response(200, data=dialect.record(task, poll.at))

    def credit(self, now: float, *, key: str | None) -> FakeResponse:
        """Say what the account has."""
        return envelope_response(401) if key is None else envelope_response(200, data=self._account.credits(now))

    def _too_fast(self) -> FakeResponse:
        return envelope_response(429, with_data=self._forms.random() < 0.5)  # noqa: PLR2004 (both forms were seen)

    def _start(
        self,
        model: FakeModel,
        given: Mapping[str, JSON],
        post: LoggedCreate,
        *,
        price: float,
        origin: str,
        epoch: float,
        numeric: bool,
    ) -> FakeTask:
        name = model.name
        number = self._ids.getrandbits(128)
        task = FakeTask(
            # Numbers stay below 2**53, which every JSON parser reads exactly.
            task_id=str(2**52 + number % 2**52) if numeric else f"{number:032x}",
            model=name,
            input={**model.defaults, **{field: value for field, value in given.items() if value is not None}},
            callback_url=post.callback_url,
            output=model.output,
            created_at=post.at,
            created_ms=round(epoch * 1000),
            ends_at=post.at + self._draw_duration(name) / self._speed,
            stages=choose_stages(name, self._fates),
            charged=price,
            failure=self._draw_failure(),
            origin=origin,
        )
        image = image_of(task)
        if image is not None and image.startswith(origin + UPLOADS) and not self._holds(image):
            task.failure = TaskFailure("422", dialect.UNAVAILABLE_MEDIA)
        self._tasks[task.task_id] = task
        self._account.charge(task)
        return task

    def _draw_duration(self, model: str) -> float:
        match self._duration:
            case (median, sigma):
                return self._durations.lognormvariate(math.log(median), sigma)
            case float() | int() as seconds:
                return seconds
            case function:
                return function(model, self._durations)

    def _draw_failure(self) -> TaskFailure | None:
        return self._fates.choice(self._failures) if self._fates.random() < self.fail_rate else None


def image_of(task: FakeTask) -> str | None:
    """The URL of the first picture in a task's input, or None."""
    for field in _IMAGE_FIELDS:
        value = task.input.get(field)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str):
            return first
    return None


def read_json(body: bytes) -> JSON:
    """*body* decoded, or None if it is no JSON."""
    try:
        decoded: JSON = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return decoded
