#!/usr/bin/env python3
"""The fleet agent: joins a VM to its fleet, sends heartbeats, and signs off when it stops.

A single file (standard library, Python 3.8 or newer), so that it can be copied to any machine:

    python3 fleet_agent.py join   --home DIR   exchange the join token for the VM's own token
    python3 fleet_agent.py run    --home DIR   join if necessary, then send heartbeats until stopped
    python3 fleet_agent.py start  --home DIR   the same, detached, with DIR/log/fleet-agent.log
    python3 fleet_agent.py stop   --home DIR   have a running one sign off and exit
    python3 fleet_agent.py status --home DIR [--wait SECONDS]   0 if the last heartbeat succeeded
    python3 fleet_agent.py renew  --home DIR   replace the VM's token with a new one
    python3 fleet_agent.py unit   --home DIR   print a systemd unit

DIR/identity.json, of mode 0600, is a flat object of strings with VERS_INFRA_URL, VERS_VM_ID,
VERS_AGENT_NAME, REEF_ROLE, REEF_ADDRESS, REEF_ORGANS, REEF_CAPABILITIES, REEF_PARENT_VM_ID, and
VERS_AUTH_TOKEN, the VM's own token. Before joining it has the join token as REEF_JOIN_TOKEN
instead, or DIR/join-token, of mode 0600, contains it. DIR/identity.env holds the same values as
lines of shell. Secrets are never passed as arguments or logged.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional
from urllib.parse import quote, urlsplit

VERSION = "1"
MIN_PYTHON = (3, 8)
# Heartbeat interval in seconds: the root asks for one within these limits.
MIN_INTERVAL, DEFAULT_INTERVAL, MAX_INTERVAL = 1.0, 30.0, 3600.0
# Pauses in seconds after a failure: the first one, doubled each time up to the longest.
FIRST_PAUSE, MAX_PAUSE = 1.0, 120.0
# The same after a refusal, which waiting alone does not fix.
FIRST_REFUSED_PAUSE, MAX_REFUSED_PAUSE = 15.0, 600.0
REQUEST_SECONDS, SIGN_OFF_SECONDS = 20.0, 4.0
MIN_REGISTER_SECONDS = 600.0
MAX_RESPONSE_BYTES = 1 << 20
# Clock difference in seconds that is tolerated without a log line.
CLOCK_TOLERANCE = 60.0
MAX_LOG_BYTES = 1 << 20
MAX_LIEUTENANTS = 200

Json = Dict[str, Any]


class AgentError(Exception):
    """A failure, described in a sentence for the operator."""


class RootUnavailable(AgentError):
    """The root is unreachable or overloaded; `seconds` is its Retry-After, if given."""

    def __init__(self, text: str, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.seconds = seconds


class RootRefused(AgentError):
    """The root rejected the request."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class StopRequested(BaseException):
    """Raised by the signal handler to end the current work."""


# -- files ---------------------------------------------------------------------------------------


class Home:
    """The folder of this VM's membership."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.identity_file = self.path("identity.json")
        self.state_file = self.path("run", "fleet-agent.json")

    def path(self, *names: str) -> str:
        """Return a path below the folder."""
        return os.path.join(self.folder, *names)

    def identity(self) -> Dict[str, str]:
        """Read identity.json. Raise AgentError."""
        try:
            found = json.loads(read_private(self.identity_file))
        except ValueError:
            raise AgentError("{} is not JSON".format(self.identity_file)) from None
        if not isinstance(found, dict):
            raise AgentError("{} is not an object".format(self.identity_file))
        return {str(key): str(value) for key, value in found.items() if value is not None}

    def join_token(self, identity: Dict[str, str]) -> str:
        """Return the join token; empty if there is none."""
        if identity.get("REEF_JOIN_TOKEN"):
            return identity["REEF_JOIN_TOKEN"].strip()
        path = self.path("join-token")
        return read_private(path).strip() if os.path.exists(path) else ""

    def nonce(self) -> str:
        """Return a random value that stays the same until the VM has joined."""
        path = self.path("run", "join-nonce")
        if not os.path.exists(path):
            write_private(path, secrets.token_urlsafe(24) + "\n")
        return read_private(path).strip()

    def keep_token(self, token: str, more: Optional[Dict[str, str]] = None) -> None:
        """Store the VM's own token in the identity files, and delete the join token."""
        identity = {**self.identity(), **(more or {}), "VERS_AUTH_TOKEN": token}
        identity.pop("REEF_JOIN_TOKEN", None)
        write_private(self.identity_file, json.dumps(identity, indent=1) + "\n")
        env = self.path("identity.env")
        if os.path.exists(env):
            write_private(env, with_token(read_private(env), token))
        for name in (self.path("join-token"), self.path("run", "join-nonce")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def state(self) -> Json:
        """Return the state written by the running agent; empty if there is none."""
        try:
            with open(self.state_file, "rb") as file:
                found = json.loads(file.read())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def read_private(path: str) -> str:
    """Read a file that only its owner may read. Raise AgentError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            about = os.fstat(file.fileno())
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise AgentError(
                    "{} can be read by others; mend it with: chmod 600 {}".format(
                        path, shlex.quote(path)
                    )
                )
            if about.st_uid not in (os.geteuid(), 0):
                raise AgentError("{} belongs to somebody else".format(path))
            return file.read()
    except OSError as error:
        raise AgentError("{} cannot be read: {}".format(path, error.strerror)) from None


def write_private(path: str, text: str) -> None:
    """Write a file of mode 0600 atomically."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=folder, prefix=".fleet-agent-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def with_token(env: str, token: str) -> str:
    """Return lines of shell with VERS_AUTH_TOKEN set to this token, and without the join token."""
    setting = re.compile(r"(?m)^(export )?(VERS_AUTH_TOKEN|REEF_JOIN_TOKEN)=.*\n?")
    exported = any(line.startswith("export ") for line in env.splitlines())
    rest = setting.sub("", env)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    word = "export " if exported else ""
    return "{}{}VERS_AUTH_TOKEN={}\n".format(rest, word, shlex.quote(token))


# -- the root ------------------------------------------------------------------------------------


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Ignore redirects, so that the token is sent to the root only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect."""


class RootClient:
    """A client of the root, with its address and our token."""

    def __init__(self, url: str, token: str) -> None:
        if not re.match(r"https?://[^/]", url):
            raise AgentError("VERS_INFRA_URL in identity.json is not the address of a roof")
        self.url = url.rstrip("/")
        self._token = token
        # Seconds by which this machine's clock is ahead of the root's; None while unknown.
        self.skew: Optional[float] = None
        self._opener = urllib.request.build_opener(NoRedirects)

    def request_json(
        self, method: str, path: str, body: Optional[Json] = None, seconds: float = 0
    ) -> Json:
        """Send a request and return the JSON object of the response.

        Raise RootUnavailable or RootRefused.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer " + self._token, "Content-Type": "application/json"}
        headers["User-Agent"] = "reef-fleet-agent/" + VERSION
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        sent_at = time.time()
        try:
            with self._opener.open(request, timeout=seconds or REQUEST_SECONDS) as response:
                self.skew = skew_of(response.headers.get("Date", ""), sent_at, time.time())
                text = read_limited(response, seconds or REQUEST_SECONDS)
        except urllib.error.HTTPError as error:
            raise self._error_of(error) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise RootUnavailable("{} does not answer: {}".format(self.url, why)) from None
        try:
            found = json.loads(text)
        except ValueError:
            raise RootUnavailable("{} does not answer like a reef".format(self.url)) from None
        return found if isinstance(found, dict) else {}

    def _error_of(self, error: urllib.error.HTTPError) -> AgentError:
        try:
            message = json.loads(read_limited(error, 5.0)).get("error", "")
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            message = ""
        finally:
            error.close()
        text = "{} answers {}{}".format(
            self.url, error.code, ": " + str(message) if message else ""
        )
        if error.code in (408, 429) or error.code >= 500 or 300 <= error.code < 400:
            return RootUnavailable(text, parse_retry_after(error.headers.get("Retry-After", "")))
        return RootRefused(text, error.code)


def read_limited(response: Any, seconds: float) -> bytes:
    """Read the body within limits of size and time. Raise OSError."""
    end, found = time.monotonic() + seconds, b""
    while True:
        piece: bytes = response.read(1 << 16)
        found += piece
        if not piece:
            return found
        if len(found) > MAX_RESPONSE_BYTES or time.monotonic() > end:
            raise OSError("the answer is too long, or too slow")


def skew_of(date: str, sent_at: float, received_at: float) -> Optional[float]:
    """Return by how many seconds our clock is ahead of a response's Date; None if there is no
    Date.
    """
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError):
        return None
    # Date has whole seconds, and was read somewhere between request and response.
    skew = (sent_at + received_at) / 2 - (theirs + 0.5)
    return round(skew, 1) if abs(skew) > 1.0 + (received_at - sent_at) else 0.0


def describe_skew(skew: float) -> str:
    """Describe the clock difference for the log."""
    units = ((86400.0, "days", 4), (3600.0, "h", 2), (60.0, "min", 2))
    fitting = [(size, unit) for size, unit, minimum in units if abs(skew) >= minimum * size]
    size, unit = fitting[0] if fitting else (1.0, "s")
    direction = "behind" if skew < 0 else "ahead of"
    text = "this machine's clock is {:.0f} {} {} reef's (by the Date of its answer)"
    return text.format(abs(skew) / size, unit, direction)


def machine_fingerprint(url: str) -> str:
    """Return an id of this machine's current boot, different for each running copy of the
    machine.
    """
    parts = [read_line("/etc/machine-id"), read_line("/proc/sys/kernel/random/boot_id")]
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    with contextlib.suppress(OSError, ValueError):
        # Nothing is sent: this only determines which of our addresses leads there.
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(place)
            parts.append(str(sock.getsockname()[0]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_line(path: str) -> str:
    """Return the first line of a file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def parse_retry_after(text: str) -> float:
    """Parse Retry-After if it is a number; otherwise return 0."""
    return min(float(text), MAX_INTERVAL) if text.isdigit() else 0.0


# -- the content of a heartbeat ------------------------------------------------------------------


def composition_of(identity: Dict[str, str]) -> Json:
    """Return the VM's composition as stored in tree and registry."""
    return {
        "organs": [word for word in identity.get("REEF_ORGANS", "").split(",") if word],
        "capabilities": [w for w in identity.get("REEF_CAPABILITIES", "").split(",") if w],
    }


def digest_of(composition: Json) -> str:
    """Return the SHA-256 by which the registry detects a changed composition."""
    text = json.dumps(composition, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def vitals(home: Home) -> Json:
    """Return the load of the last minute, and the disk usage in percent."""
    found: Json = {}
    with contextlib.suppress(OSError):
        found["load"] = round(os.getloadavg()[0], 2)
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(home.folder)
        found["disk"] = round(100.0 * usage.used / max(1, usage.used + usage.free), 1)
    return found


def lieutenants(home: Home) -> List[Json]:
    """Return running agents with their shims as entries of `services`."""
    found = []
    for path in keeper_files(home):
        try:
            with open(path, "rb") as file:
                facts = json.loads(file.read())
            agent = facts["agent_pid"]
            if process_started(agent) != facts["agent_started"]:
                continue
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
        env = environment_of(agent)
        name = env.get("VERS_AGENT_NAME") or os.path.basename(path.split("/runs/")[0])
        entry = {"name": name, "kind": "lieutenant", "pid": agent}
        if env.get("VERS_VM_ID"):
            entry["vmId"] = env["VERS_VM_ID"]
        found.append(entry)
    return sorted(found, key=lambda each: str(each["name"]))[:MAX_LIEUTENANTS]


def keeper_files(home: Home) -> Iterator[str]:
    """Yield the paths of the shims' files: `…/lieutenants/<one>/runs/<run>/keeper.json`."""
    tops = [home.path(*names) for names in ((), ("data",), ("reef",), ("reef", "data"))]
    tops.append(os.path.expanduser("~/.reef"))
    for top in dict.fromkeys(tops):
        lieutenants_folder = os.path.join(top, "lieutenants")
        for one in list_folder(lieutenants_folder):
            for run in list_folder(os.path.join(lieutenants_folder, one, "runs")):
                yield os.path.join(lieutenants_folder, one, "runs", run, "keeper.json")


def list_folder(folder: str) -> List[str]:
    """Return the names in a folder; empty if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def process_started(pid: int) -> int:
    """Return the start time of a process in ticks since boot. Raise OSError if it has ended."""
    with open("/proc/{}/stat".format(pid), "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise OSError("it has ended")
    return int(fields[19])


def environment_of(pid: int) -> Dict[str, str]:
    """Return the environment of a process; empty if it may not be read."""
    try:
        with open("/proc/{}/environ".format(pid), "rb") as file:
            lines = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def services(home: Home) -> List[Json]:
    """Return the services of this VM: its own reef, and its lieutenants."""
    found: List[Json] = []
    port = own_reef_port(home)
    if port and is_listening(port):
        found.append({"name": "reef", "port": port, "protocol": "http"})
    return found + lieutenants(home)


def own_reef_port(home: Home) -> int:
    """Return the port of this VM's own reef from `reef/reef.env`; 0 if there is none."""
    path = home.path("reef", "reef.env")
    if not os.path.exists(path):
        return 0
    with contextlib.suppress(AgentError):
        found = re.search(r"(?m)^(?:export )?PORT='?([0-9]{1,5})'?$", read_private(path))
        return int(found.group(1)) if found else 3000
    return 0


def is_listening(port: int) -> bool:
    """Return whether the local port accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except (OSError, OverflowError):
        return False
    return True


# -- the agent -----------------------------------------------------------------------------------


class FleetAgent:
    """The membership of one VM."""

    def __init__(self, home: Home, log: Callable[[str], None]) -> None:
        self.home, self.log = home, log
        self.failures = 0
        self.problem = ""
        self.sent_services: Optional[List[Json]] = None
        self.registered_at = -MIN_REGISTER_SECONDS
        self.registration_checked = False
        self.skew: Optional[float] = None
        self.wrong_clock = False
        self.state: Json = {"pid": os.getpid(), "started": process_started(os.getpid())}

    # -- one tick

    def tick(self) -> float:
        """Do the work that is due; return the seconds until the next tick."""
        try:
            seconds = self._send_heartbeat()
        except RootRefused as error:
            return self._note_failure(error, FIRST_REFUSED_PAUSE, MAX_REFUSED_PAUSE)
        except RootUnavailable as error:
            return max(error.seconds, self._note_failure(error, FIRST_PAUSE, MAX_PAUSE))
        except AgentError as error:
            return self._note_failure(error, FIRST_REFUSED_PAUSE, MAX_REFUSED_PAUSE)
        if self.failures:
            self.log("beats again")
        self.failures, self.problem = 0, ""
        self._write_state(
            lastBeatAt=time.time(), problem="", failures=0, nextBeatInMs=int(seconds * 1000)
        )
        return seconds

    def _note_failure(self, error: AgentError, first: float, longest: float) -> float:
        """Log a new problem once; return a pause that grows and is randomized."""
        if str(error) != self.problem:
            self.log(str(error))
        self.problem = str(error)
        longest_now = min(longest, first * float(1 << min(self.failures, 20)))
        pause = longest_now * random.uniform(0.5, 1.0)
        self.failures += 1
        self._write_state(
            problem=self.problem, failures=self.failures, nextBeatInMs=int(pause * 1000)
        )
        return pause

    def _send_heartbeat(self) -> float:
        """Join or register if necessary, and send a heartbeat; return the seconds that the root
        asks for.
        """
        identity = self.home.identity()
        if not identity.get("VERS_AUTH_TOKEN"):
            identity = join(self.home, self.log)
        root, vm_id = root_client(identity), required(identity, "VERS_VM_ID")
        if not self.registration_checked:
            self._check_registration(root, identity)
            self.skew = root.skew
        body: Json = {"status": "running", **vitals(self.home)}
        body["reefConfigDigest"] = digest_of(composition_of(identity))
        body["machine"] = machine_fingerprint(root.url)
        if self.skew is not None:
            body["clockSkewSeconds"] = self.skew
        offered = services(self.home)
        if offered != self.sent_services:
            body["services"] = offered
        path = "/registry/vms/{}/heartbeat".format(quote(vm_id, safe=""))
        try:
            response = root.request_json("POST", path, body)
        except RootRefused as error:
            if error.status != 404:
                raise self._with_remedy(error) from None
            self._register(root, identity)
            response = root.request_json("POST", path, body)
        self.sent_services = offered
        self._note_clock(root.skew)
        if response.get("reefConfigDiffers") and self._may_register():
            self._register(root, identity)
        return seconds_until_next(response)

    def _note_clock(self, skew: Optional[float]) -> None:
        """Log once that the clock is wrong, and once that it is right again."""
        was, self.skew = self.wrong_clock, skew
        self.wrong_clock = skew is not None and abs(skew) > CLOCK_TOLERANCE
        if skew is not None and self.wrong_clock and not was:
            self.log(describe_skew(skew) + "; set it, for example by: timedatectl set-ntp true")
        elif was and not self.wrong_clock:
            self.log("this machine's clock agrees with reef's again")

    def _with_remedy(self, error: RootRefused) -> RootRefused:
        """Add the remedy to a refusal."""
        if error.status == 401:
            text = "{} (the token was revoked; put a new one into {}, or a join token)".format(
                error, self.home.identity_file
            )
            return RootRefused(text, 401)
        return error

    def _check_registration(self, root: RootClient, identity: Dict[str, str]) -> None:
        """After the start, register again if the registry has another address for us."""
        path = "/registry/vms/" + quote(required(identity, "VERS_VM_ID"), safe="")
        try:
            known = root.request_json("GET", path)
        except RootRefused as error:
            if error.status != 404:
                raise self._with_remedy(error) from None
            known = {}
        if not known or known.get("address") != address_of(identity, known):
            self._register(root, identity, known)
        self.registration_checked = True

    def _may_register(self) -> bool:
        return time.monotonic() - self.registered_at >= MIN_REGISTER_SECONDS

    def _register(
        self, root: RootClient, identity: Dict[str, str], known: Optional[Json] = None
    ) -> None:
        known = known or {}
        body: Json = {
            "id": identity["VERS_VM_ID"],
            "name": known.get("name") or identity.get("VERS_AGENT_NAME") or identity["VERS_VM_ID"],
            "role": known.get("role") or identity.get("REEF_ROLE") or "worker",
            "address": address_of(identity, known),
            "registeredBy": known.get("registeredBy") or "fleet-agent",
            "reefConfig": composition_of(identity),
        }
        parent = identity.get("REEF_PARENT_VM_ID")
        if parent and not known:
            body["parentVmId"] = parent
        try:
            root.request_json("POST", "/registry/vms", body)
        except RootRefused as error:
            # The VM may have been moved in the tree since then.
            if error.status != 403 or not body.pop("parentVmId", None):
                raise self._with_remedy(error) from None
            root.request_json("POST", "/registry/vms", body)
        self.registered_at, self.sent_services = time.monotonic(), None
        self.log("registered as {} at {}".format(body["id"], root.url))

    # -- main loop

    def run(self) -> None:
        """Tick until StopRequested is raised, then sign off."""
        self.log("fleet agent {} on {}".format(VERSION, socket.gethostname()))
        try:
            while True:
                self._wait(self.tick())
        except StopRequested:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.log(sign_off(self.home))
        self._write_state(stopped=True)

    def _wait(self, seconds: float) -> None:
        """Wait, but return early if the clock jumped, as it does after the machine was frozen,
        or if the identity was changed after a failure.
        """
        end, wall_end = time.monotonic() + seconds, time.time() + seconds
        before, slice_seconds = changed_at(self.home.identity_file), 1.0 if self.failures else 5.0
        while time.monotonic() < end and time.time() < wall_end + 1.0:
            time.sleep(min(slice_seconds, max(0.0, end - time.monotonic())))
            if self.failures and changed_at(self.home.identity_file) != before:
                self.failures = 0
                return

    def _write_state(self, **facts: Any) -> None:
        """Write the state file for `status`. Errors such as a full disk are ignored."""
        self.state.update(facts, at=time.time())
        with contextlib.suppress(OSError):
            write_private(self.home.state_file, json.dumps(self.state) + "\n")


def changed_at(path: str) -> int:
    """Return a file's modification time in nanoseconds; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def seconds_until_next(response: Json) -> float:
    """Return the interval that the root asks for, within limits."""
    interval_ms = response.get("nextBeatInMs")
    if (
        isinstance(interval_ms, bool)
        or not isinstance(interval_ms, (int, float))
        or not interval_ms > 0
    ):
        return DEFAULT_INTERVAL
    return max(MIN_INTERVAL, min(MAX_INTERVAL, interval_ms / 1000.0))


def required(identity: Dict[str, str], name: str) -> str:
    """Return a value that identity.json must have. Raise AgentError."""
    if not identity.get(name):
        raise AgentError("identity.json has no {}".format(name))
    return identity[name]


def root_client(identity: Dict[str, str], token: str = "") -> RootClient:
    """Return a client of the root, with the VM's own token unless another is given."""
    return RootClient(required(identity, "VERS_INFRA_URL"), token or identity["VERS_AUTH_TOKEN"])


def address_of(identity: Dict[str, str], known: Json) -> str:
    """Return the host name under which others find this VM."""
    return identity.get("REEF_ADDRESS") or str(known.get("address") or "") or socket.gethostname()


def join(home: Home, log: Callable[[str], None]) -> Dict[str, str]:
    """Exchange the join token; return the identity with the VM's own token. Raise AgentError."""
    identity = home.identity()
    token = home.join_token(identity)
    if not token:
        text = "there is no token: {} has none, and there is no join token"
        raise AgentError(text.format(home.identity_file))
    body = {"hostname": socket.gethostname(), "agentVersion": VERSION, "nonce": home.nonce()}
    for field, name in (("vmId", "VERS_VM_ID"), ("address", "REEF_ADDRESS")):
        if identity.get(name):
            body[field] = identity[name]
    response = root_client(identity, token).request_json("POST", "/bootloader/join", body)
    if not isinstance(response.get("token"), str) or not response.get("vmId"):
        raise RootUnavailable("the roof's answer to the join token has no token in it")
    more = {"VERS_VM_ID": str(response["vmId"])}
    for field, name in (("name", "VERS_AGENT_NAME"), ("role", "REEF_ROLE")):
        if response.get(field) and not identity.get(name):
            more[name] = str(response[field])
    home.keep_token(response["token"], more)
    log("joined the fleet as {}".format(response["vmId"]))
    return home.identity()


def renew(home: Home) -> str:
    """Replace the VM's token. The old one stays valid until the new one is stored and confirmed."""
    identity = home.identity()
    required(identity, "VERS_AUTH_TOKEN")
    new_token = root_client(identity).request_json("POST", "/bootloader/token", {}).get("token")
    if not isinstance(new_token, str) or not new_token:
        raise RootUnavailable("the roof's answer has no token in it")
    home.keep_token(new_token)
    root_client(home.identity()).request_json("POST", "/bootloader/token/confirm", {})
    return "the token was changed; programs that hold the old one must read it again"


def sign_off(home: Home) -> str:
    """Tell the root that this VM stops; return the outcome for the log."""
    try:
        identity = home.identity()
        required(identity, "VERS_AUTH_TOKEN")
        path = "/registry/vms/{}/heartbeat".format(quote(required(identity, "VERS_VM_ID"), safe=""))
        root_client(identity).request_json("POST", path, {"status": "stopped"}, SIGN_OFF_SECONDS)
    except AgentError as error:
        return "stops without a good-bye: {}".format(error)
    return "said good-bye"


# -- commands ------------------------------------------------------------------------------------


def log_line(text: str) -> None:
    """Write one line to stderr, with the time unless the journal adds it."""
    stamp = "" if os.environ.get("JOURNAL_STREAM") else time.strftime("%Y-%m-%dT%H:%M:%S%z ")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("{}{}\n".format(stamp, " ".join(text.split())))
        sys.stderr.flush()


def is_same_file(opened: int, path: str) -> bool:
    """Return whether the path still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except OSError:
        return False


def command_run(home: Home) -> int:
    """Send heartbeats until stopped. Only one agent may run for a home."""
    os.makedirs(home.path("run"), mode=0o700, exist_ok=True)
    with open(home.path("run", "fleet-agent.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentError("a fleet agent runs already for {}".format(home.folder)) from None
        if not is_same_file(lock.fileno(), lock.name):
            raise AgentError("the lock of {} was removed while it was taken".format(home.folder))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        FleetAgent(home, log_line).run()
    return 0


def stop(*_: Any) -> NoReturn:
    """Handle the first signal and ignore later ones, so that signing off is not interrupted."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StopRequested


def command_start(home: Home) -> int:
    """Run detached, with a log; do nothing if one runs already."""
    if running(home):
        return 0
    os.makedirs(home.path("log"), mode=0o700, exist_ok=True)
    log = home.path("log", "fleet-agent.log")
    with contextlib.suppress(OSError):
        if os.path.getsize(log) > MAX_LOG_BYTES:
            os.replace(log, log + ".1")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    argv = [sys.executable, os.path.abspath(__file__), "run", "--home", home.folder]
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=handle,
        stderr=handle,
        start_new_session=True,
        cwd="/",
    )
    os.close(handle)
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        if child.poll() is not None:
            raise AgentError("it ended at once; {} says why".format(log))
        if running(home):
            return 0
        time.sleep(0.05)
    raise AgentError("it did not begin; {} may say why".format(log))


def running(home: Home) -> int:
    """Return the pid of the agent that runs for this home; 0 if there is none."""
    state = home.state()
    try:
        pid = int(state["pid"])
        return pid if process_started(pid) == state["started"] else 0
    except (OSError, KeyError, TypeError, ValueError, IndexError):
        return 0


def command_stop(home: Home) -> int:
    """Stop a running agent and wait for its end."""
    pid = running(home)
    if pid:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 15.0
    while running(home):
        if time.monotonic() > end:
            raise AgentError("process {} does not end".format(pid))
        time.sleep(0.05)
    return 0


def command_status(home: Home, wait: float) -> int:
    """Print the state of the running agent; return 0 if its last heartbeat succeeded."""
    end = time.monotonic() + wait
    while True:
        pid, state = running(home), home.state()
        good = bool(pid and state.get("lastBeatAt") and not state.get("problem"))
        if good or time.monotonic() >= end:
            break
        time.sleep(0.1)
    print(json.dumps({"running": bool(pid), "good": good, **state}))
    return 0 if good else 1


UNIT_TEMPLATE = """\
[Unit]
Description=reef fleet agent: keeps this VM a member of its fleet
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={python} {program} run --home {home}
Restart=always
RestartSec=5
KillMode=process
OOMPolicy=continue
TasksMax=64
TimeoutStopSec=20
UMask=0077
NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def command_unit(home: Home) -> int:
    """Print a systemd unit for this file and this home."""
    values = {
        "python": unit_word(sys.executable),
        "program": unit_word(os.path.abspath(__file__)),
        "home": unit_word(home.folder),
    }
    sys.stdout.write(UNIT_TEMPLATE.format(**values))
    return 0


def unit_word(text: str) -> str:
    """Quote a word of a unit's command line, so that systemd expands nothing in it."""
    if any(ord(character) < 32 for character in text):
        raise AgentError("a path for systemd has no control characters")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"{}"'.format(text)


def main(argv: List[str]) -> int:
    """Run one command; an AgentError is printed to stderr and exits with 1."""
    if sys.version_info < MIN_PYTHON:
        sys.stderr.write("the fleet agent needs Python 3.8 or newer\n")
        return 1
    parser = argparse.ArgumentParser(description="Keeps a VM a member of its fleet.")
    verbs = ("join", "run", "start", "stop", "status", "renew", "unit")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--home", default=os.environ.get("REEF_HOME") or "/opt/reef")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds, for status")
    options = parser.parse_args(argv)
    home = Home(options.home)
    try:
        if options.verb == "join":
            join(home, log_line)
        elif options.verb == "renew":
            log_line(renew(home))
        elif options.verb == "status":
            return command_status(home, options.wait)
        else:
            commands = {"run": command_run, "start": command_start, "stop": command_stop}
            return {**commands, "unit": command_unit}[options.verb](home)
    except AgentError as error:
        log_line(str(error))
        return 1
    except OSError as error:
        log_line("{}: {}".format(options.verb, error))
        return 1
    except (StopRequested, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
