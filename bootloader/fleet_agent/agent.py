"""Heartbeats, until the agent is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import quote

from .errors import VERSION, AgentError, Json, RootRefused, RootUnavailable, StopRequested
from .home import Home, changed_at, write_private
from .machine import (
    composition_of,
    digest_of,
    machine_fingerprint,
    process_started,
    services,
    vitals,
)
from .membership import address_of, join, sign_off
from .root import (
    DEFAULT_INTERVAL,
    MAX_INTERVAL,
    MIN_INTERVAL,
    RootClient,
    describe_skew,
    required,
    root_client,
)

# Pauses in seconds after a failure: the first one, doubled each time up to the longest.
FIRST_PAUSE, MAX_PAUSE = 1.0, 120.0
# The same after a refusal, which waiting alone does not fix.
FIRST_REFUSED_PAUSE, MAX_REFUSED_PAUSE = 15.0, 600.0
MIN_REGISTER_SECONDS = 600.0
# Clock difference in seconds that is tolerated without a log line.
CLOCK_TOLERANCE = 60.0


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
