"""The agent's process and its pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

from .journal import describe
from .limits import KB, MB, READ_BYTES
from .processes import started
from .sandbox import rules
from .spec import KeeperError

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from .spec import Spec

F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ exists from Python 3.10 on


class Agent:
    """The agent's process and our ends of its three pipes."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.started = started(pid)

    def signal(self, number: int) -> None:
        """Signal its whole group. It is reaped last, so its pid cannot be reused before."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)

    def ended(self) -> bool:
        """Return whether it has ended; it stays a zombie until `reap`."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def reap(self) -> tuple[int | None, int | None]:
        """Return (exit code, None) or (None, signal)."""
        status = os.waitpid(self.pid, 0)[1]
        if os.WIFSIGNALED(status):
            return None, os.WTERMSIG(status)
        return os.WEXITSTATUS(status), None


def become_agent(spec: Spec, stdin: int, stdout: int, stderr: int) -> None:
    """Become the agent, in the child process, or raise."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.umask(0o077)
    for target, source in enumerate((stdin, stdout, stderr)):
        os.dup2(source, target)
    rules.enter(spec.isolation)
    # Only after the sandbox: these files belong to the agent, and may be links to others.
    for path in spec.heal:
        truncate_torn_line(path)
    os.chdir(spec.cwd)
    os.execvpe(spec.argv[0], spec.argv, spec.env)  # noqa: S606 - argv is what we are for


def spawn(spec: Spec) -> Agent:
    """Start the agent in a session of its own. Raises KeeperError if it cannot be run."""
    stdin, our_stdin = os.pipe()
    our_stdout, stdout = os.pipe()
    our_stderr, stderr = os.pipe()
    report, reporter = os.pipe()
    with contextlib.suppress(OSError):  # the user's quota for pipes may be used up
        fcntl.fcntl(our_stdout, F_SETPIPE_SZ, MB)
    pid = os.fork()
    if pid == 0:
        try:
            become_agent(spec, stdin, stdout, stderr)
        except BaseException as trouble:  # noqa: BLE001 - the child must not go on as a keeper
            os.write(reporter, describe(trouble).encode("utf-8", "replace"))
        os._exit(127)
    for theirs in (stdin, stdout, stderr, reporter):
        os.close(theirs)
    failure = os.read(report, 4 * KB)  # empty if the program runs: exec closes the descriptor
    os.close(report)
    if failure:
        os.waitpid(pid, 0)
        raise KeeperError("the agent cannot be run: {}".format(failure.decode()))
    for ours in (our_stdin, our_stdout, our_stderr):
        os.set_blocking(ours, False)
    return Agent(pid, our_stdin, our_stdout, our_stderr)


def truncate_torn_line(path: str) -> None:
    """Truncate a file to the end of its last complete line."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        end = size = os.fstat(file).st_size
        while end:
            start = max(0, end - READ_BYTES)
            found = os.pread(file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(file, end)
    finally:
        os.close(file)
