"""The real agent can do an engineer's work under each isolation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PINNED_AGENT_FIRST, Fleet, real_agent
from tests.lieutenants.isolation.test_adversary import MODE
from tests.stub_llm import StubLLM

pytestmark = pytest.mark.agent

WORK = r"""
set -e
git init -q . && git config core.autocrlf false
cat > test_it.py <<'END'
import unittest
class T(unittest.TestCase):
    def test(self):
        self.assertEqual(1, 1)
END
python3 -m unittest -q test_it 2>&1 | tail -1
git add . && git commit -qm work && git log --oneline | wc -l
npm init -y --offline --no-update-notifier >/dev/null 2>&1
node -e 'console.log(require("./package.json").version)'
python3 -m venv --without-pip env && env/bin/python -c 'print("venv")'
mkfifo pipe && (echo through > pipe &) && cat pipe
"""


@pytest.mark.parametrize("mode", [MODE])
@pytest.mark.parametrize("version", PINNED_AGENT_FIRST)
def test_real_agent_can_work(
    fleet: Fleet, stub: StubLLM, settings: Any, tmp_path: Path, mode: str, version: str
) -> None:
    settings.ISOLATION = mode
    settings.PI_PATH = real_agent(version)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
    fleet.create("ada")
    assert fleet.get("ada")["isolation"] == mode
    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": WORK}}},
        {"tool": {"name": "write", "arguments": {"path": "note.md", "content": "# Note\n"}}},
        {"tool": {"name": "read", "arguments": {"path": "note.md"}}},
        {"text": "done"},
    )
    assert fleet.ask("ada", "work", 90) == "done"
    bash, _, read = fleet.texts("ada", "tool_result")
    assert bash.split() == ["OK", "1", "1.0.0", "venv", "through"]
    assert read.strip() == "# Note"
