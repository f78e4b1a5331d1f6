"""The programs that reef brings to a VM: the keeper, helpers of agents, the relay."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shlex
import zlib
from pathlib import Path

from lieutenants.agents import DIALECTS
from lieutenants.supervision.keeper.program import program
from lieutenants.supervision.transports.ssh import relay as relay_package

# As `relay.starting` knows it.
KEEPER = "keeper.pyz"
_MIN_PYTHON = (3, 8)
NO_PYTHON = "has no python3, which agents need there; install Python 3.8 or newer"
OLD_PYTHON = f"has Python %d.%d; agents need {_MIN_PYTHON[0]}.{_MIN_PYTHON[1]} or newer there"
# In the order in which they import each other.
_MODULES = (
    *("machine", "starting", "older", "found", "journals", "changes", "operations", "main"),
)
# Reads the relay from stdin, and not a byte more.
_BOOTSTRAP = f"""\
import json, os, sys, types, zlib
if sys.version_info < {_MIN_PYTHON}:
    sys.exit({OLD_PYTHON!r} % sys.version_info[:2])
size, data = int(sys.argv[1]), b""
while len(data) < size:
    chunk = os.read(0, size - len(data))
    if not chunk:
        sys.exit("ended the connection")
    data += chunk
for name, source in json.loads(zlib.decompress(data).decode()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main()
"""


@functools.cache
def relay() -> bytes:
    """Return the compressed source of the relay: names and texts of its modules."""
    folder, package = Path(str(relay_package.__file__)).parent, relay_package.__name__
    modules = [(f"{package}.{each}", (folder / f"{each}.py").read_text()) for each in _MODULES]
    return zlib.compress(json.dumps(modules).encode(), 9)


def relay_script() -> str:
    """Return the sh script that starts the relay, which it then reads from its stdin."""
    return (
        'PATH="$PATH:/usr/local/bin:/usr/bin:/bin:$HOME/.local/bin"; export PATH\n'
        f"command -v python3 >/dev/null 2>&1 || {{ echo {shlex.quote(NO_PYTHON)} >&2; exit 3; }}\n"
        f"exec python3 -I -S -c {shlex.quote(_BOOTSTRAP)} {len(relay())}"
    )


@functools.cache
def files() -> dict[str, bytes]:
    """Map names to the programs that are stored on a VM."""
    helpers = [path for dialect in DIALECTS.values() for path in dialect.remote_helpers]
    return {KEEPER: program(), **{path.name: path.read_bytes() for path in helpers}}


@functools.cache
def checksum() -> str:
    """Return the checksum of all programs, which is the name of their folder there."""
    digest = hashlib.sha256()
    for name, data in sorted(files().items()):
        digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()


def encoded_files() -> dict[str, str]:
    """Map names to the programs in base64."""
    return {name: base64.b64encode(data).decode() for name, data in files().items()}
