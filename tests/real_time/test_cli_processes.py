"""The command line as people run it: the fake in one process, ``kie-async`` in another, real time, real signals."""

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
from tests.cli.helpers import CAT, clip

KEY = "any-key-is-good"

#: ``kie-async`` in a process that writes down every address that it looks up or connects to. The interpreter itself
#: reports them, whatever library asks.
WATCHED = """
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

#: ``kie-async`` in a process in which looking up a name takes for ever, as it can where the network is gone.
UNREACHABLE = """
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
    """A fake service in another process: its URL, and what it has said on standard error so far."""

    url: str
    example: str
    state: Path

    @property
    def environment(self) -> dict[str, str]:
        """An environment in which nothing but this service and a key is set."""
        return {**clean_environment(self.state), "KIE_BASE_URL": self.url, "KIE_API_KEY": KEY}


def clean_environment(state: Path) -> dict[str, str]:
    """This process's environment without what concerns the service, or would colour a pipe; journals go to *state*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KIE_") and "COLOR" not in name}
    return {**kept, "XDG_STATE_HOME": str(state)}


@contextmanager
def started(*arguments: str, environment: dict[str, str], code: str | None = None) -> Generator[subprocess.Popen[str]]:
    """``kie-async``, or *code* in its place, in a process that does not outlive the test."""
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
    """Read the messages of a process up to the line that has *text* in it, and return that line."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    pytest.fail(f"the process has ended without saying {text!r}")


@contextmanager
def serving(state: Path, *options: str) -> Generator[Service]:
    """``kie-async fake``, which is ended by Ctrl-C."""
    with started("fake", "--port", "0", "--speed", "30", *options, environment=clean_environment(state)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield Service(url, read_until(process, "curl "), state)
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Generator[Service]:
    """A fake service that signs nothing."""
    with serving(tmp_path / "state") as service:
        yield service


def test_an_image_becomes_a_video_and_no_other_host_is_tried(service: Service, tmp_path: Path) -> None:
    """With KIE_BASE_URL and KIE_API_KEY set and nothing else, the base URL is the whole world."""
    log, out = tmp_path / "addresses", tmp_path / "cat.mp4"
    arguments = ["generate", "--image", str(CAT), "--prompt", "The cat turns its head", "-o", str(out)]
    code = WATCHED.format(log=str(log), arguments=arguments)
    with started(environment=service.environment, code=code) as process:
        shown, messages = process.communicate()
    seconds, height = clip(out)

    assert (0, f"{out}\n") == (process.returncode, shown)
    assert (True, 720) == (seconds >= 4.5, height)
    assert {f"connect 127.0.0.1 {urlsplit(service.url).port}"} == set(log.read_text().splitlines())
    assert "\x1b" not in messages, "plain lines in a pipe"


def test_the_literal_request_of_the_api_page_creates_a_task(service: Service) -> None:
    """The words that the fake prints for curl, sent without curl."""
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


def test_ctrl_c_ends_generate_at_once_and_wait_goes_on_with_it(service: Service, tmp_path: Path) -> None:
    """Exit code 130 within two seconds, with the command that fetches what was paid."""
    environment = service.environment
    with started("generate", "-i", str(CAT), "-p", "Go", environment=environment) as process:
        task_id = read_until(process, "accepted as task").split()[-1]
        process.send_signal(signal.SIGINT)
        shown, messages = process.communicate(timeout=2.0)

    assert (130, "") == (process.returncode, shown)
    assert f"To resume: kie-async wait {task_id}\n" in messages
    with started("wait", task_id, "-o", str(tmp_path / "cat.mp4"), environment=environment) as process:
        assert (f"{tmp_path}/cat.mp4\n", 0) == (process.communicate()[0], process.returncode)


def run_to_its_end(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code of ``kie-async``, and what it has written to standard output."""
    with started(*arguments, environment=environment) as process:
        shown, _ = process.communicate()
    return process.returncode, shown


def test_what_a_killed_process_has_paid_is_in_the_journal_and_comes_home(service: Service, tmp_path: Path) -> None:
    """Kill -9 after the create; the same key again pays nothing."""
    environment, again = service.environment, tmp_path / "again.mp4"
    generate = ("generate", "-i", str(CAT), "-p", "Go", "--key", "order-7")
    with started(*generate, environment=environment) as process:
        task_id = read_until(process, "accepted as task").split()[-1]
        process.kill()
    listed = run_to_its_end("ls", "--json", environment=environment)
    job = json.loads(listed[1])
    recovered = run_to_its_end("recover", "-o", str(tmp_path / "out"), environment=environment)
    repeated = run_to_its_end(*generate, "-o", str(again), environment=environment)
    file = tmp_path / "out" / f"{task_id}-1.mp4"

    assert ("submitted", "order-7", task_id) == (job["state"], job["key"], job["task_id"])
    assert [(0, f"{file}\n"), (0, f"{again}\n")] == [recovered, repeated]
    assert clip(file)[0] >= 4.5
    assert file.read_bytes() == again.read_bytes()
    assert (0, "") == run_to_its_end("ls", environment=environment)
    assert 1 == len(run_to_its_end("ls", "--all", environment=environment)[1].splitlines())


def lines_of(process: subprocess.Popen[str], number: int) -> list[dict[str, object]]:
    """The next lines that a process writes to standard output, which are JSON."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(number)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_one_process_submits_is_called_back_to_another_one(tmp_path: Path, number: signal.Signals) -> None:
    """A service that signs, a receiver that checks, and a submitter, which share a journal and nothing else."""
    with serving(tmp_path / "state", "--webhook-key", "secret") as service:
        environment = {**service.environment, "KIE_WEBHOOK_KEY": "secret"}
        with started("listen", "--port", "0", "--json", environment=environment) as receiver:
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


def test_a_callback_with_another_signature_than_the_receivers_is_refused(tmp_path: Path) -> None:
    """The submitter hears of the end all the same: polling is the net."""
    with serving(tmp_path / "state", "--webhook-key", "secret") as service:
        environment = {**service.environment, "KIE_WEBHOOK_KEY": "another"}
        with started("listen", "--port", "0", "--json", environment=environment) as receiver:
            [listening] = lines_of(receiver, 1)
            generate = ("generate", "-i", str(CAT), "-p", "Go", "--callback-url", str(listening["url"]))
            code, _ = run_to_its_end(*generate, "-o", str(tmp_path / "cat.mp4"), environment=environment)
            [refused] = lines_of(receiver, 1)
            receiver.send_signal(signal.SIGTERM)
            receiver.communicate()

    assert (0, 0, "refused", 401) == (code, receiver.returncode, refused["event"], refused["status"])


def test_ctrl_c_does_not_wait_for_a_name_that_nobody_knows(tmp_path: Path) -> None:
    """A thread that looks up a name cannot be interrupted, and the process ends without it."""
    environment = {**clean_environment(tmp_path), "KIE_BASE_URL": "http://service.invalid", "KIE_API_KEY": KEY}
    code = UNREACHABLE.format(arguments=["generate", "-i", str(CAT), "-p", "Go"])
    with started(environment=environment, code=code) as process:
        read_until(process, "looking up service.invalid")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=2.0)

    assert 130 == process.returncode
    assert "Interrupted. Nothing was sent, and nothing was paid." in messages


def test_ctrl_c_ends_the_demo(tmp_path: Path) -> None:
    """Client and service are in one process then, and both end."""
    with started("demo", "--out", str(tmp_path), environment=clean_environment(tmp_path)) as process:
        read_until(process, "accepted as task")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=2.0)

    assert 130 == process.returncode
    assert "Interrupted. It was the fake service: nothing was real, and nothing was paid." in messages


async def test_all_options_reach_the_service(tmp_path: Path) -> None:
    """The request of the options is the request of the class; what is not given is not sent."""
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
    url = inputs[0].pop("image_url")

    assert inputs[0] == {
        "prompt": "Go",
        "resolution": "480p",
        "seed": 7,
        "acceleration": "regular",
        "enable_prompt_expansion": True,
        "nsfw_checker": False,
        "aspect_ratio": "16:9",
    }
    assert {"image_url": url, "prompt": "Go"} == inputs[1]
