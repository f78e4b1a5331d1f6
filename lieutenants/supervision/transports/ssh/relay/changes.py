"""Read changes in a lieutenant's folder with the keeper's program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile

from lieutenants.supervision.transports.ssh.relay.machine import (
    Refused,
    parse_object,
    search_path,
)
from lieutenants.supervision.transports.ssh.relay.starting import keeper_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ANSWER_BYTES = 4 << 20
MORE_SECONDS = 6.0  # beside the request's own limit


def read_changes(request: dict[str, Any]) -> dict[str, Any]:
    """Return as `answer` what the program says; `question` is its request."""
    command = [sys.executable, "-I", "-S", keeper_file(request.get("program")), "changes"]
    question = request["question"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env={"PATH": search_path(), "HOME": os.path.expanduser("~"), "LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        try:
            limit = float(question["seconds"]) + MORE_SECONDS
            process.communicate(json.dumps(question).encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            raise Refused("git did not answer in time", "Unreachable") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        answer = parse_object(output.read(MAX_ANSWER_BYTES))
    if not answer:
        raise Refused("the changes could not be read")
    return {"answer": answer}
