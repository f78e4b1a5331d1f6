"""The changes of real lieutenants, read as their agents' users and through the API."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from lieutenants.isolation import modes
from lieutenants.models import Lieutenant
from reef_site.common import outside
from reef_site.common.models import OutsideCall
from tests.conftest import Fleet
from tests.lieutenants.changes.repositories import change, commit_all, git, make_repository
from tests.waiting import until

PATH = "/lieutenant/lieutenants/ada/changes"


def workspace(fleet: Fleet) -> Path:
    return Path(fleet.row("ada").folder)


def read(fleet: Fleet, query: str = "", status: int = 200) -> dict[str, Any]:
    answer = fleet.api.get(f"{PATH}{query}")
    assert answer.status_code == status, answer.content
    found: dict[str, Any] = answer.json()
    return found


def paths(found: dict[str, Any]) -> list[str]:
    return [each["path"] for each in found["files"]]


def test_changes_are_read_from_the_start_to_the_last_message(fleet: Fleet) -> None:
    fleet.create("ada", agent="command", command=["cat"])
    noted_at = fleet.row("ada").start_noted_at
    assert noted_at is not None
    # Times in git's log are whole seconds.
    until(lambda: time.time() >= int(noted_at.timestamp()) + 1)
    folder = workspace(fleet)
    assert read(fleet, status=409)["error"] == (
        f"{folder} is not a git repository, so there is nothing to compare with."
    )
    first = make_repository(folder)
    said = read(fleet, "?against=message", 409)["error"]
    assert said == "Its agent has not got a message yet. Compare with its start instead."
    # The message counts as taken up a moment earlier than it was.
    time.sleep(2.2)
    fleet.ask("ada", "hello")
    change(folder)
    since = read(fleet, "?against=message")
    assert since["base"]["commit"] == first
    # Times look as everywhere in the API.
    for moment in (since["base"]["at"], since["readAt"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert not list(folder.glob("reef-*"))
    assert paths(since) == ["cart.py", "gone.txt", "new.txt", "notes.md", "picture.bin"]
    assert (since["added"], since["deleted"]) == (3, 2)
    start = read(fleet)
    assert start["base"]["note"] == "The repository was created later; all of it is new."
    assert paths(start) == ["cart.py", "new.txt", "notes.md", "picture.bin"]
    commit_all(folder, "All of it")
    assert paths(read(fleet, "?against=head")) == []
    named = read(fleet, f"?against=commit&commit={first[:12]}")
    assert [each["subject"] for each in named["commits"]] == ["All of it"]
    assert all(each["isCommitted"] for each in named["files"])
    shown = read(fleet, f"/file?against=commit&commit={first}&path=cart.py")
    assert "+five" in shown["lines"]
    assert shown["file"]["status"] == "modified"

    # The files belong to the agent's user where there is one, and git runs as that user.
    uid = folder.stat().st_uid
    if fleet.row("ada").isolation == "user":
        assert uid not in (0, os.geteuid())
        (folder / "private.txt").write_text("x\n")
        os.chmod(folder / "private.txt", 0o600)
        hidden = next(f for f in read(fleet)["files"] if f["path"] == "private.txt")
        assert hidden["added"] is None, "a file of root's cannot be read"

    shutil.rmtree(folder / ".git")
    make_repository(folder / "shop")
    assert read(fleet, status=409)["error"].endswith("There are repositories below it: shop.")
    assert paths(read(fleet, "?repository=shop&against=head")) == []


def test_commit_at_the_start_is_noted(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    first = make_repository(folder)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(parent, 0o755)
    shutil.chown(folder, group=60_000) if os.geteuid() == 0 else None
    os.chmod(folder, 0o775)
    fleet.create("ada", agent="command", command=["cat"], folder=str(folder))
    row = fleet.row("ada")
    assert (row.start_commit, row.folder) == (first, str(folder))
    git(folder, "commit", "-q", "--allow-empty", "-m", "Later")
    (folder / "one.py").write_text("1\n")
    found = read(fleet)
    assert found["base"]["commit"] == first
    assert "one.py" in paths(found)


def test_values_that_make_no_sense_are_refused(fleet: Fleet) -> None:
    fleet.create("ada", agent="command", command=["cat"])
    make_repository(workspace(fleet))
    for query, text in (
        ("?against=x", "against: must be one of start, message, head, commit"),
        ("?against=commit", "commit: is required; a branch, tag or commit"),
        ("?commit=main", "commit: only with against=commit"),
        ("?against=commit&commit=-x", "commit: is not a name of a branch, tag or commit"),
        ("?against=commit&commit=a..b", "commit: is not a name of a branch, tag or commit"),
        ("?against=commit&commit=none", "commit: this repository has no commit 'none'"),
        ("?repository=../x", "repository: must be a path below the folder"),
        ("/file", "path is required"),
        ("/file?path=/etc/passwd", "path: must be a path below the folder"),
        ("/file?path=cart.py&lines=0", "lines: must be a whole number from 1 to 5000"),
    ):
        assert read(fleet, query, 400)["error"].startswith(text), query
    assert (
        read(fleet, "/file?against=head&path=cart.py", 404)["error"]
        == "path: 'cart.py' does not differ"
    )
    assert fleet.api.get("/lieutenant/lieutenants/eve/changes").status_code == 404
    Lieutenant.objects.filter(name="ada").update(folder="/nowhere/at/all")
    assert "does not exist any more" in read(fleet, status=409)["error"]


def test_secrets_are_covered(fleet: Fleet) -> None:
    key = "sk-ant-changes-0123456789abcdef"
    stored = fleet.api.client.put(
        "/vers-config/ANTHROPIC_API_KEY", {"value": key}, content_type="application/json"
    )
    assert stored.status_code == 200
    fleet.create("ada", agent="command", command=["cat"])
    make_repository(workspace(fleet))
    (workspace(fleet) / "env").write_text(f"KEY={key}\n")
    assert read(fleet, "/file?against=head&path=env")["lines"][1] == "+KEY=[ANTHROPIC_API_KEY]"
    assert key not in str(list(OutsideCall.objects.values("result")))


def test_slow_reading_is_answered_with_a_path(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.create("ada", agent="command", command=["cat"])
    make_repository(workspace(fleet))
    sent: list[tuple[str, str | None]] = []
    monkeypatch.setattr(outside, "dispatch", lambda _task, pk, queue=None: sent.append((pk, queue)))
    answer = fleet.api.get(PATH)
    assert answer.status_code == 202
    path = answer.json()["path"]
    assert fleet.api.get(path).json()["state"] == "running"
    # The same question is asked once.
    assert fleet.api.get(PATH).json()["id"] == answer.json()["id"]
    assert sent[0] == (answer.json()["id"], f"host.{settings.DATA_FOLDER_ID}")
    outside.run_here(sent[0][0])
    found = fleet.api.get(path).json()
    assert (found["state"], found["head"]["branch"]) == ("done", "main")
    assert fleet.api.get(f"{PATH}/calls/none").status_code == 404
    fleet.create("bella", agent="command", command=["cat"])
    other = path.replace(fleet.row("ada").pk, fleet.row("bella").pk)
    assert fleet.api.get(other).status_code == 404


def test_paused_lieutenant_shows_changes_and_a_destroyed_one_does_not(fleet: Fleet) -> None:
    fleet.create("ada", agent="command", command=["cat"])
    make_repository(workspace(fleet))
    (workspace(fleet) / "one.py").write_text("1\n")
    fleet.api.post("/lieutenant/lieutenants/ada/pause")
    until(lambda: fleet.row("ada").live_process() is None)
    assert paths(read(fleet, "?against=head")) == ["one.py"]
    pk = fleet.row("ada").pk
    fleet.api.delete("/lieutenant/lieutenants/ada")
    answer = fleet.api.get(f"/lieutenant/lieutenants/{pk}/changes")
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "It has been destroyed; its changes are not shown any more.",
    )


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_changes_are_read_without_mount_namespaces(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose root may not mount."""
    usual = modes.host()
    monkeypatch.setattr(modes, "host", lambda: dataclasses.replace(usual, mounts=False))
    fleet.create("ada", agent="command", command=["cat"])
    assert fleet.row("ada").isolation in ("user", "landlock")
    make_repository(workspace(fleet))
    change(workspace(fleet))
    assert len(paths(read(fleet, "?against=head"))) == 5
