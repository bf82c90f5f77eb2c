"""Generate records of the service in which strings are not escaped as they should be, with hostile texts in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import attrs
from hypothesis import strategies as st

from kie_async import TaskRecord
from kie_async._core.wire import Envelope, read_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async import JSON

__all__ = ["BrokenRecord", "broken_records", "encode", "hostile_texts", "under_escaped"]

TASK_ID = "0123456789abcdef0123456789abcdef"
URL = "https://tempfile.aiquickdraw.com/p/1_2.mp4"
EVIL = "https://evil.example/1.mp4"

#: Names that a text may write as if it were a member, with values that would do harm.
_FORGED: dict[str, tuple[JSON, ...]] = {
    "taskId": ("other", TASK_ID),
    "state": ("success", "fail", "waiting", "", None),
    "model": ("other",),
    "param": ("{", '{"input":"{', "x"),
    "paramJson": ("{", "x"),
    "resultJson": (json.dumps({"resultUrls": [EVIL]}), "", "{", {"resultUrls": [EVIL]}),
    "response": ({"resultUrls": [EVIL]}, {}, None, "{"),
    "creditsConsumed": (0, 999.5),
    "consumeCredits": (0,),
    "failCode": ("500", None),
    "failMsg": ("the server is busy", "{", None),
    "successFlag": (1, 3),
    "completeTime": (1,),
    "data": ({"taskId": "other", "state": "success"},),
    "x": ("", "{", 1, [1], {"y": "z"}),
}
_LITERALS = (
    '"',
    '\\"',
    '\\\\"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '","',
    '"}',
    '"}"',
    '"}}',
    '":',
    " ",
    "\n",
    "a",
    "é",
    "😀",
    "null",
)


def encode(value: JSON) -> str:
    """Encode a value as the service does."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@st.composite
def _forgeries(draw: st.DrawFn) -> str:
    """Draw a text that closes the string around it, writes members, and opens another string."""
    opening = draw(st.sampled_from(['"', '"}', '"}"}', '"}",', '"}]}', '\\"', '\\"}', '\\\\"}', "x"]))
    names = draw(st.lists(st.sampled_from(list(_FORGED)), min_size=1, max_size=4))
    members = [f"{encode(name)}:{encode(draw(st.sampled_from(_FORGED[name])))}" for name in names]
    name = draw(st.sampled_from(list(_FORGED)))
    ending = draw(st.sampled_from(['"', '"{', '"{"a":"', '"\\', '{"y":"', '"[', '"{\\"a\\":\\"', "", "1"]))
    return f"{opening},{','.join(members)},{encode(name)}:{ending}"


#: Texts that a caller may send: JSON in pieces, members, quotes, escapes.
hostile_texts = (
    st.lists(st.sampled_from(_LITERALS), max_size=6).map("".join)
    | _forgeries()
    | st.builds("".join, st.lists(st.sampled_from(_LITERALS) | _forgeries(), max_size=4))
    | st.text(max_size=10)
)

Escape = Literal["raw", "quotes", "one level", "text only"]


def under_escaped(text: str, hostile: str, how: Escape) -> str:
    """
    Return a string of a record as it stands between its quotes in the body.

    Args:
        text: The string.

        hostile: The text in it that a caller has written.

        how: Not escaped; quotes escaped, but no backslashes; all backslashes of the right form halved; only the
            caller's text not escaped.
    """
    match how:
        case "raw":
            return text
        case "quotes":
            return text.replace('"', '\\"')
        case "one level":
            return encode(text)[1:-1].replace("\\\\", "\\")
        case _:
            marked = encode(text)[1:-1]
            for times in range(4):
                form = hostile
                for _ in range(times):
                    form = encode(form)[1:-1]
                if form and form in marked:
                    return marked.replace(form, hostile)
            return marked


@attrs.frozen(kw_only=True)
class BrokenRecord:
    """
    A record, and the body of the answer that should have contained it.

    Attributes:
        data: The members as they are in truth.

        broken: The names of the broken members.

        body: The body.
    """

    data: dict[str, JSON]
    broken: frozenset[str]
    body: bytes

    @property
    def truth(self) -> TaskRecord:
        """The record as it would have been read from an intact body."""
        record = read_record(Envelope(200, "success", self.data), TASK_ID)
        assert record is not None
        return record


@st.composite
def broken_records(
    draw: st.DrawFn,
    texts: st.SearchStrategy[str] = hostile_texts,
    *,
    hostile_everywhere: bool = True,
    shuffled: bool = True,
    complete: bool = False,
    echoes_model: bool = True,
) -> BrokenRecord:
    """
    Return a strategy for broken records.

    Args:
        draw: Draws parts.

        texts: The texts of callers.

        hostile_everywhere: True for such texts in every string; False for texts within the echoes and results only.

        shuffled: True for members in any order.

        complete: True for all members of a live record.

        echoes_model: True for echoes that have the name of a member, as in reality.
    """
    state = draw(st.sampled_from(["success", "success", "fail", "waiting", "generating"]))
    text = draw(texts)

    def echo() -> str:
        given: dict[str, JSON] = {"prompt": text, "seed": 0}
        inside: JSON = given if draw(st.booleans()) else encode(given)
        members: dict[str, JSON] = {"input": inside, "callBackUrl": "https://a.example/kie/t", "model": "suno"}
        if not echoes_model:
            del members["model"]
        names = draw(st.permutations(list(members)))
        return encode({name: members[name] for name in names})

    music: JSON = {
        "code": 200,
        "data": [{"id": "1", "audio_url": URL, "prompt": text, "title": text}],
        "msg": "success",
    }
    clips: list[JSON] = [{"resultUrls": [URL]}, {"resultUrls": [URL, URL + "2"]}]
    result: JSON = draw(st.sampled_from([*clips, music]))
    done = state == "success"
    plain: Callable[[str], str] = (
        (lambda usual: draw(st.just(usual) | texts)) if hostile_everywhere else (lambda usual: usual)
    )
    data: dict[str, JSON] = {
        "taskId": TASK_ID,
        "model": plain("suno"),
        "state": state,
        "param": echo(),
        "resultJson": encode(result) if done else "",
        "failCode": plain("500") if state == "fail" else None,
        "failMsg": plain("the server is busy") if state == "fail" else None,
        "costTime": 12 if done else None,
        "completeTime": 1765172677309 if done else None,
        "createTime": 1765172522239,
        "creditsConsumed": draw(st.sampled_from([12.0, 0, 38])),
        "operationType": "generate",
        "successFlag": {"success": 1, "fail": 3}.get(state, 0),
        "paramJson": echo(),
    }
    if done:
        data["response"] = result
    if not complete:
        for name in ("creditsConsumed", "operationType", "successFlag", "paramJson", "response"):
            if draw(st.integers(0, 4)) == 0:
                data.pop(name, None)
    if draw(st.booleans()):
        data["later"] = draw(st.sampled_from([1, None, "text", {"a": "b"}]))
    order = draw(st.permutations(list(data))) if shuffled else list(data)
    data = {name: data[name] for name in order}
    own = {"taskId", "state", "operationType"}  # words of the service
    breakable = [name for name, value in data.items() if isinstance(value, str) and name not in own]
    broken = frozenset(draw(st.sets(st.sampled_from(breakable), min_size=1)))
    members = []
    for name, value in data.items():
        if name in broken:
            how: Escape = draw(st.sampled_from(["raw", "raw", "quotes", "one level", "text only"]))
            members.append(f'{encode(name)}:"{under_escaped(str(value), text, how)}"')
        else:
            members.append(f"{encode(name)}:{encode(value)}")
    body = f'{{"code":200,"msg":"success","data":{{{",".join(members)}}}}}'
    return BrokenRecord(data=data, broken=broken, body=body.encode("utf-8", "surrogatepass"))
