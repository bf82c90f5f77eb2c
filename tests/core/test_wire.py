"""Test the service's JSON: all documented and recorded shapes are read, and no other shape raises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kie_async import TaskRecord
from kie_async._core.wire import (
    Envelope,
    Param,
    read_credit,
    read_download_url,
    read_envelope,
    read_param,
    read_record,
    read_record_body,
    read_upload,
    task_id_of,
    write_create,
)
from tests.strategies import hostile_data, json_objects, json_values, task_ids, texts, unicode_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async import JSON

TASK_ID = "0123456789abcdef0123456789abcdef"
URL = "https://tempfile.aiquickdraw.com/p/1_2.mp4"
#: 2026-11-29 12:00 UTC.
NOW = 1_795_953_600.0
HOUR = 3600.0


def body_of(data: object, code: object = 200) -> bytes:
    """Return the body of an answer."""
    return json.dumps({"code": code, "msg": "success", "data": data}).encode()


def record_of(**data: object) -> TaskRecord:
    """Return the record in an answer with *data*."""
    record = read_record(Envelope(200, "success", cast("JSON", {"taskId": TASK_ID} | data)))
    assert record is not None
    return record


class TestEnvelope:
    @pytest.mark.parametrize(
        ("body", "envelope"),
        [
            (b'{"code":200,"msg":"success","data":{"taskId":"a"}}', Envelope(200, "success", {"taskId": "a"})),
            (b'{"code":422,"msg":"recordInfo is null","data":null}', Envelope(422, "recordInfo is null")),
            (b'{"code":429,"msg":"Too often."}', Envelope(429, "Too often.")),
            (b'{"code":200,"message":"success"}', Envelope(200, "success")),
            (b'{"code":200,"msg":"a","message":"b"}', Envelope(200, "a")),
            (b'{"code":200,"msg":"","message":"b"}', Envelope(200, "b")),
            (b'{"code":"200","msg":5}', Envelope(200, "5")),
            (b'{"code":"-1"}', Envelope(-1, "")),
            (b'{"code":true}', Envelope(None, "")),
            (b'{"code":200.0}', Envelope(None, "")),
            (b'{"code":"200 OK"}', Envelope(None, "")),
            (b'{"code":null,"msg":null,"data":[1]}', Envelope(None, "", [1])),
            (b"{}", Envelope(None, "")),
            (b'\xef\xbb\xbf {"code":200}\n', Envelope(200, "")),
            (b'{"code":500,"code":200}', Envelope(200, "")),
            (b'{"code":200,"data":NaN}', Envelope(200, "", "NaN")),
            (b'{"code":200,"data":-1e999}', Envelope(200, "", "-1e999")),
            (b'{"code":200,"data":' + b"9" * 400 + b"}", Envelope(200, "", "9" * 400)),
            ('{"code":200,"msg":"成功"}'.encode(), Envelope(200, "成功")),
        ],
    )
    def test_is_read_from_a_json_object(self, body: bytes, envelope: Envelope) -> None:
        assert read_envelope(body) == envelope

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>502 Bad Gateway</html>",
            b'{"code":200',
            b'{"code":200}}',
            b"[]",
            b'"success"',
            b"null",
            b"200",
            b'{"msg":"\xff"}',
            '{"code":200}'.encode("utf-16"),
            b'{"a":' * 100_000,
            b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        ],
    )
    def test_other_bodies_are_none(self, body: bytes) -> None:
        assert read_envelope(body) is None
        assert read_record_body(body) == (None, None)
        assert read_upload(body, now=0.0) is None

    def test_maximum_depth(self) -> None:
        assert read_envelope(b'{"data":' + b"[" * 63 + b"]" * 63 + b"}") is not None

    @given(st.binary() | st.text().map(str.encode) | json_values().map(lambda value: json.dumps(value).encode()))
    @example(b'{"code":1e5}')
    def test_no_body_raises(self, body: bytes) -> None:
        envelope, record = read_record_body(body)

        assert envelope is None or envelope == read_envelope(body)
        assert record is None or envelope is not None
        assert isinstance(read_upload(body, now=0.0), (tuple, type(None)))

    @given(json_objects())
    def test_keeps_the_data_of_any_object(self, document: Mapping[str, JSON]) -> None:
        envelope = read_envelope(json.dumps(document).encode())

        assert envelope is not None
        assert envelope.data == document.get("data")
        assert not isinstance(envelope.code, bool)


class TestTaskId:
    @pytest.mark.parametrize(
        ("value", "task_id"),
        [
            (TASK_ID, TASK_ID),
            ("task_wan_1765172522239", "task_wan_1765172522239"),
            ("a.b:c-d_E", "a.b:c-d_E"),
            ("a" * 256, "a" * 256),
            (1765172522239, "1765172522239"),
            (0, "0"),
            ("a" * 257, None),
            (10**400, None),
            ("", None),
            (" a", None),
            ("a\n", None),
            ("a/b", None),
            ("../a", None),
            ("a?b", None),
            ("ä", None),
            ("\uff11", None),
            (True, None),
            (1.5, None),
            (None, None),
            (["a"], None),
            ({"taskId": "a"}, None),
        ],
    )
    def test_is_a_short_string_or_an_integer(self, value: JSON, task_id: str | None) -> None:
        assert task_id_of(Envelope(200, "success", {"taskId": value})) == task_id

    @pytest.mark.parametrize("data", [None, [], "a", 5, {}, {"recordId": "a"}, {"task_id": "a"}])
    def test_is_only_in_data(self, data: JSON) -> None:
        assert task_id_of(Envelope(200, "success", data)) is None
        assert read_record(Envelope(200, "success", data)) is None


class TestRecord:
    def test_as_recorded_while_it_runs(self) -> None:
        data = {
            "taskId": TASK_ID,
            "model": "wan/2-2-a14b-image-to-video-turbo",
            "state": "waiting",
            "param": '{"input":"{\\"prompt\\":\\"A cat\\"}","model":"wan/2-2-a14b-image-to-video-turbo"}',
            "resultJson": "",
            "failCode": None,
            "failMsg": None,
            "costTime": None,
            "completeTime": None,
            "createTime": 1765172522239,
            "creditsConsumed": 38.0,
        }
        envelope, record = read_record_body(body_of(data))

        assert envelope == Envelope(200, "success", cast("JSON", data))
        assert record == TaskRecord(
            task_id=TASK_ID,
            state="waiting",
            model="wan/2-2-a14b-image-to-video-turbo",
            created_at=1765172522.239,
            credits=38.0,
        )
        assert record.raw == data

    def test_as_recorded_at_success(self) -> None:
        record = record_of(
            model="kling-3.0/video",
            state="success",
            resultJson=json.dumps({"resultUrls": [URL]}),
            costTime=154,
            completeTime=1765172677309,
            createTime=1765172522239,
        )

        assert record.succeeded
        assert record.result_urls == (URL,)
        assert record.result == {"resultUrls": [URL]}
        assert record.cost_time == 154
        assert record.seconds == pytest.approx(155.07)

    def test_as_seen_at_failure(self) -> None:
        record = record_of(
            state="fail",
            failCode="500",
            failMsg="Internal Error, Please try again later.",
            resultJson="",
            completeTime=None,
            creditsConsumed=0,
            successFlag=3,
            errorCode=500,
        )

        assert record.failed
        assert (record.fail_code, record.fail_message) == ("500", "Internal Error, Please try again later.")
        assert record.credits == 0
        assert record.raw["successFlag"] == 3

    def test_as_in_callbacks_of_2025(self) -> None:
        record = record_of(state="success", updateTime=1, consumeCredits=40, remainedCredits=60)

        assert record.credits == 40
        assert record.raw["remainedCredits"] == 60

    @pytest.mark.parametrize(
        ("found", "result", "urls"),
        [
            (None, None, ()),
            ("", None, ()),
            ("null", None, ()),
            ("{broken", None, ()),
            ({}, {}, ()),
            ("{}", {}, ()),
            ({"resultUrls": [URL]}, {"resultUrls": [URL]}, (URL,)),
            (json.dumps(json.dumps({"resultUrls": [URL]})), {"resultUrls": [URL]}, (URL,)),
            ({"resultUrls": [URL, URL + "2"]}, {"resultUrls": [URL, URL + "2"]}, (URL, URL + "2")),
            ({"resultUrls": URL}, {"resultUrls": URL}, (URL,)),
            ({"resultUrls": json.dumps([URL])}, {"resultUrls": json.dumps([URL])}, (URL,)),
            ({"resultUrls": [f" {URL} "]}, {"resultUrls": [f" {URL} "]}, (URL,)),
            ({"resultUrls": ["", None, 5, "x.mp4", {}]}, {"resultUrls": ["", None, 5, "x.mp4", {}]}, ()),
            ({"resultUrls": None}, {"resultUrls": None}, ()),
            (
                {"resultUrls": [URL], "firstFrameUrl": [], "lastFrameUrl": [URL + "f"]},
                {"resultUrls": [URL], "firstFrameUrl": [], "lastFrameUrl": [URL + "f"]},
                (URL,),
            ),
            ({"resultObject": {"text": URL}}, {"resultObject": {"text": URL}}, ()),
            ([URL], [URL], (URL,)),
            (json.dumps(URL), URL, (URL,)),
            (URL, None, (URL,)),
            (5, 5, ()),
        ],
    )
    def test_result_in_every_known_shape(self, found: JSON, result: JSON, urls: tuple[str, ...]) -> None:
        record = record_of(state="success", resultJson=found)

        assert record.result == result
        assert record.result_urls == urls
        assert record.raw["resultJson"] == found

    @pytest.mark.parametrize(
        ("result", "urls"),
        [
            ({"video_url": URL}, (URL,)),
            ({"videoUrl": URL, "resultUrls": [URL]}, (URL,)),
            ({"resultUrls": [URL], "audio_url": URL + "2"}, (URL, URL + "2")),
            ({"audio_url": URL + "2", "resultUrls": [URL]}, (URL + "2", URL)),
            (
                {"data": [{"id": "1", "audio_url": URL}, {"id": "2", "audio_url": URL + "2"}], "code": 200},
                (URL, URL + "2"),
            ),
            ({"data": [{"audio_url": URL, "image_url": URL + "i", "prompt": "https://a.example"}]}, (URL, URL + "i")),
            ({"data": [{"audio_url": URL, "stream_audio_url": URL + "s", "source_audio_url": URL + "o"}]}, (URL,)),
            ({"sunoData": [{"audioUrl": URL, "streamAudioUrl": URL + "s", "sourceAudioUrl": URL + "o"}]}, (URL,)),
            ({"info": {"resultImageUrl": URL, "originImageUrl": URL + "o"}}, (URL,)),
            ({"images": [{"url": URL, "width": 1}, {"url": URL + "2"}]}, (URL, URL + "2")),
            ({"images": [URL, URL]}, (URL,)),
            ({"resourceUrl": URL}, (URL,)),
            (
                {"input": {"image_url": URL}, "reference_image_urls": [URL], "callBackUrl": URL, "param": {"url": URL}},
                (),
            ),
            ({"citations": [{"url": URL}], "text": URL, "title": URL, "url": "data:image/png;base64,AA"}, ()),
            ({"url": "ftp://a.example/1", "video_url": "//a.example/1", "audio_url": "1.mp3", "image_url": None}, ()),
            ([{"url": URL}, [URL + "2"]], (URL, URL + "2")),
        ],
    )
    @pytest.mark.parametrize("encoded", [False, True])
    @pytest.mark.parametrize("member", ["resultJson", "response"])
    def test_urls_of_results_in_any_member(
        self, member: str, result: JSON, urls: tuple[str, ...], *, encoded: bool
    ) -> None:
        record = record_of(state="success", **{member: json.dumps(result) if encoded else result})

        assert (urls, result) == (record.result_urls, record.result)

    @pytest.mark.parametrize(
        "empty", [None, "", "{}", {}, "null", "{broken", '{"resultUrls":[]}', {"resultUrls": None}]
    )
    @pytest.mark.parametrize("response", [{"resultUrls": [URL]}, json.dumps({"data": [{"audio_url": URL}]})])
    def test_response_is_read_where_result_json_is_empty(self, empty: JSON, response: JSON) -> None:
        record = record_of(state="success", resultJson=empty, response=response)

        assert record.result_urls == (URL,)
        assert record.result

    def test_response_adds_nothing_to_result_json(self) -> None:
        record = record_of(resultJson={"resultUrls": [URL]}, response={"resultUrls": [URL + "2"]})

        assert (record.result_urls, record.result) == ((URL,), {"resultUrls": [URL]})

    @pytest.mark.parametrize("times", [0, 1, 2])
    @pytest.mark.parametrize("member", ["param", "paramJson"])
    def test_urls_of_the_request_are_no_results(self, member: str, times: int) -> None:
        echo: JSON = {"model": "suno", "input": {"video_url": URL, "files": [{"url": URL + "2"}]}}
        for _ in range(times):
            echo = json.dumps(echo)
        result: JSON = {"video_url": URL, "resultUrls": [URL + "2", URL + "3"]}

        assert record_of(resultJson=result, **{member: echo}).result_urls == (URL + "3",)
        assert record_of(resultJson={"url": URL}, **{member: echo}).result_urls == ()

    @given(json_values())
    def test_urls_are_urls_and_each_is_named_once(self, result: JSON) -> None:
        urls = record_of(resultJson=result, response=result).result_urls

        assert len(set(urls)) == len(urls)
        assert all(url.lower().startswith(("http://", "https://")) for url in urls)

    def test_result_may_be_missing(self) -> None:
        record = record_of(state="fail", failCode="501")

        assert (record.result, record.result_urls) == (None, ())

    def test_urls_come_only_from_the_result(self) -> None:
        assert record_of(state="success", resultUrls=[URL]).result_urls == ()

    @pytest.mark.parametrize(
        ("value", "state"),
        [
            ("queuing", "queuing"),
            ("paused by moderator", "paused by moderator"),
            ("SUCCESS", "SUCCESS"),
            (" success", " success"),
            ("", ""),
            (None, ""),
            (3, "3"),
            (True, ""),
            ({}, ""),
        ],
    )
    def test_state_is_kept_unchanged(self, value: JSON, state: str) -> None:
        record = record_of(state=value)

        assert record.state == state
        assert not record.ended

    def test_state_may_be_missing(self) -> None:
        assert record_of().state == ""

    @pytest.mark.parametrize(
        ("value", "text"),
        [("", None), (" ", None), (None, None), ("422", "422"), (422, "422"), (0, "0"), (True, None), ([], None)],
    )
    def test_codes_are_strings_and_empty_is_none(self, value: JSON, text: str | None) -> None:
        record = record_of(state="fail", failCode=value, failMsg=value, model=value)

        assert (record.fail_code, record.fail_message, record.model) == (text, text, text)

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (1765172522239, 1765172522.239),
            ("1765172522239", 1765172522.239),
            (0, None),
            (-1, None),
            ("", None),
            ("soon", None),
        ],
    )
    def test_times_are_seconds(self, value: JSON, seconds: float | None) -> None:
        record = record_of(createTime=value, completeTime=value)

        assert (record.created_at, record.completed_at) == (seconds, seconds)

    @pytest.mark.parametrize(
        ("value", "number"),
        [
            (15000, 15000.0),
            (1.5, 1.5),
            ("89", 89.0),
            ("NaN", None),
            (10**400, None),
            (None, None),
            (True, None),
            ([], None),
        ],
    )
    def test_numbers_are_floats_or_none(self, value: JSON, number: float | None) -> None:
        record = record_of(costTime=value, progress=value, creditsConsumed=value)

        assert (record.cost_time, record.progress, record.credits) == (number, number, number)

    def test_credits_have_two_names(self) -> None:
        assert record_of(creditsConsumed=None, consumeCredits="12").credits == 12
        assert record_of(creditsConsumed=0, consumeCredits=12).credits == 0

    @given(task_ids, hostile_data)
    def test_any_data_with_an_id_is_read_and_kept(self, task_id: str, data: dict[str, JSON]) -> None:
        # An echo that begins as an object and is none may have written members: see test_broken_records.
        assume(not any(str(data.get(name)).lstrip().startswith("{") for name in ("param", "paramJson")))
        data = data | {"taskId": task_id}
        envelope, record = read_record_body(body_of(data))

        assert envelope is not None
        assert record is not None
        assert record.task_id == task_id
        assert record.raw == data
        assert record.state == data.get("state") or not isinstance(data.get("state"), str)
        read_param(record)

    @given(hostile_data)
    def test_is_none_without_an_id(self, data: dict[str, JSON]) -> None:
        envelope = Envelope(200, "success", data)
        record = read_record(envelope)

        assert (record is None) == (task_id_of(envelope) is None)


#: A recorded answer before and after ``param``.
BEFORE = f'{{"code":200,"msg":"success","data":{{"taskId":"{TASK_ID}","model":"suno","state":"success","param":"'
AFTER = f'","resultJson":"{{\\"resultUrls\\":[\\"{URL}\\"]}}","failCode":null,"createTime":1765172522239}}}}'


#: Pieces of a hostile prompt.
PIECES = st.sampled_from(
    ['"', '\\"', "{", "}", ":", ",", '"state":', '"fail"', '"taskId":', '"data":', "null", '"x"', '"x":', '","', " "]
)


class TestBrokenParam:
    @pytest.mark.parametrize(
        "param",
        [
            '{"input":{"prompt":"A cat"},"model":"suno"}',
            '{"input":"{"prompt":"A cat, "quoted""}","callBackUrl":"https://a.example/1"}',
            '{"input":"{\\"prompt\\":\\"A "cat"\\"}"}',
            '"',
            '",',
            '"}',
            '", "x": ',
            "\\",
            "a\nb",
            '{"prompt":"","state":"fail","failCode":"1"}',
            '{"prompt":"","resultJson":"{\\"resultUrls\\":[\\"https://evil.example/1\\"]}"}',
            '{"prompt":"' + '","a":"' * 500 + '"}',
        ],
    )
    def test_other_members_are_read(self, param: str) -> None:
        """Members before and after it are read; nothing inside it is read as a member."""
        assert read_envelope((BEFORE + param + AFTER).encode()) is None
        envelope, record = read_record_body((BEFORE + param + AFTER).encode())

        assert envelope is not None
        assert record is not None
        assert (record.state, record.fail_code, record.result_urls) == ("success", None, (URL,))
        assert record.created_at == 1765172522.239
        assert record.raw["param"] == param

    def test_may_be_the_last_member(self) -> None:
        running = BEFORE.replace('"success","param"', '"waiting","param"')
        record = read_record_body(f'{running}{{"input":{{"prompt":"A "cat""}}}}"}}}}'.encode())[1]

        assert record is not None
        assert record.state == "waiting"

    def test_is_read_if_only_its_own_quotes_are_unescaped(self) -> None:
        body = BEFORE + '{"input":{"prompt":"A cat"},"callBackUrl":"https://a.example/1","model":"suno"}' + AFTER
        record = read_record_body(body.encode())[1]

        assert record is not None
        assert read_param(record) == Param(model="suno", callback_url="https://a.example/1", input={"prompt": "A cat"})

    @pytest.mark.parametrize("end", ['"}', '"}","callBackUrl":"https://a.example/1","model":"suno"}', '","seed":0}"}'])
    @given(text=st.text(st.sampled_from('"\\{}[]:, aé\n')) | st.lists(PIECES).map("".join))
    @example(text='","taskId":"other","state":"fail","x":"')
    @example(text='"}","taskId":"other","state":"fail","x":"')
    @example(text='"}"},"data":{"taskId":"other","state":"fail","x":"')
    @example(text='","x":{"y":{"z":"')
    def test_cannot_forge_members(self, end: str, text: str) -> None:
        """The record has only the members outside the prompt, or there is no record."""
        record = read_record_body((BEFORE + '{"input":"{"prompt":"' + text + end + AFTER).encode())[1]

        assert record is None or (record.task_id, record.state, record.result_urls) == (TASK_ID, "success", (URL,))

    @pytest.mark.parametrize(
        "body",
        [
            BEFORE,
            BEFORE + '"' + AFTER[:-1],
            '{"code":200,"data":{"taskId":"a","param":"x"y","state":}}',
            '{"code":200,"data":{"taskId":"a","param":5,"state":}}',
            '["param":"a"b"]',
            BEFORE + 'a"b","resultJson":' + "[" * 100 + "]" * 100 + "}}",
        ],
    )
    def test_other_faults_are_not_tolerated(self, body: str) -> None:
        assert read_record_body(body.encode()) == (None, None)

    def test_thousands_of_quotes_cost_no_member(self) -> None:
        record = read_record_body((BEFORE + '","a":' * 2000 + AFTER).encode())[1]

        assert record is not None
        assert (record.state, record.result_urls) == ("success", (URL,))

    def test_thousands_of_known_names_are_refused(self) -> None:
        assert read_record_body((BEFORE + '","model":' * 2001 + AFTER).encode()) == (None, None)


class TestParam:
    ECHO = Param(model="z-image", callback_url="https://a.example/kie/t", input={"prompt": 'A "cat"', "seed": 0})

    @pytest.mark.parametrize("input_times", [0, 1, 2])
    @pytest.mark.parametrize("times", [0, 1, 2])
    def test_is_decoded_up_to_twice(self, times: int, input_times: int) -> None:
        given_input: object = self.ECHO.input
        for _ in range(input_times):
            given_input = json.dumps(given_input)
        param: object = {"model": "z-image", "callBackUrl": "https://a.example/kie/t", "input": given_input}
        for _ in range(times):
            param = json.dumps(param)

        assert read_param(record_of(param=param)) == self.ECHO
        assert read_param(cast("JSON", param)) == self.ECHO

    def test_keeps_members_that_the_service_adds(self) -> None:
        param = '{"input":"{\\"prompt\\":\\"A cat\\",\\"nsfw_checker\\":false}","model":"z-image"}'

        assert read_param(param) == Param(model="z-image", input={"prompt": "A cat", "nsfw_checker": False})

    @pytest.mark.parametrize("param", [None, "", "{broken", "[]", 5, "5", [1]])
    def test_second_echo_stands_in_for_an_unreadable_one(self, param: JSON) -> None:
        echo = {"model": "z-image", "callBackUrl": "https://a.example/kie/t", "input": self.ECHO.input}

        assert read_param(record_of(param=param, paramJson=json.dumps(echo))) == self.ECHO
        assert read_param(record_of(paramJson=echo)) == self.ECHO
        assert read_param(record_of(param={"model": "a"}, paramJson=echo)) == Param(model="a")

    @pytest.mark.parametrize("param", [None, "", "{broken", "[]", 5, "5", [1]])
    def test_unreadable_is_none(self, param: JSON) -> None:
        assert read_param(record_of(param=param)) is None
        assert read_param(record_of()) is None

    def test_unreadable_members_are_none(self) -> None:
        param: JSON = {"model": 5.5, "callBackUrl": None, "input": "{broken"}

        assert read_param(param) == Param(model="5.5")

    @given(
        st.text(min_size=1).filter(lambda text: text == text.strip()),
        json_objects(unicode_texts),
        st.none() | st.just("https://a.example/1"),
    )
    def test_reads_a_written_create(self, model: str, given_input: dict[str, JSON], callback_url: str | None) -> None:
        written = write_create(model, given_input, callback_url).decode()

        assert read_param(written) == Param(model=model, input=given_input, callback_url=callback_url)

    @given(json_values())
    def test_never_raises(self, param: JSON) -> None:
        assert isinstance(read_param(param), (Param, type(None)))


class TestCreate:
    def test_has_exactly_the_services_names(self) -> None:
        body = write_create("z-image", {"image_url": URL}, "https://a.example/1")

        assert json.loads(body) == {
            "model": "z-image",
            "callBackUrl": "https://a.example/1",
            "input": {"image_url": URL},
        }

    def test_omits_a_missing_callback_url(self) -> None:
        assert write_create("z-image", {}, None) == b'{"model":"z-image","input":{}}'

    def test_is_compact_utf_8(self) -> None:
        assert write_create("z", {"prompt": "猫 🐈"}, None) == '{"model":"z","input":{"prompt":"猫 🐈"}}'.encode()

    @given(unicode_texts, json_objects(unicode_texts))
    def test_keeps_its_input(self, model: str, given_input: dict[str, JSON]) -> None:
        assert json.loads(write_create(model, given_input, None)) == {"model": model, "input": given_input}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud83d"])
    def test_refuses_values_that_json_cannot_hold(self, value: JSON) -> None:
        with pytest.raises(ValueError, match=r"JSON compliant|surrogates not allowed"):
            write_create("z", {"a": value}, None)


class TestFiles:
    def test_upload_url_is_read(self) -> None:
        recorded = {"success": True, "fileName": "1-a.jpg", "downloadUrl": URL, "fileSize": 9, "mimeType": "image/jpeg"}
        quickstart = {"fileUrl": URL + "f", "downloadUrl": URL}

        assert read_upload(body_of(recorded), now=NOW) == (URL, NOW + 20 * 3600)
        assert read_upload(body_of(quickstart), now=NOW) == (URL, NOW + 20 * 3600)
        assert read_upload(body_of({"fileUrl": URL}), now=NOW) == (URL, NOW + 20 * 3600)
        assert read_upload(body_of({"fileUrl": URL, "downloadUrl": ""}), now=NOW) == (URL, NOW + 20 * 3600)
        assert read_upload(json.dumps({"data": {"downloadUrl": URL}}).encode(), now=NOW) == (URL, NOW + 20 * 3600)

    @pytest.mark.parametrize(
        ("times", "use"),
        [
            ({"expiresAt": "2026-11-30T12:00:00.000Z"}, 20 * HOUR),
            ({"expiresAt": "2026-12-02T12:00:00Z"}, 20 * HOUR),
            ({"expiresAt": "2026-11-29T18:00:00Z"}, 5 * HOUR),
            ({"expiresAt": "2026-11-29T18:00:00"}, 5 * HOUR),
            ({"expiresAt": " 2026-11-30 02:00:00+08:00 "}, 5 * HOUR),
            ({"expiresAt": NOW + 6 * HOUR}, 5 * HOUR),
            ({"expiresAt": int(NOW + 6 * HOUR) * 1000}, 5 * HOUR),
            ({"expiresAt": str(int(NOW + 6 * HOUR))}, 5 * HOUR),
            ({"expiresAt": str(int(NOW + 6 * HOUR) * 1000)}, 5 * HOUR),
            # The service's clock is ten hours ahead of ours, and six behind.
            ({"uploadedAt": "2026-11-29T22:00:00Z", "expiresAt": "2026-11-30T04:00:00Z"}, 5 * HOUR),
            ({"uploadTime": "2026-11-29T06:00:00Z", "expiresAt": "2026-11-29T12:00:00Z"}, 5 * HOUR),
            ({"uploadedAt": "yesterday", "uploadTime": NOW, "expiresAt": NOW + 6 * HOUR}, 5 * HOUR),
            # Without a time that can be meant, the documented day counts; below a minute nothing could be sent.
            ({"expiresAt": "2026-11-28T12:00:00Z"}, 20 * HOUR),
            ({"uploadedAt": NOW, "expiresAt": NOW}, 20 * HOUR),
            ({"expiresAt": NOW + 30.0}, 60.0),
            ({"expiresAt": ""}, 20 * HOUR),
            ({"expiresAt": "soon"}, 20 * HOUR),
            ({"expiresAt": 86_400}, 20 * HOUR),
            ({"expiresAt": "1e400"}, 20 * HOUR),
            ({"expiresAt": "nan"}, 20 * HOUR),
            ({"expiresAt": {"at": NOW + HOUR}}, 20 * HOUR),
        ],
    )
    def test_upload_is_used_no_longer_than_its_answer_says(self, times: dict[str, JSON], use: float) -> None:
        """Five sixths of that time, and at most 20 hours."""
        assert read_upload(body_of({"downloadUrl": URL, **times}), now=NOW) == (URL, NOW + use)

    @given(st.none() | st.text() | st.floats() | st.integers(), st.floats(0.0, 4e9))
    def test_any_time_of_expiry_leaves_a_use_of_a_minute_to_20_hours(self, expires_at: JSON, now: float) -> None:
        body = json.dumps({"code": 200, "data": {"downloadUrl": URL, "expiresAt": expires_at}}).encode()
        read = read_upload(body, now=now)

        assert read is not None
        assert 59.0 <= read[1] - now <= 20 * HOUR + 1.0

    @pytest.mark.parametrize(
        "body",
        [
            b'{"success":false,"code":400,"msg":"Missing required parameter: uploadPath"}',
            body_of({"downloadUrl": URL}, code=500),
            body_of({}),
            body_of(None),
            body_of({"downloadUrl": "kieai/1/a.jpg"}),
            body_of({"downloadUrl": 5}),
            body_of([URL]),
            b"<html>",
        ],
    )
    def test_a_failed_upload_has_no_url(self, body: bytes) -> None:
        assert read_upload(body, now=0.0) is None

    def test_a_download_url_is_the_data(self) -> None:
        assert read_download_url(Envelope(200, "success", URL)) == URL

    @pytest.mark.parametrize("data", [None, "", "soon", 5, {"url": URL}, [URL]])
    def test_a_download_url_is_a_url(self, data: JSON) -> None:
        assert read_download_url(Envelope(422, "url is wrong", data)) is None

    @pytest.mark.parametrize(
        ("data", "credits"), [(5916.25, 5916.25), (100, 100.0), ("7", 7.0), (None, None), ({}, None)]
    )
    def test_the_balance_is_a_number(self, data: JSON, credits: float | None) -> None:
        assert read_credit(Envelope(200, "success", data)) == credits

    @pytest.mark.parametrize("code", [200, 0, 201, "200", "0", 202, 204, 400, 401, "401", 500])
    def test_a_balance_and_an_upload_have_the_same_codes_of_success(self, code: JSON) -> None:
        succeeds = code in (200, 0, 201, "200", "0")
        balance = json.dumps({"code": code, "msg": "success", "data": 7}).encode()
        upload = json.dumps({"success": True, "code": code, "data": {"downloadUrl": URL}}).encode()

        envelope = read_envelope(balance)
        assert (envelope is not None and read_credit(envelope) == 7.0) == succeeds
        assert (read_upload(upload, now=NOW) is not None) == succeeds


@given(texts)
def test_any_string_in_any_member_is_kept(text: str) -> None:
    record = record_of(state=text, failMsg=text, extra=text)

    assert record.state == text
    assert record.fail_message == (text.strip() or None)
    assert record.raw["extra"] == text
