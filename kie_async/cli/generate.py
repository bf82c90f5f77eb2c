"""The command ``generate``: submit one request and save its result."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import anyio
import anyio.to_thread
import attrs
import typer

from kie_async import InvalidRequestError, JobState, MarketRequest, Problem, TaskTimeoutError
from kie_async._display import shown
from kie_async.cli import options
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.fake import new_seed
from kie_async.cli.model_fields import fields_of_model, nearest_model, parse_field_options
from kie_async.cli.output import show_progress
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_output, save_and_show, wait_and_show, write_result
from kie_async.requests.market import MAX_BYTES

if TYPE_CHECKING:
    from kie_async import JSON, KieClient, Request
    from kie_async.cli.resume_info import JobResumeInfo

__all__ = ["GenerateOptions", "generate", "run_generate"]

#: The divisor of the embedded fake's durations: a minute becomes a few seconds.
FAKE_SPEED = 12.0
#: The seconds after which a command without a task says what it waits for.
_SILENCE = 8.0


@attrs.frozen(kw_only=True)
class GenerateOptions:
    """
    The options of the command.

    Attributes:
        request: The request.

        name: The job's name in messages.

        target: A file or folder for the result; None for the current folder.

        timeout: The seconds to wait, from the start; None for an hour from the task's acceptance.

        wait: True to wait for the result.

        key: The user's idempotency key.

        callback_url: The URL for the service's callback.
    """

    request: Request
    name: str
    target: Path | None = None
    timeout: float | None = None
    wait: bool = True
    key: str | None = None
    callback_url: str | None = None


async def run_generate(session: Session, options: GenerateOptions) -> ExitCode:
    """
    Submit a request, wait for its result, and save it.

    Args:
        session: The command's session.

        options: The command's options.

    Raises:
        KieError: If there is no result, or not yet.
    """
    tracked, name, wait = session.track_job(), options.name, options.wait
    tracked.journaled = options.key is not None and session.journal is not None
    await anyio.to_thread.run_sync(check_output, options.target)
    generation, files = None, []
    async with session.client(callback_url=options.callback_url) as kie:
        with show_progress(session.output) as show:
            show(name, "submitting")
            tracked.on_task_id = lambda task_id: show(name, f"accepted as task {task_id}", done=not wait)
            silence = asyncio.get_running_loop().call_later(_SILENCE, _report_silence, session, tracked, kie)
            with ExitStack() as ended, anyio.move_on_after(options.timeout) as scope:
                ended.callback(silence.cancel)
                job = await kie.submit(options.request, key=options.key, wait=not wait)
                tracked.job_id = job.id
                if tracked.task_id is None and job.task_id is not None:
                    tracked.task_id = job.task_id
                    show(name, f"is task {job.task_id} already: nothing is paid again", done=not wait)
                if wait:
                    generation = await wait_and_show(job, show, name=name)
            if scope.cancelled_caught:
                msg = f"No result after {options.timeout:g} s."
                raise TaskTimeoutError(msg, job_id=tracked.job_id, task_id=tracked.task_id)
            if generation is not None:
                files = await save_and_show(generation, options.target, show, name=name)
    if generation is not None:
        write_result(session.output, generation, files)
    else:
        session.output.info(tracked.resume_hint())
        fields = {"job_id": tracked.job_id, "task_id": tracked.task_id, "state": JobState.SUBMITTED}
        session.output.result(str(tracked.task_id), fields)
    return ExitCode.DONE


def _report_silence(session: Session, tracked: JobResumeInfo, kie: KieClient) -> None:
    """Say what a command waits for that has shown nothing for some seconds."""
    if tracked.task_id is not None:
        return
    statistics = kie.statistics()
    if statistics.waiting_for_token or statistics.waiting_for_slot:
        what = "the rate limit allows no create request yet"
    elif statistics.sending:
        what = "the create request is not answered yet"
    else:
        what = "there is no connection or no answer yet, and it is tried again for two minutes"
    session.output.info(f"Waiting for {session.origin}: {what}. Ctrl-C ends the command.")


def generate(
    context: typer.Context,
    *,
    image: Annotated[
        str | None, typer.Option("--image", "-i", metavar="IMAGE", help="The first frame: a file, or a public URL.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The video's content.")] = None,
    output: options.OutputOption = None,
    resolution: Annotated[str | None, typer.Option(metavar="480p|720p", help="The height of the video.")] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 2147483647, for a reproducible result.")] = None,
    acceleration: Annotated[str | None, typer.Option(metavar="none|regular", help="Faster, at some cost.")] = None,
    enable_prompt_expansion: Annotated[
        bool | None, typer.Option(help="Allow a language model to add detail to the prompt.")
    ] = None,
    nsfw_checker: Annotated[bool | None, typer.Option(help="Filter unsafe content at the service.")] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option(metavar="RATIO", help="Documented on older API pages only; may be ignored or refused.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another model; `kie-async models NAME` shows its options.")
    ] = None,
    model_input: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="JSON",
            help="The input object of any model, in the API's names, unchecked; @FILE reads it.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="TEXT", help="An idempotency key: the same key is the same job, paid once.")
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The URL of a callback receiver that uses the same journal.")
    ] = None,
    timeout: options.TimeoutOption = None,
    wait: Annotated[bool, typer.Option(help="Wait for the result.")] = True,
    fake: Annotated[
        bool, typer.Option("--fake", help="Use a fake service on this machine, without a journal; it costs nothing.")
    ] = False,
    allow_networks: options.AllowNetworksOption = None,  # noqa: ARG001 (its callback does the work)
    proxy: options.ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: options.JournalOption = None,
    no_journal: options.NoJournalOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """
    Turn an image into a video: upload, submit, wait, save.

    With --model, the options are the fields of that model: `kie-async generate --model kling/v2-1-pro --image cat.png
    --prompt "It purrs" --duration 10`. Files are uploaded, and a list takes several values: --images a.png b.png.
    """
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

    others = [option for parameter in context.command.params for option in parameter.opts]

    async def command(session: Session) -> ExitCode:
        request: Request
        if model_input is None:
            request = _documented_model(model, context.args, given, others=others)
            name = (Path(image or "").stem or "video") if model is None else request.model
        else:
            # In a thread that Ctrl-C leaves behind: the file may be a pipe that nothing is written to.
            request = await anyio.to_thread.run_sync(
                partial(_other_model, model, model_input, given, context.args), abandon_on_cancel=True
            )
            name = request.model
        if no_journal or fake:
            _refuse_options_of_journal(key, callback_url)
        settings = GenerateOptions(
            request=request, name=name, target=output, timeout=timeout, wait=wait, key=key, callback_url=callback_url
        )
        if not fake:
            return await run_generate(session, settings)
        from kie_async.testing import FakeKie

        async with session.fake(FakeKie(speed=FAKE_SPEED, seed=new_seed())):
            return await run_generate(session, settings)

    run_with_journal(context, command, as_json=as_json, journal=journal, no_journal=no_journal or fake)


def _documented_model(
    model: str | None, arguments: Sequence[str], given: Mapping[str, object], *, others: Sequence[str]
) -> Request:
    """Return a request for a model of the catalogue, by default Wan 2.2 Turbo; its values are not checked yet."""
    if (fields := fields_of_model(model)) is None:
        raise _invalid_options([_no_class_problem(model or "")])
    values, problems = parse_field_options(fields, arguments, given, others=others)
    found = {problem.field for problem in problems}
    missing = [
        Problem(f"--{name.replace('_', '-')}", "nothing", fields.rules[name].rule.expected)
        for name in fields.required
        if name not in values
    ]
    problems = [*problems, *(problem for problem in missing if problem.field not in found)]
    if problems:
        raise _invalid_options(problems)
    # The values are passed on unchecked: check() validates them, as it does for every caller.
    return fields.build(values)


def _no_class_problem(model: str) -> Problem:
    if (near := nearest_model(model)) is not None:
        allowed = f"a model of `kie-async models` (did you mean {near!r}?), or any other one with --input"
        return Problem("--model", shown(model), allowed)
    allowed = "the model's input object as JSON, or @FILE; `kie-async models` lists the models that need none"
    return Problem("--input", "nothing", allowed)


def _other_model(
    model: str | None, model_input: str, given: Mapping[str, object], arguments: Sequence[str]
) -> MarketRequest:
    problems = [
        Problem(f"--{name.replace('_', '-')}", "a value", f"nothing together with --model: put {name} into --input")
        for name, value in given.items()
        if value is not None
    ]
    problems += [
        Problem(word, "an unknown option", "nothing together with --input")
        for word in arguments
        if word.startswith("-") or not arguments[0].startswith("-")
    ]
    decoded: object = None
    if model is None:
        problems.append(Problem("--model", "nothing", "a model's name, since there is an --input"))
    try:
        decoded = options.parse_json(_read_input(Path(model_input[1:])) if model_input.startswith("@") else model_input)
    except (OSError, ValueError) as error:
        problems.append(Problem("--input", f"an unreadable value ({error})", "a JSON object, or @FILE"))
    else:
        if not isinstance(decoded, dict):
            problems.append(Problem("--input", f"a {type(decoded).__name__}", 'a JSON object, such as {"prompt": "…"}'))
    if problems or model is None:
        raise _invalid_options(problems)
    return MarketRequest(model=model, input=cast("dict[str, JSON]", decoded))


def _read_input(path: Path) -> str:
    """Return the text of a file, which may also be a pipe, or without an end."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        msg = f"more than {MAX_BYTES} bytes"
        raise ValueError(msg)
    return data.decode("utf-8-sig")


def _refuse_options_of_journal(key: str | None, callback_url: str | None) -> None:
    allowed = {
        "--key": (key, "nothing without a journal, which stores it"),
        "--callback-url": (callback_url, "nothing without a journal, where the receiver finds the job"),
    }
    if problems := [Problem(name, "a value", why) for name, (value, why) in allowed.items() if value is not None]:
        raise _invalid_options(problems)


def _invalid_options(problems: Sequence[Problem]) -> InvalidRequestError:
    return InvalidRequestError("Invalid options.", problems=problems)
