"""A PostgresJournal is checked when it is made, and its password is never shown: not in part, and in no spelling."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg.conninfo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import ConfigurationError, KieClient, PostgresJournal
from kie_async._dsn import is_public, shown_dsn
from tests.client.canaries import canaries_in, frames_of

SECRET = "canary-of-the-dsn"
#: Valid DSNs, and how they are shown.
SHOWN = {
    "postgresql://app@db.internal/app": "postgresql://app@db.internal/app",
    "postgres://app:canary-of-the-dsn@db.internal/app": "postgresql://app@db.internal/app",
    "postgresql://app:canary-of-the-dsn@db.internal:6432/app?sslmode=require": (
        "postgresql://app@db.internal:6432/app?sslmode=require"
    ),
    "postgresql://app:c%61nary-of-the-dsn@db.internal/app": "postgresql://app@db.internal/app",
    "postgresql://app:%40canary-of-the-dsn%2F@a:1,b:2/app?target_session_attrs=read-write": (
        "postgresql://app@a:1,b:2/app?target_session_attrs=read-write"
    ),
    "postgresql://app@[::1]:5432/app?password=canary-of-the-dsn": "postgresql://app@[::1]:5432/app",
    "postgresql://app@db/app?sslpassword=canary-of-the-dsn&sslkey=/etc/key": "postgresql://app@db/app",
    "postgresql://app:canary-of-the-dsn@/app?host=/run/postgresql&port=6432": (
        "postgresql://app@/app?host=/run/postgresql&port=6432"
    ),
    "postgresql://": "postgresql://",
    "host=db.internal user=app dbname=app password='canary-of-the-dsn x'": "postgresql://app@db.internal/app",
    "host=a,b port=5432 password=canary-of-the-dsn": "postgresql://a:5432,b:5432",
    "service=kie options='-c geqo=canary-of-the-dsn'": "postgresql:///?service=kie",
}
#: A secret in the wrong place: psycopg would take a part of it for a host, a port, a database or a setting.
REFUSED = [
    "postgresql://app:can@canary-of-the-dsn@db.internal/app",
    "postgresql://app:1/canary-of-the-dsn@db.internal/app",
    "postgresql://app:1?canary-of-the-dsn@db.internal/app",
    "postgresql://app:1?user=canary-of-the-dsn@db.internal/app",
    "postgresql://app:canary-of-the-dsn/app",
    "postgresql://app:%zzcanary-of-the-dsn@db.internal/app",
    "postgresql://app:%ffcanary-of-the-dsn@db.internal/app",
    "postgresql://app@db.internal/app?passwort=canary-of-the-dsn",
    "host=db.internal password=x canary-of-the-dsn",
    "host=app:canary-of-the-dsn@db.internal dbname=app",
    "host=app:canary-of-the-dsn dbname=app",
    "dbname='postgresql://app:canary-of-the-dsn@db.internal/app'",
    "postgresql://app@db.internal/app\0canary-of-the-dsn",
    " ",
    "",
]


@pytest.mark.parametrize("dsn", SHOWN)
def test_a_journal_shows_user_hosts_and_database_only(dsn: str) -> None:
    journal = PostgresJournal(dsn)

    assert SHOWN[dsn] == str(journal)
    assert f"PostgresJournal('{SHOWN[dsn]}', schema='kie_async', store_inputs='full')" == repr(journal)
    assert dsn == journal.dsn()
    assert [] == canaries_in(journal, (SECRET,))


@given(password=st.text(min_size=1).filter(lambda text: "\0" not in text), in_query=st.booleans())
def test_no_encoded_password_changes_what_is_shown(password: str, *, in_query: bool) -> None:
    encoded = quote(password, safe="", errors="surrogatepass")
    dsn = f"postgresql://u@h/d?password={encoded}" if in_query else f"postgresql://u:{encoded}@h/d"
    shown = shown_dsn(dsn)

    assert shown in {"postgresql://u@h/d", None}
    assert not is_public(dsn)


@given(password=st.text(st.characters(codec="ascii", exclude_characters="\0")))
def test_an_unencoded_password_is_refused_or_not_shown(password: str) -> None:
    """It may contain characters that mean something in a URL."""
    hidden = f"{SECRET}{password}"

    assert SECRET not in (shown_dsn(f"postgresql://app:{hidden}@db.internal/app") or "")
    assert SECRET not in (shown_dsn(f"postgresql://app:{password}{SECRET}@db.internal/app") or "")


@pytest.mark.parametrize("dsn", [dsn for dsn in SHOWN if SECRET not in dsn and "c%61" not in dsn])
def test_what_is_shown_leads_to_the_same_database(dsn: str) -> None:
    assert psycopg.conninfo.conninfo_to_dict(SHOWN[dsn]) == psycopg.conninfo.conninfo_to_dict(dsn)
    assert is_public(dsn)


@pytest.mark.parametrize("dsn", REFUSED)
@pytest.mark.parametrize("place", [PostgresJournal, lambda dsn: KieClient("a-key", journal=dsn)])
def test_a_refused_dsn_is_not_shown(dsn: str, place: Callable[[str], object]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        place(dsn)

    assert SECRET not in str(raised.value)
    assert [] == canaries_in(dict(frames_of(raised.value)), (SECRET,))


@pytest.mark.parametrize(
    "schema",
    ["", "Kie", "kie-async", "1kie", "pg_kie", "information_schema", "k" * 64, "käse", "a;b", 'a"b', "kie\n", 7],
)
def test_a_schema_is_a_plain_name(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid PostgresJournal\(schema=.*expected a name of at most 63"):
        PostgresJournal(f"postgresql://app:{SECRET}@db/app", schema)

    assert "k" * 63 == PostgresJournal("postgresql://", "k" * 63).schema


def test_unknown_store_inputs_of_postgresql_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid PostgresJournal\(store_inputs='none'\)") as raised:
        PostgresJournal(f"postgresql://app:{SECRET}@db/app", store_inputs="none")  # type: ignore[arg-type]
    assert [] == canaries_in(dict(frames_of(raised.value)), (SECRET,))


def test_journals_of_the_same_database_and_schema_are_equal() -> None:
    dsn = f"postgresql://app:{SECRET}@db/app"

    assert PostgresJournal(dsn) == PostgresJournal(dsn)
    assert hash(PostgresJournal(dsn)) == hash(PostgresJournal(dsn))
    assert PostgresJournal(dsn) != PostgresJournal(dsn.replace("app:", "app:x"))
    assert PostgresJournal(dsn) != PostgresJournal(dsn, "other")


def test_a_journal_is_copied_but_not_pickled() -> None:
    """A pickle would hold the password."""
    journal = PostgresJournal(f"postgresql://app:{SECRET}@db/app")

    assert copy.copy(journal) is journal
    assert copy.deepcopy(journal) is journal
    with pytest.raises(ConfigurationError, match="Make one from the DSN in each process"):
        pickle.dumps(journal)


@pytest.mark.parametrize(
    "journal", [f"postgresql://app:{SECRET}@db/app", PostgresJournal(f"postgresql://app:{SECRET}@db/app")], ids=type
)
def test_a_client_takes_a_dsn_and_does_not_hold_it(journal: str | PostgresJournal) -> None:
    kie = KieClient("a-key", journal=journal)

    assert PostgresJournal(f"postgresql://app:{SECRET}@db/app") == kie._binding.journal  # noqa: SLF001 (not public)
    assert [] == canaries_in(kie, (SECRET,))


def test_a_missing_psycopg_is_named_with_its_extra() -> None:
    program = """
import sys
sys.modules["psycopg"] = None  # as if it were not installed
import kie_async
try:
    kie_async.KieClient("a-key", journal="postgresql://app:canary-of-the-dsn@db/app")
except kie_async.ConfigurationError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "Install it with: pip install 'kie-async[postgres]'" in output
    assert SECRET not in output
