"""Responses, callbacks, polls, forgeries and restarts in any order, with two workers and a journal in PostgreSQL."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from kie_async._io.journals.journal import Journal
from kie_async._io.journals.postgres import PostgresStore
from tests import profile
from tests.client.stateful_client import TwoWorkersMachine
from tests.client.test_stateful_client import CHECK
from tests.servers.postgres import PostgresServer


def test_each_intent_settles_once_with_two_workers(postgres_server: PostgresServer) -> None:
    """Callers, callbacks and restarts reach either worker."""
    dsn = postgres_server.dsn()

    class Machine(TwoWorkersMachine):
        def __init__(self) -> None:
            postgres_server.reset()
            super().__init__()

        def _journal(self) -> Journal:
            return PostgresStore(lambda: dsn)

    run_state_machine_as_test(
        Machine, settings=settings(CHECK, max_examples=profile.scaled(quick=1, check=2, nightly=40))
    )
