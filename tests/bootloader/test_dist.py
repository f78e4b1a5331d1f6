"""Files that VMs fetch from reef, and a reef that runs from them."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from bootloader.exceptions import PackagingFailed
from bootloader.join import downloads
from tests.bootloader.join_clients import BearerClient, issue_join_token
from tests.bootloader.root_stack import RootStack
from tests.conftest import Api
from tests.stack import ROOT, STANDIN, free_port
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
# test_provision_profiles does the same on a VM of the profile `full`.
RUNS_ON_A_VM = pytest.mark.thorough


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def body_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


# -- the list of files ---------------------------------------------------------------------------


@pytest.mark.django_db
def test_list_matches_the_files(api: Api) -> None:
    said = api.get("/bootloader/dist/").json()

    assert said["count"] == len(said["files"]) == 6
    assert said["version"].startswith("0.1.0+g")
    for file in said["files"]:
        for name in filter(None, (file["name"], file["alias"])):
            answer = api.get(f"/bootloader/dist/{name}")
            content = body_of(answer)
            assert (sha256(content), len(content)) == (file["sha256"], file["size"])
            assert answer["Reef-SHA256"] == file["sha256"]
            assert answer["Content-Length"] == str(file["size"])


@pytest.mark.django_db
def test_members_and_joining_vms_may_download() -> None:
    token = issue_join_token()
    assert BearerClient(token).get("/bootloader/dist/fleet_agent.py").status_code == 200
    own = BearerClient(token).join().json()["token"]

    assert BearerClient(own).get("/bootloader/dist/fleet_agent.py").status_code == 200
    for other in (token, "nonsense", "reefjoin_of-nobody", None):
        assert BearerClient(other).get("/bootloader/dist/").status_code == 401
        assert BearerClient(other).get("/bootloader/dist/fleet_agent.py").status_code == 401


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", ["..%2Fdb.sqlite3", "build.lock", "..", ".half-x", "nothing.whl", "%00", "x" * 300]
)
def test_other_names_are_not_found(api: Api, name: str) -> None:
    answer = api.get(f"/bootloader/dist/{name}")

    assert answer.status_code == 404
    assert "error" in answer.json()


def test_wheel_contains_exactly_a_complete_reef() -> None:
    with zipfile.ZipFile(downloads.current().wheel) as wheel:
        names = set(wheel.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        assert f"Version: {downloads.current().version}" in wheel.read(metadata).decode()

    assert {
        "reef_site/resources/templates/base.html",
        "reef_site/resources/requirements.lock",
        "reef_site/resources/pyproject.toml",
        "reef_site/static/reef/base.css",
        "lieutenants/agents/pi/node/package-lock.json",
        "lieutenants/supervision/keeper/launcher.py",
        "bootloader/fleet_agent/commands.py",
        "bootloader/boot/scripts/run.sh",
    } <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(downloads.PACKAGES)
    odd = ("__pycache__", "tests/", ".sqlite", "root-token", "secret-key", "node_modules")
    assert not [name for name in names if any(word in name for word in odd)]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    templates = [line for line in tracked.stdout.split() if line.startswith("templates/")]
    assert all(f"reef_site/resources/{each}" in names for each in templates)


def test_lock_contains_exactly_the_runtime_packages() -> None:
    lock = downloads.current().lock_file.path.read_text()

    assert "django==" in lock
    assert "pytest" not in lock
    assert all("==" in line for line in lock.splitlines() if line[:1].isalnum())


# -- states of the sources -----------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, settings: Any) -> Path:
    """Provide a small copy of the sources that a test may change."""
    base = tmp_path / "checkout"
    leave = shutil.ignore_patterns("__pycache__")
    for name in (*downloads.PACKAGES, downloads.TEMPLATES):
        shutil.copytree(ROOT / name, base / name, ignore=leave)
    for name in downloads.RESOURCES:
        shutil.copyfile(ROOT / name, base / name)
    settings.BASE_DIR = settings.RESOURCES_DIR = base
    settings.DATA_DIR = tmp_path / "data"
    return base


def test_same_sources_produce_the_same_wheel(checkout: Path, settings: Any) -> None:
    first = downloads.current()
    settings.DATA_DIR = settings.DATA_DIR.with_name("other")
    second = downloads.current()

    assert first.wheel != second.wheel
    assert (first.version, first.wheel_sha256) == (second.version, second.wheel_sha256)


def test_changed_sources_produce_a_new_version_and_keep_older_files(checkout: Path) -> None:
    old = downloads.current()
    with (checkout / "bootloader" / "fleet_agent" / "commands.py").open("a") as file:
        file.write("# newer\n")
    new = downloads.current()

    assert new.version != old.version
    assert new.agent_sha256 != old.agent_sha256
    for each in (*old.files, *new.files):
        assert sha256(downloads.find(each.name).read_bytes()) == each.sha256
    assert downloads.find("fleet_agent.py").read_bytes().endswith(b"# newer\n")


@pytest.mark.rotated
def test_number_of_kept_versions_is_limited(checkout: Path, settings: Any) -> None:
    versions = []
    for number in range(downloads.MAX_KEPT_STATES + 2):
        (checkout / "vmtree" / "rows.py").write_text(f"number = {number}\n")
        versions.append(downloads.current().version)

    kept = [each.name for each in (settings.DATA_DIR / "dist").glob("[0-9a-f]" * 12)]
    assert len(set(versions)) == downloads.MAX_KEPT_STATES + 2
    assert sorted(kept) == sorted(
        version.partition("+g")[2] for version in versions[-downloads.MAX_KEPT_STATES :]
    )


def test_concurrent_requests_share_one_build(checkout: Path, settings: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: downloads.current().wheel_sha256, range(16)))

    assert len(found) == 1
    assert not list((settings.DATA_DIR / "dist").glob(".half-*"))


def test_packaging_failure_is_reported(checkout: Path) -> None:
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text().replace('"requirements.lock" =', '"no-such.lock" ='))

    with pytest.raises(
        PackagingFailed, match=r"cannot be packed for VMs: hatchling says: .*no-such"
    ):
        downloads.current()
    project.unlink()
    with pytest.raises(PackagingFailed, match="No such file"):
        downloads.current()


# -- installation --------------------------------------------------------------------------------


class Installed:
    """A reef that was downloaded from a root and installed as a boot script does it."""

    def __init__(self, folder: Path, roof: RootStack) -> None:
        self.folder, self.venv = folder, folder / "venv"
        self.bin = self.venv / "bin"
        headers = {"authorization": f"Bearer {roof.issue_join_token('vm-installed')}"}
        with httpx.Client(base_url=roof.url, headers=headers, timeout=60) as vm:
            self.listed = vm.get("/bootloader/dist/").json()
            for file in self.listed["files"]:
                content = vm.get(f"/bootloader/dist/{file['name']}").content
                assert sha256(content) == file["sha256"]
                (folder / file["name"]).write_bytes(content)
        subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True, timeout=120)
        self.pip("--require-hashes", "-r", str(next(folder.glob("requirements-*.txt"))))
        self.pip("--no-deps", "--no-index", str(next(folder.glob("reef-*.whl"))))

    def pip(self, *words: str) -> None:
        done = subprocess.run(
            [str(self.bin / "pip"), "install", "-q", "--disable-pip-version-check", *words],
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    @property
    def env(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}

    def reef(self, *words: str, **env: str) -> str:
        done = subprocess.run(
            [str(self.bin / "reef"), *words],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with RootStack(tmp_path_factory.mktemp("roof")) as roof:
        yield Installed(tmp_path_factory.mktemp("vm"), roof)


@RUNS_ON_A_VM
def test_wheel_contains_the_roots_code(installed: Installed) -> None:
    version = installed.listed["version"]

    assert installed.reef("--version") == f"reef {version}"
    # A VM may be a root itself, so that its own wheel must be identical.
    program = (
        "import django; django.setup(); from bootloader.boot import npm_agent;"
        " from bootloader.join import downloads;"
        " d = downloads.current(); print(d.version, d.wheel_sha256,"
        " npm_agent.PINNED.mark())"
    )
    done = subprocess.run(
        [str(installed.bin / "python"), "-c", program],
        cwd=installed.folder,
        env={**installed.env, "DJANGO_SETTINGS_MODULE": "reef_site.settings"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wheel = next(each for each in installed.listed["files"] if each["name"].endswith(".whl"))
    npm_lock = (ROOT / "lieutenants/agents/pi/node" / "package-lock.json").read_bytes()
    assert done.stdout.split() == [version, wheel["sha256"], sha256(npm_lock)[:12]]


@RUNS_ON_A_VM
def test_default_data_folder_is_in_the_home_folder(installed: Installed) -> None:
    installed.reef("check")
    assert (Path(installed.env["HOME"]) / ".reef" / "data" / "secret-key").exists()

    installed.reef("check", REEF_HOME=str(installed.folder / "opt"))
    assert (installed.folder / "opt" / "data" / "secret-key").exists()


@RUNS_ON_A_VM
def test_reef_runs_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    """Pages, styles, admin, API, worker, follower and a lieutenant work; data is in its folder."""
    data, port = tmp_path / "data", free_port()
    code = installed.venv / "lib"
    before = files_of(code)
    env = {**installed.env, "REEF_DATA_DIR": str(data), "PI_PATH": str(STANDIN)}
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [str(installed.bin / "reef"), "up", "--no-agent", "--port", str(port)],
            cwd=installed.folder,
            env=env,
            stdout=out,
            stderr=out,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as person:
            until(lambda: "sign in, once" in log.read_text() or up.poll() is not None, 60)
            assert up.poll() is None, log.read_text()
            use_all_parts(person, installed, data, log)
    finally:
        up.terminate()
        up.wait(20)
    assert files_of(code) == before
    assert sorted(each.name for each in installed.folder.iterdir() if each.is_dir()) in (
        ["home", "venv"],
        ["home", "opt", "venv"],
    )


def use_all_parts(person: httpx.Client, installed: Installed, data: Path, log: Path) -> None:
    """Use pages and API as people and agents do."""
    until(lambda: person.get("/health").json()["status"] == "ok", 40)
    html = {"accept": "text/html"}
    link = next(word for word in log.read_text().split() if "/signin/" in word)
    assert person.get(link, headers=html, follow_redirects=True).status_code == 200
    for page in ("/", "/fleet/", "/lieutenants/", "/config/", "/provisioning/", "/admin/"):
        assert person.get(page, headers=html).status_code == 200, page
    for style in ("reef/base.css", "reef/tree/rows.js", "admin/css/base.css"):
        assert len(person.get(f"{settings.STATIC_URL}{style}").content) > 500, style
    token = (data / "root-token").read_text()
    api = {"authorization": f"Bearer {token}"}
    body = {"name": "ada", "role": "tests", "local": True}
    made = person.post("/lieutenant/lieutenants?wait=30", json=body, headers=api, timeout=60)
    assert (made.status_code, made.json()["status"]) == (201, "idle"), made.text
    assert person.delete("/lieutenant/lieutenants/ada", headers=api).status_code == 200
    until(lambda: not list(data.glob("lieutenants/*/runs/*/keeper.json")), 30)
    assert (data / "db.sqlite3").exists()


def files_of(folder: Path) -> set[str]:
    """Return all files except Python's compiled ones."""
    return {str(each) for each in folder.rglob("*") if "__pycache__" not in each.parts}
