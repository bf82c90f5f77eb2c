"""
Checks of the URLs that are sent to the service or received from it: http(s) URLs that are publicly reachable.

Only one spelling of a host is accepted: a name of ASCII labels with a dot in it, an IPv4 address as four decimal
numbers, or an IPv6 address in brackets. Programs disagree about every other spelling (``2130706433``, ``0x7f.1``,
``0177.0.0.1``, ``①②⑦.0.0.1``, ``127%2e0.0.1``), which would allow bypassing the check, so these are refused. The
addresses that a *name* resolves to are not known here: the resolver calls ``is_allowed_address`` before it is connected
to one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from ipaddress import IPv4Network, IPv6Network
    from typing import TypeAlias

    Networks: TypeAlias = Collection[IPv4Network | IPv6Network]

__all__ = [
    "BASE_URL",
    "MAX_LENGTH",
    "carries_addresses",
    "check_public_url",
    "check_result_url",
    "is_allowed_address",
    "is_global_address",
    "looks_like_url",
    "network_to_allow",
    "origin",
    "proxy_url",
    "service_origin",
    "shown_url",
    "without_url_secrets",
]

#: The service's own base URL.
BASE_URL = "https://api.kie.ai"
#: The greatest length of a URL: the common limit of web servers for a request line. Kie documents none.
MAX_LENGTH = 8192

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_LONGEST_NAME = 253  # RFC 1035, without the final dot
_LONGEST_SHOWN = 100

# With two slashes any scheme counts as a URL. Without them only known schemes do, so that a file may be named
# "take2:final.png"; a drive letter is not a scheme.
_URL_LIKE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+://|(?:https?|ftps?|file|data|blob|javascript|about):)", re.IGNORECASE)
_WHOLE_URL = re.compile(r"^(\s*[a-z][a-z0-9+.-]*:(?:\\?/)*)(.*)", re.IGNORECASE | re.DOTALL)
_URL_IN_TEXT = re.compile(
    r"\b([a-z][a-z0-9+.-]{0,30}:(?:\\?/){2,}|https?:/?|data:(?=[a-z0-9.+/-]*[;,]))([^\s\"'`<>]*)", re.IGNORECASE
)
# The same without a scheme: "example.com/a.png?sig=abc" and "me:secret@example.com".
# A URL in the path of another one has %3F and %3D: "https://example.com/fetch/https%3A%2F%2Fexample.org%2Fa%3Fsig%3Dabc".
_BARE_QUERY = re.compile(r"(?:\?|%3f)(?:(?!%3f)[\w.%~\[\]-])+?(?:=|%3d)[^\s\"'`<>]*", re.IGNORECASE)
_BARE_USER = re.compile(r"(?<![\w.+%-])[\w.+%-]+:[^\s\"'`<>@/:]{1,200}@(?=[\w-]+\.|localhost)")
_NO_PORT = re.compile(r"[^\[:]*:\d*\D")
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# The WHATWG URL standard's rule "ends in a number": with such a last label, a host is an IPv4 address or nothing.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

#: Names outside the public internet: RFC 6761, 6762 and 8375, ICANN's reservation of "internal", and common practice.
_PRIVATE_SUFFIXES = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home.arpa")

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Blocks that are missing in some Python versions: documentation (RFC 9637), protocol assignments (RFC 6890).
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
_PROTOCOL_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")

#: The network from which Clash, sing-box and some VPNs give each name an address of its own (RFC 2544).
_FAKE_ADDRESSES = ipaddress.IPv4Network("198.18.0.0/15")

#: Blocks of this host, of cloud metadata services, or whose addresses carry others: a larger network that a caller
#: allows does not include them by accident.
_GUARDED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "::/96",
            "64:ff9b:1::/48",
            "2001::/32",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
            "fe80::/10",
        ),
    )
)


@attrs.frozen
class _Parts:
    """The parts of a URL, and the fault of its spelling if there is one; then the other parts are meaningless."""

    scheme: str
    host: str
    port: int
    fault: str | None

    @property
    def origin(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def _read(url: str) -> _Parts:
    """Split a URL; the host is in lower case and without a dot at its end."""
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


def _host_fault(host: str, networks: Networks = ()) -> str | None:
    """Return the fault of a host that must be spelled canonically and be public, judged by its spelling, or None."""
    if host.startswith("["):
        return None if is_allowed_address(host[1:-1], networks) else "its host is not a public address"
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        if is_allowed_address(host, networks):
            return None
        return "its host is not a public address, written as four decimal numbers"
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
    Return True if an IP address belongs to one host of the public internet.

    Private, loopback, link-local, shared (100.64.0.0/10), multicast, reserved, documentation and unspecified addresses
    do not. An IPv6 address that carries an IPv4 address (``::ffff:…``, 6to4, NAT64) counts as that one; a deprecated
    IPv4-compatible address (``::7f00:1``), a Teredo address or one with a zone (``%eth0``) never counts.

    Args:
        text: An address in the spelling of resolvers; IPv6 without brackets.

    Returns:
        False also if *text* is not an address, or has an unusual spelling (``0x7f.1``).

    Source: the IANA special-purpose registries, as in the standard library's ``ipaddress``, restricted to the IPv6
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
    # Multicast is "global" for ipaddress: it is routed, but is not one host.
    return address.is_global and not address.is_multicast and address not in _PROTOCOL_ASSIGNMENTS


def is_allowed_address(text: str, networks: Networks = ()) -> bool:
    """
    Return True if an IP address may be connected to: it is global, or of a network that the caller allows.

    An IPv6 address that carries an IPv4 address counts as that one. Loopback, link-local and metadata addresses count
    only if the network lies within their own block, and not for a larger one.

    Args:
        text: An address in the spelling of resolvers; IPv6 without brackets.

        networks: The networks that the caller allows.

    >>> fake, everything = ipaddress.ip_network("198.18.0.0/15"), ipaddress.ip_network("0.0.0.0/0")
    >>> is_allowed_address("198.18.0.5"), is_allowed_address("198.18.0.5", [fake])
    (False, True)
    >>> is_allowed_address("10.0.0.1", [everything]), is_allowed_address("169.254.169.254", [everything])
    (True, False)
    """
    if is_global_address(text):
        return True
    address = _destination(text)
    if address is None:
        return False
    blocks = [block for block in _GUARDED if address in block]
    return any(
        address in network and all(network.subnet_of(block) for block in blocks)  # type: ignore[arg-type]  # one version
        for network in networks
    )


def network_to_allow(text: str) -> str | None:
    """
    Return the network with which ``is_allowed_address`` accepts an IP address, or None if none does.

    >>> network_to_allow("198.18.0.5"), network_to_allow("64:ff9b::a00:1"), network_to_allow("fe80::1%eth0")
    ('198.18.0.0/15', '10.0.0.1/32', None)
    """
    address = _destination(text)
    if address is None:
        return None
    return str(_FAKE_ADDRESSES if address in _FAKE_ADDRESSES else ipaddress.ip_network(address))


def carries_addresses(network: IPv4Network | IPv6Network) -> bool:
    """Return True if the addresses of a network count as the IPv4 addresses in them, so that it allows none."""
    if not isinstance(network, ipaddress.IPv6Network):
        return False
    return any(_carried(address) is not None for address in (network.network_address, network.broadcast_address))


def _destination(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address to which packets for an address are delivered, or None if it is not one or has a zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return None if address.scope_id is not None else _carried(address) or address
    return address


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which packets for an IPv6 address are delivered, or None."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def origin(url: str) -> str:
    """
    Return the scheme, host and port of an http(s) URL, in lower case and without the scheme's default port.

    Args:
        url: An absolute URL.

    Raises:
        ValueError: If it is not a well-formed http(s) URL.

    >>> origin("HTTPS://Api.Kie.ai:443/api/v1"), origin("http://127.0.0.1:8080/x?y")
    ('https://api.kie.ai', 'http://127.0.0.1:8080')
    """
    parts = _read(url)
    if parts.fault is not None:
        msg = f"not a usable http(s) URL: {parts.fault}"
        raise ValueError(msg)
    return parts.origin


def service_origin(base_url: str) -> str:
    """
    Return what tells a service from all others: the origin of its base URL, with the path if there is one.

    One host may serve two services under two paths. The spelling of the host, the default port and slashes at the end
    make no difference.

    Args:
        base_url: The base URL.

    Raises:
        ValueError: If it is not a well-formed http(s) URL.

    >>> service_origin("HTTPS://Api.Kie.ai:443/"), service_origin("http://localhost:8080/kie//")
    ('https://api.kie.ai', 'http://localhost:8080/kie')
    """
    return origin(base_url) + urlsplit(base_url).path.rstrip("/")


def looks_like_url(text: str) -> bool:
    """
    Return True if a string is meant as a URL, valid or not, and not as a file name.

    >>> [looks_like_url(text) for text in ("https://a.example/b.png", "data:image/png;base64,", "C:/a.png", "a:b.png")]
    [True, True, False, False]
    """
    return ":" in text and _URL_LIKE.match(text) is not None


def check_public_url(url: str, *, allowed_origins: Collection[str] = frozenset()) -> str | None:
    """
    Return the reason why the service, which fetches from the public internet, cannot use a URL.

    Args:
        url: The URL.

        allowed_origins: Origins (in the form of ``origin``) whose hosts may be private; all other rules apply to them.

    Returns:
        A phrase, or None for a valid URL.

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
    url: str,
    *,
    allowed_origins: Collection[str] = frozenset(),
    hosts: Sequence[str] | None = None,
    networks: Networks = (),
) -> str | None:
    """
    Return the reason why a URL from the service must not be fetched: it must be https, of an allowed host, and public.

    Args:
        url: The URL.

        allowed_origins: Origins (in the form of ``origin``) that the caller configured: they are exempt from the three
            rules, but must still be well-formed http(s) URLs without a user name.

        hosts: The allowed domains, including their subdomains (``"aiquickdraw.com"``); None for any.

        networks: Networks whose addresses count as public.

    Returns:
        A phrase, or None for a valid URL.

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
    return _host_fault(parts.host, networks)


def without_url_secrets(text: str, *, user: str = "", query: str = "") -> str:
    """
    Return a text whose URLs have no user name, no password, no query and no fragment; data URLs lose their content.

    Args:
        text: A URL, or a text that may have URLs in it.

        user: Stands in place of a user name and a password.

        query: Stands in place of a query and a fragment.

    >>> without_url_secrets("Fetch https://me:secret@example.com/cat.png?sig=abc, then https://example.com/dog@2x.png")
    'Fetch https://example.com/cat.png then https://example.com/dog@2x.png'
    """

    def hide(found: re.Match[str]) -> str:
        scheme, rest = found.groups()
        if scheme.strip().lower() == "data:":
            return "data:…"
        end = len(_END_OF_AUTHORITY.split(rest, maxsplit=1)[0])
        if "@" not in rest[:end] and _NO_PORT.match(rest[:end]):
            end = len(rest)  # what looks like the end of the host is a part of a password
        _, at, host = rest[:end].rpartition("@")
        rest = host + rest[end:]
        bare = re.split(r"[?#]", rest, maxsplit=1)[0]
        return f"{scheme}{user if at else ''}{bare}{query if bare != rest else ''}"

    if ":" not in text and "?" not in text and "%" not in text:
        return text
    if looks_like_url(text):  # as a whole: a blank does not end it
        text = _WHOLE_URL.sub(hide, text)
    text = _BARE_QUERY.sub(lambda _: query, _URL_IN_TEXT.sub(hide, text))
    return _BARE_USER.sub(lambda _: user, text)


def proxy_url(url: str) -> str:
    """
    Return the URL of a proxy, with a scheme.

    Raises:
        ValueError: If it is not the URL of an HTTP proxy; the message shows no password.

    >>> proxy_url("user:secret@127.0.0.1:7890")
    'http://user:secret@127.0.0.1:7890'
    """
    whole = url if "://" in url else f"http://{url}"
    scheme, _, rest = whole.partition("://")
    fault = _read(f"{scheme}://{_END_OF_AUTHORITY.split(rest, maxsplit=1)[0].rpartition('@')[2]}").fault
    if scheme.lower().startswith("socks"):
        fault = "SOCKS is not supported; most such proxies have an HTTP port, too"
    if fault is None:
        return whole
    msg = f"invalid proxy {shown_url(whole)}: expected an HTTP proxy such as http://127.0.0.1:7890, but {fault}."
    raise ValueError(msg)


def shown_url(url: str) -> str:
    """
    Return a URL for a message or a log, without the user name and the query, which may contain a signature.

    >>> shown_url("https://user:secret@example.com/a/cat.png?X-Signature=abc")
    'https://example.com/a/cat.png'
    """
    bare = re.split(r"[?#]", without_url_secrets(url), maxsplit=1)[0]
    if bare == "data:…":
        return bare
    # Escaped, since it may contain any characters, and limited to one line.
    text = bare.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
