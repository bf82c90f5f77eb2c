"""Whether what a client is configured with can be right: keys and URLs, before anything is sent to them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import TypeGuard
from urllib.parse import urlsplit

from kie_async._urls import shown_url
from kie_async.errors import ConfigurationError

__all__ = [
    "BASE_URL",
    "UPLOAD_URL",
    "check_callback_url",
    "check_hosts",
    "check_id",
    "check_key",
    "check_kind",
    "is_retry_key",
    "read_api_key",
    "read_webhook_keys",
    "retry_key",
    "row_key",
    "service_url",
]

BASE_URL = "https://api.kie.ai"
UPLOAD_URL = "https://kieai.redpandaai.co"
#: Anything but printable ASCII without blanks could not be sent in a header.
_KEY = re.compile(r"[!-~]{1,512}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)
MAX_KEY = 512
#: How the key of a retry ends: no other may, or a row could be taken for the retry of another.
_RETRY = re.compile(r"~retry[1-9][0-9]*\Z")


def read_api_key(given: str | None) -> str:
    """
    The API key: *given*, else ``KIE_API_KEY`` from the environment.

    Raises:
        ConfigurationError: If there is none, or it cannot be right. The message does not show it.
    """
    key = given if given is not None else os.environ.get("KIE_API_KEY", "")
    if not key:
        msg = "There is no API key. Set KIE_API_KEY, or pass api_key; keys are made at kie.ai/api-key."
        raise ConfigurationError(msg)
    if not _is_text(key) or not _KEY.fullmatch(key):
        msg = (
            "The API key cannot be right: it must be printable ASCII without blanks. Copy it again from kie.ai/api-key."
        )
        raise ConfigurationError(msg)
    return key


def service_url(name: str, url: str) -> str:
    """
    *url* without a slash at its end.

    Args:
        name: What the caller calls it.

        url: The base of a service.

    Raises:
        ConfigurationError: If it cannot be one.
    """
    if not _is_http(url) or urlsplit(url).username or urlsplit(url).query or urlsplit(url).fragment:
        msg = f"{name} ({_shown(url)}) must be an http(s) URL without user or query, such as {BASE_URL}. Give another."
        raise ConfigurationError(msg)
    return url.rstrip("/")


def check_callback_url(url: str | None) -> str | None:
    """
    *url* as it is.

    Raises:
        ConfigurationError: If the service could not post to it.
    """
    if url is not None and (not _is_http(url) or urlsplit(url).fragment):
        msg = f"callback_url ({_shown(url)}) must be an http(s) URL that the service can reach. Give another."
        raise ConfigurationError(msg)
    return url


def read_webhook_keys(given: str | Collection[str] | None) -> tuple[str, ...]:
    """
    The keys that callbacks are signed with: *given*, else ``KIE_WEBHOOK_KEY`` from the environment; none if neither is.

    Raises:
        ConfigurationError: If it is no text and no collection of texts, or one is empty. The message shows none.
    """
    found = given if given is not None else os.environ.get("KIE_WEBHOOK_KEY") or ()
    keys = (found,) if _is_text(found) else found
    if not _is_texts(keys) or not all(map(_can_be_stored, keys)) or "" in keys:
        msg = "webhook_key must be the webhookHmacKey from kie.ai/settings, or a list of the new one and the old one."
        raise ConfigurationError(msg)
    return tuple(keys)


def check_id(job_id: str) -> str:
    """
    *job_id* as it is.

    Raises:
        ConfigurationError: If it can be neither an id of ours nor a taskId.
    """
    if not _is_text(job_id) or not _ID.fullmatch(job_id):
        msg = f"{job_id!r} is no id. Pass job.id (kj_…) or a taskId: letters, digits and _ . : -."
        raise ConfigurationError(msg)
    return job_id


def check_key(key: str | None) -> None:
    """
    Refuse an idempotency key that cannot be one.

    Raises:
        ConfigurationError: If it is not a text of 1 to ``MAX_KEY`` characters, or may be the key of a retry of ours.
    """
    if key is not None and not (_is_text(key) and 0 < len(key) <= MAX_KEY and _can_be_stored(key)):
        msg = f"key={str(key)[:80]!r} is not possible: it must be a text of 1 to {MAX_KEY} characters. Give another."
        raise ConfigurationError(msg)
    if key is not None and is_retry_key(key):
        msg = f"key={key[-80:]!r} is not possible: keys that end so are those of map()'s own retries. Give another."
        raise ConfigurationError(msg)


def retry_key(key: str, number: int) -> str:
    """
    The journal's key of a row's *number*-th retry; of the first try, it is the row's own.

    >>> retry_key("shot", 0), retry_key("shot", 2)
    ('shot', 'shot~retry2')
    """
    return f"{key}~retry{number}" if number else key


def is_retry_key(key: str) -> bool:
    """
    Whether a key ends as those that ``map()`` gives to the retries of a row.

    >>> is_retry_key("shot-7~retry1"), is_retry_key("shot-7~retry"), is_retry_key("shot-7~retry01")
    (True, False, False)
    """
    return _RETRY.search(key) is not None


def row_key(key: str) -> str:
    """
    The key of the row that a job of ``map()`` is for, be it the first try or a retry.

    >>> row_key("shot-7~retry1"), row_key("shot-7")
    ('shot-7', 'shot-7')
    """
    return _RETRY.sub("", key)


def check_kind(name: str, value: object, kind: type) -> None:
    """
    Refuse an option of the wrong type.

    Raises:
        ConfigurationError: If *value* is neither None nor a *kind*.
    """
    if value is not None and not isinstance(value, kind):
        msg = (
            f"{name} must be a {kind.__name__}, and a {type(value).__name__} was given. Pass {name}={kind.__name__}(…)."
        )
        raise ConfigurationError(msg)


def check_hosts(hosts: Collection[str] | None) -> tuple[str, ...] | None:
    """
    *hosts* as a tuple.

    Raises:
        ConfigurationError: If it is no collection of texts.
    """
    if hosts is None:
        return None
    if not _is_texts(hosts):
        msg = f"download_hosts={hosts!r} is not possible: it must be a list of endings of names, such as ['kie.ai']."
        raise ConfigurationError(msg)
    return tuple(hosts)


def _shown(url: object) -> str:
    return shown_url(url) if _is_text(url) else type(url).__name__


def _is_http(url: object) -> bool:
    if not _is_text(url) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _can_be_stored(text: str) -> bool:
    # Half of a surrogate pair is a character to Python, and nothing to files and networks.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_texts(value: object) -> bool:
    return not _is_text(value) and isinstance(value, Collection) and all(_is_text(part) and part for part in value)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)
