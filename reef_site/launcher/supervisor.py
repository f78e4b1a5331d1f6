"""The supervisor: start reef's processes, show their output, restart and stop them.

The command `up` prepares everything and then becomes this program, which stays small because it
needs no Django. It gets its plan as JSON through an open file descriptor, and passes its
environment to the processes. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from reef_site.common import locks
from reef_site.common.log_lines import one_line
from reef_site.common.reaper import Reaper, become_subreaper
from reef_site.hardening import harden_process
from reef_site.launcher import lockfile, watchdog
from reef_site.launcher.plan import Demo, Plan, Service

FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
HEALTHY_SECONDS = 60.0
# At a stop: the time until remaining processes are killed, and then the time for Redis.
KILL_AFTER, REDIS_GRACE = 8.0, 1.0
# Time for a process to end by itself before it is replaced.
REPLACE_GRACE = 3.0
MAX_LOG_BYTES = 10 << 20
MAX_LINE = 4000
# File in the data folder; locked by the `up` that runs on it.
LOCK_FILE = "up.lock"
PLAIN_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
COLOURS = {"edge": 36, "web": 32, "worker": 33, "beat": 35, "redis": 31, "agent": 34}
COLOURS |= {"demo": 95, "vms": 94}


# -- output


class Terminal:
    """Printer with a thread of its own, so that a stuck terminal never blocks reef."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty() and not os.environ.get("NO_COLOR")
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=5000)
        self._dropped = 0
        self._thread = threading.Thread(target=self._print, name="terminal", daemon=True)
        self._thread.start()

    def show(self, tag: str, line: str) -> None:
        """Print one line with the name of its process."""
        label = f"{tag:<6} |"
        if self._colours:
            label = f"\033[{COLOURS.get(tag, 1)}m{label}\033[0m"
        try:
            self._lines.put_nowait(f"{label} {line}")
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Print the remaining lines, within a second."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(1.0)

    def _print(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                line = f"({self._dropped} lines are only in the logs)\n{line}"
                self._dropped = 0
            # A closed terminal is not a reason to stop.
            with contextlib.suppress(OSError, ValueError):
                self._out.write(line + "\n")
                self._out.flush()


class Log:
    """Log file that is rotated to `<name>.log.1` when it is large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")

    def write(self, line: str) -> None:
        """Append one line; a full disk only loses the line."""
        with contextlib.suppress(OSError):
            if self._file.closed:
                self._file = self._path.open("ab")
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            self._file.flush()
            if self._file.tell() > MAX_LOG_BYTES:
                self._file.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file = self._path.open("ab")


# -- one process


_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
# Return large freed blocks to the system at once (glibc).
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


def die_with_parent(parent: int) -> Callable[[], None]:
    """Return a function for the child before exec: it gets SIGTERM when `parent` dies."""

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def describe_exit(code: int) -> str:
    """Describe an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


async def wait_for_end(process: subprocess.Popen[bytes]) -> int:
    """Wait for the exit code, which is negative for a signal."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:  # an old kernel
        while process.poll() is None:
            await asyncio.sleep(0.1)
        return process.wait()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return process.wait()


async def read_lines(process: subprocess.Popen[bytes], tell: Callable[[str], None]) -> None:
    """Call `tell` with every line that the process prints; long lines are cut."""
    assert process.stdout is not None
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, process.stdout)
    rest = b""
    while data := await reader.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        # Cut here already: the end of a long line may still come.
        rest = rest[:MAX_LINE]
        for line in lines:
            tell(line[:MAX_LINE].decode("utf-8", "replace").rstrip("\r"))
    if rest:
        tell(rest.decode("utf-8", "replace"))


class Runner:
    """Keeper of one service until reef stops."""

    def __init__(self, service: Service, reef: Supervisor) -> None:
        self.service = service
        self._reef = reef
        self._log = Log(Path(reef.plan.logs) / f"{service.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        """Start the process, wait for its end, and restart it with growing pauses."""
        pause = FIRST_PAUSE
        while not self._reef.stopping.is_set():
            started = time.monotonic()
            try:
                reason = await self._run_once()
            except Exception as error:  # noqa: BLE001
                # The loop must survive any error, so that the service is restarted.
                reason = repr(error)
                self.signal(signal.SIGKILL)
            if self._reef.stopping.is_set() or self.service.once:
                return
            if time.monotonic() - started >= HEALTHY_SECONDS:
                pause = FIRST_PAUSE
            self._reef.say(f"{self.service.name} ended ({reason}); restarting it in {pause:g} s")
            await self._reef.wait_or_stop(pause)
            pause = min(pause * 2, MAX_PAUSE)

    def signal(self, number: signal.Signals) -> None:
        """Signal the process; SIGKILL goes to its whole group."""
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(self.process.pid, number)
                else:
                    os.kill(self.process.pid, number)

    async def _run_once(self) -> str:
        try:
            for name in self.service.stale:
                Path(name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                Path(name).unlink(missing_ok=True)
            self.process = self._spawn()
        except OSError as error:
            return str(error)
        if data_dir := os.environ.get(self._reef.plan.tag):
            lockfile.record_process(Path(data_dir), self.process.pid)
        lines = asyncio.create_task(read_lines(self.process, self._tell))
        guard = asyncio.create_task(self._guard_sockets())
        code = await wait_for_end(self.process)
        guard.cancel()
        # Children left behind would hold its socket and our pipe.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.wait({lines}, timeout=1.0)
        lines.cancel()
        return describe_exit(code)

    async def _guard_sockets(self) -> None:
        """Replace the process if its socket file is removed: it cannot be reached any more."""
        if not self.service.stale:
            return
        gone = await watchdog.until_socket_is_gone(self.service.stale)
        if not self._reef.stopping.is_set():
            await self.replace(f"its socket {gone} was removed")

    async def replace(self, why: str) -> None:
        """End the process, so that it is started again."""
        self._reef.say(f"{self.service.name}: {why}; restarting it")
        self.signal(signal.SIGTERM)
        await asyncio.sleep(REPLACE_GRACE)
        self.signal(signal.SIGKILL)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.service.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
            umask=self.service.umask,
            env={**_ALLOCATOR, **self._environment()},
        )

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) if self.service.full_environment else self._reef.plain_environment()

    def _tell(self, line: str) -> None:
        line = one_line(line)
        self._log.write(line)
        if not any(words in line for words in self.service.muted):
            self._reef.terminal.show(self.service.name, line)


# -- all processes


class Supervisor:
    """All processes of one reef."""

    def __init__(self, plan: Plan, out: TextIO, lock: locks.FileLock | None = None) -> None:
        self.plan = plan
        self._lock = lock
        self.terminal = Terminal(out)
        self.stopping = asyncio.Event()
        self._kill_now = asyncio.Event()
        Path(plan.logs).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = Log(Path(plan.logs) / "up.log")
        self._runners: dict[Runner, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._demo: subprocess.Popen[bytes] | None = None

    def say(self, line: str) -> None:
        """Print and log one line of the supervisor itself."""
        line = one_line(line)
        shown = line.replace(self.plan.link, "(a link)") if self.plan.link else line
        self._log.write(one_line(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}"))
        self.terminal.show("reef", line)

    def plain_environment(self) -> dict[str, str]:
        """Return the environment of a program that needs no settings."""
        names = (*PLAIN_VARIABLES, self.plan.tag)
        return {name: os.environ[name] for name in names if name in os.environ}

    async def wait_or_stop(self, seconds: float) -> bool:
        """Wait until the stop or for `seconds`; return whether reef is stopping."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()

    async def run(self) -> None:
        """Start everything, wait for the stop, and stop everything."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._request_stop)
        self._start("first")
        if self.plan.demo:
            self._run_in_background(partial(self._keep_demo, self.plan.demo))
        self._start("")
        self._run_in_background(self._announce_start)
        self._run_in_background(self._reap)
        self._run_in_background(self._keep_lock)
        await self.stopping.wait()
        await self._stop()
        self.terminal.close()

    def _request_stop(self) -> None:
        if self.stopping.is_set():
            self._kill_now.set()
        self.stopping.set()

    def _run_in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this work in the background; after an error, run it again."""

        async def rerun_after_error() -> None:
            while not self.stopping.is_set():
                try:
                    await work()
                except Exception:  # noqa: BLE001
                    for line in traceback.format_exc().splitlines():
                        self.say(line)
                    await self.wait_or_stop(FIRST_PAUSE)
                else:
                    return

        task = asyncio.create_task(rerun_after_error())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _start(self, start_phase: str) -> None:
        started = [runner.service for runner in self._runners]
        for service in self.plan.services:
            if service.start_phase == start_phase and service not in started:
                runner = Runner(service, self)
                self._runners[runner] = asyncio.create_task(runner.run())

    async def _announce_start(self) -> None:
        """Start the late services and print the address as soon as the pages respond."""
        patience = time.monotonic() + 5.0
        late = False
        while not (ready := await is_responding(*self.plan.health)):
            if not late and time.monotonic() > patience:
                late = True
                self.say("still starting…")
                self._start("late")
            if await self.wait_or_stop(1.0 if late else 0.05):
                return
        if not late:
            self._start("late")
        if ready and not self.stopping.is_set():
            for line in self.plan.ready:
                self.say(line)
            if self.plan.open_browser:
                self._open_browser()
            self._run_in_background(self._watch_health)

    def _open_browser(self) -> None:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            self.say("no display here; open the link yourself")
            return
        import webbrowser  # slow to import, and seldom wanted

        threading.Thread(target=webbrowser.open, args=(self.plan.link,), daemon=True).start()

    async def _watch_health(self) -> None:
        """Report problems of `/health`; restart a web process that does not respond."""
        watch = watchdog.HealthWatch(self.say)
        # Processes that have just been started are not ready yet.
        pause = HEALTHY_SECONDS / 2
        while not await self.wait_or_stop(pause):
            pause = watchdog.HEALTH_INTERVAL_SECONDS
            if watch.take(*await watchdog.ask_health(*self.plan.health, seconds=10.0)):
                for runner in [each for each in self._runners if each.service.name == "web"]:
                    await runner.replace("it does not answer")

    async def _reap(self) -> None:
        """Reap orphaned processes each second."""
        dead = Reaper()
        while not await self.wait_or_stop(1.0):
            dead.reap(self._own_pids())

    async def _keep_lock(self) -> None:
        """Retake the data folder's lock if its file was removed; stop if another reef has it."""
        while self._lock and not await self.wait_or_stop(locks.KEEP_SECONDS):
            if not self._lock.keep():
                self.say(f"another reef has taken {self._lock.path}; leaving the data folder to it")
                self.stopping.set()

    def _own_pids(self) -> set[int]:
        processes = [runner.process for runner in self._runners]
        return {process.pid for process in (*processes, self._demo) if process is not None}

    async def _keep_demo(self, demo: Demo) -> None:
        """Start the demo model whenever it does not run; it ends by itself after us."""
        env = {key: value for key, value in os.environ.items() if key != self.plan.tag}
        process: subprocess.Popen[bytes] | None = None
        while True:
            if not locks.is_held(demo.lock) and (process is None or process.poll() is not None):
                if process is not None:
                    self.say(f"demo ended ({describe_exit(process.returncode)}); restarting it")
                with (Path(self.plan.logs) / "demo.log").open("ab") as log:
                    process = subprocess.Popen(
                        demo.argv,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        env=env,
                    )
                self._demo = process
            if await self.wait_or_stop(2.0):
                return

    async def _stop(self) -> None:
        self.say("stopping; the lieutenants keep working")
        last = [runner for runner in self._runners if runner.service.start_phase == "first"]
        await self._end([one for one in self._runners if one not in last], KILL_AFTER)
        await self._end(last, REDIS_GRACE)
        for task in self._background:
            task.cancel()
        if data_dir := os.environ.get(self.plan.tag):
            lockfile.forget_processes(Path(data_dir))
        for name in self.plan.forget:
            Path(name).unlink(missing_ok=True)
        self.say("stopped")

    async def _end(self, runners: list[Runner], grace: float) -> None:
        """Terminate these, and kill the rest after `grace` seconds or at a second Ctrl-C."""
        tasks = {self._runners[runner]: runner for runner in runners}
        for runner in runners:
            runner.signal(signal.SIGTERM)
        hurry = asyncio.create_task(self._kill_now.wait())
        left, end = set(tasks), time.monotonic() + grace
        while left and not self._kill_now.is_set() and (rest := end - time.monotonic()) > 0:
            await asyncio.wait({*left, hurry}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            left = {task for task in left if not task.done()}
        hurry.cancel()
        for task in left:
            self.say(f"{tasks[task].service.name} does not end; killing it")
            tasks[task].signal(signal.SIGKILL)
        if left:
            await asyncio.wait(left, timeout=2.0)


async def is_responding(host: str, port: int) -> bool:
    """Return whether the web process answers `GET /health`, with 200 or 503."""
    status, _ = await watchdog.ask_health(host, port)
    return status in (200, 503)


def main(argv: list[str]) -> int:
    """Run `python -m reef_site.launcher.supervisor <fd of the plan> <fd of the lock>`."""
    harden_process()
    plan_fd, lock_fd = map(int, argv[1:3])
    with os.fdopen(plan_fd) as file:
        plan = Plan.load(file.read())
    # Held until this process ends, and not inherited by children.
    os.set_inheritable(lock_fd, False)
    become_subreaper()

    data_dir = os.environ.get(plan.tag)
    lock = locks.FileLock(Path(data_dir) / LOCK_FILE, lock_fd) if data_dir else None

    async def run() -> None:
        await Supervisor(plan, sys.stdout, lock).run()

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
