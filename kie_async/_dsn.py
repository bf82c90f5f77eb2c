"""DSNs of PostgreSQL: which texts are DSNs, and how one is shown without its secrets."""

from __future__ import annotations

import re

__all__ = ["DSN_FORMS", "is_dsn", "is_public", "shown_dsn"]

#: The forms of a DSN, for messages.
DSN_FORMS = "postgresql://user@host:5432/database"
_SCHEMES = ("postgresql://", "postgres://")
#: What a message shows of a DSN, beside user, hosts, ports and database.
_SHOWN_SETTINGS = ("sslmode", "target_session_attrs", "service")
#: The parts of a URL: authority, and all after it. In both, ``@`` must be written as ``%40``.
_URL = re.compile(r"[a-z]+://(?P<authority>[^/?]*)(?P<rest>.*)", re.DOTALL)
_PORTS = re.compile(r"\d{0,5}(,\d{0,5})*")
#: Names and addresses of hosts, folders of sockets, and abstract sockets.
_HOST = r"([\w.-]*|[0-9a-f:.]+(%\w+)?|[/@][^@,]*)"
_HOSTS = re.compile(rf"{_HOST}(,{_HOST})*", re.IGNORECASE)
#: A whole DSN in place of a database's name.
_NO_DATABASE = re.compile(r"://|=")


def is_dsn(text: str) -> bool:
    """
    Return True for a URL of PostgreSQL.

    >>> is_dsn("postgresql://app@db.internal/app"), is_dsn("kie.db"), is_dsn("mysql://app@db.internal/app")
    (True, False, False)
    """
    return text.startswith(_SCHEMES)


def shown_dsn(dsn: str) -> str | None:
    """
    Return a DSN for messages: user, hosts, ports and database, and no secret; None if it cannot be read.

    The result is built from these parts instead of being cut out of the DSN: however a password is written, it is not
    among them. A URL whose password needs encoding, such as one with ``@`` or ``/``, is not valid: a part of the
    password would be taken for the host.

    Args:
        dsn: A URL, or settings of libpq such as ``"host=db.internal dbname=app"``; psycopg reads it.

    >>> shown_dsn("postgresql://app:secret@db.internal:5432/app?sslmode=require&sslpassword=secret")
    'postgresql://app@db.internal:5432/app?sslmode=require'
    >>> shown_dsn("host=/run/postgresql user=app password='a secret'")
    'postgresql://app@/?host=/run/postgresql'
    """
    from urllib.parse import quote, urlencode

    parts = _parse(dsn)
    if parts is None:
        return None
    hosts, ports = parts.get("host", ""), parts.get("port", "")
    query = [(name, parts[name]) for name in _SHOWN_SETTINGS if name in parts]
    if "/" in hosts or "@" in hosts:  # a folder of sockets, or an abstract socket
        query = [("host", hosts), *([("port", ports)] if ports else []), *query]
        place = ""
    else:
        each = hosts.split(",")
        numbers = ports.split(",") if "," in ports else [ports] * len(each)
        place = ",".join(
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
            for host, port in zip(each, numbers, strict=False)
        )
    user = f"{quote(parts['user'], safe='')}@" if "user" in parts else ""
    database = f"/{quote(parts.get('dbname', ''), safe='')}" if "dbname" in parts or (query and not place) else ""
    return f"postgresql://{user}{place}{database}{'?' if query else ''}{urlencode(query, safe='/,:@')}"


def is_public(dsn: str) -> bool:
    """
    Return True if all of a DSN may be shown.

    >>> is_public("postgresql://app@db.internal/app"), is_public("postgresql://app:secret@db.internal/app")
    (True, False)
    """
    shown = shown_dsn(dsn)
    return shown is not None and _parse(shown, own=True) == _parse(dsn)


def _parse(dsn: str, *, own: bool = False) -> dict[str, str] | None:
    """Return the settings in a DSN, or None; the errors of psycopg are dropped: they quote the DSN."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        return None
    if "\0" in dsn:
        return None
    url = _URL.fullmatch(dsn) if is_dsn(dsn) else None
    if url is not None and not own and (url["authority"].count("@") > 1 or "@" in url["rest"]):
        return None
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except (psycopg.Error, ValueError):
        return None
    names = _PORTS.fullmatch(found.get("port", "")) and _HOSTS.fullmatch(found.get("host", ""))
    return found if names and not _NO_DATABASE.search(found.get("dbname", "")) else None
