"""Processes of reef: kept running, shown, stopped. First with toys, then with the real ones.

Every process here is real. The toys are small Python programs under the real supervisor.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reef_site.common import locks
from reef_site.common.log_lines import MAX_LINE_BYTES
from reef_site.launcher import lockfile, supervisor, watchdog
from reef_site.launcher.plan import Demo, Plan, Service
from tests.waiting import PATIENCE, until

CHECKOUT = Path(supervisor.__file__).parents[2]
FOREVER = "import time; print('here', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + FOREVER
ANSWERS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Running:
    """A supervisor or `up` as a process, with its output."""

    def __init__(self, argv: list[str], env: dict[str, str], fds: tuple[int, ...] = ()) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            pass_fds=fds,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until a pattern has matched `times` lines; fail if the program ends first."""

        def seen() -> bool:
            found = sum(bool(re.search(pattern, line)) for line in self.lines)
            if found < times and self.process.poll() is not None:
                self._reader.join(5)
                found = sum(bool(re.search(pattern, line)) for line in self.lines)
                assert found >= times, "\n".join(self.lines)
            return found >= times

        try:
            until(seen, 90)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in:\n" + "\n".join(self.lines)) from None

    def end(self, number: signal.Signals = signal.SIGTERM, within: float = 12.0) -> float:
        """Signal the process and wait for its end; return the seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(within * PATIENCE)
        self._reader.join(5)
        return time.monotonic() - began


def pids(data: Path, word: str) -> list[int]:
    """Return the processes of this data folder with `word` in their command line."""
    found = []
    for pid in lockfile.tagged(data):
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
        except OSError:
            continue
    return found


class Toys:
    """Toy services under the real supervisor on a temporary data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.started: list[Running] = []

    def up(self, *services: Service, kill_after: float = 8.0) -> Running:
        """Start a supervisor with these services and an edge that responds."""
        edge = Service("edge", [sys.executable, "-c", ANSWERS, str(self.port)])
        plan = Plan(
            services=[edge, *services],
            logs=str(self.data / "logs"),
            health=("127.0.0.1", self.port),
            ready=["it answers"],
            tag=lockfile.TAG,
        )
        lock = lockfile.take_lock(self.data / "up.lock")
        assert lock is not None
        read, write = os.pipe()
        os.write(write, plan.dump().encode())
        os.close(write)
        code = (
            f"from reef_site.launcher import supervisor; supervisor.KILL_AFTER = {kill_after};"
            f"supervisor.main(['', '{read}', '{lock.fileno()}'])"
        )
        env = {lockfile.TAG: str(self.data)}
        running = Running([sys.executable, "-c", code], env, (read, lock.fileno()))
        os.close(read)
        lock.close()
        self.started.append(running)
        return running


def toy(name: str, code: str, start_phase: str = "") -> Service:
    return Service(name, [sys.executable, "-c", code, f"toy-{name}"], start_phase=start_phase)


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Toys]:
    toys = Toys(tmp_path)
    yield toys
    for running in toys.started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    lockfile.clear(tmp_path, 1.0)


def test_output_is_tagged_and_logged(toys: Toys) -> None:
    code = "print('x' * 9000); print(b'\\xff'.decode('latin-1')); " + FOREVER
    running = toys.up(toy("web", code))

    running.wait_for(r"^reef   \| it answers$")
    running.wait_for(r"^web    \| here$")
    assert running.end() < 5
    log = (toys.data / "logs" / "web.log").read_text().splitlines()
    assert [len(line.encode()) for line in log] == [MAX_LINE_BYTES, 2, 4]
    assert "stopped" in (toys.data / "logs" / "up.log").read_text()


def test_large_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 100)
    log = supervisor.Log(tmp_path / "web.log")
    for _ in range(3):
        log.write("y" * 60)

    assert (tmp_path / "web.log").read_text() == "y" * 60 + "\n"
    assert (tmp_path / "web.log.1").read_text().count("\n") == 2


def test_dead_service_is_restarted(toys: Toys) -> None:
    running = toys.up(toy("worker", FOREVER))
    running.wait_for("here")
    (pid,) = pids(toys.data, "toy-worker")

    os.kill(pid, signal.SIGKILL)

    running.wait_for(r"worker ended \(killed by SIGKILL\); restarting it in 0.5 s")
    running.wait_for("here", times=2)


def test_pauses_between_restarts_grow(toys: Toys) -> None:
    running = toys.up(toy("beat", "raise SystemExit(3)"))

    running.wait_for(r"beat ended \(exit code 3\); restarting it in 0.5 s")
    running.wait_for(r"restarting it in 1 s")
    running.wait_for(r"restarting it in 2 s")
    assert running.end() < 2


def test_missing_program_is_retried(toys: Toys) -> None:
    running = toys.up(Service("web", ["/nowhere/web"]))

    running.wait_for(r"web ended \(.*No such file.*\); restarting it")


def test_children_of_dead_service_are_killed(toys: Toys) -> None:
    code = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}, 'toy-child'])"
    )
    running = toys.up(toy("web", f"{code}; {FOREVER}"))
    running.wait_for("here", times=2)
    (child,) = pids(toys.data, "'toy-child'")[:1] or pids(toys.data, "toy-child")[:1]
    (parent,) = pids(toys.data, "toy-web")

    os.kill(parent, signal.SIGKILL)

    until(lambda: child not in lockfile.tagged(toys.data) or not alive(child))


SOCKET = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
print('here', flush=True)
time.sleep(600)
"""


def test_service_is_restarted_when_socket_is_removed(toys: Toys) -> None:
    path = toys.data / "run" / "web.sock"
    web = Service("web", [sys.executable, "-c", SOCKET, str(path)], stale=[str(path)])
    running = toys.up(web)
    running.wait_for("web .* here")

    shutil.rmtree(path.parent)

    running.wait_for(r"web: its socket .*web.sock was removed; restarting it")
    running.wait_for("web .* here", times=2)
    until(path.exists, 5)


ORPHANS = """
import os, subprocess, sys, time
for _ in range(20):
    subprocess.run(["sh", "-c", "(sleep 0.2; exit 3) &"])
print('orphaned', flush=True)
time.sleep(1)
sys.exit(7)
"""


def test_orphans_are_reaped_and_exit_codes_stay_right(toys: Toys) -> None:
    running = toys.up(toy("web", ORPHANS))

    running.wait_for(r"web ended \(exit code 7\); restarting it", times=2)

    def dead() -> list[str]:
        mine = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
        states = [state_of(int(pid)) for pid in mine.read_text().split()]
        return [state for state in states if state == "Z"]

    until(lambda: not dead(), 5)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_health_changes_are_reported_once() -> None:
    said: list[str] = []
    watch = watchdog.HealthWatch(said.append)
    full = {"parts": {"disk": {"ok": False, "why": "the disk is full"}, "broker": {"ok": True}}}

    for answer in ({}, full, full, full, {}, {}):
        watch.take(200, answer)

    assert said == ["degraded: disk: the disk is full", "healthy again"]


def test_unresponsive_web_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "WEB_PATIENCE_SECONDS", 0.05)
    watch = watchdog.HealthWatch(lambda _: None)

    assert not watch.take(502, {})
    until(lambda: watch.take(0, {}), 5)
    assert not watch.take(200, {})


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_late_services_start_after_the_pages_respond(toys: Toys) -> None:
    running = toys.up(toy("worker", FOREVER, start_phase="late"))

    running.wait_for("worker .* here")
    # Late services are not waited for.
    running.wait_for("it answers")


def test_stop_leaves_no_processes(toys: Toys) -> None:
    running = toys.up(toy("redis", FOREVER, start_phase="first"), toy("web", DEAF), kill_after=0.5)
    running.wait_for("here", times=2)
    running.wait_for("it answers")

    assert running.end() < 5
    assert running.process.returncode == 0
    assert "web does not end; killing it" in "\n".join(running.lines)
    assert lockfile.tagged(toys.data) == []


def test_second_signal_kills_at_once(toys: Toys) -> None:
    running = toys.up(toy("web", DEAF), kill_after=60)
    running.wait_for("here")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopping")

    assert running.end(signal.SIGINT) < 5


def test_killed_supervisor_takes_its_children_along(toys: Toys) -> None:
    running = toys.up(toy("web", FOREVER), toy("worker", DEAF))
    running.wait_for("here", times=2)

    running.end(signal.SIGKILL)

    until(lambda: pids(toys.data, "toy-web") == [])
    # The unresponsive process stays until the next start removes it.
    assert lockfile.take_lock(toys.data / "up.lock", patience=0) is not None
    assert lockfile.clear(toys.data, patience=0.3) >= 1
    until(lambda: lockfile.tagged(toys.data) == [])


def test_a_lock_is_taken_once(tmp_path: Path) -> None:
    first = lockfile.take_lock(tmp_path / "up.lock")
    assert first is not None
    assert lockfile.take_lock(tmp_path / "up.lock", patience=0.1) is None
    first.close()
    assert lockfile.take_lock(tmp_path / "up.lock", patience=0.1) is not None


def test_removed_lock_is_taken_again(toys: Toys) -> None:
    running = toys.up(toy("web", FOREVER))
    running.wait_for("here")
    path = toys.data / "up.lock"
    path.unlink()
    until(lambda: locks.is_held(path))
    assert lockfile.take_lock(path, patience=0) is None


def test_a_supervisor_whose_lock_another_has_taken_stops(toys: Toys) -> None:
    running = toys.up(toy("web", FOREVER))
    running.wait_for("here")
    path = toys.data / "up.lock"
    path.rename(path.with_name("swept"))
    other = lockfile.take_lock(path, patience=0)
    assert other is not None
    running.wait_for("another reef has taken .*up.lock; leaving the data folder to it")
    running.process.wait(20)
    other.close()


def test_plan_round_trips_through_json() -> None:
    plan = Plan(
        services=[Service("web", ["a", "b"], stale=["s"], start_phase="late", once=True)],
        logs="/logs",
        health=("::1", 3000),
        ready=["é"],
        tag="T",
        demo=Demo(["d"], "/lock"),
    )

    assert Plan.load(plan.dump()) == plan


# -- the real services


class Up:
    """`manage.py up` on a data folder."""

    def __init__(self, data: Path) -> None:
        self.env = {
            **dict.fromkeys(("REDIS_URL", "DATABASE_URL", "VERS_AUTH_TOKEN", "REEF_DEMO"), ""),
            "REEF_DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "reef_site.settings",
        }
        self.data = data
        self.port = free_port()
        self.began = 0.0

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same data folder to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=CHECKOUT,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *words: str) -> Running:
        """Start it and wait for its sign-in link."""
        self.began = time.monotonic()
        argv = [sys.executable, "manage.py", "up", "--no-agent", "--port", str(self.port), *words]
        running = Running(argv, self.env)
        running.wait_for("sign in, once and within")
        return running

    def parts(self) -> dict[str, Any]:
        """Return the components of `/health`; empty without a response."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=5
            ) as answer:
                said: dict[str, Any] = json.load(answer)["parts"]
                return said
        except OSError:
            return {"broker": {"ok": False}}

    def health(self) -> int:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=5
            ) as answer:
                return int(answer.status)
        except OSError:
            return 0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    yield up
    lockfile.clear(up.data)


@pytest.fixture(scope="module")
def reef(up: Up) -> Iterator[Running]:
    """Return a running reef, for tests that leave it running."""
    running = up.start()
    yield running
    if running.process.poll() is None:
        running.end()


def test_first_start_responds_and_prints_signin_link(reef: Running, up: Up) -> None:
    said = "\n".join(reef.lines)

    assert up.health() == 200
    assert "setting up the database" in said
    assert f"reef answers at http://reef.localhost:{up.port}" in said
    assert str(up.data / "root-token") in said
    assert (up.data / "root-token").stat().st_mode & 0o777 == 0o600
    assert up.data.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("reef")
def test_all_components_become_healthy(up: Up) -> None:
    def parts() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/health", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")

    until(parts, 40)


def test_a_second_up_is_refused(reef: Running, up: Up) -> None:
    refused = up.manage("up", "--port", str(free_port()))

    assert refused.returncode == 1
    assert f"process {reef.process.pid}, http://127.0.0.1:{up.port}" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert up.health() == 200


@pytest.mark.usefixtures("reef")
def test_occupied_port_is_reported(up: Up, tmp_path: Path) -> None:
    other = Up(tmp_path)

    refused = other.manage("up", "--no-agent", "--port", str(up.port))

    assert refused.returncode == 1
    assert re.search(rf"^reef: cannot listen on 127.0.0.1 port {up.port}: ", refused.stderr)
    assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("reef")
def test_signin_command_prints_another_link(up: Up) -> None:
    done = up.manage("signin")

    assert done.stdout.startswith(f"http://reef.localhost:{up.port}/signin/")
    assert done.stdout.count("\n") == 1


def test_killed_web_process_is_restarted(reef: Running, up: Up) -> None:
    leader = next(pid for pid in pids(up.data, "granian") if os.getpgid(pid) == pid)

    os.kill(leader, signal.SIGKILL)

    reef.wait_for(r"web ended \(killed by SIGKILL\); restarting it")
    until(lambda: up.health() == 200)


@pytest.mark.rotated
@pytest.mark.parametrize("name", ["web", "redis"])
def test_removed_socket_is_recreated(reef: Running, up: Up, name: str) -> None:
    path = up.data / "run" / f"{name}.sock"
    until(path.exists)
    until(lambda: up.parts()["broker"]["ok"])

    path.unlink()

    until(path.exists, 10)
    until(lambda: up.health() == 200 and up.parts()["broker"]["ok"], 10)
    reef.wait_for(rf"{name}: its socket .*{name}.sock was removed")


@pytest.mark.rotated
def test_second_start_after_a_stop_is_clean(reef: Running, up: Up) -> None:
    assert reef.end(within=12) < 10
    assert lockfile.tagged(up.data) == []
    assert not list((up.data / "run").glob("redis.sock"))

    took = []
    for _ in range(2):
        again = up.start()
        until(lambda: up.health() == 200)
        took.append(time.monotonic() - up.began)
        assert "setting up" not in "\n".join(again.lines)
        again.end()
    # It takes 2 s on an idle machine; here the time is only printed.
    print(f"answered after {min(took):.1f} s")


@pytest.mark.rotated
def test_start_succeeds_after_killed_up(up: Up) -> None:
    first = up.start()
    first.end(signal.SIGKILL)

    second = up.start()

    assert up.health() == 200
    assert second.end() < 10


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        pytest.param(
            *("DATABASE_URL", "mysql://x/y", "reef: DATABASE_URL"), marks=pytest.mark.thorough
        ),
        ("DATABASE_URL", "postgres://127.0.0.1:1/none", "the database cannot be used"),
        pytest.param("PORT", "many", "reef: PORT", marks=pytest.mark.thorough),
        ("REEF_VM_VCPUS", "abc", "reef: REEF_VM_VCPUS: must be a whole number from 1 to 256"),
        ("REEF_VM_PROVIDER", "nobody", "reef: REEF_VM_PROVIDER: must be one of ssh, vers"),
    ],
)
def test_invalid_options_stop_the_start(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    up = Up(tmp_path)
    up.env[name] = value

    done = up.manage("up", "--no-agent", *([] if name == "PORT" else ["--port", str(up.port)]))

    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.rotated
def test_demo_model_is_ready_and_outlives_up(tmp_path: Path) -> None:
    up = Up(tmp_path)
    running = up.start("--demo")
    try:
        assert "demo model" in "\n".join(running.lines)
        models = tmp_path / "pi" / "models.json"
        until(models.exists)
        address = json.loads(models.read_text())["providers"]["reef-demo"]["baseUrl"]
        with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:
            assert json.load(answer)["data"][0]["id"] == "demo"

        assert running.end() < 10

        # An answer may be in progress; the model ends by itself later.
        with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:
            assert answer.status == 200
    finally:
        lock = (tmp_path / "demo" / "lock").stat()
        for pid in holders(lock.st_ino):
            os.kill(pid, signal.SIGTERM)


def holders(inode: int) -> list[int]:
    """Return the processes that hold a lock on this file."""
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(one[4]) for one in locks if one[1] == "FLOCK" and one[5].endswith(f":{inode}")]


@pytest.mark.thorough
def test_models_that_cannot_be_read_stop_the_demo(tmp_path: Path) -> None:
    up = Up(tmp_path)
    (tmp_path / "pi").mkdir()
    (tmp_path / "pi" / "models.json").write_text("{broken")

    done = up.manage("up", "--no-agent", "--demo", "--port", str(up.port))

    assert done.returncode == 1
    assert "models.json" in done.stderr
    assert (tmp_path / "pi" / "models.json").read_text() == "{broken"


@pytest.mark.rotated
def test_start_warns_about_suspicious_settings(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.env |= {"PI_PATH": str(tmp_path / "no-pi"), "REEF_STALL_SECOND": "7"}
    running = up.start()
    try:
        running.wait_for("warning: REEF_STALL_SECOND is .* did you mean REEF_STALL_SECONDS")
        running.wait_for(
            "warning: no lieutenant can start. PI_PATH is .*no-pi, which is no program"
        )
    finally:
        running.end()


@pytest.mark.thorough
def test_start_warns_about_low_open_file_limit(tmp_path: Path) -> None:
    up = Up(tmp_path)
    shell = f"ulimit -n 256; exec {sys.executable} manage.py up --no-agent --port {up.port}"
    running = Running(["bash", "-c", shell], up.env)
    try:
        running.wait_for("warning: a process may open 256 files only")
    finally:
        running.end()


@pytest.mark.thorough
def test_start_raises_open_file_limit(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("there may be no more here")
    up = Up(tmp_path)
    shell = f"ulimit -Sn 256; exec {sys.executable} manage.py up --no-agent --port {up.port}"
    running = Running(["bash", "-c", shell], up.env)
    try:
        running.wait_for("setting up the database")
        limits = Path(f"/proc/{running.process.pid}/limits").read_text()
        assert re.search(r"Max open files +4096 ", limits)
        assert not [line for line in running.lines if "files only" in line]
    finally:
        running.end()
