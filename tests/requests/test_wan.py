"""The request for Wan 2.2 Turbo: sent fields, accepted values, and value semantics."""

from __future__ import annotations

import copy
import io
import itertools
import logging
import pickle
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import InvalidRequestError, Request, Wan22TurboImageToVideo
from kie_async.requests import _model
from kie_async.requests._model import ModelRequest
from kie_async.requests.media import MediaSource
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "https://example.com/cat.png"


def wan(**options: object) -> Wan22TurboImageToVideo:
    """Return a valid request, changed by *options*."""
    return Wan22TurboImageToVideo(**cast("Any", {"image": IMAGE, "prompt": "The cat turns"} | options))


@pytest.fixture(autouse=True)
def clear_logged_warnings() -> Iterator[None]:
    """Forget the warnings, which are logged once per process, before each test."""
    _model.warn_of_old_value_once.cache_clear()
    yield
    _model.warn_of_old_value_once.cache_clear()


def test_wan_request_is_a_request() -> None:
    assert isinstance(wan(), Request)
    assert wan().model == "wan/2-2-a14b-image-to-video-turbo"


def test_unset_fields_are_not_sent() -> None:
    assert wan().input({}) == {"image_url": IMAGE, "prompt": "The cat turns"}


def test_fields_have_the_documented_names() -> None:
    """All names and example values of the documentation."""
    request = wan(
        aspect_ratio="auto",
        resolution="720p",
        enable_prompt_expansion=False,
        seed=0,
        acceleration="none",
        nsfw_checker=False,
    )
    request.check()

    assert request.input({}) == {
        "image_url": IMAGE,
        "prompt": "The cat turns",
        "resolution": "720p",
        "seed": 0,
        "acceleration": "none",
        "enable_prompt_expansion": False,
        "nsfw_checker": False,
        "aspect_ratio": "auto",
    }


def test_local_image_is_sent_as_its_upload_url() -> None:
    request = wan(image=PNG)

    assert request.files() == {"image_url": MediaSource(PNG)}
    assert (
        request.input({"image_url": "https://tempfile.example/1.png"})["image_url"] == "https://tempfile.example/1.png"
    )


def test_url_needs_no_upload() -> None:
    assert wan().files() == {}


GOOD: dict[str, tuple[Any, ...]] = {
    "image": (IMAGE, "http://example.com/a", PNG, io.BytesIO(PNG).read()),
    "prompt": ("x", "x" * 5000, " x ", "猫" * 5000, "🐈" * 5000, "a\nb"),
    "resolution": (None, "480p", "720p"),
    "seed": (None, 0, 1, 2**31 - 1),
    "acceleration": (None, "none", "regular"),
    "enable_prompt_expansion": (None, True, False),
    "nsfw_checker": (None, True, False),
}


@given(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in GOOD.items()}))
def test_documented_values_pass(options: dict[str, Any]) -> None:
    request = wan(**options)
    request.check()
    given_names = {name for name, value in options.items() if value is not None}

    assert [] == request.problems()
    assert set(request.input({"image_url": IMAGE})) == (given_names - {"image"}) | {"image_url"}


def test_all_problems_are_reported_at_once() -> None:
    request = wan(image="http://localhost/a", prompt="", seed=-1, resolution="1080p", acceleration=1, nsfw_checker="no")
    with pytest.raises(InvalidRequestError) as raised:
        request.check()
    fields = ["image", "prompt", "resolution", "seed", "acceleration", "nsfw_checker"]

    assert fields == [problem.field for problem in raised.value.problems]
    assert "has 6 problems: (1) image: got http://localhost/a; allowed: " in str(raised.value)
    assert request.problems() == list(raised.value.problems)


def test_configured_origin_may_be_private() -> None:
    request = wan(image="http://127.0.0.1:8080/cat.png")

    assert len(request.problems()) == 1
    assert [] == request.problems(allowed_origins=frozenset({"http://127.0.0.1:8080"}))


OLDER = (("resolution", "580p"), *(("aspect_ratio", value) for value in ("auto", "16:9", "9:16", "1:1")))


@pytest.mark.parametrize(("field", "value"), OLDER)
def test_older_values_pass_with_one_warning(field: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="kie_async")
    for _ in range(3):
        wan(**{field: value}).check()

    assert wan(**{field: value}).input({})[field] == value
    assert [("kie_async", logging.WARNING)] == [(record.name, record.levelno) for record in caplog.records]
    assert f"{field}={value!r}" in caplog.text


def test_documented_values_log_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for resolution, acceleration in itertools.product(("480p", "720p"), ("none", "regular")):
        wan(resolution=resolution, acceleration=acceleration).check()

    assert [] == caplog.records


def test_unknown_option_names_the_nearest_one() -> None:
    with pytest.raises(TypeError, match=r"has no option 'promt'; did you mean 'prompt'\? Its options: image, prompt, "):
        wan(promt="The cat turns")
    with pytest.raises(TypeError, match=r"has no option 'zoom'\. Its options: image, "):
        wan(zoom=2)
    with pytest.raises(TypeError, match=r"has no option 'duration'\. Its options: image, "):
        wan(duration=5)


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        Wan22TurboImageToVideo(IMAGE, "The cat turns")  # type: ignore[arg-type, call-arg]  # the point


def test_request_is_a_value() -> None:
    """Equal requests are equal, have equal hashes, survive copying and pickling, and are immutable."""
    request = wan(image=PNG, seed=7)

    assert request == wan(image=bytearray(PNG), seed=7)
    assert hash(request) == hash(wan(image=PNG, seed=7))
    assert request != wan(image=PNG, seed=8)
    assert request == copy.deepcopy(request) == copy.copy(request) == pickle.loads(pickle.dumps(request))
    assert attrs.evolve(request, seed=8) == wan(image=PNG, seed=8)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.seed = 9  # type: ignore[misc]  # the point


def test_repr_has_set_fields_and_no_secrets() -> None:
    request = wan(image=PNG, prompt="The secret", seed=7)

    assert (
        repr(request)
        == f"Wan22TurboImageToVideo(image=MediaSource(content={len(PNG)} bytes), prompt=<10 characters>, seed=7)"
    )
    assert (
        repr(wan(image=IMAGE + "?signature=secret")) == f"Wan22TurboImageToVideo(image={IMAGE}, prompt=<13 characters>)"
    )
    assert "prompt=None" in repr(wan(prompt=None))


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "aspect_ratio"]), st.none() | st.booleans() | st.integers() | st.text() | st.binary()
    )
)
def test_any_value_is_checked_and_shown(options: dict[str, Any]) -> None:
    request = wan(**options)
    problems = request.problems()

    assert repr(request).startswith("Wan22TurboImageToVideo(image=")
    assert len(problems) == len({problem.field for problem in problems})
    assert {problem.field for problem in problems} <= set(options)


def test_every_field_of_every_model_has_a_rule() -> None:
    models = [model for model in ModelRequest.__subclasses__() if hasattr(model, "MODEL")]

    assert models
    for model in models:
        assert {rule.name for rule in model.field_rules()} == {field.name for field in attrs.fields(model)} - {"extra"}
        assert model.MODEL
