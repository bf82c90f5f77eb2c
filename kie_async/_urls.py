"""
Which URLs may be given to the service and which may be taken from it: http(s) URLs that the public internet can reach.

Only one spelling of a host is understood: a name of ASCII labels with a dot in it, an IPv4 address as four decimal
numbers, an IPv6 address in brackets. Programs disagree about every other spelling (``2130706433``, ``0x7f.1``,
``0177.0.0.1``, ``①②⑦.0.0.1``, ``127%2e0.0.1``), and in the disagreement lies the way around such a check; so they are
refused, wherever they lead. What a *name* resolves to cannot be seen from here: whoever connects asks
``is_global_address`` again.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = [
    "MAX_LENGTH",
    "check_public_url",
    "check_result_url",
    "is_global_address",
    "looks_like_url",
    "origin",
    "shown_url",
]

#: Longer URLs are refused: the common bound of web servers for a request line. Kie documents none.
MAX_LENGTH = 8192

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_LONGEST_NAME = 253  # RFC 1035, without the dot at the end
_LONGEST_SHOWN = 100

# With two slashes anything counts as a URL. Without them only what could be meant as one, so that a file may be called
# "take2:final.png"; a drive letter is no scheme.
_URL_LIKE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+://|(?:https?|ftps?|file|data|blob|javascript|about):)", re.IGNORECASE)
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# The WHATWG URL standard's rule "ends in a number": with such a last label, a host is an IPv4 address or nothing.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

#: Names that are not of the public internet: RFC 6761, 6762 and 8375, ICANN's reservation of "internal", and habit.
_PRIVATE_SUFFIXES = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home.arpa")

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Blocks that the tables of some Python versions lack: documentation (RFC 9637), protocol assignments (RFC 6890).
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
_PROTOCOL_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")


@attrs.frozen
class _Parts:
    """What a URL says of where it leads, and what is wrong with its spelling; with a fault, the rest means nothing."""

    scheme: str
    host: str
    port: int
    fault: str | None

    @property
    def origin(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def _read(url: str) -> _Parts:
    """Take a URL apart; the host comes in lower case and without a dot at its end."""
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    authority = _END_OF_AUTHORITY.split(rest.removeprefix("//"), maxsplit=1)[0]
    match = _AUTHORITY.fullmatch(authority)
    host = match["host"].lower().removesuffix(".") if match else ""
    port = int((match and match["port"]) or _DEFAULT_PORTS.get(scheme, 0))
    rules = (
        (len(url) > MAX_LENGTH, f"it has {len(url)} characters, more than {MAX_LENGTH}"),
        # "isprintable" is false for blanks other than " ", for control and format characters, and for lone surrogates.
        # A backslash is a slash to browsers and a letter to others.
        (not url.isprintable() or " " in url or "\\" in url, "it has a blank, a backslash or an invisible character"),
        (scheme not in _DEFAULT_PORTS, "its scheme is not http or https"),
        (not rest.startswith("//"), "it has no // after the scheme"),
        ("@" in authority, "it has a user name or a password before the host"),
        (match is None, "its host or its port cannot be read"),
        (not 0 < port <= _LAST_PORT, f"its port is not between 1 and {_LAST_PORT}"),
        (not host, "it has no host"),
    )
    return _Parts(scheme, host, port, next((phrase for broken, phrase in rules if broken), None))


def _host_fault(host: str) -> str | None:
    """What is wrong with a host that should be spelled canonically and be public, as far as its spelling tells."""
    if host.startswith("["):
        return None if is_global_address(host[1:-1]) else "its host is not a public address"
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return None if is_global_address(host) else "its host is not a public address, written as four decimal numbers"
    rules = (
        (
            len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels),
            "its host is not a name of ASCII letters, digits and hyphens (others are written as xn--…)",
        ),
        (
            any(host == suffix or host.endswith("." + suffix) for suffix in _PRIVATE_SUFFIXES),
            "its host is a name of a private network",
        ),
        (len(labels) == 1, "its host is a name without a dot, which only a private network knows"),
    )
    return next((phrase for broken, phrase in rules if broken), None)


def is_global_address(text: str) -> bool:
    """
    Whether an IP address belongs to one host of the public internet.

    Private, loopback, link-local, shared (100.64.0.0/10), multicast, reserved, documentation and unspecified addresses
    do not. An IPv6 address that carries an IPv4 address (``::ffff:…``, 6to4, NAT64) counts as that one; a deprecated
    IPv4-compatible address (``::7f00:1``), a Teredo address or one with a zone (``%eth0``) never counts.

    Args:
        text: An address as resolvers write it; IPv6 without brackets.

    Returns:
        False also where *text* is no address, or one in an unusual spelling (``0x7f.1``).

    Source: the IANA special-purpose registries, as the standard library's ``ipaddress`` has them, narrowed by the IPv6
    blocks in which IANA allocates (2000::/3).

    >>> is_global_address("8.8.8.8"), is_global_address("2606:4700::1111")
    (True, True)
    >>> is_global_address("169.254.169.254"), is_global_address("::ffff:127.0.0.1"), is_global_address("2130706433")
    (False, False, False)
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        carried = _carried(address)
        if carried is None:
            return address in _GLOBAL_UNICAST and address not in _DOCUMENTATION and address.is_global
        address = carried
    # Multicast is "global" to ipaddress: it is routed, but it is not one host.
    return address.is_global and not address.is_multicast and address not in _PROTOCOL_ASSIGNMENTS


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which packets for an IPv6 address really go, or None."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def origin(url: str) -> str:
    """
    The scheme, host and port of an http(s) URL: in lower case, without the scheme's own port.

    Args:
        url: An absolute URL.

    Raises:
        ValueError: If it is none, or not a well-formed one.

    >>> origin("HTTPS://Api.Kie.ai:443/api/v1"), origin("http://127.0.0.1:8080/x?y")
    ('https://api.kie.ai', 'http://127.0.0.1:8080')
    """
    parts = _read(url)
    if parts.fault is not None:
        msg = f"not a usable http(s) URL: {parts.fault}"
        raise ValueError(msg)
    return parts.origin


def looks_like_url(text: str) -> bool:
    """
    Whether a text is meant as a URL, be it a good one or not, rather than as a file's name.

    >>> [looks_like_url(text) for text in ("https://a.example/b.png", "data:image/png;base64,", "C:/a.png", "a:b.png")]
    [True, True, False, False]
    """
    return _URL_LIKE.match(text) is not None


def check_public_url(url: str, *, allowed_origins: Collection[str] = frozenset()) -> str | None:
    """
    What keeps a URL from being given to the service, which has to fetch it from the public internet.

    Args:
        url: The URL.

        allowed_origins: Origins, as ``origin`` writes them, whose hosts may be private; nothing else is forgiven them.

    Returns:
        One phrase, or None where nothing is wrong.

    >>> check_public_url("https://example.com/cat.png")
    >>> check_public_url("http://127.0.0.1:8080/cat.png")
    'its host is not a public address, written as four decimal numbers'
    >>> check_public_url("http://127.0.0.1:8080/cat.png", allowed_origins={"http://127.0.0.1:8080"})
    """
    parts = _read(url)
    if parts.fault is not None or parts.origin in allowed_origins:
        return parts.fault
    return _host_fault(parts.host)


def check_result_url(
    url: str, *, allowed_origins: Collection[str] = frozenset(), hosts: Sequence[str] | None = None
) -> str | None:
    """
    What keeps a URL that the service has sent from being fetched: it must be https, of a wanted host, public.

    Args:
        url: The URL.

        allowed_origins: Origins, as ``origin`` writes them, that the caller has configured: they are exempt from the
            three rules, but not from being a well-formed http(s) URL without a user name.

        hosts: Domains whose hosts are wanted, with all below them (``"aiquickdraw.com"``); None for any.

    Returns:
        One phrase, or None where nothing is wrong.

    >>> check_result_url("https://tempfile.aiquickdraw.com/r/1.mp4", hosts=("aiquickdraw.com",))
    >>> check_result_url("https://aiquickdraw.com.evil.example/r/1.mp4", hosts=("aiquickdraw.com",))
    'its host is not one of those that downloads are limited to'
    """
    parts = _read(url)
    if parts.fault is not None or parts.origin in allowed_origins:
        return parts.fault
    wanted = [host.strip().lower().removeprefix("*").strip(".") for host in hosts or ()]
    if parts.scheme != "https":
        return "its scheme is not https"
    if hosts is not None and not any(parts.host == host or parts.host.endswith("." + host) for host in wanted if host):
        return "its host is not one of those that downloads are limited to"
    return _host_fault(parts.host)


def shown_url(url: str) -> str:
    """
    A URL for a message or a log: without the user name, and without the query, which may hold a signature.

    >>> shown_url("https://user:secret@example.com/a/cat.png?X-Signature=abc")
    'https://example.com/a/cat.png'
    """
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    if bare.lower().startswith("data:"):
        return "data:…"
    bare = re.sub(r"(?<=//)[^/]*@", "", bare, count=1)
    # Escaped, since it may hold anything at all; no more than a line of it.
    text = bare.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
