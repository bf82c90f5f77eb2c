"""The command line in real processes: the fake in one, ``kie-async`` in another, with real time and signals."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import attrs
import pytest

from kie_async.testing import FakeKie
from tests.cli.helpers import CAT, video_length_and_height

KEY = "any-key-is-good"

#: The time after which a process counts as hanging, in seconds; how soon it ends is tested on virtual time.
HANG = 30.0

#: ``kie-async`` in a process that logs every address that it looks up or connects to. The interpreter reports them,
#: whatever library is used.
PROGRAM_WITH_LOGGED_CONNECTIONS = """
import sys

log = open({log!r}, "w", buffering=1)

def watch(event, arguments):
    if event == "socket.connect":
        print("connect", *arguments[1][:2], file=log)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print(event, *arguments, file=log)

sys.addaudithook(watch)
sys.argv[1:] = {arguments!r}
from kie_async.cli import main
main()
"""

#: ``kie-async`` in a process in which name lookups hang, as they can without a network.
PROGRAM_WITH_HANGING_LOOKUP = """
import sys, threading

def hang(event, arguments):
    if event == "socket.getaddrinfo":
        print("looking up", arguments[0], file=sys.stderr, flush=True)
        threading.Event().wait()

sys.addaudithook(hang)
sys.argv[1:] = {arguments!r}
from kie_async.cli import main
main()
"""


@attrs.frozen
class Service:
    """A fake service in another process: its URL, its example and its state directory."""

    url: str
    example: str
    state: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment with this service's URL and a key."""
        return {**clean_environment(self.state), "KIE_BASE_URL": self.url, "KIE_API_KEY": KEY}


def clean_environment(state: Path) -> dict[str, str]:
    """Return this process's environment without ``KIE_*`` and color variables; journals go to *state*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KIE_") and "COLOR" not in name}
    return {**kept, "XDG_STATE_HOME": str(state)}


@contextmanager
def start_process(
    *arguments: str, environment: dict[str, str], code: str | None = None
) -> Generator[subprocess.Popen[str]]:
    """Run ``kie-async``, or *code* instead, in a process that ends with the context."""
    program = ["-m", "kie_async", *arguments] if code is None else ["-c", code]
    with subprocess.Popen(
        [sys.executable, *program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read a process's messages up to the line that contains *text*, and return that line."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    pytest.fail(f"the process has ended without saying {text!r}")


@contextmanager
def run_fake_service(state: Path, *options: str) -> Generator[Service]:
    """Run ``kie-async fake`` and end it with SIGINT."""
    with start_process(
        "fake", "--port", "0", "--speed", "30", *options, environment=clean_environment(state)
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield Service(url, read_until(process, "curl "), state)
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Generator[Service]:
    """Run a fake service without signatures."""
    with run_fake_service(tmp_path / "state") as service:
        yield service


def test_generate_contacts_no_other_host(service: Service, tmp_path: Path) -> None:
    """With KIE_BASE_URL and KIE_API_KEY, the process contacts the base URL only."""
    log, out = tmp_path / "addresses", tmp_path / "cat.mp4"
    arguments = ["generate", "--image", str(CAT), "--prompt", "The cat turns its head", "-o", str(out)]
    code = PROGRAM_WITH_LOGGED_CONNECTIONS.format(log=str(log), arguments=arguments)
    with start_process(environment=service.environment, code=code) as process:
        shown, messages = process.communicate()
    seconds, height = video_length_and_height(out)

    assert (0, f"{out}\n") == (process.returncode, shown)
    assert (True, 720) == (seconds >= 4.5, height)
    assert {f"connect 127.0.0.1 {urlsplit(service.url).port}"} == set(log.read_text().splitlines())
    assert "\x1b" not in messages, "plain lines in a pipe"


def test_request_of_the_api_page_creates_a_task(service: Service) -> None:
    """The request of the fake's curl example is sent without curl."""
    words = shlex.split(service.example)
    url = urlsplit(words[1])
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    headers = dict(word.split(": ") for flag, word in pairwise(words) if flag == "-H")
    connection.request("POST", url.path, words[-1], headers)
    body = connection.getresponse().read().decode()
    connection.close()

    assert '"code":200' in body
    assert '"msg":"success"' in body
    assert json.loads(body)["data"]["taskId"]


def test_wait_resumes_an_interrupted_generate(service: Service, tmp_path: Path) -> None:
    """The exit code is 130, and the last line is the command that fetches the result."""
    environment = service.environment
    with start_process("generate", "-i", str(CAT), "-p", "Go", environment=environment) as process:
        task_id = read_until(process, "accepted as task").split()[-1]
        process.send_signal(signal.SIGINT)
        shown, messages = process.communicate(timeout=HANG)

    assert (130, "") == (process.returncode, shown)
    assert f"To resume: kie-async wait {task_id}\n" in messages
    with start_process("wait", task_id, "-o", str(tmp_path / "cat.mp4"), environment=environment) as process:
        assert (f"{tmp_path}/cat.mp4\n", 0) == (process.communicate()[0], process.returncode)


def run_to_its_end(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """Return the exit code of ``kie-async`` and its standard output."""
    with start_process(*arguments, environment=environment) as process:
        shown, _ = process.communicate()
    return process.returncode, shown


def test_killed_process_leaves_its_job_in_the_journal(service: Service, tmp_path: Path) -> None:
    """After SIGKILL, the same key pays nothing."""
    environment, again = service.environment, tmp_path / "again.mp4"
    generate = ("generate", "-i", str(CAT), "-p", "Go", "--key", "order-7")
    with start_process(*generate, environment=environment) as process:
        task_id = read_until(process, "accepted as task").split()[-1]
        process.kill()
    listed = run_to_its_end("ls", "--json", environment=environment)
    job = json.loads(listed[1])
    recovered = run_to_its_end("recover", "-o", str(tmp_path / "out"), environment=environment)
    repeated = run_to_its_end(*generate, "-o", str(again), environment=environment)
    file = tmp_path / "out" / f"{task_id}-1.mp4"

    assert ("submitted", "order-7", task_id) == (job["state"], job["key"], job["task_id"])
    assert [(0, f"{file}\n"), (0, f"{again}\n")] == [recovered, repeated]
    assert video_length_and_height(file)[0] >= 4.5
    assert file.read_bytes() == again.read_bytes()
    assert (0, "") == run_to_its_end("ls", environment=environment)
    assert 1 == len(run_to_its_end("ls", "--all", environment=environment)[1].splitlines())


def lines_of(process: subprocess.Popen[str], number: int) -> list[dict[str, object]]:
    """Return the next JSON lines of a process's standard output."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(number)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listener_receives_another_processes_callbacks(tmp_path: Path, number: signal.Signals) -> None:
    """The receiver checks signatures; receiver and submitter share a journal only."""
    with run_fake_service(tmp_path / "state", "--webhook-key", "secret") as service:
        environment = {**service.environment, "KIE_WEBHOOK_KEY": "secret"}
        with start_process("listen", "--port", "0", "--json", environment=environment) as receiver:
            [listening] = lines_of(receiver, 1)
            generate = ("generate", "-i", str(CAT), "-p", "Go", "--callback-url", str(listening["url"]), "--json")
            code, shown = run_to_its_end(*generate, "-o", str(tmp_path / "cat.mp4"), environment=environment)
            job = json.loads(shown)
            called, ended = lines_of(receiver, 2)
            receiver.send_signal(number)
            rest, messages = receiver.communicate()

    assert (0, 0, "") == (code, receiver.returncode, rest)
    assert ("callback", job["job_id"], job["task_id"], 1) == tuple(
        called[name] for name in ("event", "job_id", "task_id", "attempt")
    )
    assert ("ended", job["job_id"], "succeeded") == tuple(ended[name] for name in ("event", "job_id", "state"))
    assert "kj_" not in messages, "no token, and nothing refused"


def test_listener_refuses_another_signature(tmp_path: Path) -> None:
    """The submitter sees the end by polling."""
    with run_fake_service(tmp_path / "state", "--webhook-key", "secret") as service:
        environment = {**service.environment, "KIE_WEBHOOK_KEY": "another"}
        with start_process("listen", "--port", "0", "--json", environment=environment) as receiver:
            [listening] = lines_of(receiver, 1)
            generate = ("generate", "-i", str(CAT), "-p", "Go", "--callback-url", str(listening["url"]))
            code, _ = run_to_its_end(*generate, "-o", str(tmp_path / "cat.mp4"), environment=environment)
            [refused] = lines_of(receiver, 1)
            receiver.send_signal(signal.SIGTERM)
            receiver.communicate()

    assert (0, 0, "refused", 401) == (code, receiver.returncode, refused["event"], refused["status"])


def test_ctrl_c_does_not_wait_for_a_name_lookup(tmp_path: Path) -> None:
    """The process exits although the thread of the name lookup continues."""
    environment = {**clean_environment(tmp_path), "KIE_BASE_URL": "http://service.invalid", "KIE_API_KEY": KEY}
    code = PROGRAM_WITH_HANGING_LOOKUP.format(arguments=["generate", "-i", str(CAT), "-p", "Go"])
    with start_process(environment=environment, code=code) as process:
        read_until(process, "looking up service.invalid")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=HANG)

    assert 130 == process.returncode
    assert "Interrupted. Nothing was sent, and nothing was paid." in messages


def test_ctrl_c_ends_the_demo(tmp_path: Path) -> None:
    """Client and service are in one process; both end."""
    with start_process("demo", "--out", str(tmp_path), environment=clean_environment(tmp_path)) as process:
        read_until(process, "accepted as task")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=HANG)

    assert 130 == process.returncode
    assert "Interrupted. It was the fake service: nothing was real, and nothing was paid." in messages


async def test_all_options_reach_the_service(tmp_path: Path) -> None:
    """The options build the same request as the class; missing options are not sent."""
    options = ["--resolution", "480p", "--seed", "7", "--acceleration", "regular", "--enable-prompt-expansion"]
    options += ["--no-nsfw-checker", "--aspect-ratio", "16:9", "--no-wait"]
    call = [sys.executable, "-m", "kie_async", "generate", "-i", str(CAT), "-p", "Go"]
    async with FakeKie() as fake:
        environment = {**clean_environment(tmp_path), "KIE_BASE_URL": fake.url, "KIE_API_KEY": KEY}
        await anyio.run_process([*call, *options], env=environment)
        await anyio.run_process([*call, "--no-wait"], env=environment)
    inputs = [post.body["input"] for post in fake.truth.create_requests if isinstance(post.body, dict)]
    assert isinstance(inputs[0], dict)
    assert isinstance(inputs[1], dict)
    urls = [str(given.pop("image_url")) for given in (inputs[0], inputs[1])]

    assert inputs[0] == {
        "prompt": "Go",
        "resolution": "480p",
        "seed": 7,
        "acceleration": "regular",
        "enable_prompt_expansion": True,
        "nsfw_checker": False,
        "aspect_ratio": "16:9",
    }
    assert {"prompt": "Go"} == inputs[1]
    assert 1 == len({url.rpartition("-")[2] for url in urls})  # the file's name ends with its hash
