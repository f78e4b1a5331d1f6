"""Runs git so that a repository in an agent's hands runs nothing.

Git reads the repository's objects and index through a git folder of our own, whose configuration
has no filters, drivers, hooks, monitors, aliases and remotes: attributes of files that name some
find none. From the repository's own configuration, only values of `_KEPT` are taken. The few
commands that need the real git folder (`Git.ask`) only resolve names.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time

from ..limits import KB

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DETAIL = 300
_READ_BYTES = 64 * KB
_MAX_ANSWER = 256 * KB
# Values that decide how files are compared, and that run nothing.
_KEPT = (
    *("core.autocrlf", "core.eol", "core.filemode", "core.ignorecase", "core.symlinks"),
    *("core.precomposeunicode", "core.trustctime", "core.checkstat", "extensions.objectformat"),
)
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9]{1,20}")
_OFF = (
    *("core.fsmonitor=", "core.hooksPath=/dev/null", "core.pager=cat", "core.sshCommand=false"),
    *("core.attributesFile=/dev/null", "core.untrackedCache=false", "diff.external="),
    *("protocol.allow=never", "submodule.recurse=false", "gc.auto=0", "maintenance.auto=false"),
    *("credential.helper=", "log.showSignature=false", "core.bigFileThreshold=4m"),
)
EMPTY_TREES = {
    40: "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    64: "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}


class Problem(Exception):
    """The changes cannot be read. `code` is for reef, which has a sentence for it."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail[:MAX_DETAIL]


class Failed(Exception):
    """Git has refused; the text is the last line of what it said."""


class Output(bytes):
    """The output of a command; `is_cut` if it was longer than what was read."""

    is_cut = False


class Git:
    """A repository. Use as a context manager. `folder` is where paths begin."""

    def __init__(self, folder: str, program: str, path: str, deadline: float) -> None:
        self.folder = folder
        self._program, self._deadline = program, deadline
        self._scratch = _make_scratch()
        self.env = {
            "PATH": path,
            "HOME": self._scratch,
            "XDG_CONFIG_HOME": self._scratch,
            "LC_ALL": "C",
            "TZ": "UTC",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_PAGER": "cat",
            "GIT_ASKPASS": "false",
            "GIT_SSH_COMMAND": "false",
            "GIT_EDITOR": "false",
        }
        # A shared folder may belong to another user; git would refuse to read it.
        self._write(".gitconfig", "[safe]\n\tdirectory = *\n")

    def __enter__(self) -> Git:
        return self

    def __exit__(self, *_: object) -> None:
        for root, folders, files in os.walk(self._scratch, topdown=False):
            for name in (*files, *folders):
                path = os.path.join(root, name)
                with contextlib.suppress(OSError):
                    (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(
                        path
                    )
        with contextlib.suppress(OSError):
            os.rmdir(self._scratch)

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self._scratch, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)

    # -- the real git folder: only to resolve names ------------------------------------------

    def ask(self, *words: str) -> str:
        """Return what a command that resolves names prints. Raises Failed, Problem."""
        output = self._run(words, self.env, _MAX_ANSWER)
        return output.decode("utf-8", "surrogateescape").rstrip("\n")

    # -- our own git folder: everything else ---------------------------------------------------

    def use(self, *, git_folder: str, common: str, top: str, head: str) -> None:
        """Make the git folder of our own, which `run` uses.

        `common` is the folder with the objects, `top` that of the files, `head` the commit that is
        checked out, empty if there is none.
        """
        values = self._kept_values()
        lines = ["[core]", "\trepositoryformatversion = 1", "\tbare = false"]
        for name, value in values.items():
            section, _, key = name.partition(".")
            lines += ["[{}]".format(section), "\t{} = {}".format(key, value)]
        excludes = os.path.join(common, "info", "exclude")
        self._write("git/config", "\n".join(lines) + "\n")
        self._write("git/HEAD", "{}\n".format(head or "ref: refs/heads/unborn"))
        os.makedirs(os.path.join(self._scratch, "git", "refs"), exist_ok=True)
        for name in os.listdir(git_folder):
            if name.startswith("sharedindex."):
                link = os.path.join(self._scratch, "git", name)
                os.symlink(os.path.join(git_folder, name), link)
        self._own_env = {
            **self.env,
            "GIT_DIR": os.path.join(self._scratch, "git"),
            "GIT_OBJECT_DIRECTORY": os.path.join(common, "objects"),
            "GIT_INDEX_FILE": os.path.join(git_folder, "index"),
            "GIT_WORK_TREE": top,
        }
        if os.path.exists(os.path.join(common, "shallow")):
            self._own_env["GIT_SHALLOW_FILE"] = os.path.join(common, "shallow")
        self._excludes = ["-c", "core.excludesFile=" + excludes]

    def _kept_values(self) -> dict[str, str]:
        pattern = "^({})$".format("|".join(_KEPT).replace(".", r"\."))
        try:
            found = self.ask("config", "--null", "--get-regexp", pattern)
        except Failed:
            return {}
        pairs = [each.partition("\n") for each in found.split("\0") if each]
        return {name: value for name, _, value in pairs if _PLAIN_VALUE.fullmatch(value)}

    def run(self, *words: str | bytes, limit: int) -> Output:
        """Return up to `limit` bytes that a command prints. Raises Failed, Problem."""
        return self._run([*self._excludes, *words], self._own_env, limit)

    # -- processes -----------------------------------------------------------------------------

    def _run(self, words: Sequence[str | bytes], env: dict[str, str], limit: int) -> Output:
        command: list[str | bytes] = [self._program, "--no-pager", "--no-optional-locks"]
        command.append("--literal-pathspecs")
        for value in _OFF:
            command += ["-c", value]
        with tempfile.TemporaryFile(dir=self._scratch) as errors:
            with subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env=env,
            ) as process:
                try:
                    data, is_cut = self._read(process, limit)
                finally:
                    if process.poll() is None:
                        process.kill()
            if process.returncode and not is_cut:
                errors.seek(0)
                raise Failed(_last_line(errors.read(_READ_BYTES)))
        output = Output(data[:limit])
        output.is_cut = is_cut
        return output

    def _read(self, process: subprocess.Popen[bytes], limit: int) -> tuple[bytes, bool]:
        """Return what it prints, and whether that was more. Raises Problem after the deadline."""
        assert process.stdout is not None
        pipe, data = process.stdout.fileno(), bytearray()
        while len(data) <= limit:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise Problem("slow")
            chunk = os.read(pipe, _READ_BYTES)
            if not chunk:
                try:
                    process.wait(max(0.1, self._deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise Problem("slow") from None
                return bytes(data), False
            data += chunk
        return bytes(data), True


def _make_scratch() -> str:
    """Create a folder for our own files; never in the repository. Raises Problem."""
    for place in filter(None, (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
        try:
            return tempfile.mkdtemp(prefix="reef-changes-", dir=place)
        except OSError:
            continue
    raise Problem("no_room")


def _last_line(data: bytes) -> str:
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "git failed")[:MAX_DETAIL]
