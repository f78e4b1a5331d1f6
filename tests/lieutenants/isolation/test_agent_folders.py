"""Each agent has its own folders, which reef creates at each start."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents.pi.settings_file import DEFAULTS
from lieutenants.isolation import modes, plan
from lieutenants.isolation.homes import Home, home_of
from lieutenants.isolation.users import FIRST, LAST
from tests.conftest import STANDIN, Api, Fleet
from tests.lieutenants.isolation.test_adversary import MODE, run
from tests.waiting import until
from vmtree import tokens
from vmtree.models import Node

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="system users need root")


@pytest.fixture
def config(settings: Any, tmp_path: Path) -> Path:
    """Reef's own copy of the agent's configuration."""
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    made: Path = settings.AGENT_CONFIG_DIR
    (made / "settings.json").write_text('{"theme": "dark"}')
    (made / "models.json").write_text('{"providers": {}} // ours\n')
    (made / "extensions").mkdir()
    (made / "extensions" / "ours.ts").write_text("// ours")
    return made


def test_agent_cannot_change_the_configuration_of_another(fleet: Fleet, config: Path) -> None:
    fleet.create("mallory")
    fleet.create("bob")
    planted = (
        "cd $PI_CODING_AGENT_DIR && echo evil > extensions/evil.ts && "
        "rm -f settings.json models.json mcp.json && echo '}' > models.json && "
        """echo '{"mcpServers": {"evil": {}}}' > mcp.json && ls extensions"""
    )
    assert run(fleet, "mallory", planted).split() == ["evil.ts", "ours.ts"]
    for name in ("bob", "mallory"):
        fleet.api.post(f"/lieutenant/lieutenants/{name}/restart")
        fleet.wait(name, "idle")
        seen = {
            file: run(fleet, name, f"cd $PI_CODING_AGENT_DIR && cat {file}")
            for file in ("models.json", "settings.json", "mcp.json")
        }
        assert run(fleet, name, "ls $PI_CODING_AGENT_DIR/extensions") == "ours.ts"
        assert seen["models.json"].strip() == '{"providers": {}} // ours'
        assert json.loads(seen["settings.json"]) == {**DEFAULTS, "theme": "dark"}
        assert json.loads(seen["mcp.json"]) == {"mcpServers": {}}
    assert sorted(path.name for path in config.iterdir()) == [
        *("extensions", "models.json", "settings.json")
    ]


def test_credentials_are_read_only(fleet: Fleet, config: Path) -> None:
    (config / "auth.json").write_text("{}")
    fleet.create("ada")
    modes_seen = run(fleet, "ada", "cd $PI_CODING_AGENT_DIR && stat -c %a auth.json models.json")
    assert modes_seen.split() == ["400", "400"]


def test_damaged_configuration_is_reported_at_creation(
    api: Api, config: Path, db: None, settings: Any
) -> None:
    settings.PI_PATH = str(STANDIN)
    (config / "models.json").write_text('{"providers": {}}}')
    answer = api.post("/lieutenant/lieutenants", {"name": "ada", "role": "x", "local": True})
    assert answer.status_code == 503
    assert f"{config / 'models.json'} cannot be read" in answer.json()["error"]


def test_session_of_an_earlier_version_continues(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.ask("ada", "first")
    fleet.api.post("/lieutenant/lieutenants/ada/pause")
    until(lambda: fleet.row("ada").live_process() is None)
    home = home_of(fleet.row("ada").pk)
    home.session_file.rename(home.root / "session.jsonl")
    fleet.api.post("/lieutenant/lieutenants/ada/resume")
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "RECALL") == "recall: first"


@as_root
def test_each_agent_has_its_own_user(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.create("bob")
    uids = [int(run(fleet, name, "id -u")) for name in ("ada", "bob")]
    assert len(set(uids)) == 2
    assert all(FIRST <= uid <= LAST for uid in uids)
    for name, uid in zip(("ada", "bob"), uids, strict=True):
        home = home_of(fleet.row(name).pk)
        assert {folder.stat().st_uid for folder in home.agents} == {uid}
        assert home.runs.stat().st_uid == 0
        assert stat.S_IMODE(home.runs.stat().st_mode) == 0o700


@as_root
def test_remaining_processes_end_with_their_agent(fleet: Fleet) -> None:
    fleet.create("ada")
    pid = int(run(fleet, "ada", "env -i setsid sleep 600 >/dev/null 2>&1 & echo $!"))
    assert Path(f"/proc/{pid}").exists()
    fleet.api.delete("/lieutenant/lieutenants/ada")
    until(lambda: not Path(f"/proc/{pid}").exists(), 20)


@as_root
def test_folder_of_root_needs_a_group_with_write_access(fleet: Fleet, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    fleet.create("ada", ready=False, folder=str(project))
    assert "Give the folder a group" in fleet.wait("ada", "error").error
    os.chown(project, 0, 4242)
    project.chmod(0o2770)
    fleet.api.post("/lieutenant/lieutenants/ada/restart")
    fleet.wait("ada", "idle")
    assert fleet.get("ada")["isolation"] == "user"
    run(fleet, "ada", "touch made")
    assert (project / "made").exists()


@as_root
def test_files_outside_of_its_folders_keep_their_modes(fleet: Fleet, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.mkdir()
    listed.chmod(0o777)
    fleet.create("ada")
    seen = run(fleet, "ada", f"chmod 700 {listed}; touch {listed}/new /dev/shm/own; ls /dev/shm")
    assert listed.stat().st_mode & 0o777 == 0o777
    assert not (listed / "new").exists()
    assert "own" in seen
    assert not Path("/dev/shm/own").exists()


@as_root
def test_child_in_its_parents_workspace_reaches_only_that_folder(fleet: Fleet) -> None:
    fleet.create("parent")
    part = home_of(fleet.row("parent").pk).workspace / "part"
    run(fleet, "parent", "mkdir part && echo secret > note && echo hello > part/hello")
    token = tokens.issue(Node.objects.get(vm_id=fleet.row("parent").pk), made_by="test")
    made = fleet.api.post(
        "/lieutenant/lieutenants",
        {"name": "child", "role": "tests", "local": True, "folder": str(part)},
        authorization=f"Bearer {token}",
    )
    assert made.status_code == 201, made.content
    fleet.wait("child", "idle")
    assert fleet.get("child")["isolation"] == "user"
    assert run(fleet, "child", "cat hello && touch made && ls") == "hello\nhello\nmade"
    assert "secret" not in run(fleet, "child", f"cat {part.parent}/note; true")
    pid = fleet.process("parent").handle["agent_pid"]
    assert "VERS_AUTH_TOKEN" not in run(fleet, "child", f"cat /proc/{pid}/environ; true")
    fleet.api.delete("/lieutenant/lieutenants/child")
    assert fleet.ask("parent", "still here?") == "echo: still here?"


@pytest.fixture
def listed_socket(tmp_path: Path) -> Iterator[Path]:
    """A socket like that of a container engine, accessible to a group."""
    path = Path("/run/docker.sock")
    if path.exists() or os.geteuid() != 0:
        pytest.skip("needs root, and a machine without a container engine")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chown(path, 0, 4242)
        path.chmod(0o660)
        yield path
    path.unlink()


CONNECT = "python3 -c 'import socket; socket.socket(1).connect(\"/run/docker.sock\"); print(1)'"


@pytest.mark.parametrize("mode", [MODE])
def test_container_engine_is_reachable_only_if_listed(
    fleet: Fleet, listed_socket: Path, settings: Any, mode: str
) -> None:
    settings.ISOLATION = mode
    fleet.create("ada")
    assert run(fleet, "ada", f"{CONNECT} 2>/dev/null; true") == ""
    settings.AGENT_FOLDERS = [str(listed_socket)]
    fleet.create("bob")
    assert run(fleet, "bob", CONNECT) == "1"


@pytest.mark.parametrize("mode", [MODE])
def test_listed_folders_are_reachable(
    fleet: Fleet, settings: Any, tmp_path: Path, mode: str
) -> None:
    settings.ISOLATION = mode
    for name in ("shared", "library"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(name)
    settings.AGENT_FOLDERS = [str(tmp_path / "shared"), f"{tmp_path / 'library'}:ro"]
    fleet.create("ada")
    seen = run(fleet, "ada", f"cd {tmp_path} && cat shared/file library/file && touch shared/new")
    assert seen == "sharedlibrary"
    run(fleet, "ada", f"touch {tmp_path}/library/new; true")
    assert not (tmp_path / "library" / "new").exists()


def test_listed_folder_containing_the_data_folder_is_refused(fleet: Fleet, settings: Any) -> None:
    settings.AGENT_FOLDERS = [str(settings.DATA_DIR.parent)]
    fleet.create("ada", ready=False)
    row = fleet.wait("ada", "error")
    assert "holds files of reef's own" in row.error


def test_unavailable_isolation_is_reported(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ISOLATION = "user"
    nothing = modes.Host(landlock=0, mounts=False, user=False, bubblewrap="")
    monkeypatch.setattr(modes, "host", lambda: nothing)
    fleet.create("ada", ready=False)
    assert "REEF_ISOLATION is user" in fleet.wait("ada", "error").error
    assert fleet.api.get("/health").json()["isolation"]["mode"] == "unavailable"


def test_missing_isolation_causes_a_warning(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch, admin_client: Any
) -> None:
    nothing = modes.Host(landlock=0, mounts=False, user=False, bubblewrap="")
    monkeypatch.setattr(modes, "host", lambda: nothing)
    fleet.create("ada")
    assert fleet.get("ada")["isolation"] == "none"
    health = fleet.api.get("/health").json()["isolation"]
    assert health["mode"] == "none"
    assert "Agents are not isolated" in health["warning"]
    assert "Agents are not isolated" in admin_client.get("/").content.decode()


def test_child_is_isolated_at_least_like_its_parent(fleet: Fleet, settings: Any) -> None:
    fleet.create("parent")
    settings.ISOLATION = "none"
    fleet.create("child", ready=False, parentVmId=fleet.row("parent").pk)
    assert "weaker than that of parent" in fleet.wait("child", "error").error


def test_hidden_paths_are_split_out_of_a_readable_folder(tmp_path: Path) -> None:
    for name in ("app/data/secret", "app/lib", "other"):
        (tmp_path / name).mkdir(parents=True)
    read: list[str] = []
    listable: list[str] = []
    plan._split(str(tmp_path), [str(tmp_path / "app" / "data")], read, listable)
    assert sorted(read) == [str(tmp_path / "app" / "lib"), str(tmp_path / "other")]
    assert listable == [str(tmp_path), str(tmp_path / "app")]


def test_folders_are_named_by_lieutenant_id(tmp_path: Path) -> None:
    home = Home(tmp_path / "id")
    assert json.dumps([str(path.relative_to(tmp_path)) for path in home.agents]) == json.dumps(
        ["id/workspace", "id/session", "id/home", "id/tmp", "id/agent"]
    )
