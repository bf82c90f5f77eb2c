"""The commands ``credits``, ``budgets`` and ``upload``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kie_async import (
    AuthenticationError,
    Budget,
    ConfigurationError,
    InvalidRequestError,
    KieError,
    TransportError,
    UploadError,
)
from kie_async.cli.account import run_budgets, run_credits, run_upload
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.running import report_error
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import CAT, CapturedSession
from tests.client.tables import make_rows


@pytest.mark.parametrize(("as_json", "expected"), [(False, "9999.5\n"), (True, '{"credits": 9999.5}\n')])
async def test_credits_prints_the_balance(*, as_json: bool, expected: str) -> None:
    async with FakeKie(credits=9999.5) as fake:
        streams = CapturedSession(fake, as_json=as_json)
        code = await run_credits(streams.session)

    assert (ExitCode.DONE, expected) == (code, streams.out)


async def test_credits_with_a_wrong_key_fails() -> None:
    async with FakeKie(api_keys=["another-key"]) as fake:
        streams = CapturedSession(fake)
        with pytest.raises(AuthenticationError) as caught:
            await run_credits(streams.session)

    assert ExitCode.FAILED == report_error(streams.session, caught.value)
    assert "KIE_API_KEY" in streams.err


async def test_upload_prints_urls_in_order(fake_kie: FakeKie) -> None:
    images = [CAT, CAT.with_name("city.jpg")]
    streams = CapturedSession(fake_kie)
    await run_upload(streams.session, images)

    assert [fake_kie.url + str(held.path) for held in fake_kie.truth.uploads] == streams.out.split()
    assert [image.stat().st_size for image in images] == [held.size for held in fake_kie.truth.uploads]


async def test_upload_json_names_the_file(fake_kie: FakeKie) -> None:
    streams = CapturedSession(fake_kie, as_json=True)
    await run_upload(streams.session, [CAT])

    assert {"file": str(CAT), "url": fake_kie.url + str(fake_kie.truth.uploads[0].path)} == json.loads(streams.out)


async def test_upload_rejects_a_file_that_is_not_an_image(fake_kie: FakeKie, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("a text that calls itself a picture")
    streams = CapturedSession(fake_kie)
    with pytest.raises(InvalidRequestError) as caught:
        await run_upload(streams.session, [tmp_path / "cat.png"])

    assert ExitCode.USAGE == report_error(streams.session, caught.value)
    assert [] == fake_kie.truth.uploads


async def test_budgets_are_listed_and_raised(fake_kie: FakeKie, tmp_path: Path) -> None:
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    await run_budgets(streams.session)
    assert ("", True) == (streams.out, "No budget has a name" in streams.err)
    async with streams.session.client() as kie, kie.map(make_rows(3), budget=Budget(credits=200, name="c7")) as run:
        assert 3 == len([outcome async for outcome in run])
    await run_budgets(streams.session)
    await run_budgets(streams.session, name="c7", total=1000.0)
    with pytest.raises(ConfigurationError, match="belong together"):
        await run_budgets(streams.session, name="c7")
    with pytest.raises(ConfigurationError, match="1000"):
        await run_budgets(streams.session, name="c7", total=999.0)

    assert [
        "c7: 160 spent, 0 reserved, 40 left of 200 credits",
        "c7: 160 spent, 0 reserved, 840 left of 1,000 credits",
    ] == streams.out.splitlines()


async def test_budgets_json_has_the_amounts(fake_kie: FakeKie, tmp_path: Path) -> None:
    streams = CapturedSession(fake_kie, as_json=True, journal=tmp_path / "kie.db")
    async with streams.session.client() as kie, kie.map(make_rows(1), budget=Budget(credits=200, name="c7")) as run:
        assert 1 == len([outcome async for outcome in run])
    await run_budgets(streams.session)

    assert {"name": "c7", "credits": 200.0, "spent": 80.0, "reserved": 0.0, "left": 120.0} == json.loads(streams.out)


@pytest.mark.parametrize("command", ["credits", "upload"])
@pytest.mark.parametrize("kind", ["reset", "close", "silence"])
async def test_error_without_an_answer_names_one_next_step(command: str, kind: str) -> None:
    """It says what to check, and the exit code that a later try may help."""
    fault = Fault("connect", kind)  # type: ignore[arg-type]  # from a parameter
    async with FakeKie(faults=[fault]) as fake:
        streams = CapturedSession(fake)
        with pytest.raises(KieError) as caught:
            await (run_credits(streams.session) if command == "credits" else run_upload(streams.session, [CAT]))

    assert isinstance(caught.value, TransportError if command == "credits" else UploadError)
    assert ExitCode.RETRY_LATER == report_error(streams.session, caught.value)
    assert 1 == streams.err.lower().count("try again")
    assert 1 == streams.err.count("heck the network")
