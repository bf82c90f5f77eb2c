"""
The journal's statements for PostgreSQL, run on SQLite: the texts are converted, and each part of ``WITH`` runs alone.

It knows what the journal's statements use, and no more: SQLite refuses any other.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import attrs

from kie_async._io.journals.postgres_schema import schema_ddl

__all__ = ["Converted", "Row", "convert", "execute"]

#: A row of a result.
Row: TypeAlias = tuple[Any, ...]
#: What a text begins with that stands for an array.
_ARRAY = "\1"


def _unnest(found: re.Match[str]) -> str:
    """Return arrays as a table of SQLite: one column for each of them."""
    arrays, name, columns = found[1].split(", "), found[2], found[3].split(", ")
    values = ", ".join(f"a{place}.value AS {column}" for place, column in enumerate(columns))
    joined = " JOIN ".join(
        f"json_each({array}) AS a{place}" + (f" ON a{place}.key = a0.key" if place else "")
        for place, array in enumerate(arrays)
    )
    return f"(SELECT {values} FROM {joined}) AS {name}"


#: What PostgreSQL says, and how SQLite says it.
_WORDS: Sequence[tuple[str, Any]] = (
    (r'"[^"]+"\.', ""),  # the schema
    (r"extract\(epoch FROM \w+_timestamp\(\)\)", "server_clock()"),
    (r"::(text|bigint|double precision)(\[\])?", ""),
    (r"%\((\w+)\)s", r":\1"),
    (r"%s", "?"),
    (r" FOR UPDATE( OF \w+)?( SKIP LOCKED)?", ""),
    (r"IS NOT DISTINCT FROM", "IS"),
    (r"IS DISTINCT FROM", "IS NOT"),
    (r"= ANY\((:\w+)\)", r"IN (SELECT value FROM json_each(\1))"),
    (r"unnest\(([^()]*)\) AS (\w+) ?\(([^()]*)\)", _unnest),
    (r"coalesce\(array_agg\((\w+)\) (FILTER \(WHERE \w+\)), '\{\}'\)", rf"'{_ARRAY}' || json_group_array(\1) \2"),
    (r"LIMIT (:\w+)", r"LIMIT coalesce(\1, -1)"),
    (r"\bSELECT(?= FROM\b| WHERE\b|\)|$)", "SELECT 1"),
    # The columns of the schema; then what SQLite has otherwise.
    (r" COLLATE \"C\"| WITH \(fillfactor = \d+\)", ""),
    (r"bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT"),
    (
        r"^DELETE FROM (\w+) USING (.+?) WHERE (.+) RETURNING",
        r"DELETE FROM \1 WHERE rowid IN (SELECT \1.rowid FROM \1, \2 WHERE \3) RETURNING",
    ),
    (r"^(INSERT .+\bSELECT\b.+) ON CONFLICT", r"\1 WHERE true ON CONFLICT"),
)
#: The columns of reals.
_REALS = frozenset(re.findall(r"(\w+) double precision", schema_ddl("")))
_PART = re.compile(r"(?:WITH|,) (\w+) AS (?:MATERIALIZED )?\(")
_CHANGES = re.compile(r"INSERT|UPDATE|DELETE")


@attrs.frozen
class Converted:
    """
    A statement for SQLite.

    Attributes:
        parts: The name of each part of ``WITH``, and its text; the last one is the statement itself, without a name.

        changes: True if it changes rows.

        has_arrays: True if its rows may have arrays.
    """

    parts: Sequence[tuple[str, str]]
    changes: bool
    has_arrays: bool


@lru_cache(maxsize=1024)
def convert(text: str) -> Converted:
    """Convert a statement."""
    parts = [(name, _convert_part(part)) for name, part in _parts(text)]
    return Converted(parts, any(_CHANGES.match(part) for _, part in parts), _ARRAY in parts[-1][1])


def _parts(text: str) -> Iterator[tuple[str, str]]:
    while found := _PART.match(text):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        end -= 1
        # A part may have parts of its own.
        *inner, (_, last) = _parts(text[found.end() : end])
        yield from (*inner, (found[1], last))
        text = text[end + 1 :]
    yield "", text.strip()


def _convert_part(text: str) -> str:
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text, flags=re.DOTALL)
    return text


def execute(database: sqlite3.Connection, statement: Converted, values: Mapping[str, Any] | Sequence[Any]) -> list[Row]:
    """Run a statement, and return its rows."""
    if not isinstance(values, Mapping):
        return database.execute(statement.parts[-1][1], values).fetchall()
    values = {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}
    tables: dict[str, str] = {}
    rows: list[Row] = []
    for name, part in statement.parts:
        used = [table for table in tables if re.search(rf"\b(FROM|JOIN|,)\s*{table}\b", part)]
        text = f"WITH {', '.join(tables[table] for table in used)} {part}" if used else part
        cursor = database.execute(text, values)
        rows = cursor.fetchall()
        columns = [column[0].rpartition(".")[2] for column in cursor.description or ()]
        if rows and "RETURNING" in part:
            # There, SQLite forgets that it stores a whole number of such a column for a real one.
            reals = [column in _REALS for column in columns]
            rows = [
                tuple(
                    float(value) if real and value is not None else value
                    for value, real in zip(row, reals, strict=True)
                )
                for row in rows
            ]
        if name and columns:
            tables[name] = _define(name, columns, rows, values)
    return [tuple(map(_load, row)) for row in rows] if statement.has_arrays else rows


def _define(name: str, columns: Sequence[str], rows: Sequence[Row], values: dict[str, Any]) -> str:
    """Return a table of rows as a part of ``WITH``; their values become parameters."""
    places = [[f"{name}_{number}_{place}" for place, _ in enumerate(row)] for number, row in enumerate(rows)]
    for names, row in zip(places, rows, strict=True):
        values.update(zip(names, row, strict=True))
    table = ", ".join(f"({', '.join(f':{place}' for place in names)})" for names in places)
    source = f"VALUES {table}" if rows else f"SELECT {', '.join('NULL' for _ in columns)} WHERE false"
    heading = ", ".join(f'"{column}"' for column in columns)
    return f"{name} ({heading}) AS ({source})"


def _load(value: object) -> object:
    return json.loads(value[1:]) if isinstance(value, str) and value.startswith(_ARRAY) else value
