"""Hypothesis strategies that several test files share."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from kie_async import TaskRecord, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async import JSON

#: Any string that JSON can hold, half surrogate pairs included.
texts = st.text(st.characters(exclude_categories=()), max_size=20)

#: Any string that UTF-8 can hold.
unicode_texts = st.text(max_size=20)

_numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)


def json_values(text: st.SearchStrategy[str] = texts) -> st.SearchStrategy[JSON]:
    """Return a strategy for JSON values with short strings and little depth."""
    return st.recursive(
        st.none() | st.booleans() | _numbers | text,
        lambda children: st.lists(children, max_size=4) | st.dictionaries(text, children, max_size=4),
        max_leaves=12,
    )


def json_objects(text: st.SearchStrategy[str] = texts) -> st.SearchStrategy[Mapping[str, JSON]]:
    """Return a strategy for JSON objects."""
    return st.dictionaries(text, json_values(text), max_size=5)


#: The members of a record's ``data`` that the documentation or a recording knows.
MEMBERS = (
    "taskId",
    "model",
    "state",
    "param",
    "resultJson",
    "failCode",
    "failMsg",
    "costTime",
    "completeTime",
    "createTime",
    "updateTime",
    "progress",
    "creditsConsumed",
    "consumeCredits",
    "successFlag",
    "errorCode",
)

task_ids = st.from_regex(r"[A-Za-z0-9_.:-]{1,40}", fullmatch=True)

#: A ``data`` in which every known member may be missing or hold anything, with unknown members.
hostile_data = st.dictionaries(st.sampled_from(MEMBERS) | texts, json_values(), max_size=12)

_seconds = st.none() | st.floats(0, 4e9)

records = st.builds(
    TaskRecord,
    task_id=task_ids,
    state=st.sampled_from(list(TaskState)).map(str) | texts,
    model=st.none() | texts,
    result_urls=st.lists(texts, max_size=3).map(tuple),
    result=json_values(),
    fail_code=st.none() | texts,
    fail_message=st.none() | texts,
    created_at=_seconds,
    completed_at=_seconds,
    cost_time=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    progress=st.none() | st.floats(0, 100),
    credits=st.none() | st.floats(0, 1e6),
    raw=json_objects(),
)

#: Blocks of addresses that are not on the public internet.
PRIVATE_BLOCKS = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)

private_ipv4 = st.sampled_from(PRIVATE_BLOCKS).flatmap(
    lambda block: st.integers(int(block.network_address), int(block.broadcast_address)).map(ipaddress.IPv4Address)
)


def _hex(address: ipaddress.IPv4Address) -> str:
    return f"{int(address):08x}"


#: The distance from an ASCII character to its full-width form.
_FULL_WIDTH_OFFSET = 0xFEE0

#: Spellings of an IPv4 address as the host of a URL; each of them reaches the address in some program.
IPV4_SPELLINGS = (
    str,
    lambda address: f"{address}.",
    lambda address: str(int(address)),
    lambda address: hex(int(address)),
    lambda address: hex(int(address)).upper(),
    lambda address: ".".join(hex(part) for part in address.packed),
    lambda address: ".".join(f"0{part:o}" for part in address.packed),
    lambda address: f"{address.packed[0]}.{int(address) & 0xFFFFFF}",
    lambda address: f"{address.packed[0]}.{address.packed[1]}.{int(address) & 0xFFFF}",
    lambda address: f"[::ffff:{address}]",
    lambda address: f"[::ffff:{_hex(address)[:4]}:{_hex(address)[4:]}]",
    lambda address: f"[::{address}]",
    lambda address: f"[64:ff9b::{address}]",
    lambda address: f"[2002:{_hex(address)[:4]}:{_hex(address)[4:]}::1]",
    lambda address: "".join(chr(ord(digit) + _FULL_WIDTH_OFFSET) if digit != "." else "." for digit in str(address)),
    lambda address: str(address).replace(".", "。"),
    lambda address: str(address).replace(".", "%2e"),
)

private_hosts = st.builds(lambda address, spell: str(spell(address)), private_ipv4, st.sampled_from(IPV4_SPELLINGS))
