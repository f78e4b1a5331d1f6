"""Build boot plans from a request and the config at the VM's place in the tree."""

from __future__ import annotations

import functools
import logging
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from bootloader import providers
from bootloader.boot.plan import BootPlan, Profile
from bootloader.exceptions import ProviderError
from bootloader.join import downloads
from bootloader.join import tokens as join_tokens
from bootloader.models import Machine
from reef_site.common.errors import BadInput
from versconfig import config, keys
from vmtree.models import Node

logger = logging.getLogger(__name__)

MAX_URL_LENGTH = 2000


def make_plan(
    *,
    vm_id: str,
    name: str,
    profile: Profile,
    parent_vm_id: str | None = None,
    roof_url: str = "",
    join_token: str = "",
    machine_id: str = "",
    address: str = "",
    run: str = "",
    secrets: bool = True,
) -> BootPlan:
    """Return the plan for a VM below this parent, where config is resolved.

    `secrets=False` omits keys.

    Raise BadInput, PackagingFailed, and the errors of config for invalid values.
    """
    node = Node.objects.active().filter(vm_id=parent_vm_id).first() if parent_vm_id else None
    return BootPlan(
        vm_id=vm_id,
        name=name,
        profile=profile,
        roof_url=normalize_root_url(roof_url or config.text("VERS_INFRA_URL", node)),
        join_token=join_token,
        parent_vm_id=parent_vm_id or None,
        address=address or provided_address(vm_id),
        ssh_domain=config.text("REEF_SSH_DOMAIN", node),
        machine_id=machine_id,
        run=run,
        user=config.text("REEF_SSH_USER", node),
        authorized_keys=tuple(config.lines("REEF_SSH_AUTHORIZED_KEYS", node)),
        agent_version=config.text("REEF_AGENT_VERSION", node),
        npm_registry=config.text("REEF_NPM_REGISTRY", node),
        npm_source=npm_source(),
        pypi_index=config.text("REEF_PYPI_INDEX", node),
        apt_mirror=config.text("REEF_APT_MIRROR", node),
        env=environment(node) if secrets and profile.agent else {},
        dist=downloads.current(),
    )


def provided_address(vm_id: str) -> str:
    """Return the address of a provider's VM; empty for any other VM."""
    machine = Machine.objects.active().filter(vm_id=vm_id).first() if vm_id else None
    if machine is None:
        return ""
    with suppress(ProviderError):
        return providers.get(machine.provider).address(machine.machine_id)
    return ""


@functools.cache
def npm_source() -> str:
    """Return the registry that npm uses on this machine if VMs can reach it; otherwise empty.

    VMs without npm download Node and npm there.
    """
    npm = shutil.which("npm")
    if npm is None:
        return ""
    command = [npm, "config", "get", "registry"]
    try:
        registry = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("npm does not tell its registry (%s)", error)
        return ""
    here = urlsplit(registry).hostname in (None, "localhost", "127.0.0.1", "::1")
    return "" if here or "@" in registry else registry.rstrip("/")


def environment(node: Node | None) -> dict[str, str]:
    """Return additional environment for agents on the VM: the model, keys of its provider.

    VMs whose profile has no coding agent get none of it.
    """
    names = ["REEF_AGENT_MODEL", "REEF_MODEL_URL", *keys.MODEL_KEYS]
    found = {name: config.text(name, node) for name in names}
    return {name: text for name, text in found.items() if text}


def with_token(
    plan: BootPlan, *, by: object, minutes: int = join_tokens.DEFAULT_MINUTES
) -> BootPlan:
    """Return the plan with a new join token. Older unused tokens of the VM are voided."""
    profile = plan.profile
    token = join_tokens.issue(
        vm_id=plan.vm_id,
        name=plan.name,
        profile=profile.type,
        category=profile.category,
        role=profile.role,
        parent_vm_id=plan.parent_vm_id,
        by=by,
        minutes=minutes,
        dna=profile.dna,
        address=plan.address,
    )
    return replace(plan, join_token=token)


def normalize_root_url(url: str) -> str:
    """Return the root's address without a trailing slash. Raise BadInput."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or len(url) > MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise BadInput("roofReefUrl: must be a URL of http or https", "roofReefUrl")
    return url.rstrip("/")
