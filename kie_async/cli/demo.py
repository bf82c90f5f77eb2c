"""The command ``demo``: make videos of images with a fake service, at no cost."""

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
from kie_async.cli.batch.rows import OTHER_IMAGE_SUFFIXES, describe_left_out
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JsonOption
from kie_async.cli.output import ShowState, escape_controls, show_progress
from kie_async.cli.running import run_command
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_output, result_fields, wait_and_show

if TYPE_CHECKING:
    from kie_async import KieClient
    from kie_async.testing import FakeKie

__all__ = ["PROMPTS", "DemoOptions", "demo", "run_demo"]

#: The bundled images and their prompts.
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

#: A seed whose tasks have ordinary durations, and most of which show all states.
_SEED = 7


@attrs.frozen
class DemoShot:
    """
    One video to make.

    Attributes:
        name: The name of the shot and its file.

        image: The image.

        request: The request.
    """

    name: str
    image: Path
    request: Wan22TurboImageToVideo


@attrs.frozen
class DemoVideo:
    """
    One finished video.

    Attributes:
        generation: The result.

        file: The file.

        size: The file's size, in bytes.

        seconds: The seconds from the submission to the file.
    """

    generation: Generation
    file: Path
    size: int
    seconds: float


@attrs.frozen(kw_only=True)
class DemoOptions:
    """
    The options of the demo.

    Attributes:
        images: Images and folders of images; empty for the bundled ones.

        out: The folder for the videos.

        count: The number of videos; images repeat if there are fewer. None for one video an image.

        resolution: The height of the videos.
    """

    images: Sequence[Path] = ()
    out: Path = Path("kie-demo")
    count: int | None = None
    resolution: str = "720p"


async def run_demo(session: Session, options: DemoOptions, service: FakeKie) -> ExitCode:
    """
    Make the videos.

    Args:
        session: The command's session.

        options: The command's options.

        service: The fake service, not started yet.

    Raises:
        ConfigurationError: If there are no images, or the videos cannot be saved.

        InvalidRequestError: If a file is not an image.
    """
    output = session.output
    if not await anyio.to_thread.run_sync(_has_pyav):
        output.warn(
            "PyAV is not installed: all videos will be one bundled clip of 480 pixels. For videos of the images:"
            " pip install 'kie-async[fake]'"
        )
    with as_file(files("kie_async.cli") / "data") as bundled:
        left_out: list[str] = []
        shots = await anyio.to_thread.run_sync(_read_shots, options, bundled, left_out)
        if left_out:
            output.warn(describe_left_out(left_out))
        async with session.fake(service), session.client() as kie:
            started_at = anyio.current_time()
            outcomes: dict[str, DemoVideo | KieError] = {}
            with show_progress(output) as show:

                async def make(shot: DemoShot) -> None:
                    outcomes[shot.name] = await _make_video(kie, shot, options.out, show)

                async with anyio.create_task_group() as group:
                    for shot in shots:
                        group.start_soon(make, shot)
            seconds = anyio.current_time() - started_at
            videos: list[DemoVideo] = []
            for shot in shots:
                outcome = outcomes[shot.name]
                if isinstance(outcome, KieError):
                    output.error(f"{shot.name}: {outcome}")
                    continue
                videos.append(outcome)
                if output.as_json:
                    fields = result_fields(outcome.generation, [outcome.file])
                    output.result("", {**fields, "image": str(shot.image), "bytes": outcome.size})
            output.table(_table(videos, out=options.out, requested=len(shots), seconds=seconds))
            truth = service.truth
            output.info(
                f"The service received {len(truth.create_requests)} create requests, at most"
                f" {truth.busiest_window(10.0)} in any 10 s (its limit is {service.limit}), and refused"
                f" {len(truth.rate_limited)}. {service.credits:g} play credits are left."
            )
    return ExitCode.DONE if len(videos) == len(shots) else ExitCode.FAILED


async def _make_video(kie: KieClient, shot: DemoShot, out: Path, show: ShowState) -> DemoVideo | KieError:
    """Make one video as a program would; return its error, if it has one, so that the other videos are made."""
    started_at = anyio.current_time()
    show(shot.name, "submitting")
    try:
        job = await kie.submit(shot.request)
        show(shot.name, f"accepted as task {job.task_id}")
        generation = await wait_and_show(job, show, name=shot.name)
        [file] = await generation.save(out / f"{shot.name}.mp4")
    except KieError as error:
        show(shot.name, "failed", done=True)
        return error
    size = (await anyio.Path(file).stat()).st_size
    show(shot.name, f"saved as {file}", done=True)
    return DemoVideo(generation, file, size, anyio.current_time() - started_at)


def _has_pyav() -> bool:
    try:
        import_module("av")
    except ImportError:
        return False
    return True


def _read_shots(options: DemoOptions, bundled: Path, left_out: list[str]) -> list[DemoShot]:
    """Return the videos to make, each with a unique name; reads files."""
    images = [image for given in options.images or [bundled] for image in _images(given, left_out)]
    uses: Counter[str] = Counter()
    shots, problems = [], []
    for image in islice(cycle(images), options.count if options.count is not None else len(images)):
        uses[image.stem] += 1
        request = Wan22TurboImageToVideo(
            image=str(image.absolute()),
            prompt=(not options.images and PROMPTS.get(image.stem)) or _OTHER_PROMPT,
            resolution=cast("Literal['480p', '720p']", options.resolution),  # problems() checks it
        )
        name = image.stem if uses[image.stem] == 1 else f"{image.stem}-{uses[image.stem]}"
        check_output(options.out / f"{name}.mp4")
        shots.append(DemoShot(name, image, request))
        problems += request.problems()
    if problems:
        msg = "Invalid images or options."
        raise InvalidRequestError(msg, problems=list(dict.fromkeys(problems)))
    return shots


def _images(given: Path, left_out: list[str]) -> list[Path]:
    if not given.is_dir():
        return [given]
    left_out += sorted(path.name for path in given.iterdir() if path.suffix.lower() in OTHER_IMAGE_SUFFIXES)
    images = sorted(path for path in given.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not images:
        msg = f"No image in {given}: expected a file that ends in {', '.join(_SUFFIXES)}. Name another folder."
        raise ConfigurationError(msg)
    return images


def _table(videos: Sequence[DemoVideo], *, out: Path, requested: int, seconds: float) -> Table:
    # Without lines between the columns it fits into 80 characters.
    table = Table("file", title=escape_controls(f"Saved in {out}"), box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    spent = sum(video.generation.credits or 0.0 for video in videos)
    table.columns[0].footer = f"{len(videos)} of {requested}"
    table.add_column("size", f"{sum(video.size for video in videos) / _KB:,.0f} kB", justify="right")
    table.add_column("task id", overflow="fold")
    table.add_column("credits", f"{spent:g}", justify="right")
    table.add_column("took", f"{seconds:.1f} s", justify="right")
    for video in videos:
        credits, size = video.generation.credits or 0.0, f"{video.size / _KB:,.0f} kB"
        table.add_row(
            escape_controls(video.file.name), size, video.generation.task_id, f"{credits:g}", f"{video.seconds:.1f} s"
        )
    return table


def demo(
    context: typer.Context,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE...]", help="More images.")] = None,
    *,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="DIR|FILE...", help="Your own images; default: six bundled ones.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the videos.")] = Path("kie-demo"),
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="The number of videos; default: one for each image.")
    ] = None,
    resolution: Annotated[str, typer.Option(metavar="480p|720p", help="The height of the videos.")] = "720p",
    speed: Annotated[float, typer.Option(min=0.1, help="A divisor for the service's durations.")] = 8.0,
    as_json: JsonOption = False,
) -> None:
    """Make videos of six images with a fake service on this machine: only the files are real."""
    options = DemoOptions(images=[*(images or ()), *(more or ())], out=out, count=count, resolution=resolution)

    async def command(session: Session) -> ExitCode:
        from kie_async.testing import FakeKie

        return await run_demo(session, options, FakeKie(speed=speed, seed=_SEED))

    run_command(context, command, as_json=as_json)
