"""The loop of the relay."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import zlib

from lieutenants.supervision.transports.ssh.relay.journals import Follow, pack
from lieutenants.supervision.transports.ssh.relay.machine import (
    HOME,
    ROOT,
    boot_id,
    expand,
    parse_object,
    read_file,
    search_path,
)
from lieutenants.supervision.transports.ssh.relay.operations import perform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KB, MB = 1 << 10, 1 << 20
READY = b"reef-relay 1\n"
MAX_OUT_BYTES = 2 * MB  # waiting for the network
ACTIVE_TICK, QUIET_TICK = 0.08, 0.25  # how often journals are looked at
ACTIVE_SECONDS = 5.0
CHECK_SECONDS = 1.0  # how often keepers are looked at
RECEIPT_SECONDS = 1.0  # how often the arrival of a part of a long request is confirmed
SILENCE_SECONDS = 90.0  # without a request, reef pings every 15 s
PASSED_ON = (
    *("SHELL", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


class Relay:
    """One thread for the channel and all journals; requests to keepers run in threads."""

    def __init__(self) -> None:
        self._follows: dict[int, Follow] = {}
        self._compressor = zlib.compressobj(6)
        self._out = bytearray()
        self._frames: list[bytes] = []
        self._answers: list[bytes] = []
        self._inbox = bytearray()
        self._wake, self._waker = os.pipe()
        for descriptor in (0, 1, self._wake, self._waker):
            os.set_blocking(descriptor, False)
        self._heard = self._active = time.monotonic()
        self._checked = self._confirmed = 0.0

    def run(self) -> None:
        os.umask(0o077)
        self._out += READY
        self._frames.append(pack({"hello": hello()}))
        while self._step():
            pass

    def _step(self) -> bool:
        """Run one round; return False at the end of the connection."""
        now = time.monotonic()
        self._push(now)
        self._flush()
        tick = ACTIVE_TICK if now - self._active < ACTIVE_SECONDS else QUIET_TICK
        wait = tick if self._follows else CHECK_SECONDS
        try:
            readable, writable, _ = select.select(
                [0, self._wake], [1] if self._out else [], [], wait
            )
        except InterruptedError:
            return True
        if writable and not self._write():
            return False
        if self._wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if 0 in readable and not self._read():
            return False
        return time.monotonic() - self._heard < SILENCE_SECONDS

    def _read(self) -> bool:
        try:
            chunk = os.read(0, 256 * KB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard = time.monotonic()
        searched = len(self._inbox)
        self._inbox += chunk
        while True:
            end = self._inbox.find(b"\n", searched)
            if end < 0:
                self._confirm_part()
                return bool(chunk)
            line = bytes(self._inbox[:end])
            del self._inbox[: end + 1]
            searched = 0
            self._take(parse_object(line))

    def _confirm_part(self) -> None:
        """Tell reef now and then that a request arrives which is not complete yet."""
        if self._inbox and self._heard - self._confirmed >= RECEIPT_SECONDS:
            self._confirmed = self._heard
            self._frames.append(pack({"got": len(self._inbox)}))

    def _take(self, request: dict[str, Any]) -> None:
        op, number = request.get("op"), request.get("r")
        if op == "ping":
            self._frames.append(pack({"pong": 1}))
        elif op == "follow":
            self._active, self._checked = time.monotonic(), 0.0
            self._unfollow(number)
            follow = Follow(number, expand(request["dir"]), int(request["at"]))  # type: ignore[arg-type]
            self._follows[follow.number] = follow
        elif op == "unfollow":
            self._unfollow(number)
        elif op == "ack":
            if number in self._follows:
                self._follows[number].acked = max(self._follows[number].acked, int(request["at"]))
        else:
            self._active = time.monotonic()
            threading.Thread(target=self._perform, args=(request,), daemon=True).start()

    def _unfollow(self, number: Any) -> None:
        follow = self._follows.pop(number, None)
        if follow:
            follow.close()

    def _perform(self, request: dict[str, Any]) -> None:
        self._answers.append(pack(perform(request)))
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")

    def _push(self, now: float) -> None:
        """Collect frames of all journals, and news about their keepers."""
        check = now - self._checked >= CHECK_SECONDS
        if check:
            self._checked = now
        while self._answers:
            self._frames.append(self._answers.pop(0))
        room = MAX_OUT_BYTES - len(self._out)
        for follow in list(self._follows.values()):
            news = follow.check(now) if check else None
            if news:
                self._frames.append(pack(news))
            frames, size = follow.frames(room)
            room -= size
            if frames:
                self._active = now
                self._frames += frames
            elif follow.ended and not follow.told and follow.has_all():
                follow.told = True
                self._frames.append(pack({"r": follow.number, "gone": True}))

    def _flush(self) -> None:
        if self._frames:
            data = self._compressor.compress(b"".join(self._frames))
            self._out += data + self._compressor.flush(zlib.Z_SYNC_FLUSH)
            self._frames.clear()
        if self._out:
            self._write()

    def _write(self) -> bool:
        try:
            done = os.write(1, self._out[: 64 * KB])
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self._out[:done]
        return True


def hello() -> dict[str, Any]:
    """Return what reef wants to know about this machine."""
    programs = os.path.join(ROOT, "programs")
    installed = os.listdir(programs) if os.path.isdir(programs) else []
    complete = [
        each for each in installed if os.path.exists(os.path.join(programs, each, "complete"))
    ]
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        "home": HOME,
        "root": ROOT,
        "python": os.path.realpath(sys.executable),
        "version": "{}.{}".format(*sys.version_info[:2]),
        "uid": os.geteuid(),
        "hostname": socket.gethostname(),
        "boot_id": boot_id(),
        "vm_id": read_file("/etc/vm_id", 200).decode("utf-8", "replace").strip(),
        "programs": complete,
        "env": {**passed, "PATH": search_path()},
    }


def main() -> None:
    """Run until the connection ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Relay().run()
    os._exit(0)  # threads that wait for a keeper must not hold the connection
