"""Start of a keeper: its programs, the folders of its lieutenant, a scope of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

from lieutenants.supervision.transports.ssh.relay.machine import (
    ROOT,
    Refused,
    expand,
    free_memory,
    handle_of,
    is_alive,
    parse_object,
    read_file,
    search_path,
    write_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

START_SECONDS = 30.0
PREDECESSOR_SECONDS = 4.0  # until the keeper before has ended


def keeper_file(program: Any) -> str:
    """Return the keeper that reef has copied here: one file, a ZIP archive."""
    folder = os.path.join(ROOT, "programs", os.path.basename(str(program)))
    if not os.path.exists(os.path.join(folder, "complete")):
        raise Refused("the supervisor is not here yet", "ProgramMissing")
    return os.path.join(folder, "keeper.pyz")


def keeper_processes(program: Any) -> Any:
    """Return the keeper's module about processes."""
    file = keeper_file(program)
    if file not in sys.path:
        sys.path.insert(0, file)
    return __import__("keeper.processes", fromlist=["sweep"])


def sweep(program: Any, lieutenant: str) -> None:
    """End the processes that a lieutenant's runs have left behind."""
    keeper_processes(program).sweep("REEF_LIEUTENANT=" + lieutenant)


def install(request: dict[str, Any]) -> dict[str, Any]:
    """Store the programs that reef needs here, `files` by name, in a folder named by checksum."""
    name, files = os.path.basename(str(request["program"])), request["files"]
    folder = os.path.join(ROOT, "programs", name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    for each in sorted(files):
        data = base64.b64decode(files[each])
        digest.update(each.encode() + b"\0" + data)
        write_file(os.path.join(folder, os.path.basename(each)), data)
    if digest.hexdigest() != name:
        raise Refused("the supervisor arrived damaged")
    write_file(os.path.join(folder, "complete"), b"")
    return {}


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return where programs are, with their npm packages, sizes of files, and the free memory."""
    path = search_path()
    programs = {}
    for name in request.get("names", []):
        found = shutil.which(expand(name) if name.startswith("~/") else name, path=path)
        if found:
            programs[name] = {"path": found, **package_of(os.path.realpath(found))}
    sizes = {}
    for name in request.get("files", []):
        with contextlib.suppress(OSError):
            sizes[name] = os.stat(expand(name)).st_size
    return {"programs": programs, "sizes": sizes, "free_mib": free_memory()}


def package_of(real: str) -> dict[str, Any]:
    folder = os.path.dirname(real)
    for _ in range(6):
        facts = parse_object(read_file(os.path.join(folder, "package.json")))
        if facts.get("name") and facts.get("version"):
            return {"package": str(facts["name"]), "version": str(facts["version"])}
        facts = parse_object(read_file(os.path.join(folder, "installed.json")))
        if facts.get("version"):
            return {"package": "", "version": str(facts["version"])}
        folder = os.path.dirname(folder)
    return {"package": "", "version": ""}


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare the lieutenant's folders, and start keeper and agent, or find them running."""
    file = keeper_file(request.get("program"))
    spec = request["spec"]
    directory = spec["dir"] = expand(spec["dir"])
    runs = os.path.dirname(directory)
    known = handle_of(directory)
    if known is None or not is_alive(known):
        check_may_start(runs, directory)
        prepare(os.path.dirname(runs), request)
        forget_runs(runs, directory)
    command = [sys.executable, "-I", "-S", file, "start"]
    prefix = scope_prefix(str(spec["run"]))
    answer, errors = run_keeper([*prefix, *command], spec)
    if prefix and not answer:
        answer, errors = run_keeper(command, spec)
    if not answer.get("ok"):
        raise Refused(str(answer.get("error") or errors or "the supervisor did not start"))
    return {"handle": answer}


def check_may_start(runs: str, directory: str) -> None:
    """Raise Refused for a start that comes too late, before it touches files of a later one."""
    if os.path.exists(os.path.join(directory, "keeper.json")):
        raise Refused("this run has been started before and is over, or was given up")
    until = time.monotonic() + PREDECESSOR_SECONDS
    while runs_another(runs):
        if time.monotonic() > until:
            raise Refused("another supervisor of this lieutenant runs here")
        time.sleep(0.05)


def runs_another(runs: str) -> bool:
    """Return whether a keeper of this lieutenant is alive."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(runs):
            handle = handle_of(os.path.join(runs, name))
            if handle and is_alive(handle):
                return True
    return False


def prepare(root: str, request: dict[str, Any]) -> None:
    """Create folders and files of the lieutenant below `root`."""
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        for name in request.get("emptied", []):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        for name in [*request.get("emptied", []), *request.get("folders", [])]:
            os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)
    except OSError as trouble:
        text = f"cannot make {trouble.filename}: {trouble.strerror}"
        raise Refused(text) from None
    for name, text in request.get("once", {}).items():
        if not os.path.lexists(os.path.join(root, name)):
            write_file(os.path.join(root, name), text.encode("utf-8", "surrogatepass"))
    for name, text in request.get("files", {}).items():
        write_file(os.path.join(root, name), text.encode("utf-8", "surrogatepass"))


def forget_runs(runs: str, kept: str) -> None:
    """Remove the folders of earlier runs: reef has all of their journals."""
    with contextlib.suppress(OSError):
        for name in os.listdir(runs):
            directory = os.path.join(runs, name)
            handle = handle_of(directory)
            if directory != kept and not (handle and is_alive(handle)):
                shutil.rmtree(directory, ignore_errors=True)


def scope_prefix(run: str) -> list[str]:
    """Return the command that runs another one in a systemd scope of its own; empty without."""
    program = shutil.which("systemd-run", path=search_path())
    if program is None or not os.path.isdir("/run/systemd/system"):
        return []
    words = [program, "--scope", "--quiet", "--collect", "--unit=reef-" + run]
    if os.geteuid() != 0:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        if not os.path.exists(os.path.join(runtime, "systemd", "private")):
            return []
        words.append("--user")
    return [*words, "--"]


def run_keeper(command: list[str], spec: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the keeper's answer, and what was printed to stderr."""
    env = {"PATH": search_path(), "LC_ALL": "C.UTF-8"}
    for name in ("XDG_RUNTIME_DIR", "LD_LIBRARY_PATH"):
        if name in os.environ:
            env[name] = os.environ[name]
    if "XDG_RUNTIME_DIR" not in env:
        env["XDG_RUNTIME_DIR"] = f"/run/user/{os.geteuid()}"
    try:
        done = subprocess.run(
            command,
            input=json.dumps(spec).encode(),
            capture_output=True,
            timeout=START_SECONDS,
            env=env,
            cwd="/",
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as trouble:
        return {}, f"the supervisor did not start: {type(trouble).__name__}"
    return parse_object(done.stdout), done.stderr.decode("utf-8", "replace").strip()[-500:]
