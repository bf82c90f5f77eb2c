"""The command ``fake``: the fake service as a process, for clients in any language."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

import anyio
import typer

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.running import run_command
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async.testing import FakeKie

__all__ = ["curl_line", "fake", "new_seed", "run_fake", "wait_for_signal"]

# The example request of Kie's API page. The fake fetches none of its URLs: it draws an image for an unknown URL, and
# sends callbacks to this machine only.
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
    """Return a random seed: a journal on disk may have the ids of an earlier fake, so ids must not repeat."""
    return int.from_bytes(os.urandom(8))


def curl_line(url: str, key: str) -> str:
    """
    Return a shell command that creates a task.

    Args:
        url: The service's URL.

        key: An API key.
    """
    headers = ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    return shlex.join(["curl", f"{url}/api/v1/jobs/createTask", *headers, "-d", json.dumps(_EXAMPLE)])


async def wait_for_signal() -> None:
    """Wait for SIGINT (Ctrl-C) or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def run_fake(session: Session, service: FakeKie, *, key: str, until: Callable[[], Awaitable[None]]) -> ExitCode:
    """
    Run a fake service.

    Args:
        session: The command's session.

        service: The service.

        key: A valid key, for the examples.

        until: A coroutine function that returns when the command shall end.

    Raises:
        OSError: If the port is not available.
    """
    output = session.output
    async with service:
        output.result(service.url, {"url": service.url})
        output.info("A fake of Kie.ai: nothing is real, and nothing is paid. Ctrl-C ends it. Try:")
        output.info(f"  {curl_line(service.url, key)}")
        output.info(f"  KIE_BASE_URL={service.url} KIE_API_KEY={key} kie-async generate --image IMAGE --prompt TEXT")
        await until()
        truth = service.truth
        output.info(
            f"It received {len(truth.create_requests)} create requests, at most {truth.busiest_window(10.0)} in any"
            f" 10 s, refused {len(truth.rate_limited)} of them by its rate limit, and made {len(truth.tasks)} tasks for"
            f" {truth.spent(anyio.current_time()):g} play credits."
        )
    return ExitCode.DONE


def fake(
    context: typer.Context,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free port.")] = 0,
    host: Annotated[str, typer.Option(help="The address to listen on; default: this machine only.")] = "127.0.0.1",
    limit: Annotated[int, typer.Option(min=1, help="Create requests allowed in each window.")] = 20,
    window: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="The length of the window.")] = 10.0,
    limiter: Annotated[
        Literal["sliding", "fixed", "bucket"], typer.Option(help="The algorithm that counts create requests.")
    ] = "sliding",
    speed: Annotated[float, typer.Option(min=0.001, help="A divisor for all durations of the service.")] = 1.0,
    duration: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="The median duration of a task, before --speed.")
    ] = 60.0,
    latency: Annotated[
        tuple[float, float], typer.Option(metavar="LO HI", help="The range of the latency each way, in seconds.")
    ] = (0.0, 0.0),
    fail_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of tasks that fail.")] = 0.0,
    balance: Annotated[float, typer.Option("--credits", min=0.0, help="The account's balance.")] = 10_000.0,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A valid key; default: every key. Repeatable.")
    ] = None,
    webhook_key: Annotated[str | None, typer.Option(metavar="KEY", help="The key that signs callbacks.")] = None,
    callback_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A host that receives callbacks, besides this machine. Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse values that only older API pages document.")] = False,
    http_statuses: Annotated[
        bool, typer.Option("--http-statuses", help="Refuse with HTTP statuses instead of 200 with a code.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The seed of ids, durations and failures; default: random.")] = None,
) -> None:
    """Run a fake of the service until Ctrl-C; the first line of its output is its URL."""

    async def command(session: Session) -> ExitCode:
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
        return await run_fake(session, service, key=api_key[0] if api_key else "any-key-is-good", until=wait_for_signal)

    run_command(context, command)
