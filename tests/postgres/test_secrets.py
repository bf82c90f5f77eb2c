"""No error, log line or variable shows the password of the journal's DSN, whatever happens to its server."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio.to_thread
import pytest

from kie_async import JournalError, KeyConflictError, KieClient, PostgresJournal
from kie_async.testing import FakeKie
from tests.client import test_secrets
from tests.client.canaries import canaries_in, find_canaries, frames_of
from tests.client.test_secrets import locals_of
from tests.helpers import KEY, make_request
from tests.profile import sample
from tests.servers.postgres import PostgresServer, free_port
from tests.servers.proxy import PostgresProxy

SECRET = "canary-of-the-dsn"
#: Spellings of a password in a DSN.
SPELLINGS = {
    "user": "postgresql://app:{secret}@127.0.0.1:{port}/app",
    "query": "postgresql://app@127.0.0.1:{port}/app?password={secret}",
    "settings": "host=127.0.0.1 port={port} user=app dbname=app password={secret}",
    "hosts": "postgresql://app:{secret}@127.0.0.1:{port},127.0.0.1:{port}/app",
}


@pytest.fixture
def unused_port() -> int:
    """Return a port on which nothing listens."""
    return free_port()


def assert_hidden(error: BaseException, log: pytest.LogCaptureFixture) -> None:
    """Fail if the error, its frames or their variables, or the log shows the password."""
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert [] == find_canaries("\n".join([*locals_of(error), str(error), repr(error)]), (SECRET,)), text
    assert [] == canaries_in(dict(frames_of(error)), (SECRET,)), text
    assert [] == find_canaries(log.text, (SECRET,))


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_server_that_is_away_at_start_is_reported_without_the_password(
    spelling: str, caplog: pytest.LogCaptureFixture, unused_port: int
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = SPELLINGS[spelling].format(secret=SECRET, port=unused_port)
    with pytest.raises(JournalError) as raised:
        async with KieClient(KEY, base_url="http://127.0.0.1:9", journal=PostgresJournal(dsn)):
            pass

    assert_hidden(raised.value, caplog)
    assert f"The journal postgresql://app@127.0.0.1:{unused_port}" in str(raised.value)


REFUSALS: dict[str, str] = {
    "database": "postgresql://app:{secret}@127.0.0.1:{port}/no_such_database",
    "role": "postgresql://no_such_role:{secret}@127.0.0.1:{port}/app",
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_connection_is_reported_without_the_password(
    refusal: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = REFUSALS[refusal].format(secret=SECRET, port=postgres_server.port)
    with pytest.raises(JournalError, match="no_such") as raised:
        async with KieClient(KEY, base_url="http://127.0.0.1:9", journal=dsn):
            pass

    assert_hidden(raised.value, caplog)


CALLS: dict[str, Callable[[KieClient], Awaitable[object]]] = {
    "jobs": lambda kie: kie.jobs(),
    "budgets": lambda kie: kie.budgets(),
    "keys": lambda kie: kie.keys("order"),
    "forget": lambda kie: kie.forget(before=0.0),
    "recover": lambda kie: kie.recover(),
    "status": lambda kie: kie.job("kj_none").info(),
    "submit": lambda kie: kie.submit(make_request()),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_goes_away_is_reported_without_the_password(
    call: str, postgres_server: PostgresServer, unused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    await anyio.to_thread.run_sync(postgres_server.reset)
    caplog.set_level(logging.DEBUG)
    with PostgresProxy(postgres_server.port) as proxy:
        async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, journal=proxy.dsn(password=SECRET)) as kie:
            proxy.forward_to(unused_port)
            with pytest.raises(JournalError) as raised:
                await CALLS[call](kie)
            engine = kie._binding.current  # noqa: SLF001 (not public)
            proxy.forward_to(postgres_server.port)

            assert [] == canaries_in([kie, engine], (SECRET,))
    assert_hidden(raised.value, caplog)


@pytest.mark.parametrize("call", sample(list(test_secrets.CALLS), check=0.25))
async def test_a_call_that_is_left_early_does_not_show_the_password(
    call: str, postgres_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = postgres_dsn.replace("app@", f"app:{SECRET}@")
    error, _ = await test_secrets.leave(call, "cancellation", 3.0, tmp_path, journal=dsn)

    assert SECRET in dsn
    if error is not None:
        assert_hidden(error, caplog)


async def test_pickles_do_not_have_the_password(postgres_dsn: str) -> None:
    dsn = postgres_dsn.replace("app@", f"app:{SECRET}@")
    async with FakeKie(duration=5.0) as fake, KieClient(KEY, base_url=fake.url, journal=dsn) as kie:
        job = await kie.submit(make_request(), key="order 7")
        done = await job.wait()
        with pytest.raises(KeyConflictError) as raised:
            await kie.submit(make_request(1), key="order 7")

        values = [job, done, *await kie.jobs(), raised.value, kie.statistics()]
        assert [] == [value for value in values if SECRET.encode() in pickle.dumps(value)]
