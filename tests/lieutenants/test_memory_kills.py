"""Kills by the kernel for memory are reported: with a real limit, where one can be set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents.events import ToolEnded
from lieutenants.models import Lieutenant
from lieutenants.sessions.inputs import ProcessEnded
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import WriteBatch
from lieutenants.supervision.keeper.processes import sweep
from tests.lieutenants.rows import enlist, process_of
from tests.lieutenants.test_keeper import KEEPER, PYTHON, Kept, lives, python, wait

EATER = "data = bytearray(400 << 20)"
# Its tool is killed first, then the agent itself.
AGENT = f"""
import subprocess
sys.stdin.readline()
code = subprocess.run([sys.executable, "-S", "-c", {EATER!r}]).returncode
text = "Command exited with code %d" % (128 - code if code < 0 else code)
say(type="tool_execution_end", toolCallId="c", isError=True,
    result={{"content": [{{"type": "text", "text": text}}]}})
sys.stdin.readline()
{EATER}
say(type="lives")
"""


class Limited(Kept):
    """An agent under a keeper, both in a separate cgroup."""

    def __init__(self, root: Path, cgroup: Path, argv: list[str]) -> None:
        super().__init__(root, argv)
        self.cgroup = cgroup

    def start(self) -> dict[str, Any]:
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = ["sh", "-c", enter, str(self.cgroup), PYTHON, "-I", "-S", str(KEEPER), "start"]
        done = subprocess.run(
            command, input=json.dumps(self.spec).encode(), capture_output=True, timeout=20
        )
        self.answer = json.loads(done.stdout)
        return self.answer


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with little memory."""
    root = Path("/sys/fs/cgroup")
    is_second = (root / "cgroup.controllers").exists()
    folder = (root if is_second else root / "memory") / f"reef-test-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        limit = "memory.max" if is_second else "memory.limit_in_bytes"
        (folder / limit).write_text(str(96 << 20))
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")
    yield folder
    wait(lambda: not (folder / "cgroup.procs").read_text().strip())
    folder.rmdir()


def test_memory_kills_of_tool_and_agent_are_reported(tmp_path: Path, cgroup: Path) -> None:
    kept = Limited(tmp_path, cgroup, python(AGENT))
    assert kept.start()["ok"], kept.answer
    try:
        kept.send("one", type="go")
        (told,) = wait(lambda: kept.events("tool_execution_end"), 30)
        assert told["killedForMemory"] is True
        kept.send("two", type="go")
        end = kept.end(30)
    finally:
        if lives(kept.keeper_pid):
            os.kill(kept.keeper_pid, signal.SIGKILL)
        sweep(kept.tag)
    assert end["signal"] == signal.SIGKILL
    assert end["killed_for_memory"] is True


def test_other_kills_are_not_reported_as_memory_kills(tmp_path: Path) -> None:
    kept = Kept(tmp_path, python("sys.stdin.readline()"))
    assert kept.start()["ok"]
    os.kill(kept.agent_pid, signal.SIGKILL)
    assert "killed_for_memory" not in kept.end()


def test_reason_is_in_error_and_transcript(db: None) -> None:
    lieutenant = enlist()
    session = Session.open(process_of(lieutenant))
    session.use(batch := WriteBatch())
    text = "Command exited with code 137"
    event = ToolEnded("c", "bash", text, is_error=True, killed_for_memory=True)
    session.handle(event)
    session.handle(ProcessEnded(signal=9, killed_for_memory=True))
    batch.write()
    told = Lieutenant.objects.get(pk=lieutenant.pk)
    assert told.error.startswith("The agent was killed by the kernel for memory.")
    texts = list(told.entries.values_list("text", flat=True))
    assert texts[0] == "Command exited with code 137\n(Killed by the kernel for memory.)"
    assert texts[1].startswith("The agent was killed by the kernel for memory.")
