"""Items of “Needs you” from the bootloader: failed provisionings, and open findings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from django.urls import reverse, reverse_lazy

from bootloader.models import Finding, Provisioning
from bootloader.states import Proposal, State
from reef_site.common.attention import (
    MAX_ITEMS,
    MAX_TEXT,
    AttentionKind,
    Button,
    Item,
    attention_kinds,
    digest,
)
from reef_site.common.text import first_words

PROVISIONING, FINDING = "provisioning", "finding"
# These end something, so the page of findings asks first.
_DESTRUCTIVE = frozenset({Proposal.DELETE, Proposal.BURY, Proposal.REVOKE})


def register() -> None:
    """Register the kinds of the bootloader."""
    organ = "bootloader"
    provisionings = AttentionKind("provisionings", find_provisionings, organ=organ)
    attention_kinds.register(provisionings, key=PROVISIONING)
    findings = AttentionKind("findings", find_findings, organ=organ)
    attention_kinds.register(findings, key=FINDING)


def find_provisionings() -> Iterator[Item]:
    """Yield failed provisionings that nobody has dealt with yet."""
    failed = Provisioning.objects.filter(state=State.FAILED)
    columns = ("id", "name", "state", "state_since", "reason", "vm_id")
    for row in failed.only(*columns).order_by("-id")[:MAX_ITEMS]:
        line = first_words(row.reason, MAX_TEXT)
        yield Item(
            kind=PROVISIONING,
            subject=row.pk,
            name=row.name,
            url=reverse_lazy("bootloader:detail", args=[row.pk]),
            state="error",
            label="provisioning failed",
            since=row.state_since,
            text=line,
            group=digest(line),
            make_buttons=partial(_provisioning_buttons, row.pk),
        )


def _provisioning_buttons(pk: str) -> list[Button]:
    return [
        Button("Retry", reverse("bootloader:retry", args=[pk])),
        Button("Give up…", reverse("bootloader:cancel", args=[pk]), is_link=True),
    ]


def find_findings() -> Iterator[Item]:
    """Yield open findings. Nobody waits for them, so they come last."""
    url = reverse("bootloader:findings")
    for row in Finding.objects.open().order_by("-id")[:MAX_ITEMS]:
        yield Item(
            kind=FINDING,
            subject=str(row.pk),
            name=row.name or row.machine_id,
            url=url,
            state="late",
            label=row.get_kind_display(),
            since=row.found_at,
            text=first_words(row.text, MAX_TEXT),
            group=f"{row.kind} {row.provider}",
            waiting=0,
            make_buttons=partial(_finding_buttons, row),
        )


def _finding_buttons(row: Finding) -> list[Button]:
    url = reverse("bootloader:decide", args=[row.pk])
    label = row.get_proposal_display()
    label = label[:1].upper() + label[1:]
    if row.proposal in _DESTRUCTIVE:
        proposed = Button(f"{label}…", reverse("bootloader:findings"), is_link=True)
    else:
        proposed = Button(label, url, {"do": row.proposal})
    return [proposed, Button("Dismiss", url, {"do": "dismiss"})]
