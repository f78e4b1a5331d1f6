"""Limits on reading a session file before a start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.utils import timezone

from lieutenants.agents.pi import session_files
from lieutenants.exceptions import SessionDamaged
from lieutenants.models import Process
from tests.lieutenants.rows import enlist

HEADER = json.dumps({"type": "session", "id": "s"}) + "\n"


def test_huge_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    file.write_text(HEADER)
    with file.open("r+b") as opened:
        opened.truncate(1 << 40)

    with pytest.raises(SessionDamaged, match=r"too large: 1099511627776 bytes.*new session"):
        session_files.read_session_file(file)


def test_file_with_too_many_lines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_files, "MAX_LINES", 10)
    file = tmp_path / "session.jsonl"
    file.write_text(HEADER + "x\n" * 9)
    assert session_files.read_session_file(file).lines == 10
    file.write_text(HEADER + "x\n" * 10)

    with pytest.raises(SessionDamaged, match="more than 10 lines"):
        session_files.read_session_file(file)


def test_too_long_line_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_files, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(session_files, "_CHUNK", 7)
    file = tmp_path / "session.jsonl"
    entry = json.dumps({"id": "a", "text": "x" * 200}) + "\n"
    after = json.dumps({"id": "b"}) + "\n" + json.dumps({"id": "c", "parentId": "b"}) + "\n"
    file.write_text(HEADER + entry + after + "y" * 300)

    found = session_files.read_session_file(file)

    assert found.header
    assert (found.lines, found.unreadable, found.orphans, found.torn) == (4, [2], [], 300)


@pytest.mark.django_db
def test_new_session_is_told_at_its_first_start_only(tmp_path: Path) -> None:
    lieutenant = enlist(session_since=timezone.now())
    missing = tmp_path / "session.jsonl"
    assert session_files.check(lieutenant, missing) == [session_files.NEW_SESSION_NOTE]

    Process.objects.create(
        lieutenant=lieutenant, host="h", transport="local", directory="/d", ready_at=timezone.now()
    )
    assert session_files.check(lieutenant, missing) == []
