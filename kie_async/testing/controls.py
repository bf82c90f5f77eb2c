"""What a test may change about the fake while it runs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from kie_async.testing.callbacks import CallbackSender, sign
from kie_async.testing.jobs import FAILURES, TaskApi
from kie_async.testing.tasks import TaskFailure

if TYPE_CHECKING:
    from kie_async.testing.account import FakeAccount
    from kie_async.testing.faults import Fault
    from kie_async.testing.truth import Truth

__all__ = ["Controls", "now", "wall"]


def now() -> float:
    """The clock of the loop that runs, in seconds."""
    return asyncio.get_running_loop().time()


def wall(at: float) -> float:
    """The wall clock at an instant of the loop's, in seconds since the epoch; a loop may bring one of its own."""
    loop = asyncio.get_running_loop()
    return float(getattr(loop, "wall_time", time.time)()) + at - loop.time()


class Controls:
    """
    The controls of one fake, which it inherits.

    Args:
        truth: Where its tasks are.

        account: The account.

        jobs: The jobs API.

        courier: Who reports ends.

        faults: What goes wrong.

        webhook_key: Signs callbacks; None for none.
    """

    def __init__(
        self,
        *,
        truth: Truth,
        account: FakeAccount,
        jobs: TaskApi,
        courier: CallbackSender,
        faults: list[Fault],
        webhook_key: str | None,
    ) -> None:
        self.truth = truth
        self.faults = faults
        self._account = account
        self._jobs = jobs
        self._courier = courier
        self._webhook_key = webhook_key

    def inject(self, *faults: Fault) -> None:
        """Add *faults* to those that there are."""
        self.faults.extend(faults)

    @property
    def credits(self) -> float:
        """What the account has; set it to top up, or to 0 to have creates refused with 402."""
        return self._account.credits(now())

    @credits.setter
    def credits(self, amount: float) -> None:
        self._account.set_credits(amount, now())

    @property
    def limit(self) -> int:
        """How many creates the account may make in each window."""
        return self._account.creates.limit

    @limit.setter
    def limit(self, creates: int) -> None:
        self._account.creates.limit = creates

    @property
    def maintenance(self) -> bool:
        """Whether creates are refused with 455."""
        return self._jobs.maintenance

    @maintenance.setter
    def maintenance(self, under_way: bool) -> None:
        self._jobs.maintenance = under_way

    @property
    def fail_rate(self) -> float:
        """The share of new tasks that will fail."""
        return self._jobs.fail_rate

    @fail_rate.setter
    def fail_rate(self, share: float) -> None:
        self._jobs.fail_rate = share

    @property
    def paused_models(self) -> set[str]:
        """Names of models that are refused with 505."""
        return self._jobs.paused_models

    def revoke_key(self, key: str) -> None:
        """Refuse *key* with 401 from now on."""
        self._account.revoke_key(key)

    def finish(self, task_id: str) -> None:
        """Let a task succeed now."""
        self._end_task(task_id, None)

    def fail(self, task_id: str, code: str = FAILURES[0].code, message: str = FAILURES[0].message) -> None:
        """Let a task fail now."""
        self._end_task(task_id, TaskFailure(code, message))

    def sign(self, task_id: str) -> dict[str, str]:
        """The headers that would sign a callback about *task_id* now; none if there is no key."""
        return {} if self._webhook_key is None else sign(self._webhook_key, task_id, int(wall(now())))

    def _end_task(self, task_id: str, failure: TaskFailure | None) -> None:
        task = self.truth.tasks[task_id]
        if task.ended(now()):
            msg = f"task {task_id} has ended already"
            raise ValueError(msg)
        task.ends_at, task.failure = now(), failure
        self._account.expect_refund(task)
        self._courier.ended(task)
