"""Strangers know a callback URL and post to it for as long as the task runs; the genuine callback is not delayed."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import SubmitInDoubtError
from tests import profile
from tests.client.backend import callback_body, client_with_callbacks
from tests.helpers import assert_settled, make_request
from tests.hostile.strangers import ATTACKS, IN_A_MINUTE, LIVES, LOST, UNTIL_LOST, besiege, post_rounds

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = [(attack, life) for life in LIVES for attack in ATTACKS]


@pytest.mark.parametrize(("attack", "life"), profile.sample(PAIRS, check=0.07))
async def test_strangers_neither_delay_a_result_nor_cause_many_polls(attack: str, life: str, tmp_path: Path) -> None:
    """No post is refused, and one warning is logged for each job and state."""
    findings = await besiege(attack, life, tmp_path)

    assert [] == findings.problems
    if life == UNTIL_LOST and "visible" in attack:
        assert findings.in_an_hour >= 1


async def test_its_own_task_id_causes_few_polls_too() -> None:
    """The task runs for half an hour; the genuine callback shows the request, which the URL does not tell."""
    async with client_with_callbacks(duration=1800.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        async with anyio.create_task_group() as group:
            group.start_soon(post_rounds, [setup.kie], [str(task.callback_url)], cycle([[task.task_id]]), 1.0, [])
            await job
            assert anyio.current_time() - task.ends_at <= 0.1
            group.cancel_scope.cancel()

        assert setup.kie.statistics().confirmations <= IN_A_MINUTE + 1800 / 90 + 1800 / 450
        await anyio.sleep(2.0)
        await assert_settled(setup.kie)


async def test_strangers_do_not_displace_what_the_answer_has_named() -> None:
    """A task that the create's own answer has named waits in the row, and may be the paid one."""
    async with client_with_callbacks(duration=600.0, faults=[LOST]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        (task,) = setup.truth.created
        await setup.journal.update_fields(raised.value.job.id, at=1.0, callback_task_ids=("a-named-task",))
        for number in range(30):
            await setup.kie.callbacks.handle(str(task.callback_url), {}, callback_body(f"{number:032x}"))

        named = (await setup.row()).callback_task_ids
        assert ("a-named-task", *(f"{number:032x}" for number in range(22, 30))) == named
        await raised.value.job
