"""Lieutenants in the tree's search and head: by what they do, not only by their VM."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from lieutenants.models import Lieutenant
from registry.models import VM
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist, page
from tests.vmtree.planted import set_long_uptime
from vmtree.models import Node

__all__ = ["operator"]

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("word", "found"),
    [("error", {"eva"}), ("idle", {"ida"}), ("working", {"wim", "stan"}), ("stalled", {"stan"})],
)
def test_search_finds_lieutenants_by_status(operator: Client, word: str, found: set[str]) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    for name, status in (
        ("eva", "error"),
        ("ida", "idle"),
        ("wim", "working"),
        ("stan", "working"),
    ):
        lieutenant = enlist(name, status)
        if name == "stan":
            times = {"last_activity_at": long_ago, "status_since": long_ago}
            Lieutenant.objects.filter(pk=lieutenant.pk).update(**times)
        Node.objects.create(vm_id=lieutenant.pk, name=name, category="lieutenant", reef_config={})
    html = page(operator, f"/fleet/?q={word}")
    matches = re.findall(r'is-match".*?class="vm-name"[^>]*>(\w+)<', html, re.DOTALL)
    assert set(matches) == found


def test_summary_counts_lieutenants_in_error(operator: Client) -> None:
    set_long_uptime()
    lieutenant = enlist("eva", "error")
    Node.objects.create(vm_id=lieutenant.pk, name="eva", category="lieutenant", reef_config={})
    vm = VM(id=lieutenant.pk, name="eva", role="lieutenant", registered_by="tests")
    vm.seen(timezone.now(), status="stopped")
    vm.save()
    head = re.search(r'class="root-states">(.*?)</div>', page(operator, "/fleet/"), re.DOTALL)
    assert head
    words = " ".join(re.sub(r"<[^>]+>", " ", head[1]).split())
    assert words == "error 1"
