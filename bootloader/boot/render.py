"""Render the boot script of one VM. Pure functions: plan in, text out.

The script's body is constant (`scripts/`). All variable values are assigned to variables in front
of it, each quoted for bash; no value is ever parsed as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from bootloader.boot.catalog import ORGANS
from bootloader.boot.plan import BootPlan, File
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable
from vmtree.organs import NONE

PARTS = ("start.sh", "tools.sh", "prepare.sh", "install.sh", "run.sh")
# One that bash does not need to escape.
MASK = "***"
# Names in an agent's environment whose values are not secret.
PUBLIC_NAMES = frozenset({"REEF_AGENT_MODEL", "REEF_MODEL_URL"})
_SCRIPTS = Path(__file__).parent / "scripts"
_PLAIN = re.compile(r"[A-Za-z0-9 _@%+=:,./~#&*()<>\[\]{};|?!^-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def boot_script(plan: BootPlan) -> str:
    """Render a bash script that joins the VM to the fleet.

    Raise BadInput if a text cannot be used on a VM.
    """
    about = _comment(plan.name or "${VERS_AGENT_NAME}")
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Reef bootloader — made for {about} ({_comment(plan.profile.type)})",
            "# May run again at any time: what is done already is left as it is.",
            "set -u",
            "",
            *_header(plan),
            "",
            body(),
        ]
    )


def loader(plan: BootPlan) -> str:
    """Render a short script that downloads the body from the root and continues as `boot_script`.

    For clouds with small size limits. Needs a plan with a join token and a dist. Raise BadInput.
    """
    if plan.dist is None:
        return boot_script(plan)
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Reef bootloader — loads the boot script of {_comment(plan.name)}"
            f" ({_comment(plan.profile.type)})",
            "set -u",
            "",
            *_header(plan),
            _assign("BODY", plan.dist.body_name),
            _assign("BODY_SHA256", plan.dist.body_sha256),
            "",
            load_body(),
        ]
    )


@cache
def load_body() -> str:
    """Return the constant part of all loaders."""
    return (_SCRIPTS / "load.sh").read_text()


@cache
def body() -> str:
    """Return the constant part of all boot scripts."""
    return "\n".join((_SCRIPTS / part).read_text() for part in PARTS)


def masked(plan: BootPlan) -> BootPlan:
    """Return the plan with its secrets masked, for pages, logs and comparisons."""
    token = MASK if plan.join_token else ""
    env = {name: text if _is_public(name, text) else MASK for name, text in plan.env.items()}
    return replace(plan, join_token=token, env=env)


def _is_public(name: str, text: str) -> bool:
    """Return whether the value may be shown. A URL that contains a password may not."""
    return name in PUBLIC_NAMES and "@" not in text


def quoted(text: str) -> str:
    """Quote any text as one ASCII word of bash. Raise BadInput."""
    if not is_storable(text):
        raise BadInput("a text for a VM has a NUL character or half of a Unicode pair")
    if _PLAIN.fullmatch(text):
        return f"'{text}'"
    characters = (_escaped(byte) for byte in text.encode())
    return f"$'{''.join(characters)}'"


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if _PLAIN.fullmatch(character) else f"\\x{byte:02x}"


def _header(plan: BootPlan) -> list[str]:
    profile, dist = plan.profile, plan.dist
    return [
        *_identity_lines(plan),
        _assign("ROOF_URL", plan.roof_url.rstrip("/")),
        _assign("SSH_DOMAIN", plan.ssh_domain),
        _assign("MACHINE_ID", plan.machine_id),
        _assign("RUN", plan.run),
        _assign("PROFILE", profile.type),
        _assign("ORGANS", ",".join(profile.organs)),
        _assign("WANT_AGENT", _yes(profile.agent)),
        _assign("OWN_REEF", _yes(profile.own_reef)),
        _assign("REEF_PORT", str(plan.reef_port)),
        _assign("AGENT_VERSION", plan.agent_version),
        _assign("NPM_REGISTRY", plan.npm_registry),
        _assign("NPM_SOURCE", plan.npm_registry or plan.npm_source),
        _assign("PYPI_INDEX", plan.pypi_index),
        _assign("APT_MIRROR", plan.apt_mirror),
        _assign("WHEEL", dist.wheel_name if dist else ""),
        _assign("WHEEL_SHA256", dist.wheel_sha256 if dist else ""),
        _assign("LOCK", dist.lock_name if dist else ""),
        _assign("LOCK_SHA256", dist.lock_sha256 if dist else ""),
        _assign("FLEET_AGENT", dist.agent_name if dist else ""),
        _assign("FLEET_AGENT_SHA256", dist.agent_sha256 if dist else ""),
        _list("NAMESERVERS", plan.nameservers),
        _list("AUTHORIZED_KEYS", plan.authorized_keys),
        _list("PACKAGES", profile.packages),
        "# Path, mode and text of each file.",
        _list("FILES", (word for file in profile.files for word in _file(file))),
        "# Names and values of the environment, here and of this VM's own reef.",
        _list("IDENTITY", _pairs(_identity(plan))),
        _list("REEF_ENV", _pairs(_reef_env(plan))),
    ]


def _identity_lines(plan: BootPlan) -> list[str]:
    """Assign the VM's identity, or read it from the script's environment if the plan has none."""
    if plan.vm_id:
        return [
            _assign("VM_ID", plan.vm_id),
            _assign("NAME", plan.name),
            _assign("PARENT_ID", plan.parent_vm_id or ""),
            _assign("ADDRESS", plan.address),
            _assign("JOIN_TOKEN", plan.join_token),
        ]
    return [
        "VM_ID=${VERS_VM_ID:-}",
        "NAME=${VERS_AGENT_NAME:-$VM_ID}",
        "PARENT_ID=${REEF_PARENT_VM_ID:-}",
        _assign("ADDRESS", ""),
        "JOIN_TOKEN=${REEF_JOIN_TOKEN:-}",
    ]


def _identity(plan: BootPlan) -> dict[str, str]:
    """Return the identity without the values that the script itself adds."""
    own = {"VERS_VM_ID", "VERS_AGENT_NAME", "REEF_PARENT_VM_ID", "REEF_ADDRESS"}
    return {name: text for name, text in plan.identity().items() if name not in own}


def _reef_env(plan: BootPlan) -> dict[str, str]:
    """Return the environment of the VM's own reef, with only the organs that reef has code for."""
    known = [organ for organ in plan.profile.organs if organ in ORGANS]
    return {**plan.env, "REEF_ORGANS": ",".join(known) or NONE}


def _pairs(values: dict[str, str]) -> Iterable[str]:
    for name, text in values.items():
        if not _NAME.fullmatch(name):
            raise BadInput(f"env: {name!r} cannot be the name of an environment variable", "env")
        yield from (name, text)


def _file(file: File) -> tuple[str, str, str]:
    return file.path, f"{file.mode:o}", file.text


def _assign(name: str, text: str) -> str:
    return f"{name}={quoted(text)}"


def _list(name: str, texts: Iterable[str]) -> str:
    return f"{name}=({' '.join(map(quoted, texts))})"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _comment(text: str) -> str:
    """Return the text as a safe one-line comment: plain characters, limited length."""
    return re.sub(r"[^A-Za-z0-9 ._${}-]+", "?", text)[:60]
