"""Fixtures for all tests: API clients, a Redis, and a fleet with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management.commands import flush
from django.db import connections
from django.test import Client
from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Message, Process
from lieutenants.supervision import runtime
from lieutenants.supervision.follower import Follower
from lieutenants.supervision.transports import transport_of
from reef_site.audit import refusals
from reef_site.celery import app
from reef_site.common import broker, outside
from reef_site.common.models import Tick
from reef_site.launcher import redis_server as own_redis
from tests.both_paths import comparing
from tests.dispatching import intercept_tasks
from tests.emulator.fixture import emulator, emulator_of_the_run  # noqa: F401
from tests.postgres import postgres, postgres_cluster  # noqa: F401
from tests.stack import MIGRATED, STATIC_ROOT
from tests.stub_llm import StubLLM
from tests.waiting import PATIENCE, until

CONVERGE_THREAD = "reef-settle"  # name of the follower's threads
STANDIN = Path(__file__).parent / "agents" / "standin.py"


# A whole run takes one part of the tests marked `rotated`, a new one each day; `<number>/<parts>`.
PART = "REEF_TEST_PART"
PARTS, PARTS_ON_SLOW_MACHINES = 3, 9
# Seconds of `_speed` above which a machine is slow; where the suite takes 20 minutes it is 0.013.
SLOW = 0.025


def pytest_configure(config: pytest.Config) -> None:
    """Choose the part of this run, and prepare what its stacks share: tables and static files."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    # Many processes, browsers and limits on a shared machine: a failure is tried again once. A test
    # that passes then is listed with its first failure at the end of the run. Workers do not get
    # options that were set here.
    if is_whole and config.option.reruns is None:
        config.option.reruns = 1
    if not hasattr(config, "workerinput"):
        # Many containers set this. Each worker would rewrite the assertions of all tests, and each
        # process that a test starts compile changed modules.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        if is_whole and config.option.markexpr == "not thorough":
            parts = PARTS_ON_SLOW_MACHINES if _speed() > SLOW else PARTS
            os.environ.setdefault(PART, f"{int(time.time() // 86400) % parts}/{parts}")
        file = Path(tempfile.gettempdir()) / f"reef-migrated-{os.getpid()}.sqlite3"
        file.unlink(missing_ok=True)
        os.environ[MIGRATED] = str(file)
        os.environ[STATIC_ROOT] = tempfile.mkdtemp(prefix="reef-static-")


def _speed() -> float:
    """Return how many seconds of a processor some ordinary work takes."""
    numbers = list(range(100_000))
    work = timeit.Timer(lambda: json.loads(json.dumps(numbers)), timer=time.process_time)
    return min(work.repeat(repeat=5, number=1))


def pytest_report_header() -> str | None:
    """Tell which part of the rotated tests is run."""
    part = os.environ.get(PART)
    return f"part of the rotated tests: {part}" if part else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the first failure of each test that was tried again."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid}", sep="-")
        terminalreporter.write_line(report.longreprtext)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the shared files after the last worker."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[STATIC_ROOT], ignore_errors=True)
        Path(os.environ[MIGRATED]).unlink(missing_ok=True)


# A worker takes whole files, so those of a minute or more come first, else one would be alone at
# the end. The order is only for speed.
LONGEST_FILES = (
    *("reef_site/test_up", "reef_site/test_windows_browser", "vmtree/test_tree_browser"),
    *(
        "bootloader/test_fleet_agent",
        "lieutenants/test_browser",
        "reef_site/test_live_pages_browser",
    ),
    *("lieutenants/test_secrets", "bootloader/test_boot", "wire/test_waits", "chaos/test_upgrade"),
    "wire/test_mcp",
    *("lieutenants/test_real_agent", "bootloader/test_provision_end_to_end"),
    *("versconfig/test_browser", "bootloader/test_hostile", "lieutenants/test_follower"),
    *("reef_site/test_sign_in_browser", "reef_site/test_edge", "bootloader/test_provision_browser"),
    *("reef_site/test_stream_sessions", "registry/test_edge", "bootloader/test_provision_chaos"),
    *("chaos/test_two_hosts", "chaos/test_freezes", "lieutenants/test_exits"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with long files, and leave the other parts of the rotated tests to other runs."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(LONGEST_FILES)}
    for item in items:
        # Markers have limits for a fast machine, too.
        if marker := item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(marker.args[0] * PATIENCE), append=False)
    # Within a file, the order of pytest-django stays.
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
    if not (part := os.environ.get(PART)):
        return
    number, parts = map(int, part.split("/"))
    left_out = [
        item
        for item in items
        if item.get_closest_marker("rotated") and zlib.crc32(item.nodeid.encode()) % parts != number
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


# Tables with rows that `migrate` creates and no test changes.
STATIC_TABLES = {"django_content_type", "auth_permission"}


@pytest.fixture(autouse=True, scope="session")
def _keep_static_tables() -> Iterator[None]:
    """Empty only the other tables after a test, so that these need not be filled again."""

    def sql_flush(style: Any, connection: Any, **options: Any) -> list[str]:
        names = connection.introspection.django_table_names(only_existing=True, include_views=False)
        tables = [name for name in names if name not in STATIC_TABLES]
        statements: list[str] = connection.ops.sql_flush(style, tables, **options)
        return statements

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_, **__: None)
        yield


class Api:
    """API client with the root token."""

    def __init__(self) -> None:
        self.client = Client(headers={"authorization": f"Bearer {settings.ROOT_TOKEN}"})

    def get(self, path: str) -> Any:
        """Send a GET request."""
        return self.client.get(path)

    def post(self, path: str, body: object = None, **headers: str) -> Any:
        """Send a POST request with a JSON body."""
        return self.client.post(
            path,
            data=body if body is not None else {},
            content_type="application/json",
            headers=headers,
        )

    def delete(self, path: str) -> Any:
        """Send a DELETE request."""
        return self.client.delete(path)


@pytest.fixture(autouse=True)
def fresh_audit() -> None:
    """Reset the audit state, because each test starts without rows."""
    refusals.forget()


@pytest.fixture(autouse=True, scope="session")
def _reads_on_both_paths() -> Iterator[None]:
    """Compare what Django and the fast path of the edge answer, in all tests of the API."""
    with comparing():
        yield


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Start a Redis for this test run at the address in the settings."""
    socket = settings.RUN_DIR / "redis.sock"
    password = (settings.DATA_DIR / "redis-password").read_text()
    config = own_redis.write_config(settings.RUN_DIR, password)
    server = subprocess.Popen([str(own_redis.program()), str(config)], stdout=subprocess.DEVNULL)
    until(socket.exists)
    yield settings.REDIS_URL
    server.terminate()
    server.wait(10)


@pytest.fixture(autouse=True)
def _outside_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run outside calls at once, since there is no worker."""
    monkeypatch.setattr(outside, "dispatch", lambda _task, call_id, **_: outside.run_here(call_id))


def let_ticks_have_run() -> None:
    """Record that all periodic tasks have just run, as after the start of a worker."""
    now = timezone.now()
    Tick.objects.bulk_create(
        Tick(name=entry["task"], period_seconds=entry["schedule"], sent_at=now, begun_at=now)
        for entry in app.conf.beat_schedule.values()
    )


class Fleet:
    """A follower in a thread and real agent processes, driven through the API."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.follower = Follower()
        self.thread = threading.Thread(target=self.follower.run, name="follower")
        self.thread.start()

    def stop_follower(self) -> None:
        self.follower.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def restart_follower(self) -> None:
        """Replace the follower, as a new worker would."""
        self.stop_follower()
        self.follower = Follower()
        self.thread = threading.Thread(target=self.follower.run, name="follower")
        self.thread.start()

    def create(self, name: str, *, ready: bool = True, **fields: object) -> dict[str, Any]:
        answer = self.api.post(
            "/lieutenant/lieutenants", {"name": name, "role": "tests", "local": True, **fields}
        )
        assert answer.status_code == 201, answer.content
        if ready:
            self.wait(name, "idle")
        made: dict[str, Any] = answer.json()
        return made

    def send(self, name: str, text: str, mode: str | None = None) -> Message:
        body = {"message": text, **({"mode": mode} if mode else {})}
        answer = self.api.post(f"/lieutenant/lieutenants/{name}/send", body)
        assert answer.status_code == 200, answer.content
        return Message.objects.get(pk=answer.json()["messageId"])

    def ask(self, name: str, text: str, seconds: float = 30.0) -> str:
        """Send a message, wait for its answer and return it."""
        self.send(name, text)
        self.wait(name, "idle", seconds)
        history = self.get(name)["outputHistory"]
        return history[-1] if history else ""

    def get(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = self.api.get(f"/lieutenant/lieutenants/{name}").json()
        return facts

    def row(self, name: str) -> Lieutenant:
        return Lieutenant.objects.active().get(name=name)

    def wait(self, name: str, status: str, seconds: float = 30.0) -> Lieutenant:
        def has_status() -> Lieutenant | None:
            row = self.row(name)
            return row if row.status == status else None

        try:
            found: Lieutenant = until(has_status, seconds)
        except AssertionError:
            row = self.row(name)
            raise AssertionError(f"{name} is {row.status}, not {status}: {row.error}") from None
        return found

    def process(self, name: str) -> Process:
        live = self.row(name).live_process()
        assert live is not None
        return live

    def texts(self, name: str, kind: str = "text") -> list[str]:
        answer = self.api.get(f"/lieutenant/lieutenants/{name}/transcript?limit=1000").json()
        return [each["text"] for each in answer["entries"] if each["kind"] == kind]

    def close(self) -> None:
        self.stop_follower()
        # Background work must be over before the tables are emptied.
        for thread in threading.enumerate():
            if thread.name == CONVERGE_THREAD:
                thread.join(30)
        for process in Process.objects.live():
            transport = transport_of(process)
            # A process that is ending may close the connection.
            with contextlib.suppress(TransportError):
                transport.stop(process.directory, process.handle, None)
            until(partial(_gone, process), 20)


def _gone(process: Process) -> bool:
    return not transport_of(process).alive(process.handle)


def _converge_in_a_thread(_task: str, args: list[str], _countdown: float) -> None:
    """Run a follower's task in a thread, as a worker does, but without a broker."""

    def run() -> None:
        runtime.converge(*args)
        connections.close_all()

    threading.Thread(target=run, name=CONVERGE_THREAD).start()


@pytest.fixture
def fleet(
    api: Api,
    transactional_db: None,
    redis_server: str,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Fleet]:
    """A fleet with the stand-in agent; set `settings.PI_PATH` to use another one."""
    settings.PI_PATH = str(STANDIN)
    settings.STARTS_AT_ONCE = 8
    intercept_tasks(monkeypatch, "lieutenants.settle", _converge_in_a_thread)
    broker.client.cache_clear()
    running = Fleet(api)
    yield running
    running.close()


@pytest.fixture(scope="session")
def stub() -> Iterator[StubLLM]:
    """Start a scriptable model on the loopback."""
    with StubLLM() as model:
        yield model


# Versions of the real agent, the pinned one first, as parameters of tests.
REAL_AGENTS = [
    pytest.param("160", id="pi-1.6.0"),
    pytest.param("087", id="pi-0.87.1"),
    pytest.param("073", id="pi-0.73.1"),
]
# For repeats: the older versions only in thorough runs.
PINNED_AGENT_FIRST = [
    REAL_AGENTS[0],
    pytest.param("087", id="pi-0.87.1", marks=pytest.mark.thorough),
    pytest.param("073", id="pi-0.73.1", marks=pytest.mark.thorough),
]


def real_agent(version: str) -> str:
    """Return the path where `manage.py test` has installed this version of the agent."""
    path = os.environ.get(f"REEF_TEST_PI_{version}", "")
    if not path or not Path(path).exists():
        pytest.fail(f"no agent {version}: run the tests with `python3 manage.py test`")
    return path
