"""The command ``fake``: the fake service as a process of its own, for clients in any language."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

import anyio
import typer

from kie_async.cli.exit_codes import Exit
from kie_async.cli.running import run
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async.testing import FakeKie

__all__ = ["carry_out", "curl_line", "fake", "new_seed", "until_signal"]

# The request of the API's page, field by field. Nothing of it is fetched: the fake draws an image for a URL that it
# does not know, and calls back to this machine only.
_EXAMPLE = {
    "model": "wan/2-2-a14b-image-to-video-turbo",
    "callBackUrl": "https://your-domain.com/api/callback",
    "input": {
        "image_url": "https://file.aiquickdraw.com/custom-page/akr/section-images/1755166042585gtf2mlrk.png",
        "prompt": "A man in a black coat looks into the camera while it comes closer, at night, before a lit window",
        "resolution": "720p",
        "aspect_ratio": "auto",
        "enable_prompt_expansion": False,
        "seed": 0,
        "acceleration": "none",
    },
}


def new_seed() -> int:
    """A seed of which nobody has met the ids yet: a journal on disk remembers them from one service to the next."""
    return int.from_bytes(os.urandom(8))


def curl_line(url: str, key: str) -> str:
    """
    A command that creates a task.

    Args:
        url: The service.

        key: An API key.
    """
    return shlex.join(
        [
            "curl",
            f"{url}/api/v1/jobs/createTask",
            "-H",
            f"Authorization: Bearer {key}",
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps(_EXAMPLE),
        ]
    )


async def until_signal() -> None:
    """Wait until somebody ends the process: Ctrl-C, or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def carry_out(session: Session, service: FakeKie, *, key: str, until: Callable[[], Awaitable[None]]) -> Exit:
    """
    Run a fake service.

    Args:
        session: The command's session.

        service: The service.

        key: A key that is good, for the example.

        until: Returns when it is to end.

    Raises:
        OSError: If the port cannot be had.
    """
    output = session.output
    async with service:
        output.result(service.url, {"url": service.url})
        output.say("A fake of Kie.ai: nothing is real, and nothing is paid. Ctrl-C ends it. Try:")
        output.say(f"  {curl_line(service.url, key)}")
        output.say(f"  KIE_BASE_URL={service.url} KIE_API_KEY={key} kie-async generate --image IMAGE --prompt TEXT")
        await until()
        truth = service.truth
        output.say(
            f"It saw {len(truth.create_requests)} creates, at most {truth.busiest_window(10.0)} in any 10 s, refused"
            f" {len(truth.rate_limited)} of them for coming too fast, and made {len(truth.tasks)} tasks for"
            f" {truth.spent(anyio.current_time()):g} play credits."
        )
    return Exit.DONE


def fake(
    context: typer.Context,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 0,
    host: Annotated[str, typer.Option(help="The address to listen on; by default this machine only.")] = "127.0.0.1",
    limit: Annotated[int, typer.Option(min=1, help="Creates that the account may make in each window.")] = 20,
    window: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Length of that window.")] = 10.0,
    limiter: Annotated[
        Literal["sliding", "fixed", "bucket"], typer.Option(help="How creates are counted.")
    ] = "sliding",
    speed: Annotated[float, typer.Option(min=0.001, help="Divides what the service takes for its work.")] = 1.0,
    duration: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Half of the tasks take longer, before --speed.")
    ] = 60.0,
    latency: Annotated[
        tuple[float, float], typer.Option(metavar="LO HI", help="Seconds over the network each way, from and to.")
    ] = (0.0, 0.0),
    fail_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of tasks that fail.")] = 0.0,
    balance: Annotated[float, typer.Option("--credits", min=0.0, help="What the account has.")] = 10_000.0,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A key that is good; by default every key is. Repeatable.")
    ] = None,
    webhook_key: Annotated[str | None, typer.Option(metavar="KEY", help="Signs callbacks.")] = None,
    callback_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Callbacks go to this machine, and to this host too. Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse values that only older pages name.")] = False,
    http_statuses: Annotated[
        bool, typer.Option("--http-statuses", help="Refuse with HTTP statuses, instead of 200 with a code.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="The same seed, the same ids, durations and failures; by default a new one.")
    ] = None,
) -> None:
    """Run a fake of the service until Ctrl-C; the first line that it prints is its URL."""

    async def command(session: Session) -> Exit:
        from kie_async.testing import FakeKie

        service = FakeKie(
            port=port,
            host=host,
            limit=limit,
            window=window,
            limiter=limiter,
            speed=speed,
            duration=(duration, 0.35),
            latency=latency,
            fail_rate=fail_rate,
            credits=balance,
            api_keys=api_key,
            webhook_key=webhook_key,
            callback_hosts=callback_host or (),
            strict=strict,
            http_statuses=http_statuses,
            seed=new_seed() if seed is None else seed,
        )
        return await carry_out(session, service, key=api_key[0] if api_key else "any-key-is-good", until=until_signal)

    run(context, command)
