"""The first start, in a small temporary checkout with toy packages."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from reef_site.install import bootstrap

CHECKOUT = bootstrap.CHECKOUT
# The base interpreter; -S hides the packages that are installed in it.
BARE = [getattr(sys, "_base_executable", sys.executable), "-S"]
SHOW = "import sys; print(sys.prefix, *sys.argv[1:])"


def make_wheel(folder: Path, name: str, version: str) -> str:
    """Build a wheel with one empty module; return its line for a lock file."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
            record += f"{inside},sha256={digest.decode()},{len(text)}\n"
            wheel.writestr(inside, text)
        wheel.writestr(f"{info}/RECORD", record)
    mark = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{mark}\n"


class Toy:
    """A checkout with only the bootstrap code of reef."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        (self.folder / "reef_site" / "install").mkdir(parents=True)
        (self.folder / "reef_site" / "__init__.py").touch()
        (self.folder / "reef_site" / "install" / "__init__.py").touch()
        code = Path("reef_site") / "install" / "bootstrap.py"
        shutil.copy(CHECKOUT / code, self.folder / code)
        (self.folder / "manage.py").write_text(
            "from reef_site.install import bootstrap\nbootstrap.ensure()\n"
            f"import reef_toy\n{SHOW}\n"
            "print(reef_toy.version)\n"
        )
        self.lock("1.0")

    def lock(self, version: str) -> None:
        run, test = (make_wheel(self.wheels, name, version) for name in ("reef_toy", "reef_probe"))
        (self.folder / "requirements.lock").write_text(f"# toy\n#: run\n{run}#: test\n{test}")

    def spawn(self, *words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        env.pop("PIP_EXTRA_INDEX_URL", None)
        return subprocess.Popen(
            [*BARE, "manage.py", *words],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: str) -> tuple[str, str]:
        """Return stdout and stderr of a start that must succeed."""
        process = self.spawn(*words)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        return out, err


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Share one checkout, because making an environment takes seconds."""
    return Toy(tmp_path_factory.mktemp("bootstrap"))


@pytest.mark.rotated
def test_concurrent_first_starts_create_one_environment(toy: Toy) -> None:
    shutil.rmtree(toy.folder / ".venv", ignore_errors=True)
    both = [toy.spawn("one", "--two"), toy.spawn("other")]
    answers = [process.communicate(timeout=100) for process in both]

    assert [process.returncode for process in both] == [0, 0], answers
    for (out, _), words in zip(answers, ["one --two", "other"], strict=True):
        assert out == f"{toy.folder / '.venv'} {words}\n1.0\n"
    said = "".join(err for _, err in answers)
    assert said.count("making .venv") == 1
    assert "reef: installing 1 packages into .venv" in said
    assert "waiting for it" in said


def test_the_next_start_installs_nothing(toy: Toy) -> None:
    toy.start()

    assert toy.start("again") == (f"{toy.folder / '.venv'} again\n1.0\n", "")


@pytest.mark.thorough
def test_a_changed_lock_is_installed(toy: Toy) -> None:
    toy.start()
    toy.lock("2.0")

    out, err = toy.start()

    assert out.endswith("\n2.0\n")
    assert "installing" in err
    assert "making" not in err
    assert toy.start()[1] == ""


@pytest.mark.thorough
def test_test_command_also_installs_its_group(toy: Toy) -> None:
    toy.start()
    probe = "import reef_probe"
    python = str(toy.folder / ".venv" / "bin" / "python")
    if subprocess.run([python, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
        subprocess.run([python, "-m", "pip", "-q", "uninstall", "-y", "reef_probe"], check=True)

    toy.start("test", "-k", "something")

    subprocess.run([python, "-c", probe], check=True)


@pytest.mark.thorough
def test_interrupted_environment_is_recreated(toy: Toy) -> None:
    toy.start()
    (toy.folder / ".venv" / "reef-unfinished").touch()

    _, err = toy.start()

    assert "making .venv" in err
    assert toy.start()[1] == ""


def test_a_package_with_another_hash_is_refused(toy: Toy) -> None:
    lock = toy.folder / "requirements.lock"
    good = lock.read_text()
    toy.lock("9.0")
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text()))
    try:
        process = toy.spawn()
        out, err = process.communicate(timeout=100)
    finally:
        lock.write_text(good)

    assert process.returncode == 1
    assert out == ""
    assert "pip could not install the packages" in err
    assert "Traceback" not in err


def test_externally_managed_python_is_supported(toy: Toy) -> None:
    system = Path("/usr/bin/python3")
    marks = Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED")
    if not system.exists() or not any(marks) or not shutil.which("apt"):
        pytest.skip("the Python of this machine lets pip install into it")
    has_venv = subprocess.run([system, "-c", "import ensurepip"], stderr=subprocess.DEVNULL)
    if has_venv.returncode:
        pytest.skip("python3-venv is missing here")
    shutil.rmtree(toy.folder / ".venv", ignore_errors=True)
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(toy.wheels)}

    done = subprocess.run(
        [system, "-S", "manage.py"], cwd=toy.folder, env=env, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(toy.folder / ".venv"))


# -- refusals in one sentence


class StartedError(Exception):
    """Raised instead of replacing the process of the test."""


@pytest.fixture
def other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bootstrap.Environment:
    """Make an empty checkout, in which the restart raises StartedError."""
    shutil.copy(CHECKOUT / "requirements.lock", tmp_path)
    home = bootstrap.Environment(tmp_path)

    def execv(program: str, argv: list[str]) -> None:
        raise StartedError(program, argv)

    monkeypatch.setattr(bootstrap, "Environment", lambda: home)
    monkeypatch.setattr(os, "execv", execv)
    return home


@pytest.mark.parametrize(("user", "command"), [(0, ": apt install"), (1000, ": sudo apt install")])
def test_missing_ensurepip_names_the_remedy(
    other_folder: bootstrap.Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    user: int,
    command: str,
) -> None:
    monkeypatch.setattr(bootstrap, "has_modules", lambda _: False)
    monkeypatch.setattr(bootstrap, "has_ensurepip", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: user)

    with pytest.raises(SystemExit) as refused:
        bootstrap.ensure(["manage.py", "up"])

    assert refused.value.code == 1
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert capsys.readouterr().err.endswith(f"{command} python{version}-venv\n")
    assert not other_folder.folder.exists()


def test_an_old_python_is_told_which_one_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "python3.12" else None)

    with pytest.raises(bootstrap.BootstrapError) as refused:
        bootstrap.refuse_old_python((3, 9, 2))

    assert str(refused.value) == (
        "reef needs Python 3.11 or newer and this is 3.9.2. Start it with: python3.12 manage.py"
    )


def test_an_old_python_can_read_the_refusal() -> None:
    for name in (
        "manage.py",
        "reef_site/__init__.py",
        "reef_site/bootstrap.py",
        "reef_site/install/__init__.py",
        "reef_site/install/bootstrap.py",
    ):
        ast.parse((CHECKOUT / name).read_text(), feature_version=(3, 6))


# -- choice of the environment


def test_complete_environment_is_used_unchanged(
    other_folder: bootstrap.Environment,
) -> None:
    bootstrap.ensure(["manage.py", "up"])
    bootstrap.ensure(["manage.py", "test"])

    assert not other_folder.folder.exists()


def test_tests_use_our_environment_if_pytest_is_missing(
    other_folder: bootstrap.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bootstrap.NEEDED, bootstrap.TEST, ("no_such_module",))
    prepared: list[tuple[str, ...]] = []
    monkeypatch.setattr(other_folder, "prepare", prepared.append)

    bootstrap.ensure(["manage.py", "up"])
    with pytest.raises(StartedError) as started:
        bootstrap.ensure(["manage.py", "test", "-x"])

    python = str(other_folder.python)
    assert started.value.args == (python, [python, "manage.py", "test", "-x"])
    assert prepared == [("run", "test")]


# -- the lock file itself


def test_lock_contains_all_requirements() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    blocks = bootstrap.read_blocks(CHECKOUT / "requirements.lock")
    asked = {
        bootstrap.RUN: project["project"]["dependencies"],
        bootstrap.TEST: project["dependency-groups"]["test"],
    }
    for group, wanted in asked.items():
        # The tests' group includes the runtime packages.
        text = blocks[bootstrap.RUN] + (blocks[group] if group == bootstrap.TEST else "")
        locked = set(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
        names = {name for name, _ in locked}
        for requirement in wanted:
            name, _, version = re.sub(r"\[.*?\]", "", requirement).partition("==")
            assert (name, version) in locked if version else name in names, requirement


def test_lock_contains_hashes_and_no_urls() -> None:
    text = (CHECKOUT / "requirements.lock").read_text()
    heads = re.findall(r"^[\w.-]+==.*\n(.*)", text, re.MULTILINE)

    assert heads
    assert all(line.strip().startswith("--hash=sha256:") for line in heads)
    assert "://" not in text
    assert "index" not in text
