"""The command ``generate``: one job from a request to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio
import anyio.to_thread
import attrs
import typer

from kie_async import InvalidRequestError, MarketRequest, Problem, TaskTimeoutError, Wan22TurboImageToVideo
from kie_async.cli.exit_codes import Exit
from kie_async.cli.fake import new_seed
from kie_async.cli.journals import choose
from kie_async.cli.options import JournalOption, JsonOption, NoJournalOption, OutputOption, TimeoutOption
from kie_async.cli.progress import progress
from kie_async.cli.running import run
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_target, report, save_and_show, wait_and_show

if TYPE_CHECKING:
    from kie_async import JSON, Request

__all__ = ["Wish", "carry_out", "generate"]

#: How much faster than the real service the embedded fake is: a minute becomes some seconds.
FAKE_SPEED = 12.0


@attrs.frozen(kw_only=True)
class Wish:
    """
    What is to be generated, and what becomes of it.

    Attributes:
        request: The request.

        name: What the job is called in messages.

        target: Where the result goes: a file, a folder, or None for the current folder.

        timeout: How long to wait, in seconds, from the beginning; None for an hour from the task's acceptance.

        wait: Whether to wait at all.

        key: The user's idempotency key.

        callback_url: Where the service is to report its end.
    """

    request: Request
    name: str
    target: Path | None = None
    timeout: float | None = None
    wait: bool = True
    key: str | None = None
    callback_url: str | None = None


async def carry_out(session: Session, wish: Wish) -> Exit:
    """
    Submit a request, wait for its result, save it.

    Args:
        session: The command's session.

        wish: What is wished.

    Raises:
        KieError: If there is no result, or not yet.
    """
    trail = session.begin_trail()
    trail.kept = wish.key is not None and session.journal is not None
    await anyio.to_thread.run_sync(check_target, wish.target)
    generation, files = None, []
    async with session.client(callback_url=wish.callback_url) as kie:
        with progress(session.output) as show:
            show(wish.name, "submitting")
            trail.accepted = lambda task_id: show(wish.name, f"accepted as task {task_id}", done=not wish.wait)
            with anyio.move_on_after(wish.timeout) as scope:
                job = await kie.submit(wish.request, key=wish.key, wait=not wish.wait)
                trail.job_id = job.id
                if trail.task_id is None and job.task_id is not None:
                    trail.task_id = job.task_id
                    show(wish.name, f"is task {job.task_id} already: nothing is paid again", done=not wish.wait)
                if wish.wait:
                    generation = await wait_and_show(job, show, name=wish.name, timeout=None)
            if scope.cancelled_caught:
                msg = f"There is no result after {wish.timeout:g} s."
                raise TaskTimeoutError(msg, job_id=trail.job_id, task_id=trail.task_id)
            if generation is not None:
                files = await save_and_show(generation, wish.target, show, name=wish.name)
    if generation is not None:
        report(session.output, generation, files)
    else:
        session.output.say(trail.outlook())
        fields = {"job_id": trail.job_id, "task_id": trail.task_id, "state": "submitted"}
        session.output.result(str(trail.task_id), fields)
    return Exit.DONE


def generate(
    context: typer.Context,
    *,
    image: Annotated[
        str | None, typer.Option("--image", "-i", metavar="IMAGE", help="The first frame: a file, or a public URL.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What happens in it.")] = None,
    output: OutputOption = None,
    resolution: Annotated[str | None, typer.Option(metavar="480p|720p", help="The height of the video.")] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 2147483647, for a result that can be had again.")] = None,
    acceleration: Annotated[str | None, typer.Option(metavar="none|regular", help="Faster, at some cost.")] = None,
    enable_prompt_expansion: Annotated[
        bool | None,
        typer.Option(
            "--enable-prompt-expansion/--no-enable-prompt-expansion",
            help="Whether a language model may add detail to the prompt.",
        ),
    ] = None,
    nsfw_checker: Annotated[
        bool | None,
        typer.Option("--nsfw-checker/--no-nsfw-checker", help="Whether the service filters what it finds unsafe."),
    ] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option(metavar="RATIO", help="Known to older pages only; may be ignored or refused.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Any other model, with --input instead of the options above.")
    ] = None,
    model_input: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON", help="Its input object, in the service's names; @FILE reads it."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A name of yours for the job: given again, it is the same job, paid once."),
    ] = None,
    callback_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the service reports the end: a receiver that uses the same journal."),
    ] = None,
    timeout: TimeoutOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait for the result.")] = True,
    fake: Annotated[
        bool, typer.Option("--fake", help="Use a fake service on this machine, without a journal; it costs nothing.")
    ] = False,
    journal: JournalOption = None,
    no_journal: NoJournalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn an image into a video: upload, submit, wait, save."""
    given: Mapping[str, object] = {
        "image": image,
        "prompt": prompt,
        "resolution": resolution,
        "seed": seed,
        "acceleration": acceleration,
        "enable_prompt_expansion": enable_prompt_expansion,
        "nsfw_checker": nsfw_checker,
        "aspect_ratio": aspect_ratio,
    }

    async def command(session: Session) -> Exit:
        request: Request
        if model is None and model_input is None:
            request, name = _image_to_video(given), Path(image or "").stem or "video"
        else:
            request = _other_model(model, model_input, given)
            name = request.model
        if no_journal or fake:
            _need_journal(key, callback_url)
        wish = Wish(
            request=request, name=name, target=output, timeout=timeout, wait=wait, key=key, callback_url=callback_url
        )
        if not fake:
            return await carry_out(session, wish)
        from kie_async.testing import FakeKie

        async with session.fake(FakeKie(speed=FAKE_SPEED, seed=new_seed())):
            return await carry_out(session, wish)

    run(context, command, as_json=as_json, journal=None if no_journal or fake else choose(journal))


def _image_to_video(given: Mapping[str, object]) -> Wan22TurboImageToVideo:
    missing = [
        Problem(f"--{name}", "nothing", allowed)
        for name, allowed in (("image", "a file or a public URL"), ("prompt", "a text of 1 to 5000 characters"))
        if given[name] is None
    ]
    if missing:
        raise _wrong(missing)
    # The options are passed on as they were typed: check() judges them, as it judges everybody's.
    return Wan22TurboImageToVideo(**cast("dict[str, Any]", given))


def _other_model(model: str | None, model_input: str | None, given: Mapping[str, object]) -> MarketRequest:
    problems = [
        Problem(f"--{name.replace('_', '-')}", "a value", f"nothing beside --model: write {name} into --input")
        for name, value in given.items()
        if value is not None
    ]
    decoded: object = None
    if model is None:
        problems.append(Problem("--model", "nothing", "a model's name, since there is an --input"))
    if model_input is None:
        problems.append(Problem("--input", "nothing", "the model's input object as JSON, or @FILE"))
    else:
        try:
            text = Path(model_input[1:]).read_text("utf-8") if model_input.startswith("@") else model_input
            decoded = json.loads(text)
        except (OSError, ValueError) as error:
            problems.append(Problem("--input", f"what cannot be read ({error})", "a JSON object, or @FILE"))
        else:
            if not isinstance(decoded, dict):
                problems.append(
                    Problem("--input", f"a {type(decoded).__name__}", 'a JSON object, such as {"prompt": "…"}')
                )
    if problems or model is None:
        raise _wrong(problems)
    return MarketRequest(model=model, input=cast("dict[str, JSON]", decoded))


def _need_journal(key: str | None, callback_url: str | None) -> None:
    allowed = {
        "--key": (key, "nothing without a journal, which remembers it"),
        "--callback-url": (callback_url, "nothing without a journal, by which the receiver knows the job"),
    }
    if problems := [Problem(name, "a value", why) for name, (value, why) in allowed.items() if value is not None]:
        raise _wrong(problems)


def _wrong(problems: Sequence[Problem]) -> InvalidRequestError:
    return InvalidRequestError("The options do not make a request.", problems=problems)
