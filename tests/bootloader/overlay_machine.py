"""A disposable machine: an overlay over `/` with processes of its own, in new namespaces.

Nothing that is done to it changes this machine. It shares the host's network and needs root.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.stack import ROOT
from tests.waiting import until

# Keeps downloads from package mirrors between runs.
CACHE = ROOT / ".cache" / "boots"

_BEGIN = """
set -e
mount -t tmpfs -o size=4g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mkdir -p "$2"
mount --bind "$2" "$1/root$2"
exec chroot "$1/root" bash -c 'touch /run/thrown; while :; do sleep 0.2; done'
"""


def is_supported() -> bool:
    """Return whether this machine allows such machines."""
    probe = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0


class Machine:
    """A disposable machine. Use as a context manager."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="reef-machine-")

    def __enter__(self) -> Self:
        unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]
        argv = [*unshare, "bash", "-c", _BEGIN, "begin", self.folder, str(CACHE)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        until(self._first_pid)
        until(lambda: self.run("test -e /run/thrown").returncode == 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)
        until(lambda: not self._first_pid())
        os.rmdir(self.folder)

    def _first_pid(self) -> str:
        """Return the pid of the machine's first process; empty without one."""
        try:
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return path.read_text().strip()
        except OSError:
            return ""

    def run(
        self, script: str, timeout: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash script on the machine, as root with a home of its own."""
        pid = self._first_pid()
        enter = ["nsenter", "-t", pid, "-m", "-p", "-r", "-w", "env", "-i"]
        argv = {
            **{
                name: text for name, text in os.environ.items() if name.startswith(("SSL_", "PIP_"))
            },
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "npm_config_cache": str(CACHE / "npm"),
            "PIP_CACHE_DIR": str(CACHE / "pip"),
            **env,
        }
        return subprocess.run(
            [*enter, *(f"{name}={text}" for name, text in argv.items()), "bash"],
            input=script,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def output_of(self, script: str, **env: str) -> str:
        """Return the output of a script that must succeed."""
        done = self.run(script, 300, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the machine."""
        place = f"mkdir -p \"$(dirname '{path}')\" && cat >'{path}' <<'E-N-D'\n{text}\nE-N-D\n"
        self.output_of(f"{place}chmod {mode:o} '{path}'")

    def changed(self) -> set[str]:
        """Return the paths of all files that were created or changed."""
        enter = ["nsenter", "-t", self._first_pid(), "-m"]
        upper = f"{self.folder}/upper"
        found = subprocess.run(
            [*enter, "find", upper, "-type", "f", "-printf", "/%P\\0"],
            capture_output=True,
            text=True,
            check=True,
        )
        return {path for path in found.stdout.split("\0") if path}
