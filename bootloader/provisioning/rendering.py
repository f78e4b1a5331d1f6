"""Render script and cloud-init of a provisioning, for use and for display.

Displayed texts are rendered with masks in place of secrets, instead of being searched for secrets
later. Output of VMs has to be searched, since it may repeat any of its input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta

from django.conf import settings
from django.db.models import Max

from bootloader.boot import cloud_init, plan_builder, render
from bootloader.boot.plan import BootPlan
from bootloader.models import LogLine, Provisioning
from bootloader.provisioning import machine_spec
from bootloader.provisioning.requests import ProvisionRequest, request_of_row
from reef_site.common import clock
from reef_site.common.retention import delete_in_batches, in_batches
from versconfig import config, keys
from versconfig.screening import sources
from vmtree.models import Node

MASK = render.MASK
VM_ID_PLACEHOLDER = "id-of-the-vm"
# Time from the upload until the VM must have joined.
TOKEN_MINUTES = 60
_TOKENS = re.compile(r"\breef(?:join)?_[A-Za-z0-9_-]{20,}")
_URL_PASSWORDS = re.compile(r"(?<=://)[^/\s@]+:[^/\s@]+(?=@)")
_PRIVATE_KEYS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)", re.S)
_MIN_SECRET_LENGTH = 8


@dataclass(frozen=True)
class RenderedTexts:
    """The boot script and the cloud-init user-data of one VM."""

    script: str
    user_data: str


def render_real(row: Provisioning, address: str) -> str:
    """Return the script to run, with a fresh join token. Never show, log or store it."""
    plan = _plan_of(row, address)
    return render.boot_script(plan_builder.with_token(plan, by=row.actor, minutes=TOKEN_MINUTES))


def render_masked(row: Provisioning, address: str) -> RenderedTexts:
    """Return the texts used for this VM, with secrets masked."""
    return _texts(_plan_of(row, address))


def sweep() -> int:
    """Delete the texts of provisionings that ended long ago, because they are large. Return how
    many there were.

    The newest of each profile is kept, for comparison in previews.
    """
    written = Provisioning.objects.exclude(script="")
    newest = written.order_by().values("profile").annotate(newest=Max("pk"))
    old = written.filter(ended_at__lt=clock.now() - timedelta(days=settings.BOOT_DAYS))
    old = old.exclude(pk__in=[each["newest"] for each in newest])
    return in_batches(old, lambda some: some.update(script="", user_data=""))


def delete_old_logs() -> int:
    """Delete the logs of provisionings that ended long ago; return how many lines."""
    oldest = clock.now() - timedelta(days=settings.PROVISIONING_LOG_DAYS)
    return delete_in_batches(LogLine.objects.filter(provisioning__ended_at__lt=oldest))


def _plan_of(row: Provisioning, address: str) -> BootPlan:
    machine_id = row.machine.machine_id if row.machine else ""
    return _plan(request_of_row(row), row.vm_id, address, machine_id=machine_id, run=row.pk)


def render_preview(vm_request: ProvisionRequest, name: str) -> RenderedTexts:
    """Return the texts for a VM of this request, with secrets masked."""
    return _texts(
        _plan(
            replace(vm_request, name=name),
            VM_ID_PLACEHOLDER,
            f"{VM_ID_PLACEHOLDER}.address",
            machine_id=VM_ID_PLACEHOLDER,
        )
    )


def _texts(plan: BootPlan) -> RenderedTexts:
    covered = render.masked(plan)
    return RenderedTexts(
        _mask_patterns(render.boot_script(covered)), _mask_patterns(cloud_init.user_data(covered))
    )


def _plan(
    vm_request: ProvisionRequest, vm_id: str, address: str, *, machine_id: str = "", run: str = ""
) -> BootPlan:
    plan = plan_builder.make_plan(
        vm_id=vm_id,
        name=vm_request.name,
        profile=machine_spec.profile_of(vm_request),
        parent_vm_id=vm_request.parent_vm_id or None,
        roof_url=vm_request.roof_url,
        join_token=MASK,
        machine_id=machine_id,
        address=address,
        run=run,
    )
    return (
        replace(plan, agent_version=vm_request.agent_version) if vm_request.agent_version else plan
    )


def without_secrets(row: Provisioning, text: str) -> str:
    """Mask known secrets, and anything that looks like one, in a VM's output."""
    for secret in _secrets(machine_spec.parent_of(row)):
        text = text.replace(secret, MASK)
    return sources.current(recheck=True).cover(_mask_patterns(text))


def _mask_patterns(text: str) -> str:
    """Mask everything that looks like a secret: tokens, private keys, passwords in URLs."""
    text = _PRIVATE_KEYS.sub(MASK, text)
    return _URL_PASSWORDS.sub(MASK, _TOKENS.sub(MASK, text))


def _secrets(node: Node | None) -> list[str]:
    """Return the secrets that are effective for this node, longest first."""
    names = [key.name for key in keys.ALL.values() if key.secret]
    found = {each.value for each in config.resolve_all(names, node).values() if each.value}
    found.add(settings.ROOT_TOKEN)
    return sorted((each for each in found if len(each) >= _MIN_SECRET_LENGTH), key=len)[::-1]
