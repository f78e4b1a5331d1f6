"""Permitted folders of a lieutenant, and the checks that its start repeats."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from lieutenants.isolation import folders
from lieutenants.models import Lieutenant
from reef_site.accounts.signin_links import make_operator
from reef_site.common.errors import BadInput, Forbidden
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.vmtree.conftest import NodeApi
from vmtree import operator_tokens, tokens
from vmtree.models import Node

pytestmark = pytest.mark.django_db(transaction=True)

AT = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def without_agents(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows alone: no worker is told."""
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")


def make(by: Api, folder: Path | str, name: str = "ada") -> Any:
    return by.post(AT, {"name": name, "role": "r", "local": True, "folder": str(folder)})


def row(name: str = "ada") -> Lieutenant:
    return Lieutenant.objects.get(name=name)


def enter(name: str) -> NodeApi:
    return NodeApi(tokens.issue(Node.objects.get(vm_id=row(name).pk), made_by="tests"))


def private() -> list[Path]:
    data = settings.DATA_DIR
    inner = [data / "run", data / "pi", data / "agent", data / "lieutenants", data / "logs"]
    inner += [data / "lieutenants" / "another", data / "lieutenants" / "another" / "workspace"]
    for folder in inner:
        folder.mkdir(parents=True, exist_ok=True)
    return [data, settings.RUN_DIR, *inner, *data.parents, *settings.RUN_DIR.parents]


def test_own_folders_and_their_parents_are_rejected(api: Api, tmp_path: Path) -> None:
    link = tmp_path / "link"
    for folder in private():
        answer = make(api, folder)
        assert (answer.status_code, answer.json()["error"]) == (400, folders.PRIVATE), folder
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        for other in (link, link / ".", f"{folder}/../{folder.name}" if folder.name else "//"):
            assert make(api, other).status_code == 400, other
    assert not Lieutenant.objects.exists()


def test_link_out_of_the_data_folder_is_resolved(api: Api, tmp_path: Path) -> None:
    link = settings.DATA_DIR / "link-of-a-test"
    link.symlink_to(tmp_path)
    try:
        assert make(api, link).status_code == 201
    finally:
        link.unlink()
    assert row().folder == str(tmp_path)


@pytest.mark.parametrize("folder", ["relative", "/nowhere/at/all", "/etc/passwd", "/proc/1/root"])
def test_invalid_folder_is_rejected(api: Api, folder: str) -> None:
    assert make(api, folder).status_code == 400


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Any]:
    """Binds a folder to another place; unmounted afterwards."""
    points: list[Path] = []

    def mount(source: Path) -> Path:
        point = tmp_path / f"mount-{len(points)}"
        point.mkdir()
        done = subprocess.run(["mount", "--bind", source, point], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no bind mounts here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", point], check=True)


def test_bind_mount_is_resolved(api: Api, mounted: Any, tmp_path: Path) -> None:
    inside = settings.DATA_DIR / "lieutenants" / "another" / "workspace"
    inside.mkdir(parents=True, exist_ok=True)
    for source in (settings.DATA_DIR, inside, settings.DATA_DIR.parent):
        point = mounted(source)
        assert make(api, point).json()["error"] == folders.PRIVATE, source
        assert make(api, tmp_path).json()["error"] == folders.PRIVATE, "the mount is below it"
    deep = mounted(settings.DATA_DIR.parent) / settings.DATA_DIR.name / "lieutenants"
    assert make(api, deep).json()["error"] == folders.PRIVATE


def test_children_must_stay_in_the_folders_of_their_creator(api: Api, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine / "sub", mine / "deep" / "er", other):
        folder.mkdir(parents=True)
    (mine / "out").symlink_to(other)
    assert make(api, mine).status_code == 201
    assert make(api, other, "bob").status_code == 201
    ada = enter("ada")

    assert make(ada, mine, "same").status_code == 201
    assert make(ada, mine / "sub", "below").status_code == 201
    for outside in (other, tmp_path, "/root", "/", mine / "out", f"{mine}/../other"):
        assert make(ada, outside, "rogue").status_code in (400, 403), outside
    assert make(ada, other, "rogue").json()["error"].startswith("rule: ")
    below = enter("below")
    assert make(below, mine / "deep", "rogue").status_code == 403, "its parent's is not its own"
    assert make(ada, "", "plain").status_code == 201
    workspace = settings.LIEUTENANTS_DIR / row("plain").pk / "workspace"
    workspace.mkdir(parents=True)
    assert make(ada, workspace, "shares").status_code == 201, "a descendant's workspace"
    bobs = settings.LIEUTENANTS_DIR / row("bob").pk / "workspace"
    bobs.mkdir(parents=True)
    assert make(ada, bobs, "rogue").status_code == 400
    assert not Lieutenant.objects.filter(name="rogue").exists()


def test_changed_link_is_rejected_at_the_next_start(api: Api, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    make(api, mine)
    make(enter("ada"), mine / "sub", "below")
    assert folders.check_at_start(row("below")) == mine / "sub"

    (mine / "sub").rmdir()
    (mine / "sub").symlink_to("/etc")
    with pytest.raises(BadInput, match="another place"):
        folders.check_at_start(row("below"))
    assert folders.check_at_start(row("ada")) == mine

    (mine / "sub").unlink()
    mine.rmdir()
    mine.symlink_to(settings.DATA_DIR)
    with pytest.raises(BadInput, match="another place"):
        folders.check_at_start(row("ada"))


def test_folder_replaced_by_a_link_is_rejected_for_operators_too(api: Api, tmp_path: Path) -> None:
    mine, moved = tmp_path / "mine", tmp_path / "moved"
    mine.mkdir()
    make(api, mine)
    mine.rename(moved)
    mine.symlink_to(moved)

    with pytest.raises(BadInput, match="another place"):
        folders.check_at_start(row("ada"))


def test_linked_workspace_is_rejected(api: Api) -> None:
    make(api, "")
    workspace = Path(row().folder)
    with pytest.raises(BadInput, match="must be an absolute path"):
        folders.check_at_start(row())
    workspace.mkdir(parents=True)
    assert folders.check_at_start(row()) == workspace.resolve()

    workspace.rmdir()
    workspace.symlink_to("/etc")
    with pytest.raises(BadInput, match="another place"):
        folders.check_at_start(row())


def token_below(name: str) -> NodeApi:
    """Return an API client with an operator token that is limited to the lieutenant's subtree."""
    node = Node.objects.get(vm_id=row(name).pk)
    return NodeApi(operator_tokens.make("ci", "everything", subtree=node, by=make_operator())[1])


@pytest.mark.parametrize("creator", [enter, token_below])
def test_line_is_checked_at_each_start(
    api: Api, tmp_path: Path, creator: Callable[[str], NodeApi]
) -> None:
    make(api, tmp_path)
    assert make(creator("ada"), tmp_path, "below").status_code == 201
    assert folders.check_at_start(row("below")) == tmp_path
    Lieutenant.objects.filter(name="below").update(folder="/etc")

    with pytest.raises(Forbidden, match="rule: "):
        folders.check_at_start(row("below"))
