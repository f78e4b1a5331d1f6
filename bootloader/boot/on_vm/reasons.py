"""Extract short failure reasons from program output: the cause, cut at word boundaries.

Standard library only: VMs that install the agent import it, too.
"""

from __future__ import annotations

import re

from reef_site.common.text import clip_start

# npm's lines around the cause.
_AROUND = re.compile(
    r"A complete log of this run|\bnpm error (code|errno|syscall|path|notsup|cwd)\b|"
    r"In most cases you|a package version that doesn|debug-\d+\.log|"
    r"^npm (verb|http|timing|notice|warn)\b|"
    r"problem related to network connectivity|behind a proxy|'proxy' config|network settings|"
    r"^(npm error )?(type: 'system'|[{}],?)$|^\s*(type|errno|code|syscall): ",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^npm (error|ERR!)\s*(notarget|[a-z]?\d{3}|network)?\s*")
# The boot script's last line.
_FAILED_STEP = "boot failed in "
_DISK_FULL = re.compile(r"No space left on device|\bENOSPC\b")


def cause(output: str, lines: int = 3) -> str:
    """Return the last output lines that tell the cause, joined into one line.

    The line with which a boot script ends comes first: texts are cut at their end.
    """
    if full := _DISK_FULL.search(output):
        where = output[: full.start()].rpartition("\n")[2].strip()
        return f"no space left on the disk: {clip_start(where, 200)}{full[0]}"
    found = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in found if not _AROUND.search(line)]
    words = [_PREFIX.sub("", line).strip() for line in telling or found]
    # Drop lines that a later line repeats.
    rest = [(word, words[at + 1 :]) for at, word in enumerate(words)]
    once = [word for word, later in rest if word and not any(word in each for each in later)]
    last = once[-lines:]
    return " / ".join(sorted(last, key=lambda line: not line.startswith(_FAILED_STEP)))
