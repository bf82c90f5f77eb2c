"""The proxies of the environment and of ``--proxy``, in the client and on the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kie_async import ConfigurationError, KieClient, TransportError
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie
from tests.cli.helpers import CAT, CapturedSession, CommandResult, run_cli, run_in_session
from tests.helpers import KEY
from tests.io.peer import response_bytes, run_peer

if TYPE_CHECKING:
    import asyncio

    from kie_async.cli.session import Session
    from tests.io.peer import Peer

ELSEWHERE = "http://kie.example.com"
BAD = [
    "socks5://user:secret@127.0.0.1:1080",
    "SOCKS5H://user:secret@127.0.0.1:1080",
    "socks4://127.0.0.1",
    "ftp://user:secret@127.0.0.1:21",
    "http://user:secret@127.0.0.1:99999",
    "user:secret@127.0.0.1:port",
    "http://user:sec/secret@127.0.0.1:80",
    "http://user:secret@",
    "http://user:secret@[::1",
    "http://user:secret@a b:80",
]
COMMANDS = {
    "generate": ("--image", str(CAT), "--prompt", "Go", "--no-journal"),
    "batch": ("table.csv", "--yes"),
    "status": ("t1", "--no-journal"),
    "wait": ("t1", "--no-journal"),
    "recover": (),
    "resolve": ("kj_1", "t1"),
    "resubmit": ("kj_1", "--allow-duplicate"),
    "credits": (),
    "upload": (str(CAT),),
    "listen": (),
}


def run_online(*arguments: str, **environment: str) -> CommandResult:
    """Run a command with a key, for a service that a name leads to nowhere."""
    return run_cli(*arguments, **{"KIE_API_KEY": KEY, "KIE_BASE_URL": "https://kie.example.com", **environment})


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the machine that runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("url", BAD)
def test_bad_proxy_of_the_option_is_refused_without_its_password(url: str) -> None:
    for arguments in (("credits", "--proxy", url), ("--proxy", url, "credits")):
        result = run_online(*arguments)
        assert (2, "") == (result.code, result.out)
        assert "--proxy" in result.err
        assert "http://127.0.0.1:7890" in result.err
        assert "secret" not in result.err
        assert ("SOCKS" in result.err) == url.lower().startswith("socks")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_that_asks_the_service_takes_a_proxy(command: str) -> None:
    result = run_online(command, *COMMANDS[command], "--proxy", BAD[0])

    assert 2 == result.code
    assert "SOCKS" in result.err
    assert "No such option" not in run_cli(command, "--help").out


@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("url", BAD[:4])
def test_bad_proxy_of_the_environment_is_refused_without_its_password(name: str, url: str) -> None:
    result = run_online("credits", **{name: url})

    assert (2, "") == (result.code, result.out)
    assert "HTTPS_PROXY or ALL_PROXY: invalid proxy" in result.err
    assert "NO_PROXY" in result.err
    assert "secret" not in result.err


@pytest.mark.parametrize(
    "environment",
    [
        {"http_proxy": BAD[0]},
        {"https_proxy": BAD[0], "no_proxy": "*"},
        {"https_proxy": BAD[0], "NO_PROXY": "localhost,.example.com"},
        {"all_proxy": BAD[0], "no_proxy": "kie.example.com:443"},
        {"all_proxy": BAD[0], "https_proxy": "http://127.0.0.1:1"},
        {"https_proxy": ""},
    ],
)
def test_proxy_that_is_not_used_is_not_checked(environment: dict[str, str]) -> None:
    assert "invalid proxy" not in run_online("credits", **environment).err


def test_proxy_of_the_option_ends_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:2")
    before = dict(os.environ)
    result = run_online("credits", "--proxy", "user:secret@127.0.0.1:1")

    assert ExitCode.RETRY_LATER == result.code
    assert "ClientProxyConnectionError" in result.err
    assert "secret" not in result.err
    assert before == dict(os.environ)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_commands_use_the_proxy_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake stands for a proxy: it answers whatever host is asked for."""
    async with FakeKie() as fake:
        monkeypatch.setenv(name, fake.url)
        session = CapturedSession().session
        session.url = ELSEWHERE
        async with session.client() as kie:
            assert await kie.credits() > 0.0
            assert await kie.upload(CAT)


def test_fake_service_of_a_command_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")

    async def command(session: Session) -> ExitCode:
        async with session.fake(FakeKie()), session.client() as kie:
            return ExitCode.DONE if await kie.credits() else ExitCode.FAILED

    assert 0 == run_in_session(command).code


async def test_refusal_of_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"CONNECT kie.example.com:443")
        writer.write(response_bytes(b"", "Connection: close", status="407 Proxy Authentication Required"))

    async with run_peer(refuse) as peer:
        monkeypatch.setenv("https_proxy", peer.url.replace("://", "://user:secret@"))
        async with KieClient(KEY, base_url="https://kie.example.com", trust_env=True) as kie:
            with pytest.raises(TransportError, match="the proxy answered 407") as raised:
                await kie.credits()
            assert "secret" not in str(raised.value)


async def test_proxies_are_left_alone_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", BAD[0])
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url) as kie:
        assert await kie.credits()
    kie = KieClient(KEY, base_url=fake.url, trust_env=True)
    with pytest.raises(ConfigurationError, match="HTTP_PROXY or ALL_PROXY"):
        await kie.credits()
    await kie.aclose()
