"""A lieutenant of the agent `acp` at the end of an SSH connection, driven through the API."""

from __future__ import annotations

import json

from lieutenants.models import Question
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.test_acp_agent import COMMAND, restart
from tests.waiting import until


def test_agent_on_a_machine_asks_and_remembers(site: Site) -> None:
    fleet = site.fleet
    agent = {"dialect": "acp", "command": COMMAND, "files": "read"}
    site.create("far", agent=agent)
    workspace = site.folder("far") / "workspace"
    (workspace / "there.txt").write_text("far away")
    assert "far away" in fleet.ask("far", f"read {workspace}/there.txt")

    fleet.send("far", "permission")
    asked: Question = until(lambda: Question.objects.open().first())
    done = fleet.api.post(f"/lieutenant/questions/{asked.pk}/answer", {"answer": "yes"})
    assert done.status_code == 200
    fleet.wait("far", "idle")
    assert '"optionId": "yes"' in fleet.texts("far")[-1]

    restart(fleet, "far")
    told = json.loads(fleet.ask("far", "history"))
    assert told == [f"read {workspace}/there.txt", "permission"]
