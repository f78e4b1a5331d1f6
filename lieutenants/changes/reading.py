"""Asks git about a lieutenant's folder: on this host as its agent's user, or over SSH."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings

from lieutenants.agents.base import Program, prefix_of
from lieutenants.exceptions import IsolationUnavailable, ProgramUnavailable, TransportError
from lieutenants.isolation import folders
from lieutenants.isolation.confined import read_confined
from lieutenants.isolation.homes import home_of
from lieutenants.isolation.plan import Plan, make_plan
from lieutenants.models import Lieutenant
from lieutenants.supervision.keeper import changes as program
from lieutenants.supervision.keeper import json_lines
from lieutenants.supervision.transports import ssh_transport_of
from reef_site.common.errors import BadInput, Conflict

logger = logging.getLogger(__name__)

Json = dict[str, Any]
# Git may need much memory and disk.
AT_ONCE, _WAIT_SECONDS = 3, 15.0
MORE_SECONDS = 8.0
_MAX_FILE_BYTES, _MAX_ANSWER_BYTES = 8 << 20, 4 << 20
# Agents' users may have no access to the one that runs reef.
_SYSTEM_PYTHON = "/usr/bin/python3"


class Slots(NamedTuple):
    """Places for readings that run at once, and how long one waits for a place."""

    places: threading.BoundedSemaphore
    wait_seconds: float


_SLOTS = Slots(threading.BoundedSemaphore(AT_ONCE), _WAIT_SECONDS)
# Starts of agents do not wait for pages.
START_SLOT = Slots(threading.BoundedSemaphore(1), 2.0)
# In the order in which they import each other.
_MODULES = (
    *("limits", "events", "json_lines", "pipes", "changes", "changes.names", "changes.git"),
    *("changes.heads", "changes.bases", "changes.listing", "changes.one_file", "changes.answer"),
)
# The modules come with the request: an isolated program sees none of reef's folders.
_BOOTSTRAP = """\
import json, os, sys, types
given = json.loads(os.fdopen(0).read())
for name, package, source in given["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__ = package
    exec(compile(source, name, "exec"), module.__dict__)
module.reply(given["request"])
"""


def read_changes(lieutenant: Lieutenant, request: Json, slots: Slots = _SLOTS) -> Json:
    """Return git's answer, as `keeper.changes` describes it; it comes from the agent's side.

    Raises ProgramUnavailable, BadInput, Forbidden, IsolationUnavailable.
    """
    if not lieutenant.is_local:
        return _read_remote(lieutenant, request)
    if lieutenant.data_folder != settings.DATA_FOLDER_ID:
        raise ProgramUnavailable(f"Its files are on host {lieutenant.host}; ask again")
    if not slots.places.acquire(timeout=slots.wait_seconds):
        raise ProgramUnavailable("Too many changes are being read; try again soon")
    try:
        return _read_local(lieutenant, request)
    finally:
        slots.places.release()


def _read_remote(lieutenant: Lieutenant, request: Json) -> Json:
    frozen = lieutenant.frozen_process()
    if frozen is not None and frozen.vm_paused_at is not None:
        raise Conflict("Its VM is paused. Resume the lieutenant to see its changes.")
    seconds = float(request["seconds"]) + MORE_SECONDS
    try:
        return ssh_transport_of(lieutenant).read_changes(request, seconds=seconds)
    except TransportError as error:
        raise ProgramUnavailable(str(error)) from None


def _read_local(lieutenant: Lieutenant, request: Json) -> Json:
    home = home_of(lieutenant.pk)
    if not os.path.isdir(lieutenant.folder):
        return {"problem": "gone"}
    if not home.tmp.is_dir() or not home.prompt.exists():
        return {"problem": "not_started"}
    try:
        folder = folders.check_at_start(lieutenant)
        python, plan = _plan(lieutenant, folder)
        output = read_confined(
            plan,
            [str(python), "-I", "-S", "-c", _BOOTSTRAP],
            json.dumps({"modules": _modules(), "request": request}),
            env={"PATH": plan.path, "HOME": str(home.user), "TMPDIR": str(home.tmp)},
            cwd=folder,
            seconds=float(request["seconds"]) + MORE_SECONDS,
            max_file_bytes=_MAX_FILE_BYTES,
            max_bytes=_MAX_ANSWER_BYTES,
        )
    except subprocess.TimeoutExpired:
        return {"problem": "slow"}
    except BadInput as error:
        # It says which folder an agent may not have.
        raise Conflict(str(error)) from None
    except OSError as error:
        raise ProgramUnavailable(f"git cannot be run there ({error})") from None
    answer = json_lines.parse_object(output)
    if answer is None:
        logger.warning("%s: no answer about its changes", lieutenant)
        raise ProgramUnavailable("git was ended before it answered; try again")
    return answer


def _plan(lieutenant: Lieutenant, folder: Path) -> tuple[Path, Plan]:
    """Return a Python and its isolation: that of the agent, never a weaker one.

    Raises IsolationUnavailable, OSError.
    """
    home, trouble = home_of(lieutenant.pk), None
    for path in (sys.executable, _SYSTEM_PYTHON):
        if os.path.exists(path):
            python = Path(os.path.realpath(path))
            git = Program("git", [str(python)], files=prefix_of(python))
            try:
                plan = make_plan(home, folder, git)
            except IsolationUnavailable as error:
                trouble = error
                continue
            # Before its first start has ended, it has none yet.
            if plan.mode == (lieutenant.isolation or plan.mode):
                return python, plan
    raise trouble or IsolationUnavailable(
        f"Its agent is isolated by {lieutenant.isolation}, which git cannot be here"
    )


@functools.cache
def _modules() -> list[tuple[str, str, str]]:
    """Return name, package and source of the modules that the isolated program is made of."""
    root = Path(str(program.__file__)).parent.parent
    found = []
    for each in _MODULES:
        path = root.joinpath(*each.split("."))
        is_package = path.is_dir()
        file = path / "__init__.py" if is_package else path.with_suffix(".py")
        name = f"keeper.{each}"
        package = name if is_package else name.rpartition(".")[0]
        found.append((name, package, file.read_text(encoding="utf-8")))
    return found
