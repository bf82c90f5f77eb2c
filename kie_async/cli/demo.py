"""The command ``demo``: images to videos with a fake service, to see what it is like before it costs anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import as_file, files
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import anyio
import anyio.to_thread
import attrs
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from kie_async import ConfigurationError, Generation, InvalidRequestError, KieError, Wan22TurboImageToVideo
from kie_async.cli.exit_codes import Exit
from kie_async.cli.options import JsonOption
from kie_async.cli.output import Output
from kie_async.cli.progress import Show, progress
from kie_async.cli.running import run
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_target, fields_of, wait_and_show

if TYPE_CHECKING:
    from kie_async import KieClient
    from kie_async.testing import FakeKie

__all__ = ["PROMPTS", "Plan", "carry_out", "demo"]

#: The bundled images, and what is to happen in them.
PROMPTS = {
    "balloons": "The balloons rise slowly over the hills, and the clouds drift",
    "cat": "The cat turns its head and looks at the setting sun",
    "city": "Windows light up and go out while the moon climbs",
    "harbour": "The boat glides through the light of the evening",
    "lighthouse": "The beam sweeps over the waves, and the camera comes closer",
    "mountains": "The mist moves through the valleys as the sun rises",
}
_OTHER_PROMPT = "The scene comes to life, and the camera moves slowly through it"

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_KB = 1_000

#: A world in which no task is an outlier, and most of them show all of their states.
_SEED = 7


@attrs.frozen
class Shot:
    """
    One video to be made.

    Attributes:
        name: What it is called; its file too.

        image: The image.

        request: The request.
    """

    name: str
    image: Path
    request: Wan22TurboImageToVideo


@attrs.frozen
class Video:
    """
    One video that was made.

    Attributes:
        generation: The result.

        file: Where it is.

        size: How large, in bytes.

        seconds: How long it took, from the submission to the file.
    """

    generation: Generation
    file: Path
    size: int
    seconds: float


@attrs.frozen(kw_only=True)
class Plan:
    """
    What the demo is to do.

    Attributes:
        images: Images and folders of images; none for the bundled ones.

        out: The folder for the videos.

        count: How many videos; the images are taken again when there are fewer.

        resolution: Their height.
    """

    images: Sequence[Path] = ()
    out: Path = Path("kie-demo")
    count: int | None = None
    resolution: str = "720p"


async def carry_out(session: Session, plan: Plan, service: FakeKie) -> Exit:
    """
    Make the videos.

    Args:
        session: The command's session.

        plan: What is to be done.

        service: The service, which was not started yet.

    Raises:
        ConfigurationError: If there are no images, or no place for the videos.

        InvalidRequestError: If something is not an image.
    """
    if not await anyio.to_thread.run_sync(_has_pyav):
        session.output.warn(
            "PyAV is not installed, so that all videos are one bundled clip of 480 pixels. For videos of the images:"
            " pip install 'kie-async[fake]'"
        )
    with as_file(files("kie_async.cli") / "data") as bundled:
        shots = await anyio.to_thread.run_sync(_prepare, plan, bundled)
        async with session.fake(service), session.client() as kie:
            began_at = anyio.current_time()
            outcomes: dict[str, Video | KieError] = {}
            with progress(session.output) as show:
                async with anyio.create_task_group() as group:
                    for shot in shots:
                        group.start_soon(_make, kie, shot, plan.out, show, outcomes)
            seconds = anyio.current_time() - began_at
            for shot in shots:
                _report(session.output, shot, outcomes[shot.name])
            videos = [outcome for shot in shots if isinstance(outcome := outcomes[shot.name], Video)]
            session.output.table(_table(videos, out=plan.out, wished=len(shots), seconds=seconds))
            session.output.say(_account_for(service))
    return Exit.DONE if len(videos) == len(shots) else Exit.REFUSED


async def _make(kie: KieClient, shot: Shot, out: Path, show: Show, outcomes: dict[str, Video | KieError]) -> None:
    """What a program does for one video; an error is kept, so that the other videos are made."""
    began_at = anyio.current_time()
    show(shot.name, "submitting")
    try:
        job = await kie.submit(shot.request)
        show(shot.name, f"accepted as task {job.task_id}")
        generation = await wait_and_show(job, show, name=shot.name, timeout=None)
        [file] = await generation.save(out / f"{shot.name}.mp4")
    except KieError as error:
        outcomes[shot.name] = error
        show(shot.name, "failed", done=True)
        return
    size = (await anyio.Path(file).stat()).st_size
    outcomes[shot.name] = Video(generation, file, size, anyio.current_time() - began_at)
    show(shot.name, f"saved as {file}", done=True)


def _has_pyav() -> bool:
    try:
        import_module("av")
    except ImportError:
        return False
    return True


def _prepare(plan: Plan, bundled: Path) -> list[Shot]:
    """
    The videos that a plan asks for, each with a name of its own; reads files.
    """
    images = [image for given in plan.images or [bundled] for image in _images(given)]
    seen: Counter[str] = Counter()
    shots, problems = [], []
    for image in islice(cycle(images), plan.count if plan.count is not None else len(images)):
        seen[image.stem] += 1
        request = Wan22TurboImageToVideo(
            image=str(image.absolute()),
            prompt=(not plan.images and PROMPTS.get(image.stem)) or _OTHER_PROMPT,
            resolution=cast("Literal['480p', '720p']", plan.resolution),  # problems() judges it
        )
        name = image.stem if seen[image.stem] == 1 else f"{image.stem}-{seen[image.stem]}"
        check_target(plan.out / f"{name}.mp4")
        shots.append(Shot(name, image, request))
        problems += request.problems()
    if problems:
        msg = "The images cannot be sent."
        raise InvalidRequestError(msg, problems=list(dict.fromkeys(problems)))
    return shots


def _images(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    images = sorted(path for path in given.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not images:
        msg = f"There is no image in {given}: it has no file that ends in {', '.join(_SUFFIXES)}. Name another folder."
        raise ConfigurationError(msg)
    return images


def _report(output: Output, shot: Shot, outcome: Video | KieError) -> None:
    if isinstance(outcome, KieError):
        output.error(f"{shot.name}: {outcome}")
    elif output.as_json:
        known = fields_of(outcome.generation, [outcome.file])
        output.result("", {**known, "image": str(shot.image), "bytes": outcome.size})


def _table(videos: Sequence[Video], *, out: Path, wished: int, seconds: float) -> Table:
    # Without lines between the columns it fits into 80 characters.
    table = Table("file", title=f"Saved in {out}", box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    spent = sum(video.generation.credits or 0.0 for video in videos)
    table.columns[0].footer = f"{len(videos)} of {wished}"
    table.add_column("size", f"{sum(video.size for video in videos) / _KB:,.0f} kB", justify="right")
    table.add_column("task id", overflow="fold")
    table.add_column("credits", f"{spent:g}", justify="right")
    table.add_column("took", f"{seconds:.1f} s", justify="right")
    for video in videos:
        table.add_row(
            video.file.name,
            f"{video.size / _KB:,.0f} kB",
            video.generation.task_id,
            f"{video.generation.credits or 0.0:g}",
            f"{video.seconds:.1f} s",
        )
    return table


def _account_for(fake: FakeKie) -> str:
    truth = fake.truth
    return (
        f"The service saw {len(truth.create_requests)} creates, at most {truth.busiest_window(10.0)} in any 10 s (its"
        f" limit is {fake.limit}), and refused {len(truth.rate_limited)}. It has {fake.credits:g} play credits left."
    )


def demo(
    context: typer.Context,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE...]", help="More images.")] = None,
    *,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", metavar="DIR|FILE...", help="Your own images; by default six that come along."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the videos.")] = Path("kie-demo"),
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many videos; by default one for each image.")
    ] = None,
    resolution: Annotated[str, typer.Option(metavar="480p|720p", help="The height of the videos.")] = "720p",
    speed: Annotated[float, typer.Option(min=0.1, help="How much faster than the real service it is.")] = 8.0,
    as_json: JsonOption = False,
) -> None:
    """Make videos of six images with a fake service on this machine: nothing is real but the files."""
    plan = Plan(images=[*(images or ()), *(more or ())], out=out, count=count, resolution=resolution)

    async def command(session: Session) -> Exit:
        from kie_async.testing import FakeKie

        return await carry_out(session, plan, FakeKie(speed=speed, seed=_SEED))

    run(context, command, as_json=as_json)
