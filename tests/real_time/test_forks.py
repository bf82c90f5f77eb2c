"""A client that was used before a fork: in the child every use is an error, and nothing is paid a second time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import profile
from tests.helpers import KEY

PROGRAM = f"""
import asyncio, inspect, os, sys
from kie_async import ConfigurationError, Job, KieClient, Run
from kie_async.callbacks import Callbacks
from tests.helpers import make_request
from tests.real_time.ended_loops import fake_in_thread
from tests.requests.samples import PNG

journal, moment = sys.argv[1] if sys.argv[1] != "memory" else None, sys.argv[2]

#: Public methods that only make a value, or that compute one from their arguments.
PURE = {{"KieClient.job", "KieClient.map", "KieClient.drain_on_sigterm", "Callbacks.admits"}}

async def entered(run):
    async with run:
        pass

def uses(kie, job, run, request):
    body = b"{{}}"
    return {{
        "KieClient.generate": lambda: kie.generate(request, key="order-7"),
        "KieClient.submit": lambda: kie.submit(request, key="order-7"),
        "KieClient.map": lambda: entered(kie.map([request])),
        "KieClient.estimate": lambda: kie.estimate(request),
        "KieClient.spent": lambda: kie.spent([request]),
        "KieClient.recover": kie.recover,
        "KieClient.jobs": kie.jobs,
        "KieClient.forget": lambda: kie.forget(before=0.0),
        "KieClient.credits": kie.credits,
        "KieClient.budgets": kie.budgets,
        "KieClient.account": lambda: kie.account(),
        "KieClient.workers": lambda: kie.workers(),
        "KieClient.keys": lambda: kie.keys(""),
        "KieClient.journal_id": kie.journal_id,
        "KieClient.raise_budget": lambda: kie.raise_budget("campaign", credits=10.0),
        "KieClient.upload": lambda: kie.upload(PNG),
        "KieClient.statistics": kie.statistics,
        "KieClient.aclose": kie.aclose,
        "KieClient.__aenter__": kie.__aenter__,
        "KieClient.__aexit__": lambda: kie.__aexit__(None, None, None),
        "Job.wait": job.wait,
        "Job.__await__": lambda: job,
        "Job.status": job.status,
        "Job.info": job.info,
        "Job.updates": lambda: anext(job.updates()),
        "Job.resolve": lambda: job.resolve("a1"),
        "Job.resubmit": lambda: job.resubmit(allow_duplicate=True),
        "Job.abandon": job.abandon,
        "Run.stop": run.stop,
        "Run.aclose": run.aclose,
        "Run.summary": run.summary,
        "Run.__anext__": lambda: anext(run),
        "Run.__aexit__": lambda: run.__aexit__(None, None, None),
        "Callbacks.handle": lambda: kie.callbacks.handle("/x", {{}}, body),
        "Callbacks.asgi_app": kie.callbacks.asgi_app,
        "Callbacks.aiohttp_routes": kie.callbacks.aiohttp_routes,
        "Generation.save": lambda: generation.save("cat.mp4"),
    }}

def unknown(known):
    found = {{
        f"{{kind.__name__}}.{{name}}"
        for kind in (KieClient, Job, Run, Callbacks)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }}
    return found - known.keys() - PURE

async def use_each(kie, job, run, request):
    calls = uses(kie, job, run, request)
    wrong = sorted(unknown(calls))
    for name, call in calls.items():
        try:
            result = call()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, 30.0)
        except ConfigurationError as error:
            if "after a fork" in str(error):
                continue
            wrong.append(f"{{name}}: {{error}}")
        except BaseException as error:
            wrong.append(f"{{name}}: {{error!r}}")
        else:
            wrong.append(f"{{name}}: no error")
    repr(kie), repr(job), kie.job(job.id).id, job.state, job.task_id
    return wrong

def fork(main):
    if (child := os.fork()) == 0:
        try:
            print(asyncio.run(main()), flush=True)
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)

async def own(url):
    async with KieClient({KEY!r}, base_url=url, journal=journal) as kie:
        job = await kie.submit(make_request(5))
        await job.status()
        await job
    return []

async def main(fake, kie):
    global generation
    job = await kie.submit(make_request(1))
    await job.status()
    generation = await job
    job = await kie.submit(make_request(2))
    run = await kie.map([make_request(3)]).__aenter__()
    await kie.submit(make_request(4), wait=False, key="order-7")
    prepared = job, run, make_request(4)
    if moment == "running":
        fork(lambda: use_each(kie, *prepared))
        fork(lambda: use_each(kie, *prepared))
    elif moment == "closed":
        await kie.aclose()
        fork(lambda: use_each(kie, *prepared))
        fork(lambda: use_each(kie, *prepared))
    return prepared

with fake_in_thread() as fake:
    kie = KieClient({KEY!r}, base_url=fake.url, journal=journal, callback_url="https://app.example.com/kie")
    prepared = asyncio.run(main(fake, kie))
    if moment == "ended":
        fork(lambda: use_each(kie, *prepared))
        fork(lambda: use_each(kie, *prepared))
    fork(lambda: own(fake.url))
    posts = len(fake.truth.create_requests)
print("posts", posts <= 5)
"""


@pytest.mark.parametrize(
    ("journal", "moment"),
    profile.sample([(j, m) for j in ("memory", "disk") for m in ("running", "closed", "ended")], check=0.34),
)
def test_each_use_after_a_fork_is_an_error(tmp_path_factory: pytest.TempPathFactory, journal: str, moment: str) -> None:
    """Each public method of a client, a job, a run and the callbacks. A child's own client works."""
    path = str(tmp_path_factory.mktemp("fork") / "kie.db") if journal == "disk" else journal
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, moment], capture_output=True, text=True, check=False, timeout=120
    )

    *children, parent = ran.stdout.splitlines()
    assert ["[]"] * 3 == children, ran.stderr
    assert "posts True" == parent
