"""Paths of a data folder that was moved, and the lock of its identity."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from lieutenants.hosts import lock, paths
from lieutenants.hosts import services as hosts
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from tests.lieutenants.rows import enlist, process_of
from tests.waiting import PATIENCE, until

OLD = "/srv/old/data"


def moved(name: str, folder: str = "") -> Lieutenant:
    """A lieutenant with files here, whose rows name the old place."""
    row = enlist(name)
    own = f"{OLD}/lieutenants/{row.pk}/workspace"
    Lieutenant.objects.filter(pk=row.pk).update(folder=folder or own)
    return row


def session_of(row: Lieutenant, *lines: dict[str, str]) -> Path:
    file: Path = settings.LIEUTENANTS_DIR / row.pk / "session" / "session.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file.chmod(0o600)
    return file


@pytest.mark.django_db
def test_all_paths_below_the_folder_are_corrected() -> None:
    ada, child = moved("ada"), moved("child")
    inside = f"{OLD}/lieutenants/{ada.pk}/workspace/sub"
    Lieutenant.objects.filter(pk=child.pk).update(folder=inside)
    outside = moved("outside", "/srv/older/elsewhere")
    run = process_of(ada)
    Process.objects.update(directory=f"{OLD}/lieutenants/{ada.pk}/runs/{run.pk}")
    hosts.register_folder()
    here = settings.LIEUTENANTS_DIR / ada.pk
    folders = dict(Lieutenant.objects.values_list("name", "folder"))
    assert folders["ada"] == str(here / "workspace")
    # It is known from the rows of others where the folder lay.
    assert folders["child"] == str(here / "workspace" / "sub")
    assert folders["outside"] == "/srv/older/elsewhere"
    run.refresh_from_db()
    assert run.directory == str(here / "runs" / run.pk)
    assert outside.pk


@pytest.mark.django_db
def test_only_paths_below_the_known_location_are_corrected() -> None:
    DataFolder.objects.create(pk=settings.DATA_FOLDER_ID, host=settings.HOST, path=OLD)
    enlist("ada", folder=f"{OLD}/lieutenants/other/workspace/deep")
    foreign = enlist("neo", folder=f"{OLD}/lieutenants/x/workspace", data_folder="B" * 26)
    assert paths.correct_paths(settings.DATA_FOLDER_ID, OLD) == 1
    foreign.refresh_from_db()
    assert foreign.folder == f"{OLD}/lieutenants/x/workspace"


@pytest.mark.django_db
def test_only_the_folder_in_the_session_is_corrected() -> None:
    row = moved("ada")
    message = {"type": "message", "text": f"cd {OLD}"}
    header = {"type": "session", "cwd": f"{OLD}/lieutenants/{row.pk}/workspace"}
    file = session_of(row, header, message)
    hosts.register_folder()
    first, second = map(json.loads, file.read_text().splitlines())
    assert first == {**header, "cwd": str(settings.LIEUTENANTS_DIR / row.pk / "workspace")}
    assert second == message
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["session.jsonl"]


@pytest.mark.django_db
def test_the_session_that_the_agent_continues_is_the_one_that_is_corrected() -> None:
    row = moved("ada")
    Lieutenant.objects.update(session_name="session-2.jsonl")
    header = {"type": "session", "cwd": f"{OLD}/lieutenants/{row.pk}/workspace"}
    file = session_of(row, header).rename(
        settings.LIEUTENANTS_DIR / row.pk / "session" / "session-2.jsonl"
    )
    hosts.register_folder()
    workspace = settings.LIEUTENANTS_DIR / row.pk / "workspace"
    assert json.loads(file.read_text())["cwd"] == str(workspace)


@pytest.mark.django_db
def test_pipe_in_place_of_a_session_does_not_block() -> None:
    row = moved("ada")
    pipe = settings.LIEUTENANTS_DIR / row.pk / "session" / "session.jsonl"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    # One that waited for a writer would find one after a while, and nothing in it.
    late = threading.Timer(3.0 * PATIENCE, lambda: os.close(os.open(pipe, os.O_WRONLY)))
    late.daemon = True
    late.start()
    started = time.monotonic()
    hosts.register_folder()
    assert time.monotonic() - started < 3.0 * PATIENCE
    assert late.is_alive()
    late.cancel()


@pytest.mark.django_db
def test_too_large_session_is_left_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MAX_FILE_BYTES", 100)
    row = moved("ada")
    header = {"type": "session", "cwd": f"{OLD}/lieutenants/{row.pk}/workspace"}
    file = session_of(row, header, {"text": "x" * 100})
    before = file.read_text()
    hosts.register_folder()
    assert file.read_text() == before
    assert os.listdir(file.parent) == ["session.jsonl"]


@pytest.mark.django_db
def test_links_of_an_agent_are_not_followed(tmp_path: Path) -> None:
    row = moved("ada")
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"cwd": f"{OLD}/lieutenants/x"}) + "\n")
    before = secret.read_text()
    folder = settings.LIEUTENANTS_DIR / row.pk / "session"
    folder.mkdir(parents=True)
    (folder / "session.jsonl").symlink_to(secret)
    other = moved("bob")
    hard = settings.LIEUTENANTS_DIR / other.pk / "session"
    hard.mkdir(parents=True)
    os.link(secret, hard / "session.jsonl")
    hosts.register_folder()
    assert secret.read_text() == before
    assert (folder / "session.jsonl").is_symlink()
    assert (hard / "session.jsonl").stat().st_nlink == 2


@pytest.mark.django_db(transaction=True)
def test_one_folder_per_identity_is_followed(tmp_path: Path, settings: Any) -> None:
    folder = str(settings.DATA_DIR)
    first, second = threading.Event(), threading.Event()
    entered = threading.Event()

    def stand_by() -> None:
        with lock.hold_identity_lock(second) as alone:
            if alone:
                entered.set()

    with lock.hold_identity_lock(first) as alone:
        assert alone
        assert lock.lock_holder() == folder
        settings.DATA_DIR = tmp_path  # as a copy of it
        waiting = threading.Thread(target=stand_by)
        waiting.start()
        row = until(lambda: DataFolder.objects.filter(rival__contains="is in use").first())
        assert "so it is not followed" in row.rival
        assert not entered.is_set()
    # Free at once when the first one ends.
    waiting.join(10)
    assert entered.is_set()
    assert lock.lock_holder() == ""
