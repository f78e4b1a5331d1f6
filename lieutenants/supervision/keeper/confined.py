"""Run a program once, isolated like an agent, but without a keeper and a journal."""

from __future__ import annotations

import os
import resource

from .journal import describe
from .json_lines import parse_object
from .pipes import read_all
from .sandbox import rules
from .sandbox.kernel import SandboxError

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


def become_confined() -> int:
    """Become the program of the spec (JSON) on stdin; return an exit status if that fails.

    The spec has `argv`, `env`, `cwd`, `isolation` (see `rules`), `max_file_bytes` and
    `max_cpu_seconds`. The reason of a failure is printed; the program has no input and output. With
    a text `input`, it has that input and our stdout, and a failure is printed to stderr.
    """
    spec = parse_object(read_all(0)) or {}
    given = spec.get("input")
    # Closed by exec, so whoever reads it knows by then that the program runs.
    report = os.dup(1 if given is None else 2)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2) if given is None else (2,):
        os.dup2(null, descriptor)
    if given is not None:
        os.dup2(_file_with(given.encode()), 0)
    try:
        _become(spec)
    except (OSError, SandboxError, KeyError, TypeError, ValueError) as trouble:
        os.write(report, describe(trouble).encode("utf-8", "replace"))
    return 126


def _file_with(data: bytes) -> int:
    """Return a file without a name; a pipe would not hold much."""
    file = os.memfd_create("input")
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _become(spec: dict[str, Any]) -> None:
    os.umask(0o077)
    for name, kind in (
        ("max_file_bytes", resource.RLIMIT_FSIZE),
        ("max_cpu_seconds", resource.RLIMIT_CPU),
    ):
        resource.setrlimit(kind, (int(spec[name]), int(spec[name])))
    rules.enter(spec["isolation"])
    os.chdir(spec["cwd"])
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - argv is what we are for
