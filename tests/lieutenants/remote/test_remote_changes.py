"""Changes of a lieutenant at the end of an SSH connection."""

from __future__ import annotations

from typing import Any

from tests.lieutenants.changes.repositories import change, make_repository
from tests.lieutenants.remote.conftest import Site

PATH = "/lieutenant/lieutenants/far/changes"


def read(site: Site, query: str = "", status: int = 200) -> dict[str, Any]:
    answer = site.fleet.api.get(f"{PATH}{query}")
    assert answer.status_code == status, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_changes_on_a_machine_come_through_its_connection(site: Site) -> None:
    site.create("far", ["cat"])
    folder = site.folder("far") / "workspace"
    assert "is not a git repository" in read(site, status=409)["error"]
    first = make_repository(folder)
    change(folder)
    (folder / "odd\nname").write_text("x\n")
    found = read(site, "?against=head")
    assert [each["path"] for each in found["files"]] == [
        *("cart.py", "gone.txt", "new.txt", "notes.md", '"odd\\nname"', "picture.bin"),
    ]
    assert found["base"]["commit"] == first
    shown = read(site, "/file?against=head&path=cart.py")
    assert "+five" in shown["lines"]
    odd = read(site, "/file?against=head&path=%22odd%5Cnname%22")
    assert odd["lines"] == ["@@ -0,0 +1,1 @@", "+x"]
    (folder / ".git" / "config").write_text(f"[core]\n\tfsmonitor = touch {folder}/ran\n")
    read(site, "?against=head")
    assert not (folder / "ran").exists()
    assert site.line.connections == 1

    site.line.cut(refuse=True)
    said = read(site, "?against=head", 503)["error"]
    assert said.startswith("The machine cannot be reached")


def test_commit_at_the_start_is_noted_there(site: Site) -> None:
    folder = site.home / "shop"
    first = make_repository(folder)
    site.create("far", ["cat"], folder=str(folder))
    assert site.fleet.row("far").start_commit == first
