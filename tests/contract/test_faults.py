"""The effects of faults on the wire, as a bare socket receives them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import attrs
import pytest

from kie_async.testing import FakeKie, Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Serve

OK = {"code": 200, "msg": "success"}
EXCEPTION = "Server exception, please try again later or contact customer service"
INPUT = {"prompt": "A cat", "image_url": "https://example.com/cat.png"}
BODY = json.dumps({"model": "wan/2-2-a14b-image-to-video-turbo", "input": INPUT}).encode()
CREATE = (
    b"POST /api/v1/jobs/createTask HTTP/1.1\r\nHost: fake\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


class RawReply(NamedTuple):
    """The bytes that a bare socket has received, and the end of its connection."""

    data: bytes
    end: str

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.data.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        """The head, in lower case."""
        return self.data.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        """The body; for a chunked response, the contents of its chunks."""
        rest = self.data.partition(b"\r\n\r\n")[2]
        if b"chunked" not in self.head:
            return rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body


async def send_raw(fake: FakeKie, request: bytes = CREATE, *, timeout: float = 60.0) -> RawReply:
    """Send *request* over a new socket and receive until the connection ends, or for *timeout* seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rpartition(":")[2]))
    data, end = b"", "silence"
    try:
        writer.write(request)
        async with asyncio.timeout(timeout):
            while chunk := await reader.read(65536):
                data += chunk
            end = "closed"
    except TimeoutError:
        pass
    except ConnectionResetError:
        end = "reset"
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        end = "reset"
    return RawReply(data, end)


CUTS = [
    ({"kind": "close"}, b"", "closed"),
    ({"kind": "reset"}, b"", "reset"),
    ({"kind": "silence"}, b"", "silence"),
    ({"kind": "half_status_line"}, b"HTTP/1.1 2", "closed"),
    ({"kind": "half_status_line", "disconnect": "reset"}, None, "reset"),
    ({"kind": "garbage"}, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "closed"),
    ({"kind": "garbage", "body": "SSH-2.0-OpenSSH_9.6\r\n"}, b"SSH-2.0-OpenSSH_9.6\r\n", "closed"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("fault", "data", "end"), CUTS)
async def test_connection_faults_send_exact_bytes(
    serve: Serve, fault: dict[str, Any], data: bytes | None, end: str, *, after: bool
) -> None:
    """Bytes that were written before a reset may be lost."""
    async with serve(faults=[Fault("create", after=after, **fault)]) as api:
        reply = await send_raw(api.fake)

        assert end == reply.end
        assert data in (None, reply.data)
        (post,) = api.fake.truth.create_requests
        assert (None, None) == (post.code, post.status)
        assert (1 if after else 0) == len(api.fake.truth.created)
        assert (9_920.0 if after else 10_000.0) == await api.credits()


@pytest.mark.parametrize(("cut", "end"), [("close", "closed"), ("reset", "reset")])
async def test_half_body_announces_the_whole_length(serve: Serve, cut: str, end: str) -> None:
    async with serve(faults=[Fault("create", "half_body", after=True, disconnect=cut)]) as api:  # type: ignore[arg-type]  # a parameter
        reply = await send_raw(api.fake)
        whole = b'{"code":200,"msg":"success","data":{"taskId":"%s","recordId":"%s"}}'
        whole %= (api.fake.truth.created[0].task_id.encode(),) * 2

        assert end == reply.end
        if cut == "close":
            assert b"content-length: %d\r\n" % len(whole) in reply.head + b"\r\n"
            assert whole[: len(whole) // 2] == reply.body


async def test_truncated_json_has_the_right_length(serve: Serve) -> None:
    async with serve(faults=[Fault("create", "truncated_json", after=True)]) as api:
        reply = await send_raw(api.fake)

        assert (200, "closed") == (reply.status, reply.end)
        assert reply.body.startswith(b'{"code":200,"msg":"success","data":{"ta')
        with pytest.raises(json.JSONDecodeError):
            json.loads(reply.body)
        assert 1 == len(api.fake.truth.created)


@pytest.mark.parametrize(
    ("fault", "after", "status", "body", "created"),
    [
        ({"kind": "code", "code": 500}, True, 200, {"code": 500, "msg": EXCEPTION, "data": None}, 1),
        (
            {"kind": "code", "code": 455, "status": 503, "msg": "soon"},
            False,
            503,
            {"code": 455, "msg": "soon", "data": None},
            0,
        ),
        ({"kind": "code", "code": 777}, False, 200, {"code": 777, "msg": "", "data": None}, 0),
        ({"kind": "status", "status": 403}, True, 403, {**OK, "data": {"taskId": "ID", "recordId": "ID"}}, 1),
        ({"kind": "status", "status": 502}, False, 502, {**OK, "data": None}, 0),
        ({"kind": "null_data"}, True, 200, {**OK, "data": None}, 1),
        ({"kind": "no_task_id"}, True, 200, {**OK, "data": {}}, 1),
        ({"kind": "no_task_id"}, False, 200, {**OK, "data": {}}, 0),
        (
            {"kind": "alter", "data": {"taskId": True}},
            True,
            200,
            {**OK, "data": {"taskId": True, "recordId": "ID"}},
            1,
        ),
        ({"kind": "body", "body": "{}", "content_type": "application/json"}, True, 200, {}, 1),
    ],
)
async def test_an_answer_is_spoiled_as_told(
    serve: Serve, fault: dict[str, Any], *, after: bool, status: int, body: dict[str, Any], created: int
) -> None:
    async with serve(faults=[Fault("create", after=after, **fault)]) as api:
        answer = await api.create()
        shown = json.loads(
            answer.body.replace(api.fake.truth.created[0].task_id.encode(), b"ID") if created else answer.body
        )

        assert (status, body, created) == (answer.status, shown, len(api.fake.truth.created))
        assert (status, body.get("code")) == (
            api.fake.truth.create_requests[0].status,
            api.fake.truth.create_requests[0].code,
        )


async def test_numeric_task_id_denotes_the_task(serve: Serve) -> None:
    async with serve(faults=[Fault("create", "numeric_task_id", after=True)]) as api:
        data = (await api.create()).json["data"]

        assert isinstance(data["taskId"], int)
        assert data["taskId"] < 2**53
        assert str(data["taskId"]) == (await api.record(str(data["taskId"])))["taskId"]


async def test_html_fault_is_a_proxy_page(serve: Serve) -> None:
    async with serve(faults=[Fault("create", "html", after=True, status=504)]) as api:
        answer = await api.create()

        assert (504, "text/html; charset=UTF-8") == (answer.status, answer.headers["Content-Type"])
        assert b"<title>api | 504</title>" in answer.body
        assert (None, 504) == (api.fake.truth.create_requests[0].code, api.fake.truth.create_requests[0].status)


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_redirect_leads_to_a_logged_path(serve: Serve, status: int) -> None:
    async with serve(faults=[Fault("create", "redirect", status=status)]) as api:
        answer = await api.create()
        assert (status, f"{api.fake.url}/redirected") == (answer.status, answer.headers["Location"])
        assert [] == api.fake.truth.followed_redirects

        assert 404 == (await api.request("POST", answer.headers["Location"])).status
        assert ["/redirected"] == api.fake.truth.followed_redirects


async def test_body_may_claim_to_be_compressed(serve: Serve) -> None:
    broken = Fault(
        "poll", "body", body=b"no gzip", headers={"Content-Encoding": "gzip"}, content_type="application/json"
    )
    async with serve(faults=[broken]) as api:
        with pytest.raises(aiohttp.ClientPayloadError):
            await api.poll("x")


@pytest.mark.parametrize(("after", "arrives_at"), [(False, 30.0), (True, 0.0)])
async def test_slow_waits_before_or_after_the_action(serve: Serve, *, after: bool, arrives_at: float) -> None:
    async with serve(faults=[Fault("create", "slow", seconds=30.0, after=after)]) as api:
        start = asyncio.get_running_loop().time()
        assert 200 == (await api.create()).json["code"]

        assert 30.0 == pytest.approx(asyncio.get_running_loop().time() - start, abs=0.01)
        assert arrives_at == pytest.approx(api.fake.truth.created[0].created_at - start, abs=0.01)


async def test_slow_body_arrives_byte_by_byte(serve: Serve) -> None:
    async with serve(faults=[Fault("create", "slow_body", seconds=0.05)]) as api:
        start = asyncio.get_running_loop().time()
        reply = await send_raw(api.fake)

        assert 200 == json.loads(reply.body)["code"]
        assert len(reply.body) * 0.05 == pytest.approx(asyncio.get_running_loop().time() - start, abs=0.1)


async def test_half_download_is_half_a_file(serve: Serve) -> None:
    async with serve(duration=0.0, faults=[Fault("download", "half_body", nth=2)]) as api:
        task_id = await api.task("z-image")
        url = await api.result_url(task_id)
        whole = (await api.request("GET", url)).body
        reply = await send_raw(api.fake, f"GET {url} HTTP/1.1\r\nHost: fake\r\nUser-Agent: x\r\n\r\n".encode())

        assert whole[: len(whole) // 2] == reply.body
        assert f"content-length: {len(whole)}".encode() in reply.head


@pytest.mark.parametrize(
    ("fault", "data", "end"),
    [
        ({"kind": "reset"}, b"", "reset"),
        ({"kind": "close"}, b"", "closed"),
        ({"kind": "silence"}, b"", "silence"),
        ({"kind": "reset", "after_bytes": 1}, b"", "reset"),
        ({"kind": "silence", "after_bytes": 100}, b"", "silence"),
    ],
)
async def test_connection_may_fail_before_the_request(
    serve: Serve, fault: dict[str, Any], data: bytes, end: str
) -> None:
    async with serve(faults=[Fault("connect", nth=1, **fault)]) as api:
        reply = await send_raw(api.fake)
        # The kernel resets a connection that is closed while data is on its way.
        assert (data, True) == (reply.data, reply.end in {end, "reset" if end == "closed" else end})
        assert [] == api.fake.truth.create_requests
        assert 200 == (await send_raw(api.fake)).status


async def test_upload_may_be_interrupted(serve: Serve) -> None:
    async with serve(faults=[Fault("connect", "reset", after_bytes=100_000, nth=1)]) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.upload(bytes(5_000_000))
        assert [] == api.fake.truth.uploads

        assert 200 == (await api.upload(bytes(5_000_000))).json["code"]


async def test_upload_fault_with_and_without_storing(serve: Serve) -> None:
    async with serve(
        faults=[Fault("upload", "null_data", after=True, nth=1), Fault("upload", "null_data", nth=2)]
    ) as api:
        await api.upload(b"\x89PNG\r\n\x1a\n")
        await api.upload(b"\x89PNG\r\n\x1a\n")
        held, lost = api.fake.truth.uploads

        assert held.path is not None
        assert lost.path is None


async def test_records_can_be_altered(serve: Serve) -> None:
    """Unknown states, states that go back, success without a result."""
    faults = [
        Fault("poll", "alter", data={"state": "polishing"}, nth=1),
        Fault("poll", "alter", data={"resultJson": ""}, nth=2),
        Fault("poll", "alter", data={"state": "waiting", "completeTime": None}, nth=3),
        Fault("poll", "code", code=422, msg="recordInfo is null", nth=4),
    ]
    async with serve(duration=0.0, faults=faults) as api:
        task_id = await api.task()
        records = [await api.record(task_id) for _ in range(3)]

        assert ["polishing", "success", "waiting"] == [record["state"] for record in records]
        assert "" == records[1]["resultJson"]
        assert "recordInfo is null" == (await api.poll(task_id)).json["msg"]
        assert ["success"] * 3 + [None] == [poll.state if poll.code == 200 else None for poll in api.fake.truth.polls]


async def test_disconnected_client_still_creates_a_task(serve: Serve) -> None:
    """The request takes a second to arrive; its sender disconnects at once."""
    async with serve(latency=(1.0, 1.0)) as api:
        assert "silence" == (await send_raw(api.fake, timeout=0.1)).end
        await asyncio.sleep(5)

        assert 1 == len(api.fake.truth.created)


async def test_interrupted_request_was_not_sent(serve: Serve) -> None:
    async with serve() as api:
        assert "silence" == (await send_raw(api.fake, CREATE[:-20], timeout=0.1)).end
        await asyncio.sleep(1)

        assert [] == api.fake.truth.create_requests
        assert 200 == (await api.create()).json["code"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("create", "reset", after=True),
        Fault("create", "half_body", after=True),
        Fault("create", "garbage", after=True),
        Fault("create", "slow_body", seconds=0.05),
    ],
)
async def test_ended_connection_is_not_ended_again(
    serve: Serve, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(latency=(1.0, 1.0), faults=[attrs.evolve(fault, nth=1)]) as api:
        await send_raw(api.fake, timeout=0.1)
        await asyncio.sleep(5)

        assert 1 == len(api.fake.truth.created)
        assert 200 == (await api.create()).json["code"]
    assert [] == [record.getMessage() for record in caplog.records if record.name == "aiohttp.server"]
