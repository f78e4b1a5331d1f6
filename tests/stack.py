"""All processes of reef, which a test can start, kill and start again.

For tests that interrupt reef in the middle of its work. The processes and their command lines are
those in `reef_site/docs/operations.md` for production.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx

from reef_site.launcher import redis_server
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parent.parent
STANDIN = ROOT / "tests" / "agents" / "standin.py"
# Of a request for server-sent events.
EVENT_STREAM = {"accept": "text/event-stream"}
TOKEN = "a-token-of-the-tests"
# Variable with the path of the first stack's database, which the other stacks copy.
MIGRATED = "REEF_TEST_MIGRATED"
# Variable with the folder of static files that all stacks share; see `stack_settings`.
STATIC_ROOT = "REEF_TEST_STATIC_ROOT"


# Switches to another user, with access to our interpreter's folder, and runs argv[4:]. argv[3] maps
# numbers of system calls to the errors that they return from then on.
AS_USER = """
import ctypes, json, os, struct, sys
sys.path.insert(0, sys.argv[1])
from keeper.sandbox import rules
rules.enter(json.loads(sys.argv[2]))
refused = json.loads(sys.argv[3])
if refused:
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the number of the call
    for number, error in refused.items():
        program += struct.pack("=HBBI", 0x15, 0, 1, int(number))  # is it this one?
        program += struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | error)  # then fail
    program += struct.pack("=HBBI", 0x06, 0, 0, 0x7fff0000)  # allow all others
    held = ctypes.create_string_buffer(program)
    filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    if ctypes.CDLL(None).prctl(22, 2, filters, 0, 0) != 0:
        sys.exit("cannot refuse system calls")
os.execvp(sys.argv[4], sys.argv[4:])
"""
UNSHARE = {"x86_64": 272, "aarch64": 97}
LANDLOCK = 444
# Without Landlock and namespaces, as in many containers.
BARE = {UNSHARE[os.uname().machine]: errno.EPERM, LANDLOCK: errno.ENOSYS}


def python_as(user: int, refused: dict[int, int]) -> list[str]:
    """Return the beginning of a command line that runs our Python as an ordinary user.

    `refused` maps numbers of system calls to the errors that they return there.
    """
    home = Path(sys.base_prefix).resolve()
    closed = [folder for folder in reversed(home.parents) if not folder.stat().st_mode & 1]
    covers = [{"path": str(folder), "keep": {str(home): False}} for folder in closed[:1]]
    rules = {"mode": "user", "uid": user, "gid": user}
    rules |= {"view": {"required": True, "covers": covers}} if covers else {}
    code = [sys.executable, "-I", "-S", "-c", AS_USER, str(ROOT / "lieutenants/supervision")]
    return [*code, json.dumps(rules), json.dumps(refused), sys.executable]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stack:
    """A reef with a temporary data folder on a free port. Use as a context manager."""

    # Folder of the code to run.
    checkout = ROOT

    def __init__(
        self, folder: Path, user: str = "", bare: str = "", port: str = "", **env: str
    ) -> None:
        """Prepare a stack; `user` is the id of an ordinary user that runs it, in tests run by root.

        `bare` makes the kernel refuse the means of isolation. Without `port`, use a free one.
        """
        # The path of a Unix socket must be short, and pytest's folders may be long.
        self._made = tempfile.mkdtemp(prefix="reef-") if len(bytes(folder)) > 60 else None
        self.data = Path(self._made or folder) / "data"
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = int(port) if port else free_port()
        self.run = self.data / "run"
        self.env = {
            **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
            "REEF_DATA_DIR": str(self.data),
            "DJANGO_SETTINGS_MODULE": "tests.stack_settings",
            "PORT": str(self.port),
            "VERS_AUTH_TOKEN": TOKEN,
            "PI_PATH": str(STANDIN),
            "REEF_STARTS_AT_ONCE": "8",
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        if not user and self.checkout == ROOT and STATIC_ROOT in os.environ:
            self.env[STATIC_ROOT] = os.environ[STATIC_ROOT]
        self.user = user
        self._python = python_as(int(user), BARE if bare else {}) if user else [sys.executable]
        if user:
            self.env["HOME"] = str(self.data.parent)
            for path in (self.data.parent, self.data):
                os.chown(path, int(user), int(user))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=30 * PATIENCE,
        )

    def __enter__(self) -> Self:
        try:
            self.migrate()
            for name in ("redis", "web", "edge", "worker", "beat"):
                self.start(name)
            until(self.is_responding, 120)
            until(lambda: self.health()["follower"]["ok"], 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.is_responding():
                self.client.post("/lieutenant/lieutenants/destroy-all")
                until(lambda: not list(self.data.glob("lieutenants/*/runs/*/keeper.json")), 30)
        finally:
            for name in ("beat", "worker", "edge", "web", "redis"):
                self.end(name)
            self.client.close()
            if self._made:
                shutil.rmtree(self._made, ignore_errors=True)

    def migrate(self) -> None:
        """Create the tables. Within one test run, stacks copy those of the first one."""
        database = self.data / "db.sqlite3"
        is_default = not self.user and self.checkout == ROOT and "DATABASE_URL" not in self.env
        if not is_default or database.exists() or MIGRATED not in os.environ:
            self.manage("migrate", "--verbosity", "0")
            return
        migrated = Path(os.environ[MIGRATED])
        if migrated.exists():
            # Loading the settings creates the secrets that the processes share.
            self._run("-c", "import reef_site.settings")
            shutil.copyfile(migrated, database)
            database.chmod(0o600)
            return
        self.manage("migrate", "--verbosity", "0")
        draft = self.data / "migrated.sqlite3"
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy)
        shutil.copyfile(draft, unfinished := migrated.with_suffix(f".{os.getpid()}"))
        unfinished.replace(migrated)
        draft.unlink()

    def manage(self, *words: str) -> str:
        """Run a management command and return its output."""
        return self._run("manage.py", *words)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._python, *words],
            cwd=self.checkout,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        """Start one process, with its log in the data folder."""
        log = (self.data / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            self._argv(name),
            cwd=self.checkout,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def _argv(self, name: str) -> list[str]:
        python = [*self._python, "-m"]
        if name == "redis":
            password = (self.data / "redis-password").read_text()
            config = redis_server.write_config(self.run, password)
            if self.user:
                for path in (self.run, config):
                    os.chown(path, int(self.user), int(self.user))
            return [*self._python[:-1], str(redis_server.program()), str(config)]
        sock = str(self.run / "web.sock")
        words = {
            "web": "reef_site.hardening granian --interface wsgi --workers 2 "
            f"--blocking-threads 1 --uds {sock} --log-level warning reef_site.wsgi:application",
            "edge": f"reef_site.edge --host 127.0.0.1 --port {self.port}",
            "worker": "celery -q -A reef_site worker -P threads -c 4 "
            "-Q celery --without-mingle --without-gossip -l INFO",
            "beat": f"celery -q -A reef_site beat -s {self.data / 'beat'} -l WARNING",
        }[name].split()
        return [*python, *words]

    def kill(self, name: str) -> None:
        """Kill the process and all its children by SIGKILL, like a power failure."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for stale in {"redis": ["redis.sock"], "web": ["web.sock"]}.get(name, []):
            (self.run / stale).unlink(missing_ok=True)

    def end(self, name: str) -> None:
        """Stop the process by SIGTERM, then SIGKILL."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    # -- pages and API ----------------------------------------------------------------------

    def is_responding(self) -> bool:
        try:
            return self.client.get("/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def health(self) -> dict[str, Any]:
        parts: dict[str, Any] = self.client.get("/health").json()["parts"]
        return parts

    def create(self, name: str, **fields: object) -> None:
        body = {"name": name, "role": "tests", "local": True, **fields}
        answer = self.client.post("/lieutenant/lieutenants?wait=60", json=body, timeout=90)
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "idle", answer.text

    def get(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = self.client.get(f"/lieutenant/lieutenants/{name}").json()
        return facts

    def send(self, name: str, text: str, **headers: str) -> httpx.Response:
        path = f"/lieutenant/lieutenants/{name}/send"
        return self.client.post(path, json={"message": text}, headers=headers)

    def transcript(self, name: str) -> list[dict[str, Any]]:
        """Return all entries, read page by page."""
        entries: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            path = f"/lieutenant/lieutenants/{name}/transcript?after={after}&limit=500"
            page = self.client.get(path).json()
            entries += page["entries"]
            after = page["next"]
        return entries

    def texts(self, name: str, kind: str = "text") -> list[str]:
        return [each["text"] for each in self.transcript(name) if each["kind"] == kind]

    def wait_idle(self, name: str, seconds: float = 60) -> None:
        def idle() -> bool:
            facts = self.get(name)
            assert facts["status"] != "error", facts["error"]
            return bool(facts["status"] == "idle")

        until(idle, seconds)


def pause(seconds: float) -> None:
    """Let reef work for a random time; the test then waits for a condition."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, seconds + 5)
