"""Script and cloud-init of a provisioning: as they are used, and as people may see them.

What people see is made with words in the place of secrets, not by searching for them afterwards.
What a VM says is searched: it may repeat what it was given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta

from django.conf import settings
from django.db.models import Max

from bootloader import cloud_init, planning, render
from bootloader.models import Provisioning
from bootloader.plan import BootPlan
from bootloader.provisioning import resolving
from bootloader.provisioning.wishes import Wish, of_row
from reef_site.common import clock
from versconfig import config, keys
from versconfig.screening import sources
from vmtree.models import Node

MASK = render.MASK
TO_COME = "id-of-the-vm"
# How long a VM may take from the upload to its join.
TOKEN_MINUTES = 60
_TOKENS = re.compile(r"\breef(?:join)?_[A-Za-z0-9_-]{20,}")
_URL_PASSWORDS = re.compile(r"(?<=://)[^/\s@]+:[^/\s@]+(?=@)")
_PRIVATE_KEYS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)", re.S)
_SHORTEST_SECRET = 8
# How long the texts of an ended provisioning are kept: they are large. The newest of each profile
# stays for good, for previews to compare with.
KEPT = timedelta(days=30)
_MOST_FORGOTTEN = 500


@dataclass(frozen=True)
class Texts:
    """The boot script and the cloud-init user-data of one VM."""

    script: str
    user_data: str


def real(row: Provisioning, address: str) -> str:
    """The script that is to run, with a join token of its own: never shown, logged or stored."""
    plan = _plan_of(row, address)
    return render.boot_script(planning.with_token(plan, by=row.actor, minutes=TOKEN_MINUTES))


def shown(row: Provisioning, address: str) -> Texts:
    """What was used for this VM, secrets masked."""
    return _texts(_plan_of(row, address))


def sweep() -> None:
    """Forget the texts of provisionings that ended long ago."""
    written = Provisioning.objects.exclude(script="")
    newest = written.order_by().values("profile").annotate(newest=Max("pk"))
    old = written.filter(ended_at__lt=clock.now() - KEPT)
    old = old.exclude(pk__in=[each["newest"] for each in newest])
    keys = list(old.values_list("pk", flat=True)[:_MOST_FORGOTTEN])
    Provisioning.objects.filter(pk__in=keys).update(script="", user_data="")


def _plan_of(row: Provisioning, address: str) -> BootPlan:
    machine_id = row.machine.machine_id if row.machine else ""
    return _plan(of_row(row), row.vm_id, address, machine_id=machine_id, run=row.pk)


def previewed(wish: Wish, name: str) -> Texts:
    """What would be used for a VM of this wish, secrets masked."""
    return _texts(
        _plan(replace(wish, name=name), TO_COME, f"{TO_COME}.address", machine_id=TO_COME)
    )


def _texts(plan: BootPlan) -> Texts:
    covered = render.masked(plan)
    return Texts(_covered(render.boot_script(covered)), _covered(cloud_init.user_data(covered)))


def _plan(wish: Wish, vm_id: str, address: str, *, machine_id: str = "", run: str = "") -> BootPlan:
    plan = planning.make(
        vm_id=vm_id,
        name=wish.name,
        profile=resolving.profile_of(wish),
        parent_vm_id=wish.parent_vm_id or None,
        roof_url=wish.roof_url,
        join_token=MASK,
        machine_id=machine_id,
        address=address,
        run=run,
    )
    return replace(plan, agent_version=wish.agent_version) if wish.agent_version else plan


def without_secrets(row: Provisioning, text: str) -> str:
    """What a VM said, without the secrets that we know and whatever looks like one."""
    for secret in _secrets(resolving.parent_of(row)):
        text = text.replace(secret, MASK)
    return sources.current(recheck=True).cover(_covered(text))


def _covered(text: str) -> str:
    """Without what looks like a secret: tokens, private keys, passwords in URLs."""
    text = _PRIVATE_KEYS.sub(MASK, text)
    return _URL_PASSWORDS.sub(MASK, _TOKENS.sub(MASK, text))


def _secrets(node: Node | None) -> list[str]:
    """The secrets that hold for this node, longest first."""
    names = [key.name for key in keys.ALL.values() if key.secret]
    found = {each.value for each in config.resolve_all(names, node).values() if each.value}
    found.add(settings.ROOT_TOKEN)
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len)[::-1]
