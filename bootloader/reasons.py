"""Why something failed, in few words: the cause, whole words, nothing that only says where to look.

Standard library only: VMs that install the agent read it, too.
"""

from __future__ import annotations

import re

from reef_site.common.text import clip_start

# What npm says around the cause.
_AROUND = re.compile(
    r"A complete log of this run|\bnpm error (code|errno|syscall|path|notsup|cwd)\b|"
    r"In most cases you|a package version that doesn|debug-\d+\.log|"
    r"^npm (verb|http|timing|notice|warn)\b|"
    r"problem related to network connectivity|behind a proxy|'proxy' config|network settings|"
    r"^(npm error )?(type: 'system'|[{}],?)$|^\s*(type|errno|code|syscall): ",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^npm (error|ERR!)\s*(notarget|[a-z]?\d{3}|network)?\s*")
_DISK_FULL = re.compile(r"No space left on device|\bENOSPC\b")


def cause(said: str, lines: int = 3) -> str:
    """The last lines of a program's output that tell the cause, as one line."""
    if full := _DISK_FULL.search(said):
        where = said[: full.start()].rpartition("\n")[2].strip()
        return f"no space left on the disk: {clip_start(where, 200)}{full[0]}"
    found = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in found if not _AROUND.search(line)]
    words = [_PREFIX.sub("", line).strip() for line in telling or found]
    # What is said again by a later line is said once.
    rest = [(word, words[at + 1 :]) for at, word in enumerate(words)]
    once = [word for word, later in rest if word and not any(word in each for each in later)]
    return " / ".join(once[-lines:])
