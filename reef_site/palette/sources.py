"""The site's own sources of the palette: pages, and VMs with actions on their subtrees."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q
from django.urls import reverse

from reef_site.common.palette import MAX_ENTRIES, Entry, matches, palette_sources
from vmtree.models import Node

Person = AbstractBaseUser | AnonymousUser

# Title, URL name, further words, and the organ that has the page.
PAGES = (
    ("Home", "overview", "overview needs you", ""),
    ("Lieutenants", "lieutenants:index", "agents", "lieutenant"),
    ("New lieutenant", "lieutenants:create", "create agent", "lieutenant"),
    ("Questions", "questions:index", "answers", "lieutenant"),
    ("Usage", "usage:index", "costs money tokens budgets", "lieutenant"),
    ("Notifications", "notifications:index", "tell me mail webhook", ""),
    ("Hosts", "lieutenant-hosts", "machines followers", "lieutenant"),
    ("Fleet", "fleet:tree", "tree VMs", "vm-tree"),
    ("VMs", "fleet:vms", "registry list registered", "vm-tree"),
    ("Map of the fleet", "fleet:picture", "picture", "vm-tree"),
    ("History of the fleet", "fleet:then", "earlier", "vm-tree"),
    ("Snapshots", "fleet:snapshots", "backup restore", "vm-tree"),
    ("Provisioning", "bootloader:index", "boot VMs", "bootloader"),
    ("New VM", "bootloader:create", "provision create", "bootloader"),
    ("Machines", "bootloader:machines", "providers", "bootloader"),
    ("Findings", "bootloader:findings", "mismatches", "bootloader"),
    ("Join tokens", "bootloader:door", "door", "bootloader"),
    ("Config", "versconfig:index", "settings keys", "vers-config"),
    ("Events", "event-log:index", "history webhooks", ""),
    ("Rules", "rules:index", "automation", "lieutenant operator"),
    ("Rule executions", "rules:executions", "firings", "lieutenant operator"),
    ("Preferences", "preferences", "time zone", ""),
    ("Audit", "audit", "who changed", "operator"),
    ("Storage", "space:index", "disk space size growth retention database", "operator"),
    ("Tokens", "access:tokens", "operator tokens", "operator"),
    ("Admin", "admin:index", "users", "staff"),
    ("Connect", "connect", "tools MCP CLI", ""),
    ("Docs", "docs:index", "help", ""),
)
_SUBTREE_ACTIONS = (
    ("pause", "Pause", False),
    ("resume", "Resume", False),
    ("destroy", "Destroy", True),
)


def register() -> None:
    """Register the sources of the site."""
    palette_sources.register(pages, key="pages")
    palette_sources.register(vms, key="VMs")


def pages(user: Person, words: str) -> Iterator[Entry]:
    """Yield the pages whose titles or further words match."""
    for title, name, more, needs in PAGES:
        if _may_see(user, needs) and matches(words, title, more):
            yield Entry("Pages", title, reverse(name))


def _may_see(user: Person, needs: str) -> bool:
    organ, _, right = needs.rpartition(" ")
    return (not organ or organ in settings.ORGANS) and _has(user, right)


def _has(user: Person, needs: str) -> bool:
    if needs == "operator":
        return bool(getattr(user, "is_superuser", False))
    if needs == "staff":
        return bool(getattr(user, "is_staff", False))
    return not needs or needs in settings.ORGANS


def vms(user: Person, words: str) -> Iterator[Entry]:
    """Yield VMs by name or id, and the plans of actions on the first one's subtree."""
    if not words or "vm-tree" not in settings.ORGANS:
        return
    verb, _, rest = words.partition(" ")
    wanted = [each for each in _SUBTREE_ACTIONS if rest and each[0].startswith(verb.lower())]
    for node in _found(rest if wanted else words):
        name = node.name or node.vm_id
        hint = f"{node.get_category_display()} · {node.vm_id}"
        yield Entry("VMs", name, reverse("fleet:one", args=[node.pk]), hint)
        if wanted and user.has_perm("operations.change_job"):  # type: ignore[union-attr]
            yield from _plans(node, wanted)


def _found(words: str) -> list[Node]:
    rows = Node.objects.active()
    for word in words.split():
        rows = rows.filter(Q(name__icontains=word) | Q(vm_id__icontains=word))
    return list(rows.order_by("pk")[:MAX_ENTRIES])


def _plans(node: Node, wanted: list[tuple[str, str, bool]]) -> Iterator[Entry]:
    if "lieutenant" not in settings.ORGANS:
        return
    for verb, label, is_dangerous in wanted:
        url = f"{reverse('admin:operations_job_plan', args=[verb])}?{urlencode({'vm': node.vm_id})}"
        text = f"{label} {node.name or node.vm_id} and all below…"
        yield Entry("Actions", text, url, "shows the plan first", is_dangerous)
