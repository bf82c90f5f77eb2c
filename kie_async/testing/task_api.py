"""The jobs API of the fake: create requests and queries about tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import attrs

from kie_async.testing import responses
from kie_async.testing.input_checks import Refusal, check_input
from kie_async.testing.models import FakeModel, choose_stages
from kie_async.testing.responses import FakeResponse, json_response
from kie_async.testing.tasks import FakeTask, TaskFailure

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.account import FakeAccount
    from kie_async.testing.file_host import StoredFile
    from kie_async.testing.truth import LoggedCreate, LoggedPoll

__all__ = ["FAILURES", "UPLOADS", "Duration", "TaskApi", "image_url", "read_json"]

#: The duration of tasks in seconds: a constant, or the median and sigma of a lognormal distribution, or a function of
#: the model's name and the fake's random generator.
Duration: TypeAlias = float | tuple[float, float] | Callable[[str, Random], float]

#: The reasons of failures, as recorded: these failures were transient and cost nothing.
FAILURES: tuple[TaskFailure, ...] = (
    TaskFailure("500", "Internal Error, Please try again later."),
    TaskFailure("500", "The upstream API service timed out and no results were returned, please try again."),
    TaskFailure("500", "the server is busy"),
)

#: The input fields that contain image URLs, in the order of precedence.
_IMAGE_FIELDS = (
    "image_url",
    "image_urls",
    "input_urls",
    "first_frame_url",
    "first_frame_image_url",
    "first_frame",
    "reference_image_urls",
    "reference_image",
    "image",
    "image_input",
    "input_image",
    "last_frame_url",
    "last_frame_image_url",
)

#: The path of uploads.
UPLOADS = "/tempfile/"


@attrs.define(kw_only=True, eq=False, slots=False)
class TaskApi:
    """
    The jobs API of a fake.

    Attributes:
        account: The account.

        tasks: The tasks by id; new tasks are added to it.

        seed: Seeds ids, durations and failures.

        start: The number of fakes at the same port before this one; each has other ids, since the service gives none
            twice.

        duration: See ``Duration``.

        speed: Divides the durations.

        fail_rate: The share of tasks that fail, 0 to 1.

        failures: The reasons of failures, with equal probabilities.

        models: The models by name; more may be added to it.

        prices: Prices in credits by model, or functions of the input, that override those of the fake.

        strict: True to follow the newest documentation to the letter; see ``check_input()``.

        invisible_seconds: The time after its creation for which a task is not found.

        find_file: Returns the upload at a URL of the fake, or None.

        new_members: True if records have the members of September 2026, too.

        maintenance: True while create requests are refused with 455.

        paused_models: The names of the models that are refused with 505.
    """

    account: FakeAccount
    tasks: MutableMapping[str, FakeTask]
    seed: int
    start: int
    duration: Duration
    speed: float
    fail_rate: float
    failures: Sequence[TaskFailure]
    models: MutableMapping[str, FakeModel]
    prices: Mapping[str, float | Callable[[Mapping[str, JSON]], float]]
    strict: bool
    invisible_seconds: float
    find_file: Callable[[str], StoredFile | None]
    new_members: bool
    maintenance: bool = attrs.field(default=False, init=False)
    paused_models: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        # Each purpose has its own generator, so that a fault at one place does not change the others.
        self._ids, self._durations, self._fates, self._forms = (
            Random(f"{self.seed} {name}")
            for name in (f"ids {self.start}" if self.start else "ids", "durations", "fates", "forms")
        )

    def create(
        self, post: LoggedCreate, *, key: str | None, origin: str, epoch: float, numeric: bool
    ) -> tuple[FakeResponse, FakeTask | None]:
        """
        Accept a create request, or refuse it.

        Args:
            post: The request.

            key: The API key if it is valid, else None.

            origin: Scheme, host and port that the client used.

            epoch: The wall clock at the arrival of the request, in seconds.

            numeric: True if the new id is a number.

        Returns:
            The response, and the new task or None.
        """
        if key is None:
            return json_response(401), None
        if self.maintenance:
            return json_response(455), None
        if not self.account.creates.admit(post.at):
            return self._rate_limited(), None
        if not isinstance(post.body, Mapping):
            return json_response(500), None
        model = self.models.get(post.model or "")
        if model is None:
            return json_response(422), None
        if model.name in self.paused_models:
            return json_response(505), None
        given = post.body.get("input")
        given = given if isinstance(given, Mapping) else {}
        problem = self._check(model, post.body, given, origin)
        if isinstance(problem, Refusal):
            return json_response(problem.code, problem.text), None
        price = self.prices.get(model.name, model.price)
        if callable(price):
            price = price(given)
        if self.account.credits(post.at) < price:
            return json_response(402), None
        task = self._new_task(model, given, post, price=price, origin=origin, epoch=epoch, numeric=numeric)
        task.failure = problem or task.failure
        self.tasks[task.task_id] = task
        self.account.charge(task)
        return responses.created(int(task.task_id) if numeric else task.task_id), task

    def record_info(self, poll: LoggedPoll, *, key: str | None) -> FakeResponse:
        """Return the record of a task."""
        if key is None:
            return json_response(401)
        if not self.account.admit_query(key, poll.at):
            return self._rate_limited()
        if not poll.task_id:
            return json_response(400, responses.NO_TASK_ID)
        task = self.tasks.get(poll.task_id)
        if task is None or poll.at < task.created_at + self.invisible_seconds:
            return json_response(422, responses.NO_RECORD)
        poll.state = task.state(poll.at)
        return json_response(200, data=responses.record(task, poll.at))

    def credit(self, now: float, *, key: str | None) -> FakeResponse:
        """Return the credits of the account."""
        return json_response(401) if key is None else json_response(200, data=self.account.credits(now))

    def _check(
        self, model: FakeModel, body: Mapping[str, JSON], given: Mapping[str, JSON], origin: str
    ) -> Refusal | TaskFailure | None:
        """Return the refusal of a request, the failure that its input causes later, or None."""
        if model.facts is None:
            return None
        if self.strict and not all(body.get(name) for name in model.facts.get("also_required_in_body", ())):
            return Refusal(500, responses.REQUIRED)
        return check_input(
            model.facts,
            given,
            strict=self.strict,
            find_file=lambda url: self.find_file(url) if url.startswith(origin + UPLOADS) else None,
        )

    def _rate_limited(self) -> FakeResponse:
        return json_response(429, with_data=self._forms.random() < 0.5)  # noqa: PLR2004 (both forms were recorded)

    def _new_task(
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
        number = self._ids.getrandbits(128)
        task = FakeTask(
            # Numbers are below 2**53, which every JSON parser reads exactly.
            task_id=str(2**52 + number % 2**52) if numeric else f"{number:032x}",
            model=model.name,
            input={**model.defaults, **{field: value for field, value in given.items() if value is not None}},
            callback_url=post.callback_url,
            output=model.output,
            created_at=post.at,
            created_ms=round(epoch * 1000),
            ends_at=post.at + self._draw_duration(model.name) / self.speed,
            stages=choose_stages(model.name, self._fates),
            charged=price,
            failure=self._fates.choice(self.failures) if self._fates.random() < self.fail_rate else None,
            origin=origin,
            new_members=self.new_members,
        )
        used = (text for text in _texts(task.input) if text.startswith(origin + UPLOADS))
        if not all(map(self.find_file, used)):
            task.failure = TaskFailure("422", responses.UNAVAILABLE_MEDIA)
        return task

    def _draw_duration(self, model: str) -> float:
        match self.duration:
            case (median, sigma):
                return self._durations.lognormvariate(math.log(median), sigma)
            case float() | int() as seconds:
                return seconds
            case function:
                return function(model, self._durations)


def image_url(task: FakeTask) -> str | None:
    """Return the URL of the first picture in a task's input, or None."""
    for field in _IMAGE_FIELDS:
        value = task.input.get(field)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str):
            return first
    return None


def _texts(value: JSON) -> Iterator[str]:
    """Yield all strings of a task's input."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def read_json(body: bytes) -> JSON:
    """Decode *body*; return None if it is not JSON."""
    try:
        decoded: JSON = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return decoded
