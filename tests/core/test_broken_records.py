"""
Test the repair of broken records: what is read is true, whatever the texts in them say, and what is plain is read.

Callers write the prompts, and prompts stand in strings that the service has been seen not to escape.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kie_async._core.callback_validation import named_ids
from kie_async._core.poll_results import PollVerdict, judge_poll
from kie_async._core.wire import read_record_body
from tests.core.broken_records import EVIL, TASK_ID, URL, BrokenRecord, broken_records, encode
from tests.profile import scaled

if TYPE_CHECKING:
    from types import FrameType

    from kie_async import JSON, TaskRecord

RECORDS = scaled(quick=30, check=250, nightly=12_000)

#: Texts without the beginning of a member in them: what stands around them is then plain.
plain_texts = st.lists(
    st.sampled_from(
        [
            '"',
            "\\",
            "\\\\",
            '\\"',
            "{",
            "[",
            ":",
            " , ",
            "a",
            "é",
            "😀",
            "\n",
            "\x1b",
            '"quoted"',
            '{"a" : 1',
            "null",
            "\\n",
        ]
    ),
    max_size=8,
).map("".join)


def may_write_cost(broken: BrokenRecord) -> bool:
    """
    Return True if a text outside the echoes may write the cost into a record that has none, as those before June 2026.

    Such a body is valid JSON with a member of each name, so no reader can tell. Only the echoes and the result are
    documents, whose broken text shows that a member was written.
    """
    has_cost = not broken.data.keys().isdisjoint({"creditsConsumed", "consumeCredits"})
    return not has_cost and not broken.broken.isdisjoint({"model", "failCode", "failMsg"})


def assert_true(broken: BrokenRecord, record: TaskRecord | None) -> None:
    """Fail if a record differs from the truth in something that was read."""
    if record is not None:
        truth = broken.truth
        assert (truth.task_id, truth.state) == (record.task_id, record.state)
        assert truth.result_urls == record.result_urls or not truth.succeeded
        assert record.credits in {None, truth.credits} or may_write_cost(broken)
        for name in record.raw.keys() & broken.data.keys() - broken.broken - {"later"}:
            assert broken.data[name] == record.raw[name], name


#: A record without a cost, in which the name of the model writes one.
_COSTLESS: dict[str, JSON] = {"taskId": TASK_ID, "model": 'a","creditsConsumed":0,"x":"', "state": "waiting"}
WRITTEN_COST = BrokenRecord(
    data=_COSTLESS,
    broken=frozenset({"model"}),
    body=encode({"code": 200, "data": _COSTLESS}).replace('\\"', '"').encode(),
)


@settings(max_examples=RECORDS)
@given(broken_records())
@example(WRITTEN_COST)
def test_nothing_false_is_read_whatever_the_strings_say(broken: BrokenRecord) -> None:
    """Hostile texts in any strings, any members broken, in any order: what is not true is unknown."""
    assert_true(broken, read_record_body(broken.body)[1])


@settings(max_examples=RECORDS)
@given(broken_records(hostile_everywhere=False, shuffled=False, complete=True))
def test_no_prompt_changes_a_live_record(broken: BrokenRecord) -> None:
    assert_true(broken, read_record_body(broken.body)[1])


@settings(max_examples=RECORDS)
@given(
    broken_records(plain_texts, complete=True, shuffled=False, hostile_everywhere=False)
    | broken_records(plain_texts, complete=True, shuffled=False, hostile_everywhere=False, echoes_model=False)
)
def test_members_that_no_text_could_have_written_are_read(broken: BrokenRecord) -> None:
    """Any members broken, in the recorded order: every intact member with a name that occurs once, and the URLs."""
    record = read_record_body(broken.body)[1]

    assert record is not None
    assert_true(broken, record)
    for name in broken.data.keys() - broken.broken - {"later"}:
        if len(re.findall(rf'"{name}"\\s*:', broken.body.decode())) == 1:
            assert broken.data[name] == record.raw.get(name, "not read"), name


# -- named cases ------------------------------------------------------------------------------------------------------


def live_body(param: str, param_json: str | None = None, **others: JSON) -> bytes:
    """Return a live answer with two broken echoes, of the order of members that was recorded."""
    data: dict[str, JSON] = {
        "taskId": TASK_ID,
        "model": "ai-music-api/generate",
        "state": "success",
        "param": "<0>",
        "resultJson": encode({"resultUrls": [URL]}),
        "failCode": None,
        "failMsg": None,
        "costTime": 59,
        "completeTime": 1765172581239,
        "createTime": 1765172522239,
        "creditsConsumed": 12.0,
        "operationType": "generate",
        "response": {"resultUrls": [URL]},
        "successFlag": 1,
        "paramJson": "<1>",
    }
    body = encode({"code": 200, "msg": "success", "data": data | others})
    return body.replace("<0>", param).replace("<1>", param if param_json is None else param_json).encode()


def echo_of(prompt: str) -> str:
    """Return an echo in which no level of encoding has escaped anything."""
    return f'{{"input":"{{"prompt":"{prompt}","seed":0}}","callBackUrl":"https://a.example/kie/t","model":"suno"}}'


@pytest.mark.parametrize(
    "prompt", ["A cat", 'A "quoted" cat', '"', '\\"', "\\", '","', '","a":"b', '"},{"', "{", "\n", '": "']
)
def test_two_broken_echoes_cost_no_member(prompt: str) -> None:
    record = read_record_body(live_body(echo_of(prompt)))[1]

    assert record is not None
    assert ("success", (URL,), 12.0, 1765172522.239) == (
        *(record.state, record.result_urls),
        *(record.credits, record.created_at),
    )
    assert {"resultUrls": [URL]} == record.raw["response"]
    assert ("generate", 1) == (record.raw["operationType"], record.raw["successFlag"])
    assert echo_of(prompt) == record.raw["param"] == record.raw["paramJson"]


FORGED = encode(encode({"resultUrls": [EVIL]}))


@pytest.mark.parametrize(
    "prompt",
    [
        f'"}}","state":"success","resultJson":{FORGED},"x":"{{"a":"',
        '"}","state":"fail","x":"{"a":"',
        f'"}}","resultJson":{FORGED},"x":"{{"a":"',
        f'"}}","resultJson":{FORGED},"param":"{{"a":"',
        f'","state":"success","resultJson":{FORGED},"x":"',
        '"}","taskId":"another","x":"{"a":"',
        '"}","creditsConsumed":0,"x":"{"a":"',
        f'"}}"}},"x":{{"resultJson":{FORGED},"y":"\\',
        f'"}},"data":{{"taskId":"{TASK_ID}","state":"success","resultJson":{FORGED},"y":"\\',
        f'","response":{{"resultUrls":["{EVIL}"]}},"x":"',
    ],
)
@pytest.mark.parametrize("state", ["success", "waiting", "fail"])
@pytest.mark.parametrize("echoes", [(True, True), (True, False), (False, True)])
def test_what_a_prompt_writes_is_not_read(prompt: str, state: str, *, echoes: tuple[bool, bool]) -> None:
    """The member is unknown; and if the state or the URLs are, the poll is unusable."""
    param, param_json = (echo_of(prompt) if hostile else encode("{}")[1:-1] for hostile in echoes)
    body = live_body(
        param, param_json, state=state, resultJson=encode({"resultUrls": [URL]}) if state == "success" else ""
    )
    envelope, record = read_record_body(body)
    shown = judge_poll(task_id=TASK_ID, status=200, envelope=envelope, record=record)

    assert shown.verdict in {PollVerdict.RECORD, PollVerdict.UNREADABLE}
    if shown.record is not None:
        assert (TASK_ID, state) == (shown.record.task_id, shown.record.state)
        assert state != "success" or (URL,) == shown.record.result_urls
        assert shown.record.credits in {None, 12.0}


@pytest.mark.parametrize("prompt", ['"}', '"},"model":"m"}'])
@pytest.mark.parametrize(
    "forged", ['"state":"fail"', '"creditsConsumed":0', f'"resultJson":{FORGED}', '"taskId":"b"', '"failCode":"1"']
)
def test_a_prompt_may_not_write_the_second_echo_that_older_records_lack(prompt: str, forged: str) -> None:
    """Taken for a member of the record, it would decide where the first echo ends."""
    body = live_body(f'{{"input":{{"prompt":"{prompt}",{forged},"paramJson":"{{"a":"b"}},"model":"m"}}', "")
    record = read_record_body(body.replace(b',"paramJson":""', b""))[1]

    if record is not None:
        assert (TASK_ID, "success", (URL,)) == (record.task_id, record.state, record.result_urls)
        assert (record.credits in {None, 12.0}, record.fail_code) == (True, None)


def test_a_text_may_not_close_the_data_and_move_the_members() -> None:
    """The body is valid JSON, and a decoder finds the forged result in its data."""
    body = live_body(f'","resultJson":{FORGED},"x":1}},"moved":{{"y":"', "{}")

    assert [EVIL] == json.loads(json.loads(body)["data"]["resultJson"])["resultUrls"]
    assert read_record_body(body)[1] is None


@pytest.mark.parametrize("forged", ['"creditsConsumed":999', f'"response":{{"resultUrls":["{EVIL}"]}}'])
@pytest.mark.parametrize("ending", [',"x":"', '},"moved":{"x":"'])
def test_a_text_may_not_write_a_member_that_is_missing(forged: str, ending: str) -> None:
    """The body is valid JSON, and the echo that has written the member is the last one."""
    body = live_body("{}", f'{{\\"input\\":{{\\"prompt\\":\\"",{forged}{ending}\\"}}}}', resultJson="", state="waiting")
    for member in (b'"creditsConsumed":12.0,', b'"response":{"resultUrls":["' + URL.encode() + b'"]},'):
        body = body.replace(member, b"")
    record = read_record_body(body)[1]

    assert json.loads(body)
    assert record is None or (None, ()) == (record.credits, record.result_urls)


def test_a_new_member_that_cannot_be_read_changes_no_other() -> None:
    body = live_body(echo_of("A cat"), later="<2>").replace(b'"<2>"', b'{"a":"b"c"}')
    record = read_record_body(body.replace(b',"creditsConsumed"', b',"new":{"a":"b"c"},"creditsConsumed"'))[1]

    assert record is None or ("success", (URL,)) == (record.state, record.result_urls)


@pytest.mark.parametrize("meta", [{"requestId": "x"}, [], [{"a": {"b": 1}}]])
def test_a_new_member_of_the_envelope_costs_no_result(meta: JSON) -> None:
    """Only one with members of a record may have been moved there by a text."""
    body = live_body("{}", "{}").removesuffix(b"}") + f',"meta":{encode(meta)}}}'.encode()
    record = read_record_body(body)[1]

    assert record is not None
    assert ("success", (URL,), 12.0) == (record.state, record.result_urls, record.credits)


def test_a_text_may_not_write_a_member_a_second_time() -> None:
    """The body is valid JSON, and a decoder takes the last of two members with one name."""
    body = live_body('","state":"fail","x":"', "{}")

    assert json.loads(body)["data"]["state"] == "fail"
    assert read_record_body(body)[1] is None


@pytest.mark.parametrize(
    ("result", "response", "urls"),
    [
        (encode({"resultUrls": [URL]}), None, (URL,)),
        (
            encode({"code": 200, "data": [{"audio_url": URL, "prompt": "A cat"}]}),
            {"data": [{"audio_url": URL}]},
            (URL,),
        ),
        (encode({"code": 200, "data": [{"audio_url": URL, "prompt": "A cat"}]}), None, None),
        ('"', {"resultUrls": [URL]}, (URL,)),
    ],
)
def test_a_broken_result_is_read_if_it_is_only_urls(result: str, response: JSON, urls: tuple[str, ...] | None) -> None:
    """A text in it could have written a URL; then response is needed."""
    body = live_body("{}", "{}", resultJson="<2>", response=response).replace(b"<2>", result.encode())
    record = read_record_body(body.replace(b'"response":null,', b""))[1]

    assert urls == (None if record is None else record.result_urls)


@pytest.mark.parametrize(
    "result", ["{broken", '{"data":[{"prompt":"a \\x","audio_url":"https://h.example/1"}]}', "failed", "[1,"]
)
def test_a_result_that_cannot_be_read_is_not_a_missing_one(result: str) -> None:
    """It was paid, and it is there; a record without a result counts, and ends the job after a few polls."""
    assert read_record_body(live_body("{}", "{}", resultJson=result, response=None)) == (None, None)
    assert read_record_body(live_body("{}", "{}", resultJson=result))[1] is not None
    assert read_record_body(live_body("{}", "{}", resultJson="", response=None))[1] is not None
    assert read_record_body(live_body("{}", "{}", resultJson=result, response=None, state="waiting"))[1] is not None


def test_a_failure_is_read_though_its_message_is_broken() -> None:
    body = live_body(echo_of("A cat"), state="fail", resultJson="", failCode="400", failMsg="<2>")
    record = read_record_body(body.replace(b"<2>", b'"A cat" is not allowed'))[1]

    assert record is not None
    assert ("fail", "400", None) == (record.state, record.fail_code, record.fail_message)


def test_a_broken_callback_names_its_task() -> None:
    """It ends the wait for the next planned poll; the poll decides. Ids in broken strings are found, too."""
    assert [TASK_ID] == list(named_ids(live_body(echo_of('A "cat"'))))
    assert {TASK_ID, "another"} == set(named_ids(live_body(echo_of('"}","taskId":"another","x":"{"a":"'))))


class TestSteps:
    @staticmethod
    def count(body: bytes) -> int:
        """Return the number of calls, of C functions, too, that reading a body takes."""
        calls = 0

        def count(_frame: FrameType, event: str, _arg: object) -> None:
            nonlocal calls
            calls += event in {"call", "c_call"}

        sys.setprofile(count)
        try:
            read_record_body(body)
        finally:
            sys.setprofile(None)
        return calls

    @pytest.mark.parametrize(
        "piece", ['","a":"b', '"', '\\"', '"},{"', '"}","a":"{', ",", ',"response":{"a":1', '","state":"b']
    )
    def test_do_not_grow_faster_than_the_body(self, piece: str) -> None:
        """The places of known members are bounded; all else is searched by regular expressions that do not go back."""
        short, long = (self.count(live_body(echo_of(piece * (size // len(piece))))) for size in (30_000, 900_000))

        assert long <= 40 * short
        assert long <= 20_000

    @pytest.mark.parametrize("size", [30_000, 900_000])
    def test_adversarial_prompts_cost_no_member(self, size: int) -> None:
        record = read_record_body(live_body(echo_of('","a":"b' * (size // 8))))[1]

        assert record is not None
        assert ("success", (URL,), 12.0) == (record.state, record.result_urls, record.credits)
