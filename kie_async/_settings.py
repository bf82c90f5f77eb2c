"""Whether what a client is configured with can be right: keys and URLs, before anything is sent to them."""

from __future__ import annotations

import os
import re
from typing import TypeGuard
from urllib.parse import urlsplit

from kie_async.errors import ConfigurationError

__all__ = ["BASE_URL", "UPLOAD_URL", "check_callback_url", "check_id", "check_key", "read_api_key", "service_url"]

BASE_URL = "https://api.kie.ai"
UPLOAD_URL = "https://kieai.redpandaai.co"
#: Anything but printable ASCII without blanks could not be sent in a header.
_KEY = re.compile(r"[!-~]{1,512}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)
MAX_KEY = 512


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
        msg = f"{name}={url!r} cannot be right: it must be an http(s) URL without user or query, such as {BASE_URL}."
        raise ConfigurationError(msg)
    return url.rstrip("/")


def check_callback_url(url: str | None) -> str | None:
    """
    *url* as it is.

    Raises:
        ConfigurationError: If the service could not post to it.
    """
    if url is not None and (not _is_http(url) or urlsplit(url).fragment):
        msg = f"callback_url={url!r} cannot be right: it must be an http(s) URL that the service can reach."
        raise ConfigurationError(msg)
    return url


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
        ConfigurationError: If it is not a text of 1 to ``MAX_KEY`` characters.
    """
    if key is not None and not (_is_text(key) and 0 < len(key) <= MAX_KEY):
        msg = f"key={key!r} is not possible: it must be a text of 1 to {MAX_KEY} characters. Nothing was sent."
        raise ConfigurationError(msg)


def _is_http(url: object) -> bool:
    if not _is_text(url) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)
