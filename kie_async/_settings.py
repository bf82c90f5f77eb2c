"""Checks of a client's configuration: API key, URLs and ids, before any request is sent."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeGuard, TypeVar
from urllib.parse import urlsplit

from kie_async._display import shortened, shown
from kie_async._urls import BASE_URL, carries_addresses, origin, shown_url
from kie_async.errors import ConfigurationError, TaskNotFoundError

__all__ = [
    "check_account",
    "check_callback_url",
    "check_download_headers",
    "check_hooks",
    "check_hosts",
    "check_id",
    "check_networks",
    "of_kind",
    "read_api_key",
    "read_urls",
    "read_webhook_keys",
]

_T = TypeVar("_T")
_UPLOAD_URL = "https://kieai.redpandaai.co"
#: An API key or a webhook key: printable ASCII without blanks, as a header can hold. Quotes around it were pasted.
_KEY = re.compile(r"(?![\"'`])[!-~]{1,512}(?<![\"'`])")
#: A token of RFC 9110, 5.6.2.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
#: Headers that frame a message, select a part of the file, or carry credentials.
_OWN_HEADERS = frozenset(
    re.findall(
        r"\S+",
        "accept-encoding authorization connection content-length content-type cookie expect host if-match"
        " if-modified-since if-none-match if-range if-unmodified-since keep-alive proxy-authorization proxy-connection"
        " range te trailer transfer-encoding upgrade",
    )
)
#: ``::ffff:0:0/96``, the IPv6 form of IPv4 addresses.
_MAPPED_PREFIX = 96
_ACCOUNT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)


def read_api_key(given: str | None) -> str:
    """
    Return the API key: *given*, or else ``KIE_API_KEY`` from the environment.

    Raises:
        ConfigurationError: If there is none, or it is invalid. The message does not contain it.
    """
    key = given if given is not None else os.environ.get("KIE_API_KEY", "")
    if not key:
        msg = "No API key. Set KIE_API_KEY, or pass api_key; keys are created at kie.ai/api-key."
        raise ConfigurationError(msg)
    if not _is_string(key) or not _KEY.fullmatch(key):
        del given, key  # error trackers show variables
        msg = (
            "Invalid API key: expected printable ASCII without blanks, and without quotes around it. Copy it again from"
            " kie.ai/api-key."
        )
        raise ConfigurationError(msg)
    return key


def read_urls(base_url: str | None, upload_url: str | None) -> tuple[str, str]:
    """
    Return the URLs of the API and of the upload host: the given ones, or else those of the environment.

    Raises:
        ConfigurationError: If one is not a base URL.
    """
    base = _service_url("base_url", base_url if base_url is not None else os.environ.get("KIE_BASE_URL") or BASE_URL)
    # With another base URL than Kie's, the client must never upload to Kie.
    default = _UPLOAD_URL if base == BASE_URL else base
    upload = upload_url if upload_url is not None else os.environ.get("KIE_UPLOAD_URL") or default
    return base, _service_url("upload_url", upload)


def _service_url(name: str, url: str) -> str:
    """Return *url* without a slash at its end."""
    if not _is_http(url) or not _has_origin(url) or urlsplit(url).query or urlsplit(url).fragment:
        msg = (
            f"Invalid {name}={_shown(url)}: expected an http(s) URL without user or query, such as {BASE_URL}."
            " Use a different URL."
        )
        raise ConfigurationError(msg)
    return url.rstrip("/")


def check_callback_url(url: str | None) -> str | None:
    """
    Return *url* unchanged.

    Raises:
        ConfigurationError: If the service could not post to it.
    """
    if url is not None and (not _is_http(url) or urlsplit(url).fragment):
        msg = (
            f"Invalid callback_url={_shown(url)}: expected an http(s) URL that the service can reach."
            " Use a different URL."
        )
        raise ConfigurationError(msg)
    return url


def read_webhook_keys(given: str | Collection[str] | None) -> tuple[str, ...]:
    """
    Return the keys that sign callbacks: *given*, or else ``KIE_WEBHOOK_KEY`` from the environment, or none.

    Raises:
        ConfigurationError: If a key is empty, not a string, or has something pasted with it. The message contains none.
    """
    found = given if given is not None else os.environ.get("KIE_WEBHOOK_KEY") or ()
    keys = (found,) if _is_string(found) else found
    if not _are_strings(keys) or not all(map(_KEY.fullmatch, keys)):
        del given, found, keys  # error trackers show variables
        msg = (
            "Invalid webhook_key: expected the webhookHmacKey from kie.ai/settings, or a list of the new one and the"
            " old one: printable ASCII without blanks or line breaks, and without quotes around it. Copy it again. Omit"
            " webhook_key if the account has none."
        )
        raise ConfigurationError(msg)
    return tuple(keys)


def check_account(name: str) -> str:
    """
    Return *name* unchanged.

    Raises:
        ConfigurationError: If it is not a name of an account.
    """
    if not _is_string(name) or not _ACCOUNT.fullmatch(name):
        msg = f"Invalid account={shown(name)}: expected 1 to 64 letters, digits and _ . -, such as 'default'."
        raise ConfigurationError(msg)
    return name


def check_id(job_id: str, *, own_only: bool = False) -> str:
    """
    Return *job_id* unchanged.

    Raises:
        TaskNotFoundError: With *own_only*, if it is a string that can be no id: it comes from a stranger.

        ConfigurationError: If it can be neither a job id nor a task id, or *own_only* is neither True nor False.
    """
    if not _is_bool(own_only):
        msg = f"Invalid own_only: expected True or False, got {shown(own_only)}."
        raise ConfigurationError(msg)
    if not _is_string(job_id) or not _ID.fullmatch(job_id):
        msg = f"Invalid id {shown(job_id)}: expected job.id (kj_…) or a task id: letters, digits and _ . : -."
        raise TaskNotFoundError(msg) if own_only and _is_string(job_id) else ConfigurationError(msg)
    return job_id


def of_kind(name: str, value: _T | None, kind: type[_T]) -> _T:
    """
    Return *value*, or the default of its type for None.

    Raises:
        ConfigurationError: If *value* is neither None nor a *kind*.
    """
    if value is not None and not isinstance(value, kind):
        msg = f"Invalid {name}: expected {kind.__name__}, got {type(value).__name__}. Pass {name}={kind.__name__}(…)."
        raise ConfigurationError(msg)
    return kind() if value is None else value


def check_hooks(on_event: object, session_factory: object) -> None:
    """
    Refuse hooks that cannot be called, or that run only if their result is awaited or iterated over.

    Raises:
        ConfigurationError: If one is neither None nor a plain function, class or object that can be called.
    """
    why = "It is called and not awaited; let it put the event into a queue, or start a task, for async work."
    _check_hook("on_event", on_event, why)
    _check_hook("session_factory", session_factory, "It must return an aiohttp.ClientSession at once.")


def _check_hook(name: str, value: object, why: str) -> None:
    call = value
    while isinstance(call, partial):
        call = call.func
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    runs_later = callable(call) and any(is_kind(part) for part in (call, call.__call__) for is_kind in kinds)
    if runs_later or not (call is None or callable(call)):
        got = "an async function or a generator function" if runs_later else type(call).__name__
        msg = f"Invalid {name}: expected a plain function, got {got}. {why}"
        raise ConfigurationError(msg)


def check_hosts(hosts: Collection[str] | None) -> tuple[str, ...] | None:
    """
    Return *hosts* as a tuple.

    Raises:
        ConfigurationError: If it is not a collection of strings.
    """
    if hosts is None:
        return None
    if not _are_strings(hosts):
        msg = f"Invalid download_hosts={shown(hosts)}: expected a list of strings, endings of host names: ['kie.ai']."
        raise ConfigurationError(msg)
    return tuple(hosts)


def check_networks(networks: Collection[str] | None) -> tuple[IPv4Network | IPv6Network, ...]:
    """
    Return the networks that results may be fetched from although they are not public.

    Raises:
        ConfigurationError: If it is not a collection of networks.
    """
    if networks is None:
        return ()
    if not _are_strings(networks):
        msg = f"Invalid allow_networks={shown(networks)}: expected a list of strings, such as ['198.18.0.0/15']."
        raise ConfigurationError(msg)
    return tuple(map(_network, networks))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text.strip())
    except ValueError as error:
        msg = f"Invalid allow_networks: {shortened(str(error))}. Write a network as in 198.18.0.0/15 or fd00:1::/64."
        raise ConfigurationError(msg) from None
    carried = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if carried is not None and network.prefixlen >= _MAPPED_PREFIX:
        return IPv4Network((carried, network.prefixlen - _MAPPED_PREFIX))
    if carries_addresses(network):
        msg = f"Invalid allow_networks: addresses of {network} count as the IPv4 addresses in them. Name their network."
        raise ConfigurationError(msg)
    return network


def check_download_headers(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """
    Return a copy of the headers of downloads; None if they are not given.

    Raises:
        ConfigurationError: If a header cannot be sent, carries credentials, or is the client's own.
    """
    if headers is None:
        return None
    given: object = headers
    if not isinstance(given, Mapping) or not all(_is_header(name, value) for name, value in given.items()):
        msg = (
            "Invalid download_headers: expected a mapping of names to values of printable ASCII, such as"
            " {'User-Agent': 'Mozilla/5.0'}."
        )
        raise ConfigurationError(msg)
    for name in headers:
        if name.lower() in _OWN_HEADERS:
            msg = (
                f"Invalid download_headers: {name} is set by the client, or would give every host of a result your"
                " credentials. Leave it out."
            )
            raise ConfigurationError(msg)
    return dict(headers)


def _is_header(name: object, value: object) -> bool:
    if _is_string(name) and _is_string(value):
        return bool(_HEADER_NAME.fullmatch(name)) and value.isascii() and value.isprintable()
    return False


def _shown(url: object) -> str:
    return shown_url(url) if _is_string(url) else type(url).__name__


def _is_http(url: object) -> bool:
    if not _is_string(url) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is invalid
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _has_origin(url: str) -> bool:
    try:
        origin(url)
    except ValueError:
        return False
    return True


def _are_strings(value: object) -> bool:
    return not _is_string(value) and isinstance(value, Collection) and all(_is_string(part) and part for part in value)


def _is_bool(value: object) -> TypeGuard[bool]:
    return isinstance(value, bool)


def _is_string(value: object) -> TypeGuard[str]:
    return isinstance(value, str)
