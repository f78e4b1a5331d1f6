"""Render user-data, meta-data and a NoCloud seed for VMs that start with cloud-init.

Pure functions: plan in, text out. YAML is dumped from data, never concatenated.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from dataclasses import replace
from typing import Any

import yaml

from bootloader.boot import iso
from bootloader.boot.plan import BootPlan, File
from bootloader.boot.render import boot_script, loader

# cloud-init puts the script here; the script itself uses REEF_HOME.
FOLDER = "/var/lib/reef-boot"
SCRIPT = f"{FOLDER}/boot.sh"
LOG = "/var/log/reef-boot.log"
# As root, so that the system's packages and units can be used. A failed run can be repeated.
RUN = f"umask 077; /bin/bash {SCRIPT} >>{LOG} 2>&1 && rm -rf {FOLDER}"
_MAX_HOST_NAME = 63
_WIDTH = 1 << 16
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def user_data(plan: BootPlan, *, whole: bool = False) -> str:
    """Render a `#cloud-config` with users, keys, files, and the boot script run at the first boot.

    The script is a short loader, because clouds limit the size of user-data; with `whole` it is the
    complete script. Raise BadInput if a text cannot be used on a VM.
    """
    # cloud-init itself authorizes the keys; the script runs as root, whoever the user is.
    make = boot_script if whole else loader
    script = make(replace(plan, authorized_keys=()))
    config: dict[str, Any] = {
        "hostname": host_name(plan),
        "preserve_hostname": False,
        "users": _users(plan),
        "disable_root": plan.user != "root",
        "ssh_pwauth": False,
        "growpart": {"mode": "auto", "devices": ["/"]},
        "resize_rootfs": True,
        "write_files": [
            *(_file(file) for file in plan.profile.files if file.path.startswith("/")),
            _file(File(SCRIPT, script, 0o700)),
        ],
        "runcmd": [["/bin/bash", "-c", RUN]],
    }
    if plan.apt_mirror:
        config["apt"] = {"primary": [{"arches": ["default"], "uri": plan.apt_mirror}]}
    return "#cloud-config\n" + dumped(config)


def meta_data(plan: BootPlan) -> str:
    """Render NoCloud meta-data: the machine's identity, and under `reef` its intended size,
    which cloud-init keeps on the VM.
    """
    size = plan.profile.size
    wanted = {"vcpus": size.vcpus, "memory_mib": size.memory_mib, "disk_mib": size.disk_mib}
    facts: dict[str, Any] = {
        "instance-id": instance_id(plan),
        "local-hostname": host_name(plan),
        "reef": {
            "vm_id": plan.vm_id,
            "name": plan.name,
            "profile": plan.profile.type,
            **{name: number for name, number in wanted.items() if number},
        },
    }
    return dumped(facts)


def seed(plan: BootPlan) -> bytes:
    """Return a zip with `user-data` and `meta-data`, the two files of a NoCloud seed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _seed_files(plan).items():
            about = zipfile.ZipInfo(name, _ZIP_DATE)
            about.external_attr = 0o600 << 16
            archive.writestr(about, content)
    return out.getvalue()


def seed_image(plan: BootPlan) -> bytes:
    """Return the same seed as a CD image with the label that cloud-init looks for."""
    return iso.image("cidata", _seed_files(plan))


def _seed_files(plan: BootPlan) -> dict[str, bytes]:
    return {"user-data": user_data(plan).encode(), "meta-data": meta_data(plan).encode()}


def host_name(plan: BootPlan) -> str:
    """Return a valid DNS label made from the VM's name; never empty."""
    words = re.sub(r"[^a-z0-9]+", "-", plan.name.lower()).strip("-")
    return words[:_MAX_HOST_NAME].strip("-") or f"vm-{_digest(plan.vm_id)[:12]}"


def instance_id(plan: BootPlan) -> str:
    """Return an id unique to the VM, so that a copied disk boots as the VM it is now."""
    return f"reef-{_digest(plan.vm_id)[:32]}"


def dumped(value: object) -> str:
    """Dump YAML that loads back to the same value, in Unicode, with lines not folded."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
        width=_WIDTH,
        default_flow_style=False,
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Dump multi-line texts as blocks, so that the script in them is readable."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML treats these characters as line ends and would load others.
    needs_quotes = any(character in text for character in "\r\x85\u2028\u2029\ufeff")
    style = '"' if needs_quotes else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _users(plan: BootPlan) -> list[Any]:
    keys = list(plan.authorized_keys)
    if plan.user == "root":
        return ["default", {"name": "root", **({"ssh_authorized_keys": keys} if keys else {})}]
    user = {"name": plan.user, "shell": "/bin/bash", "lock_passwd": True}
    user["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    return ["default", {**user, **({"ssh_authorized_keys": keys} if keys else {})}]


def _file(file: File) -> dict[str, str]:
    return {"path": file.path, "permissions": f"0{file.mode:o}", "content": file.text}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
