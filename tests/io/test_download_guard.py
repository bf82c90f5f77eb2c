"""The guard of downloads: which hosts a result may lead to, with any session, and what they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from kie_async import ConfigurationError, DownloadError, KieClient
from kie_async._io.files.downloads import Downloads
from kie_async._io.http.resolvers import PublicResolver
from kie_async._io.runtime import Runtime
from kie_async.testing import FakeKie
from tests.client.filehost import MP4, files_in, generation_on_host
from tests.helpers import KEY, make_request
from tests.io.peer import Peer, response_bytes, run_peer, tls
from tests.io.test_hostile_downloads import LentTransport, make_generation
from tests.io.test_transport import open_transport
from tests.requests.samples import PNG

#: A foreign host on the public internet, for which this address of the test's host stands, and the caller's own host.
FOREIGN, FOREIGN_ADDRESS = "files.example.com", "127.0.0.3"
OWN, OWN_ADDRESS = "own.example.com", "127.0.0.1"
INTERNET = (ip_network(f"{FOREIGN_ADDRESS}/32"),)


class Names(AbstractResolver):
    """A resolver of given names."""

    def __init__(self, **names: str) -> None:
        self.names = {FOREIGN: FOREIGN_ADDRESS, OWN: OWN_ADDRESS, **names}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.names[host]
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def with_names(**kwargs: Any) -> aiohttp.ClientSession:
    """Make a session that knows the names, and keeps the filter of addresses where there is one."""
    resolver: AbstractResolver = Names()
    if isinstance(kwargs["connector"].resolver, PublicResolver):
        resolver = PublicResolver(INTERNET, resolver)
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=resolver, ssl=False)})


def served(*answers: bytes) -> Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Answer each request with the next answer; the last one stays."""
    return served_from(list(answers))


def served_from(remaining: list[bytes]) -> Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Do so from a list that may be filled later."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.received[-1] += await reader.readuntil(b"\r\n\r\n")
        writer.write(remaining.pop(0) if len(remaining) > 1 else remaining[0])
        await writer.drain()

    return act


FILE = response_bytes(MP4, "Content-Type: video/mp4", "Connection: close")


def redirect(location: str) -> bytes:
    return response_bytes(b"", f"Location: {location}", "Connection: close", status="302 Found")


def named(peer: Peer, host: str) -> str:
    return str(URL(peer.url).with_host(host))


async def save(url: str, own: str, folder: Path, **options: Any) -> list[Path] | DownloadError:
    """Save the result at *url* with a client whose ``base_url`` is *own*."""
    async with open_transport(own, **{"session_factory": with_names, **options}) as transport:
        downloads = Downloads(
            transport=lambda: LentTransport(transport),
            runtime=lambda: Runtime(asyncio.get_running_loop()),
            allowed_origins=frozenset({own}),
            hosts=None,
            networks=INTERNET,
        )
        try:
            return await make_generation(url, downloads).save(folder)
        except DownloadError as error:
            return error


@pytest.mark.parametrize("way", ["another port", "own origin", "own origin after a detour", "by itself"])
async def test_no_host_leads_to_own_host(way: str, tmp_path: Path) -> None:
    """The own origin is exempt from the check of addresses, and only where the URL of the result starts there."""
    certificates = tls(tmp_path)
    out = tmp_path / "out"
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(run_peer(served(FILE), context=certificates))
        secret = f"{named(inner, OWN)}/secret.mp4"
        foreign = await stack.enter_async_context(
            run_peer(served(redirect(secret)), context=certificates, host=FOREIGN_ADDRESS)
        )
        start = await stack.enter_async_context(run_peer(served(redirect(f"{named(foreign, FOREIGN)}/a"))))
        own, url = named(start, OWN), f"{named(foreign, FOREIGN)}/a"
        if way == "own origin":
            own = named(inner, OWN)
        elif way == "own origin after a detour":
            url = f"{own}/a"
        elif way == "by itself":
            url = secret
        outcome = await save(url, own, out)

        assert isinstance(outcome, DownloadError)
        assert "no public address" in str(outcome)
        assert [] == inner.received
        assert not out.exists() or {} == files_in(out)


@pytest.mark.parametrize("hops", [1, 2])
async def test_no_host_leads_back_to_the_own_origin(hops: int, tmp_path: Path) -> None:
    """The URL of the result starts at the own origin, leaves it, and returns."""
    certificates = tls(tmp_path)
    at_own: list[bytes] = []
    at_foreign: list[bytes] = []
    async with (
        run_peer(served_from(at_own), context=certificates) as own,
        run_peer(served_from(at_foreign), context=certificates, host=FOREIGN_ADDRESS) as foreign,
    ):
        away, back = redirect(f"{named(foreign, FOREIGN)}/b"), redirect(f"{named(own, OWN)}/secret.mp4")
        at_own += [away]
        at_foreign += [*[away] * (hops - 1), back]
        outcome = await save(f"{named(own, OWN)}/a", named(own, OWN), tmp_path / "cat.mp4")

        assert isinstance(outcome, DownloadError)
        assert "no public address" in str(outcome)
        assert [] == [request for request in own.received if b"secret" in request]
        assert hops <= len(foreign.received)


async def test_own_origin_serves_and_redirects_within_itself(tmp_path: Path) -> None:
    async with run_peer(served(redirect("/b.mp4"), FILE), context=tls(tmp_path)) as peer:
        outcome = await save(f"{named(peer, OWN)}/a.mp4", named(peer, OWN), tmp_path / "cat.mp4")

        assert [tmp_path / "cat.mp4"] == outcome
        assert MP4 == (tmp_path / "cat.mp4").read_bytes()


async def test_own_origin_may_redirect_to_public_hosts(tmp_path: Path) -> None:
    async with (
        run_peer(served(FILE), context=tls(tmp_path), host=FOREIGN_ADDRESS) as foreign,
        run_peer(served(redirect(f"{named(foreign, FOREIGN)}/b"))) as own,
    ):
        assert [tmp_path / "cat.mp4"] == await save(f"{named(own, OWN)}/a", named(own, OWN), tmp_path / "cat.mp4")


# -- sessions of the caller --------------------------------------------------------------------------------------------


def bare(**kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(ssl=False)})


def with_names_only(**kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=Names(), ssl=False)})


def over_a_socket(**kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.UnixConnector("/nowhere")})


@pytest.mark.parametrize("make", [bare, with_names_only, over_a_socket], ids=["bare", "names", "unix"])
async def test_connector_without_the_filter_is_refused_for_downloads(make: Any, tmp_path: Path) -> None:
    async with run_peer(served(FILE), context=tls(tmp_path)) as peer:
        url = f"{named(peer, OWN)}/a.mp4"
        outcome = await save(url, "http://127.0.0.1:1", tmp_path / "cat.mp4", session_factory=make)

        assert isinstance(outcome, DownloadError)
        assert "resolver=kwargs['connector'].resolver" in str(outcome)
        assert not outcome.worth_retrying
        assert [] == peer.received


async def test_refused_session_leaves_a_shared_connector_open(tmp_path: Path) -> None:
    shared: list[aiohttp.TCPConnector] = []

    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        if not shared:
            shared.append(aiohttp.TCPConnector())
        return aiohttp.ClientSession(**{**kwargs, "connector": shared[0], "connector_owner": False})

    async with generation_on_host(client={"session_factory": factory}) as (video, host, setup):
        record = attrs.evolve(video.record, result_urls=("https://files.example.com/a.mp4",))
        foreign = attrs.evolve(video, record=record)
        with pytest.raises(DownloadError, match="session_factory"):
            await foreign.save(tmp_path)
        await setup.kie.generate(make_request(1))
        await video.save(tmp_path / "cat.mp4")

        assert ["/a.mp4"] == host.paths
    await shared[0].close()


async def test_connector_with_the_given_resolver_keeps_the_filter(tmp_path: Path) -> None:
    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(resolver=kwargs["connector"].resolver, ssl=False)
        return aiohttp.ClientSession(**{**kwargs, "connector": connector})

    async with (
        open_transport("http://127.0.0.1:1", session_factory=factory, networks=INTERNET) as transport,
        run_peer(served(FILE), context=tls(tmp_path), host=FOREIGN_ADDRESS) as peer,
        transport.get_result(URL(peer.url) / "a", is_own=False, headers={}) as response,
    ):
        assert MP4 == await response.read()


# -- proxies of the environment, and netrc -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "network"),
    [("198.18.0.5", "198.18.0.0/15"), ("198.19.255.1", "198.18.0.0/15"), ("10.1.2.3", "10.1.2.3/32")],
)
async def test_refused_address_names_the_network_to_allow(address: str, network: str, tmp_path: Path) -> None:
    """Fake-IP resolvers answer so to every name, and nothing could be saved."""

    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        resolver = PublicResolver((), Names(**{FOREIGN: address}))
        return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=resolver)})

    outcome = await save(f"https://{FOREIGN}/a", "http://127.0.0.1:1", tmp_path, session_factory=factory)

    assert isinstance(outcome, DownloadError)
    assert f"allow_networks=['{network}']" in str(outcome)
    assert f"--allow-networks {network}" in str(outcome)
    assert not outcome.worth_retrying


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write passwords for every host."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login leaked password hunter2\ndefault login leaked password hunter2\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("own_factory", [False, True])
async def test_netrc_is_never_read(tmp_path: Path, *, own_factory: bool) -> None:
    """Its passwords went to the hosts of results, and made each call of the API fail."""
    options: dict[str, Any] = {"trust_env": True}
    if own_factory:
        options["session_factory"] = aiohttp.ClientSession
    async with generation_on_host(client=options) as (video, host, setup):
        await video.save(tmp_path / "cat.mp4")
        await setup.kie.credits()

        assert 1 == len(host.seen)
        assert all("Authorization" not in headers for _, headers in host.seen)
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, trust_env=True) as kie:
        await kie.upload(PNG)
        await (await kie.generate(make_request(image=PNG))).save(tmp_path / "dog.mp4")
        assert all(not download.authorized for download in fake.truth.downloads)


@pytest.mark.usefixtures("netrc")
async def test_session_that_reads_netrc_is_refused() -> None:
    kie = KieClient(
        KEY,
        base_url="http://127.0.0.1:1",
        session_factory=lambda **kwargs: aiohttp.ClientSession(**{**kwargs, "trust_env": True}),
    )
    with pytest.raises(ConfigurationError, match="KieClient"):
        await kie.credits()
    await kie.aclose()


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("spelling", ["http://user:pass@{}", "{}", "http://{}"])
async def test_proxy_of_the_environment_is_used(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake stands for a proxy: it answers whatever host is asked for."""
    async with FakeKie(duration=0.0) as fake:
        monkeypatch.setenv("http_proxy", spelling.format(fake.url.removeprefix("http://")))
        async with KieClient(KEY, base_url="http://kie.example.com", trust_env=True) as kie:
            assert await kie.credits() > 0.0
            video = await kie.generate(make_request(image=PNG))
        assert 1 == len(fake.truth.created)
        assert video.task_id
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        async with KieClient(KEY, base_url=fake.url, trust_env=True) as kie:
            await (await kie.generate(make_request(1))).save(tmp_path / "cat.mp4")
