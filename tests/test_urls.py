"""Checks of URLs, by properties and examples."""

from __future__ import annotations

import ipaddress
from ipaddress import ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kie_async import ConfigurationError
from kie_async._settings import check_networks
from kie_async._urls import (
    MAX_LENGTH,
    check_public_url,
    check_result_url,
    is_allowed_address,
    is_global_address,
    looks_like_url,
    network_to_allow,
    origin,
    shown_url,
    without_url_secrets,
)
from tests.strategies import IPV4_SPELLINGS, PRIVATE_BLOCKS, private_hosts, private_ipv4

PUBLIC = (
    "https://example.com/cat.png",
    "http://example.com/cat.png",
    "HTTPS://Example.COM:443/cat.png?x=1#y",
    "https://example.com",
    "https://example.com:/a",
    "https://example.com./cat.png",
    "https://tempfile.aiquickdraw.com/p/1_2.png",
    "https://my_bucket.s3.eu-central-1.amazonaws.com/k?X-Amz-Signature=abc%2Fdef",
    "https://xn--bcher-kva.example/katze.png",
    "https://example.com/图片/кот.png",
    "https://8.8.8.8/cat.png",
    "https://[2606:4700:4700::1111]:8443/cat.png",
    "https://[::ffff:8.8.8.8]/cat.png",
    "https://localhost.example.com/cat.png",
    "https://internal.example/cat.png",
)


@pytest.mark.parametrize("url", PUBLIC)
def test_public_urls_pass(url: str) -> None:
    assert check_public_url(url) is None


NOT_PUBLIC = (
    ("ftp://example.com/cat.png", "scheme"),
    ("file:///etc/passwd", "scheme"),
    ("data:image/png;base64,iVBORw0KGgo=", "scheme"),
    ("javascript:alert(1)", "scheme"),
    ("example.com/cat.png", "scheme"),
    ("", "scheme"),
    ("https:example.com/cat.png", "//"),
    ("https:/example.com/cat.png", "//"),
    ("https:///cat.png", "no host"),
    ("https://./cat.png", "no host"),
    ("https://:443/cat.png", "no host"),
    ("https://user@example.com/cat.png", "user name"),
    ("https://user:secret@example.com/cat.png", "user name"),
    ("https://example.com@127.0.0.1/cat.png", "user name"),
    ("https://example.com:0/cat.png", "port"),
    ("https://example.com:65536/cat.png", "port"),
    ("https://example.com:99999999/cat.png", "port"),
    ("https://example.com:8o/cat.png", "port"),
    ("https://[::1/cat.png", "cannot be read"),
    ("https://[::1]x/cat.png", "cannot be read"),
    ("https://exa mple.com/cat.png", "blank"),
    (" https://example.com/cat.png", "blank"),
    ("https://example.com/cat.png\n", "invisible"),
    ("https://example.com/\tcat.png", "invisible"),
    ("https://example.com/\x00", "invisible"),
    ("https://example.com/\u200bcat.png", "invisible"),
    ("https://example.com/\ud800", "invisible"),
    ("https://example.com\\@127.0.0.1/", "backslash"),
    ("https://exämple.com/cat.png", "xn--"),
    ("https://-a.example/cat.png", "xn--"),
    ("https://a..example/cat.png", "xn--"),
    ("https://example.com../cat.png", "xn--"),
    ("https://127%2e0.0.1/", "public address"),
    ("https://example%2ecom/", "xn--"),
    (f"https://{'a' * 64}.example/", "xn--"),
    (f"https://{'a.' * 130}example/", "xn--"),
    ("http://localhost/cat.png", "private network"),
    ("http://LOCALHOST./cat.png", "private network"),
    ("http://a.localhost/cat.png", "private network"),
    ("http://printer.local/cat.png", "private network"),
    ("http://metadata.google.internal/x", "private network"),
    ("http://router.lan/cat.png", "private network"),
    ("http://nas.home.arpa/cat.png", "private network"),
    ("http://intranet/cat.png", "private network"),
    ("http://nas/cat.png", "without a dot"),
    ("http://169.254.169.254/latest/meta-data", "public address"),
    ("http://[::1]/", "public address"),
    ("http://[::]/", "public address"),
    ("http://[fe80::1]/", "public address"),
    ("http://[fe80::1%25eth0]/", "public address"),
    ("http://[fc00::1]/", "public address"),
    ("http://[ff02::1]/", "public address"),
    ("http://[2001:db8::1]/", "public address"),
    ("http://[3fff::1]/", "public address"),
    ("http://[2001::1]/", "public address"),
    ("http://[2606:4700:4700::1111%251]/", "public address"),
    ("http://[64:ff9b:1::808:808]/", "public address"),
    ("http://[127.0.0.1]/", "public address"),
    ("http://[example.com]/", "public address"),
    ("http://256.256.256.256/", "public address"),
    ("http://8.8.8/", "public address"),
    ("http://134744072/", "public address"),
    ("http://0x08080808/", "public address"),
    ("http://010.8.8.8/", "public address"),
    ("http://example.123/", "public address"),
    ("http://example.0x/", "public address"),
    (f"https://example.com/{'a' * MAX_LENGTH}", "characters"),
)


@pytest.mark.parametrize(("url", "says"), NOT_PUBLIC)
def test_invalid_urls_are_refused_with_a_reason(url: str, says: str) -> None:
    assert says in (check_public_url(url) or "")


@given(private_hosts, st.sampled_from(["", ":80", ":8080"]), st.sampled_from(["", "/", "/a.png", "?x=1"]))
@example("127.0.0.1", "", "/a.png")
def test_private_addresses_are_refused_in_any_spelling(host: str, port: str, rest: str) -> None:
    assert check_public_url(f"http://{host}{port}{rest}") is not None
    assert check_result_url(f"https://{host}{port}{rest}") is not None


@given(private_hosts)
def test_allowed_origin_may_be_private(host: str) -> None:
    """The caller configured the origin; only the rule for its host is lifted."""
    url = f"http://{host}:8080/a.png"
    allowed = frozenset({origin(url)})

    assert check_public_url(url, allowed_origins=allowed) is None
    assert check_result_url(url, allowed_origins=allowed) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:8080/a.png",
        "http://127.0.0.1/a.png",
        "http://127.0.0.1:8081/a.png",
        "http://127.0.0.2:8080/a.png",
        "http://user@127.0.0.1:8080/a.png",
        "http://127.0.0.1:8080/a b.png",
        "http://127.0.0.1:8080\\a.png",
        "ftp://127.0.0.1:8080/a.png",
    ],
)
def test_allowed_origin_obeys_all_other_rules(url: str) -> None:
    allowed = frozenset({"http://127.0.0.1:8080"})

    assert check_public_url("http://127.0.0.1:8080/a.png", allowed_origins=allowed) is None
    assert check_public_url(url, allowed_origins=allowed) is not None
    assert check_result_url(url, allowed_origins=allowed) is not None


@given(st.text() | st.text(st.sampled_from("htps:/[].@%x0178fo ?#\\")).map("https://".__add__))
@example("https://[")
@example("https://[::1%]/")
def test_any_string_is_checked_without_errors(url: str) -> None:
    """An accepted URL has the one spelling of a host that all programs agree on."""
    if check_public_url(url) is None:
        host = origin(url).partition("://")[2].removesuffix("/")

        assert host.isascii()
        assert "@" not in host
    assert isinstance(shown_url(url), str)
    assert isinstance(looks_like_url(url), bool)


def test_length_limit_is_exact() -> None:
    longest = "https://example.com/".ljust(MAX_LENGTH, "a")

    assert check_public_url(longest) is None
    assert check_public_url(longest + "a") is not None


@given(private_ipv4)
def test_private_addresses_are_not_global(address: ipaddress.IPv4Address) -> None:
    assert not is_global_address(str(address))
    assert not is_global_address(f"::ffff:{address}")


@given(st.ip_addresses(v=4))
def test_global_ipv4_addresses_match_the_registry(address: ipaddress.IPv4Address) -> None:
    private = any(address in block for block in PRIVATE_BLOCKS)

    assert is_global_address(str(address)) == (address.is_global and not private)


@given(st.ip_addresses(v=4), st.sampled_from(IPV4_SPELLINGS))
def test_embedded_ipv4_address_decides(address: ipaddress.IPv4Address, spell: object) -> None:
    assert callable(spell)
    host = str(spell(address)).strip("[]")

    assert is_global_address(str(address)) >= is_global_address(host)


@given(st.ip_addresses(v=6))
@example(ipaddress.IPv6Address("ff0e::1"))
@example(ipaddress.IPv6Address("fec0::1"))
@example(ipaddress.IPv6Address("::7f00:1"))
def test_unallocated_ipv6_is_not_global(address: ipaddress.IPv6Address) -> None:
    if (
        address in ipaddress.IPv6Network("2000::/3")
        or address.ipv4_mapped
        or address in ipaddress.IPv6Network("64:ff9b::/96")
    ):
        return

    assert not is_global_address(str(address))


@pytest.mark.parametrize(
    ("text", "is_global"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::10.0.0.1", False),
        ("2002:808:808::1", True),
        ("2002:a00:1::1", False),
        ("fe80::1%eth0", False),
        ("224.0.0.1", False),
        ("2130706433", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_example_addresses(text: str, is_global: bool) -> None:  # noqa: FBT001 (expected value)
    assert is_global_address(text) is is_global


@pytest.mark.parametrize(
    ("url", "hosts", "says"),
    [
        ("https://tempfile.aiquickdraw.com/r/1.mp4", None, None),
        ("https://tempfile.aiquickdraw.com/r/1.mp4", ("aiquickdraw.com",), None),
        ("https://tempfile.aiquickdraw.com/r/1.mp4", ("*.AIquickdraw.com",), None),
        ("https://tempfile.aiquickdraw.com./r/1.mp4", (".aiquickdraw.com",), None),
        ("https://aiquickdraw.com/r/1.mp4", ("x.example", "aiquickdraw.com"), None),
        ("https://notaiquickdraw.com/r/1.mp4", ("aiquickdraw.com",), "not one of those"),
        ("https://aiquickdraw.com.evil.example/r/1.mp4", ("aiquickdraw.com",), "not one of those"),
        ("https://tempfile.aiquickdraw.com/r/1.mp4", (), "not one of those"),
        ("https://tempfile.aiquickdraw.com/r/1.mp4", ("",), "not one of those"),
        ("http://tempfile.aiquickdraw.com/r/1.mp4", None, "not https"),
        ("https://10.0.0.1/r/1.mp4", ("10.0.0.1",), "public address"),
        ("https://user@tempfile.aiquickdraw.com/r/1.mp4", None, "user name"),
    ],
)
def test_result_urls_need_https_and_allowed_hosts(url: str, hosts: tuple[str, ...] | None, says: str | None) -> None:
    fault = check_result_url(url, hosts=hosts)

    assert (fault is None) if says is None else (says in (fault or ""))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.kie.ai/api/v1", "https://api.kie.ai"),
        ("HTTPS://API.Kie.AI:443", "https://api.kie.ai"),
        ("https://api.kie.ai.:444/x", "https://api.kie.ai:444"),
        ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_origin_has_one_spelling(url: str, expected: str) -> None:
    assert origin(url) == expected
    assert origin(expected) == expected


def test_invalid_url_has_no_origin() -> None:
    with pytest.raises(ValueError, match="scheme is not http"):
        origin("api.kie.ai")


@pytest.mark.parametrize(
    ("text", "is_url"),
    [
        ("https://example.com/a.png", True),
        (" http://example.com", True),
        ("FTP://example.com", True),
        ("s3://bucket/key", True),
        ("file:/etc/passwd", True),
        ("data:image/png;base64,", True),
        ("javascript:alert(1)", True),
        ("cat.png", False),
        ("/tmp/cat.png", False),
        ("C:\\cat.png", False),
        ("C:/cat.png", False),
        ("take2:final.png", False),
        ("", False),
    ],
)
def test_strings_that_look_like_urls(text: str, is_url: bool) -> None:  # noqa: FBT001 (expected value)
    assert looks_like_url(text) is is_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@example.com/a.png?X-Signature=s#f", "https://example.com/a.png"),
        ("data:image/png;base64,c2VjcmV0", "data:…"),
        ("https://example.com/\n", "https://example.com/\\n"),
        ("https://example.com/" + "a" * 100, "https://example.com/" + "a" * 79 + "…"),
    ],
)
def test_shown_url_is_short_and_without_secrets(url: str, expected: str) -> None:
    assert shown_url(url) == expected


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("198.18.0.5", ["198.18.0.0/15"], True),
        ("198.20.0.5", ["198.18.0.0/16"], True),  # it is public anyway
        ("198.19.0.5", ["198.18.0.0/16"], False),
        ("::ffff:198.18.0.5", ["198.18.0.0/15"], True),
        ("64:ff9b::198.18.0.5", ["198.18.0.0/15"], True),
        ("fdfe:dcba:9876::5", ["fdfe:dcba:9876::/64"], True),
        ("fdfe:dcba:9876::5", ["198.18.0.0/15"], False),
        ("127.0.0.1", ["0.0.0.0/0", "::/0"], False),
        ("127.0.0.1", ["126.0.0.0/7"], False),
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("127.0.0.1", ["127.0.0.1/32"], True),
        ("::ffff:127.0.0.1", ["::/0", "0.0.0.0/0"], False),
        ("64:ff9b::7f00:1", ["64:ff9b::/96"], False),
        ("64:ff9b:1::7f00:1", ["::/0"], False),
        ("2002:7f00:1::", ["2002::/16"], False),
        ("::7f00:1", ["::/0"], False),
        ("::1", ["::/0"], False),
        ("::1", ["::1/128"], True),
        ("169.254.169.254", ["169.0.0.0/8"], False),
        ("169.254.169.254", ["169.254.169.254/32"], True),
        ("100.100.100.200", ["100.64.0.0/10"], False),
        ("100.101.0.1", ["100.64.0.0/10"], True),
        ("fd00:ec2::254", ["fc00::/7"], False),
        ("fd00:1::1", ["fc00::/7"], True),
        ("fe80::1", ["::/0"], False),
        ("fe80::1%eth0", ["fe80::/10"], False),
        ("0.0.0.0", ["0.0.0.0/0"], False),
        ("2130706433", ["0.0.0.0/0", "127.0.0.0/8"], False),
        ("localhost", ["127.0.0.0/8"], False),
    ],
)
def test_allowed_networks_open_no_other_block(address: str, networks: list[str], *, allowed: bool) -> None:
    """Neither this host nor a metadata service is reached by accident, in any spelling."""
    assert is_allowed_address(address, [ip_network(network) for network in networks]) is allowed


@given(st.ip_addresses().map(str))
def test_without_networks_only_global_addresses_are_allowed(address: str) -> None:
    assert is_allowed_address(address) is is_global_address(address)


@given(st.ip_addresses().map(str))
@example("198.19.0.1")
@example("127.0.0.1")
@example("::1")
@example("::ffff:10.0.0.1")
@example("64:ff9b::a00:1")
@example("64:ff9b:1::a00:1")
@example("2002:a00:1::")
@example("2001::1")
@example("fd00:ec2::254")
@example("fe80::1%eth0")
@example("240.0.0.1")
@example("example.com")
def test_network_to_allow_is_enough_and_valid(address: str) -> None:
    """An error that names a network which does not help leads nowhere."""
    network = network_to_allow(address)

    if network is None:
        assert "%" in address or address.strip("0123456789abcdef:.")
        assert not is_allowed_address(address, [ip_network("::/0"), ip_network("0.0.0.0/0")])
    else:
        assert is_allowed_address(address, check_networks([network]))


@pytest.mark.parametrize("network", ["64:ff9b::/96", "64:ff9b::a00:1", "2002:a00:1::/48", "2002::/16", "64:ff9b::/64"])
def test_network_that_would_allow_nothing_is_refused(network: str) -> None:
    """Its addresses count as the IPv4 addresses that they carry."""
    with pytest.raises(ConfigurationError, match="IPv4"):
        check_networks([network])


def test_mapped_network_counts_as_its_ipv4_network() -> None:
    assert (ip_network("198.18.0.0/15"),) == check_networks(["::ffff:198.18.0.0/111"])
    assert (ip_network("198.18.0.5/32"), ip_network("fd00::/8")) == check_networks(["198.18.0.5", " fd00::/8 "])


def test_address_of_an_allowed_network_may_be_in_a_url() -> None:
    networks = [ip_network("198.18.0.0/15")]

    assert check_result_url("https://198.18.0.5/a", networks=networks) is None
    for url in ("http://198.18.0.5/a", "https://10.0.0.1/a", "https://localhost/a"):
        assert check_result_url(url, networks=networks) is not None


@pytest.mark.parametrize("part", ["a-", "a.", "a:", "http:/", "data:", "me:a@", "?a", "%3F", "//"])
def test_long_word_hides_no_secret_and_takes_no_time(part: str) -> None:
    """A cell may have a million bytes; with time that grows as the square, this test would take hours."""
    text = f"{part * 500_000} https://example.com/a.png?sig=abc"
    assert not without_url_secrets(text).endswith("abc")
