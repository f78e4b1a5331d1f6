"""Answers of the keeper's program about a folder, with a real git and real repositories."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.lieutenants.changes.repositories import (
    ask,
    change,
    commit_all,
    files_of,
    git,
    make_repository,
)
from tests.waiting import PATIENCE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_repository(tmp_path / "work")
    return tmp_path / "work"


# -- the list --------------------------------------------------------------------------------------


def test_list_tells_status_and_counts_of_each_file(folder: Path) -> None:
    change(folder)
    answer = ask(folder)
    found = files_of(answer)
    assert {path: each["status"] for path, each in found.items()} == {
        "cart.py": "modified",
        "gone.txt": "deleted",
        "new.txt": "renamed",
        "notes.md": "untracked",
        "picture.bin": "modified",
    }
    assert (found["cart.py"]["added"], found["cart.py"]["deleted"]) == (1, 1)
    assert (found["notes.md"]["added"], found["notes.md"]["deleted"]) == (2, 0)
    assert found["new.txt"]["old_path"] == "old.txt"
    assert found["picture.bin"]["binary"]
    assert found["picture.bin"]["added"] is None
    assert (answer["branch"], answer["commit"]) == ("main", git(folder, "rev-parse", "HEAD"))


def test_commits_since_a_base_are_listed_and_committed_files_marked(folder: Path) -> None:
    first = git(folder, "rev-parse", "HEAD")
    (folder / "one.py").write_text("1\n")
    commit_all(folder, "Add one")
    (folder / "two.py").write_text("2\n")
    answer = ask(folder, base={"kind": "rev", "rev": first})
    found = files_of(answer)
    assert found["one.py"]["committed"]
    assert not found["two.py"]["committed"]
    assert [each["subject"] for each in answer["commits"]] == ["Add one"]


def test_branch_is_compared_from_the_common_ancestor_on(folder: Path) -> None:
    first = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", "-b", "feature")
    (folder / "one.py").write_text("1\n")
    commit_all(folder, "Add one")
    git(folder, "checkout", "-q", "main")
    (folder / "other.py").write_text("o\n")
    commit_all(folder, "Go on")
    git(folder, "checkout", "-q", "feature")
    answer = ask(folder, base={"kind": "rev", "rev": "main"})
    assert list(files_of(answer)) == ["one.py"]
    assert answer["base"] == {"commit": first, "note": "ancestor"}


def test_files_that_were_not_written_since_a_time_are_left_out(folder: Path) -> None:
    (folder / "before.txt").write_text("b\n")
    (folder / "gone.txt").unlink()
    for path in (folder / "before.txt", folder):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    # The kernel sets the change time; nothing was written for a moment.
    time.sleep(0.02)
    since = time.time()
    time.sleep(0.02)
    (folder / "cart.py").write_text("new\n")
    (folder / "sub").mkdir()
    os.utime(folder, (since - 60, since - 60))
    base = {"kind": "time", "at": since}
    answer = ask(folder, base=base, since=since, now=time.time())
    assert "before.txt" not in files_of(answer)
    assert "cart.py" in files_of(answer)
    assert answer["earlier"] >= 1
    assert answer["base"]["commit"] == git(folder, "rev-parse", "HEAD")


def test_base_of_a_time_is_what_was_checked_out_then(folder: Path) -> None:
    first = git(folder, "rev-parse", "HEAD")
    now = int(time.time())
    (folder / "one.py").write_text("1\n")
    commit_all(folder, "Add one", at=now + 1000)
    answer = ask(folder, base={"kind": "time", "at": now + 500})
    assert answer["base"] == {"commit": first, "note": ""}
    assert list(files_of(answer)) == ["one.py"]
    before = ask(folder, base={"kind": "time", "at": 1_000_000_000})
    assert before["base"] == {"commit": "", "note": "created"}
    assert len(files_of(before)) == 5


def test_clone_is_compared_with_what_was_cloned(folder: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(folder), "clone")
    (tmp_path / "clone" / "one.py").write_text("1\n")
    answer = ask(tmp_path / "clone", base={"kind": "time", "at": 1_000_000_000})
    assert answer["base"] == {"commit": git(folder, "rev-parse", "HEAD"), "note": "cloned"}
    assert list(files_of(answer)) == ["one.py"]


def test_repository_without_commits_has_only_new_files(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "b.txt").write_text("b\n")
    git(tmp_path, "add", "a.txt")
    found = files_of(ask(tmp_path))
    assert {path: each["status"] for path, each in found.items()} == {
        "a.txt": "added",
        "b.txt": "untracked",
    }


def test_ignored_files_links_and_inner_repositories(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "x.log").write_text("x\n")
    (folder / "link").symlink_to("/etc/passwd")
    make_repository(folder / "inner")
    found = files_of(ask(folder))
    assert {path: each["kind"] for path, each in found.items()} == {
        ".gitignore": "file",
        "inner": "repository",
        "link": "link",
    }
    shown = ask(folder, "file", path="link")
    assert shown["lines"] == [
        "@@ -0,0 +1,1 @@",
        "+/etc/passwd",
        "\\ No newline at end of file",
    ]
    inner = ask(folder, repository="inner")
    assert files_of(inner) == {}


def test_submodule_shows_its_commits_and_nothing_of_its_files(folder: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "library")
    git(folder, "submodule", "--quiet", "add", str(tmp_path / "library"), "library")
    commit_all(folder, "Add library")
    (folder / "library" / "cart.py").write_text("dirty\n")
    assert files_of(ask(folder)) == {}
    commit_all(folder / "library", "Change it")
    found = files_of(ask(folder))
    assert found["library"]["kind"] == "submodule"
    lines = ask(folder, "file", path="library")["lines"]
    assert [line.split(" ")[0] for line in lines[1:]] == ["-Subproject", "+Subproject"]


def test_many_files_are_cut(folder: Path) -> None:
    for number in range(1100):
        (folder / f"file{number:04}.txt").write_text("x\n")
    answer = ask(folder)
    assert len(answer["files"]) == 1000
    assert answer["count"] == 1100


def test_linked_worktree_has_its_own_changes(folder: Path, tmp_path: Path) -> None:
    git(folder, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    (tmp_path / "side" / "one.py").write_text("1\n")
    answer = ask(tmp_path / "side")
    assert list(files_of(answer)) == ["one.py"]
    assert answer["branch"] == "side"


def test_folder_in_a_repository_shows_its_own_part(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "one.py").write_text("1\n")
    (folder / "two.py").write_text("2\n")
    assert list(files_of(ask(folder / "src", upward=True))) == ["one.py"]
    assert ask(folder / "src")["problem"] == "no_repository"


# -- one file --------------------------------------------------------------------------------------


def test_file_is_shown_as_a_diff(folder: Path) -> None:
    change(folder)
    lines = ask(folder, "file", path="cart.py")["lines"]
    assert lines[0].startswith("@@ -2,7 +2,7 @@")
    assert lines[1:] == [
        *(" line 2", " line 3", " line 4", "-line 5", "+five", " line 6", " line 7", " line 8"),
    ]
    renamed = ask(folder, "file", path="new.txt", old_path="old.txt")
    assert renamed["file"]["status"] == "renamed"
    assert renamed["lines"] == []
    assert ask(folder, "file", path="picture.bin")["file"]["binary"]
    deleted = ask(folder, "file", path="gone.txt")["lines"]
    assert deleted == ["@@ -1 +0,0 @@", "-gone"]
    assert ask(folder, "file", path="README")["problem"] == "unchanged"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xc3\xa9.txt", "café.txt"),
        (b"new\nline\ttab", '"new\\nline\\ttab"'),
        (b"bad\xff\xfe", '"bad\\377\\376"'),
        (b"<b>bold", "<b>bold"),
        (b'quote"d', '"quote\\"d"'),
        (b"--output=x", "--output=x"),
        (b":(top)magic*", ":(top)magic*"),
        ("\u202eevil".encode(), '"\\342\\200\\256evil"'),
    ],
)
def test_odd_names_are_shown_and_found_again(folder: Path, name: bytes, text: str) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_text("x\n")
    assert text in files_of(ask(folder))
    assert ask(folder, "file", path=text)["lines"] == ["@@ -0,0 +1,1 @@", "+x"]
    git(folder, "add", "-A")
    assert files_of(ask(folder))[text]["status"] == "added"
    assert ask(folder, "file", path=text)["lines"][1:] == ["+x"]


def test_file_that_became_a_link_shows_both(folder: Path) -> None:
    (folder / "gone.txt").unlink()
    (folder / "gone.txt").symlink_to("cart.py")
    lines = ask(folder, "file", path="gone.txt")["lines"]
    assert [line for line in lines if line[:1] in "+-"] == ["-gone", "+cart.py"]


def test_long_files_and_lines_are_cut(folder: Path) -> None:
    (folder / "long.txt").write_text("x\n" * 9000)
    (folder / "wide.txt").write_text("y" * 100_000)
    first = ask(folder, "file", path="long.txt", max_lines=500)
    assert (len(first["lines"]), first["more"], first["cut"]) == (500, True, True)
    most = ask(folder, "file", path="long.txt", max_lines=99_999)
    assert (len(most["lines"]), most["more"], most["cut"]) == (5000, False, True)
    wide = ask(folder, "file", path="wide.txt")["lines"]
    assert len(wide[1]) == 3000
    (folder / "cart.py").write_text("z" * 100_000 + "\n")
    assert len(ask(folder, "file", path="cart.py")["lines"][-1]) == 3000


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/./b", '"open', '"\\9"', "a\0b"])
def test_paths_that_lead_elsewhere_are_refused(folder: Path, path: str) -> None:
    assert ask(folder, "file", path=path)["problem"] == "unreadable"


# -- folders that cannot be compared ---------------------------------------------------------------


def test_problems_have_codes(tmp_path: Path) -> None:
    assert ask(tmp_path / "missing")["problem"] == "gone"
    (tmp_path / "file").write_text("x")
    assert ask(tmp_path / "file")["problem"] == "no_folder"
    git(tmp_path, "init", "-q", "--bare", "bare")
    assert ask(tmp_path / "bare")["problem"] == "bare"
    make_repository(tmp_path / "broken")
    (tmp_path / "broken" / ".git" / "HEAD").write_text("nonsense")
    assert ask(tmp_path / "broken")["problem"] == "broken"
    make_repository(tmp_path / "holes")
    (tmp_path / "holes" / ".git" / "index").write_bytes(b"nonsense")
    assert ask(tmp_path / "holes")["problem"] == "broken"
    plain = ask(tmp_path)
    assert plain["problem"] == "no_repository"
    assert plain["inner"] == ["broken", "holes"]
    make_repository(tmp_path / "good")
    unknown = ask(tmp_path / "good", base={"kind": "rev", "rev": "nowhere"})
    assert unknown["problem"] == "unknown_rev"
    option = ask(tmp_path / "good", base={"kind": "rev", "rev": "--output=/tmp/x"})
    assert option["problem"] == "unknown_rev"


def test_git_that_is_missing_or_slow_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert ask(folder)["problem"] == "no_git"
    slow = programs / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    slow.chmod(0o755)
    began = time.monotonic()
    assert ask(folder, seconds=0.5)["problem"] == "slow"
    assert time.monotonic() - began < 20 * PATIENCE
