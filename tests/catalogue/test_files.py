"""Local files of all kinds, single and in lists and objects, are uploaded; the limits are those of the field."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Done, InvalidRequestError, KeyConflictError, KieClient, KieError
from kie_async.catalogue import (
    GrokImagineImageToVideo,
    Hailuo23ImageToVideoPro,
    InfiniTalkFromAudio,
    Kling21Pro,
    Kling26MotionControl,
    Kling30MotionControl,
    Kling30OmniTextToVideo,
    Kling30Video,
    KlingAIAvatarPro,
    MiniMaxH3ImageToVideo,
    NanoBanana2,
    Seedance2,
    Seedance2Fast,
    Wan22AnimateMove,
)
from kie_async.testing import FakeKie, Fault
from tests.catalogue.samples import MP4, URL, WAV
from tests.helpers import KEY, PROMPT, client_and_fake
from tests.requests.samples import GIF, JPEG, PNG, WEBP, png, png_of

MEGABYTE = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write sample files into a folder."""
    files = {"first.png": PNG, "last.jpg": JPEG, "a.png": png(1), "b.png": png(2), "clip.mp4": MP4, "voice.wav": WAV}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def requests_with_files(folder: Path) -> dict[str, tuple[Any, dict[str, int]]]:
    """Return requests with local files, and the number of URLs that each field has on the wire."""
    first, last = folder / "first.png", str(folder / "last.jpg")
    images: list[Any] = [first, folder / "a.png", (folder / "b.png").read_bytes()]
    return {
        "first frame": (Kling21Pro(image=first, prompt=PROMPT), {"image_url": 1}),
        "first and last frame": (
            Kling21Pro(image=first, last_image=last, prompt=PROMPT),
            {"image_url": 1, "tail_image_url": 1},
        ),
        "three images": (NanoBanana2(images=images, prompt=PROMPT), {"image_input": 3}),
        "images, one of them a URL": (NanoBanana2(images=[URL, first], prompt=PROMPT), {"image_input": 2}),
        "image and video": (Wan22AnimateMove(image=first, video=folder / "clip.mp4"), {"image_url": 1, "video_url": 1}),
        "image and sound": (
            InfiniTalkFromAudio(image=first, audio=folder / "voice.wav", prompt=PROMPT),
            {"image_url": 1, "audio_url": 1},
        ),
        "lists of all kinds": (
            Seedance2(
                prompt=PROMPT,
                reference_images=images,
                reference_videos=[folder / "clip.mp4"],
                reference_audios=[folder / "voice.wav"],
            ),
            {"reference_image_urls": 3, "reference_video_urls": 1, "reference_audio_urls": 1},
        ),
        "images of an object": (
            Kling30Video(
                prompt=PROMPT,
                images=[first],
                elements=[
                    {"name": "cat", "description": "a cat", "element_input_urls": [str(first), folder / "a.png"]}
                ],
            ),
            {"image_urls": 1},
        ),
    }


def urls_of(value: object) -> list[str]:
    """Return all strings of a value that are URLs."""
    if isinstance(value, str):
        return [value] if value.startswith("http") else []
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [url for part in parts for url in urls_of(part)]


async def test_files_of_every_kind_are_uploaded(folder: Path) -> None:
    """The body has their URLs, each content is uploaded once, and every task ends."""
    async with FakeKie(duration=1.0) as fake, KieClient(KEY, base_url=fake.url) as kie:
        for name, (request, counts) in requests_with_files(folder).items():
            await kie.generate(request)
            task = fake.truth.created[-1]
            found = {wire: len(urls_of(task.input[wire])) for wire in counts}

            assert counts == found, name
            assert all(url == URL or url.startswith(fake.url) for url in urls_of(task.input)), name
        assert 6 == len(fake.truth.uploads)
        kinds = {upload.mime.split("/")[0] for upload in fake.truth.uploads}
        assert {"image", "video", "audio"} == kinds


async def test_files_of_every_kind_are_uploaded_by_a_run(folder: Path) -> None:
    """A second run with the same keys uploads and pays for nothing."""
    requests = requests_with_files(folder)
    async with FakeKie(duration=1.0) as fake, KieClient(KEY, base_url=fake.url, journal=folder / "kie.db") as kie:
        for _ in range(2):
            async with kie.map([(name, request) for name, (request, _) in requests.items()]) as run:
                outcomes = [outcome async for outcome in run]

            assert all(isinstance(outcome, Done) for outcome in outcomes)
        assert len(requests) == len(fake.truth.created)
        assert 6 == len(fake.truth.uploads)


@pytest.mark.parametrize(
    ("request_of", "accepted", "refused"),
    [
        (lambda file: Kling21Pro(image=file, prompt=PROMPT), [PNG, JPEG], [WEBP, GIF, MP4, png_of(10 * MEGABYTE + 1)]),
        (
            lambda file: Seedance2(reference_images=[file], prompt=PROMPT),
            [PNG, WEBP, GIF, png_of(10 * MEGABYTE + 1)],
            [MP4, png_of(30 * MEGABYTE + 1)],
        ),
        (lambda file: KlingAIAvatarPro(image=PNG, audio=file, prompt=PROMPT), [WAV, MP4], [PNG, b"no sound"]),
        (lambda file: Wan22AnimateMove(image=PNG, video=file), [MP4], [PNG, WAV, MP4.ljust(10 * MEGABYTE + 1)]),
    ],
    ids=["10 MB without WebP", "30 MB with GIF", "sound", "video"],
)
def test_limits_are_those_of_the_field(request_of: Any, accepted: list[bytes], refused: list[bytes]) -> None:
    for file in accepted:
        request_of(file).check()
    for file in refused:
        with pytest.raises(InvalidRequestError, match="; this "):
            request_of(file).check()


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        (png_of(20 * MEGABYTE), True),
        (png_of(20 * MEGABYTE)[:-1], False),
        (JPEG[:-2] + bytes(20 * MEGABYTE) + JPEG[-2:], True),
        (JPEG[:-2] + bytes(20 * MEGABYTE), False),
    ],
    ids=["png", "cut png", "jpeg", "cut jpeg"],
)
def test_large_file_is_checked_without_reading_it(content: bytes, is_whole: bool, tmp_path: Path) -> None:  # noqa: FBT001
    file = tmp_path / "large.image"
    file.write_bytes(content)
    request = Seedance2(reference_images=[file], prompt=PROMPT)
    tracemalloc.start()
    try:
        found = request.problems()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert is_whole == (found == []), found
    assert peak < 5 * MEGABYTE


async def test_large_files_are_uploaded_one_at_a_time(tmp_path: Path) -> None:
    """Each is in memory while it is uploaded."""
    slow = Fault("upload", "slow", seconds=10.0)
    async with FakeKie(duration=1.0, faults=[slow]) as fake, KieClient(KEY, base_url=fake.url) as kie:
        async with anyio.create_task_group() as group:
            for number in range(2):
                file = tmp_path / f"{number}.mp4"
                file.write_bytes(MP4.ljust(33 * MEGABYTE + number, b"\0"))
                group.start_soon(kie.generate, Seedance2(prompt=PROMPT, reference_videos=[file]))
        first, second = sorted(upload.at for upload in fake.truth.uploads)

        assert second - first >= 9.9


def test_all_problems_are_reported_at_once() -> None:
    request = Seedance2Fast(
        prompt="x",
        duration=99,
        resolution="4k",  # type: ignore[arg-type]  # the point
        image=b"no image",
        reference_images=[URL] * 10,
        extra={"motion": {1, 2}},  # type: ignore[dict-item]  # the point
    )
    with pytest.raises(InvalidRequestError) as raised:
        request.check()
    found = {problem.field: problem.allowed for problem in raised.value.problems}

    assert {"prompt", "duration", "resolution", "image", "reference_images", "extra.motion"} == set(found)
    assert "-1" in found["duration"]
    assert "480p or 720p" in found["resolution"]
    together = [problem for problem in raised.value.problems if "together" in problem.allowed]
    assert ["reference_images: got a value; allowed: nothing together with image"] == [str(each) for each in together]


def test_extra_is_shown_and_merged_last() -> None:
    request = Kling21Pro(image=URL, prompt=PROMPT, extra={"motion": "slow", "duration": "20"})
    request.check()

    assert {"image_url": URL, "prompt": PROMPT, "duration": "20", "motion": "slow"} == request.input({})
    assert "extra=<motion, duration>" in repr(request)


async def test_same_key_with_another_file_of_a_list_is_a_conflict(folder: Path) -> None:
    """The error names the field."""
    async with FakeKie(duration=1.0) as fake, KieClient(KEY, base_url=fake.url) as kie:
        first = NanoBanana2(images=[folder / "first.png", folder / "a.png"], prompt=PROMPT)
        await kie.generate(first, key="one")
        await kie.generate(NanoBanana2(images=[(folder / "first.png"), png(1)], prompt=PROMPT), key="one")
        with pytest.raises(KeyConflictError) as raised:
            await kie.submit(NanoBanana2(images=[folder / "first.png", folder / "b.png"], prompt=PROMPT), key="one")

        assert ("image_input",) == raised.value.differs
        assert 1 == len(fake.truth.created)


async def test_paths_in_lists_are_refused_for_strangers(folder: Path) -> None:
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, local_files=False) as kie:
        with pytest.raises(InvalidRequestError, match=r"images\[1\]: got .* local_files=False"):
            await kie.submit(NanoBanana2(images=[PNG, folder / "a.png"], prompt=PROMPT))
        assert [] == fake.truth.uploads


def test_values_outside_of_an_open_field_pass_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Values that only older documentation has do, too."""
    video: dict[str, Any] = {"image": URL, "video": URL}
    Kling30MotionControl(mode="ultra", **video).check()
    Kling26MotionControl(mode="std", **video).check()  # type: ignore[arg-type]  # the point

    assert ["mode='ultra' is not in", "mode='std' is no longer"] == [
        " ".join(record.getMessage().split()[:4]) for record in caplog.records
    ]


def test_other_addresses_of_the_service_pass() -> None:
    Seedance2(image="asset://person-1", prompt=PROMPT).check()
    MiniMaxH3ImageToVideo(image="oss://bucket/a.png", prompt=PROMPT).check()
    with pytest.raises(InvalidRequestError, match="scheme"):
        Kling21Pro(image="asset://person-1", prompt=PROMPT).check()


def test_request_of_lists_and_objects_is_a_value(folder: Path) -> None:
    """Equal requests are equal and have equal hashes; lists that change later have no effect."""
    images: list[Any] = [URL, folder / "a.png"]
    elements = [{"name": "cat", "description": "a cat", "element_input_urls": [URL]}]
    one = Kling30Video(images=images, elements=elements, prompt=PROMPT)
    two = Kling30Video(images=tuple(images), elements=elements, prompt=PROMPT)

    assert one == two == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(two)
    images.append(7)
    elements.clear()
    one.check()
    assert one == two


@pytest.mark.parametrize(
    ("request_", "problems"),
    [
        (
            Hailuo23ImageToVideoPro(image=URL, prompt="A cat", resolution="1080P", duration=10),
            ["duration: got 10; allowed: 6 together with resolution='1080P'"],
        ),
        (
            Kling30OmniTextToVideo(prompt="A cat", prefer_multi_shots=True),
            ["prefer_multi_shots: got True; allowed: False together with customize_multi_shots=True, its default"],
        ),
        (
            GrokImagineImageToVideo(images=(URL,), mode="spicy"),
            ["mode: got 'spicy'; allowed: 'fun' or 'normal' together with images"],
        ),
        (
            Seedance2(),
            ["prompt: got nothing; allowed: a string of 3 to 20000 characters; or image in its place"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_problem_between_fields_says_what_is_allowed(request_: Any, problems: list[str]) -> None:
    """Values are those of Python, and an unset field counts with its default."""
    with pytest.raises(InvalidRequestError) as raised:
        request_.check()

    assert [str(problem) for problem in raised.value.problems] == problems
    assert str(raised.value).startswith(f"{type(request_).__name__} has ")


async def test_same_bytes_of_two_kinds_are_two_uploads() -> None:
    """The container of a video may hold a sound alone; the name of the upload tells which one it is."""
    animation, avatar = Wan22AnimateMove(image=PNG, video=MP4), KlingAIAvatarPro(image=PNG, audio=MP4, prompt=PROMPT)
    async with FakeKie(duration=1.0) as fake, KieClient(KEY, base_url=fake.url) as kie:
        for request in (avatar, animation, avatar):
            await kie.generate(request)
        sound, video, again = fake.truth.created

        assert str(sound.input["audio_url"]).endswith(".m4a")
        assert str(video.input["video_url"]).endswith(".mp4")
        assert sound.input == again.input
        assert 3 == len(fake.truth.uploads)


async def test_late_job_uploads_its_sound_as_a_sound(tmp_path: Path) -> None:
    """The journal does not have the kind of a file, but the URL of its first upload."""
    file = tmp_path / "voice.m4a"
    file.write_bytes(MP4)
    request = KlingAIAvatarPro(image=URL, audio=file, prompt=PROMPT)
    async with client_and_fake(credits=0.0, duration=0.0) as setup:
        with pytest.raises(KieError):
            await setup.kie.submit(request, key="one")
        await anyio.sleep(4 * 24 * 3600)
        setup.fake.credits = 1e4
        await (await setup.kie.recover())[0]

        assert 2 == len(setup.truth.uploads)
        assert str(setup.truth.created[0].input["audio_url"]).endswith(f"{setup.truth.uploads[-1].path}")
        assert str(setup.truth.uploads[-1].path).endswith(".m4a")
