"""Items of “Needs you” from the registry: silent VMs, of which there may be thousands."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Count, Q
from django.urls import reverse

from reef_site.common import clock
from reef_site.common.attention import (
    MAX_EXAMPLES,
    AttentionKind,
    Button,
    Crowd,
    Item,
    attention_kinds,
)
from registry.models import VM

KIND = "vm"


def register() -> None:
    """Register the kind of silent VMs."""
    attention_kinds.register(
        AttentionKind("VMs", find_crowd=silent_vms, organ="registry"), key=KIND
    )


def silent_vms(seen_until: datetime | None) -> Crowd:
    """Return the silent VMs; those that fell silent after `seen_until` count as new."""
    vms = VM.objects.silent(clock.now())
    is_seen = Q(silent_after__lte=seen_until) if seen_until else Q(pk__in=[])
    counts = vms.aggregate(all=Count("pk"), seen=Count("pk", filter=is_seen))
    newest = vms.order_by("-silent_after", "pk")[:MAX_EXAMPLES]
    return Crowd(counts["all"] - counts["seen"], counts["seen"], [_silent(vm) for vm in newest])


def _silent(vm: VM) -> Item:
    assert vm.silent_after is not None
    has_page = "vm-tree" in settings.ORGANS
    url = f"{reverse('fleet:by-id')}?{urlencode({'vm': vm.pk})}" if has_page else ""
    return Item(
        kind=KIND,
        subject=vm.pk,
        name=vm.name or vm.pk,
        url=url,
        state="silent",
        label="silent",
        since=vm.silent_after,
        text="",
        group="silent",
        vm_id=vm.pk,
        make_buttons=lambda: [Button("Look", url, is_link=True)] if url else [],
    )
