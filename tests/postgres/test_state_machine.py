"""Random calls, callbacks and faults on two workers that share a journal in PostgreSQL."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from kie_async._io.journals.postgres import PostgresStore
from tests.client.stateful_client import TwoWorkersMachine
from tests.client.test_stateful_client import CHECK
from tests.profile import examples
from tests.servers.postgres import PostgresServer


class QuietStore(PostgresStore):
    """A store for runs of many hours in virtual time."""

    heartbeat_interval = 600.0
    ping_interval = 600.0


def test_two_workers_agree_with_the_service(postgres_server: PostgresServer) -> None:
    class Machine(TwoWorkersMachine):
        def __init__(self) -> None:
            postgres_server.reset()
            super().__init__()

        def _journal(self) -> QuietStore:
            return QuietStore(postgres_server.dsn)

    run_state_machine_as_test(Machine, settings=settings(CHECK, max_examples=examples(3)))
