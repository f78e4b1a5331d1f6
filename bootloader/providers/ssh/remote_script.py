"""Run a script on a machine whose login shell may be of any kind and may print anything.

The command is `sh -s`, which bash, zsh, fish, csh and dash run alike; the script is sent on stdin.
Its output is enclosed by two marker lines with a nonce. The script's text does not contain the
complete markers, so an echo of the input cannot be mistaken for them.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from reef_site.common.text import clip_start

COMMAND = "sh -s"
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[^\x20-\x7e\xa0-\U0010ffff]"
)


@dataclass(frozen=True)
class FramedScript:
    """A script with its markers."""

    script: str
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def begin(self) -> bytes:
        """Return the marker printed before the output, on stdout and stderr."""
        return f"\n--- reef begins {self.nonce}\n".encode()

    @property
    def end(self) -> bytes:
        """Return the marker printed after the output, followed by the exit status and a line
        break.
        """
        return f"\n--- reef ended {self.nonce} ".encode()

    def text(self, *, has_data: bool) -> bytes:
        """Return the text for the stdin of `sh -s`.

        It is one compound command: the shell has read all of it before it prints the first marker,
        so data sent after that marker reaches the script's stdin completely, even if the shell
        reads ahead.
        """
        stdin = "" if has_data else " </dev/null"
        return (
            '{ unset CDPATH; cd "$HOME" 2>/dev/null\n'
            f"printf '\\n--- reef %s {self.nonce}\\n' begins\n"
            f"printf '\\n--- reef %s {self.nonce}\\n' begins >&2\n"
            f"(\n{self.script}\n){stdin}\n"
            f"printf '\\n--- reef %s {self.nonce} %s\\n' ended \"$?\"\n"
            "exit 0\n}\n"
        ).encode()

    def reply(self, output: bytes, errors: bytes) -> Reply:
        """Separate the script's output and exit status from unrelated output of the login shell."""
        noise, began, rest = output.partition(self.begin)
        inner, ended, tail = rest.rpartition(self.end)
        status = tail.split(b"\n", 1)[0] if ended else b""
        before, marked, own = errors.partition(self.begin)
        return Reply(
            began=bool(began),
            status=int(status) if status.isdigit() else None,
            output=inner if ended else rest,
            errors=own if marked else errors,
            noise=printable(noise + b"\n" + (before if marked or not began else b"")),
        )


@dataclass(frozen=True)
class Reply:
    """The result of a script.

    `status` is None if it did not finish; `noise` is unrelated output.
    """

    began: bool
    status: int | None
    output: bytes
    errors: bytes
    noise: str


def printable(text: bytes, limit: int = 300) -> str:
    """Return the end of a machine's output as one line, without colours and control characters."""
    lines = (_CONTROL.sub("", line).strip() for line in text.decode("utf-8", "replace").split("\n"))
    return clip_start(" / ".join(line for line in lines if line), limit)
