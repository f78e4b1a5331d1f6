"""Script and cloud-init of a provisioning: as they are used, and as people may see them.

What people see is made with words in the place of secrets, not by searching for them afterwards.
What a VM says is searched: it may repeat what it was given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.conf import settings

from bootloader import dist, joining, render
from bootloader.models import Provisioning
from bootloader.plan import BootPlan
from bootloader.provisioning import resolving
from bootloader.provisioning.wishes import Wish, of_row
from versconfig import config, keys
from vmtree.models import Node

MASK = render.MASK
TO_COME = "id-of-the-vm"
# How long a VM may take from the upload to its join.
TOKEN_MINUTES = 60
_TOKENS = re.compile(r"\breef(?:join)?_[A-Za-z0-9_-]{20,}")
_URL_PASSWORDS = re.compile(r"(?<=://)[^/\s@]+:[^/\s@]+(?=@)")
_PRIVATE_KEYS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)", re.S)
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Texts:
    """The boot script and the cloud-init user-data of one VM."""

    script: str
    user_data: str


def real(row: Provisioning, address: str) -> str:
    """The script that is to run, with a join token of its own: never shown, logged or stored."""
    wish, node = of_row(row), resolving.parent_of(row)
    profile = resolving.profile_of(wish)
    token = joining.issue(
        vm_id=row.vm_id,
        name=row.name,
        profile=profile.type,
        category=profile.category,
        role=profile.role,
        parent_vm_id=row.parent_vm_id or None,
        by=row.actor,
        minutes=TOKEN_MINUTES,
        dna=profile.dna,
        address=address,
    )
    return render.boot_script(_plan(wish, node, vm_id=row.vm_id, token=token, address=address))


def shown(row: Provisioning, address: str) -> Texts:
    """What was used for this VM, secrets masked."""
    plan = _plan(of_row(row), resolving.parent_of(row), vm_id=row.vm_id, address=address)
    return _texts(plan)


def previewed(wish: Wish, node: Node | None, name: str) -> Texts:
    """What would be used for a VM of this wish, secrets masked."""
    return _texts(_plan(wish, node, vm_id=TO_COME, name=name))


def _texts(plan: BootPlan) -> Texts:
    covered = render.masked(plan)
    from bootloader import cloud_init

    return Texts(render.boot_script(covered), cloud_init.user_data(covered))


def _plan(
    wish: Wish,
    node: Node | None,
    *,
    vm_id: str,
    token: str = MASK,
    address: str = "",
    name: str = "",
) -> BootPlan:
    return BootPlan(
        vm_id=vm_id,
        name=name or wish.name,
        profile=resolving.profile_of(wish),
        roof_url=wish.roof_url or config.text("VERS_INFRA_URL", node),
        join_token=token,
        parent_vm_id=wish.parent_vm_id or None,
        address=address,
        user=config.text("REEF_SSH_USER", node),
        authorized_keys=tuple(config.lines("REEF_SSH_AUTHORIZED_KEYS", node)),
        agent_version=wish.agent_version or config.text("REEF_AGENT_VERSION", node),
        npm_registry=config.text("REEF_NPM_REGISTRY", node),
        pypi_index=config.text("REEF_PYPI_INDEX", node),
        apt_mirror=config.text("REEF_APT_MIRROR", node),
        env=_env(node),
        dist=dist.current(),
    )


def _env(node: Node | None) -> dict[str, str]:
    """What agents on the VM may have beside their identity: the model and keys for models."""
    names = ["REEF_AGENT_MODEL", "REEF_MODEL_URL", *keys.MODEL_KEYS]
    found = config.resolve_all(names, node)
    return {name: each.value for name, each in found.items() if each.value}


def without_secrets(row: Provisioning, text: str) -> str:
    """What a VM said, without the secrets that we know and whatever looks like one."""
    for secret in _secrets(resolving.parent_of(row)):
        text = text.replace(secret, MASK)
    text = _PRIVATE_KEYS.sub(MASK, text)
    return _URL_PASSWORDS.sub(MASK, _TOKENS.sub(MASK, text))


def _secrets(node: Node | None) -> list[str]:
    """The secrets that hold for this node, longest first."""
    names = [key.name for key in keys.ALL.values() if key.secret]
    found = {each.value for each in config.resolve_all(names, node).values() if each.value}
    found.add(settings.ROOT_TOKEN)
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len)[::-1]
