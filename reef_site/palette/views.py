"""Entries of the palette as JSON, for its script."""

from __future__ import annotations

from dataclasses import asdict

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from reef_site.common.json_format import json_response
from reef_site.common.page_values import text_value
from reef_site.common.palette import MAX_ENTRIES, Entry, palette_sources

GROUPS = ("Lieutenants", "VMs", "Pages", "Actions")
DANGEROUS = "Dangerous"


@login_required
@require_GET
def entries(request: HttpRequest) -> HttpResponse:
    """Return the entries for `?q=`, in groups; what ends something is the last group."""
    words = text_value(request.GET, "q", 100)
    found = [entry for source in palette_sources for entry in source(request.user, words)]
    groups = []
    for title in (*_order(found, words), DANGEROUS):
        mine = _of_group(found, title, words)
        if mine:
            groups.append({"title": title, "entries": mine[:MAX_ENTRIES]})
    return json_response({"groups": groups})


def _order(found: list[Entry], words: str) -> tuple[str, ...]:
    """Return the groups in their order: actions are first if the words begin with one."""
    verb = words.partition(" ")[0].lower()
    is_action = any(
        each.group == "Actions" and each.label.lower().startswith(verb) for each in found
    )
    return ("Actions", *GROUPS[:-1]) if verb and is_action else GROUPS


def _of_group(found: list[Entry], title: str, words: str) -> list[dict[str, object]]:
    """Return each entry of the group once; those that say no more than the words are first."""
    typed = words.strip().lower()
    mine = {
        entry.url: entry
        for entry in found
        if (DANGEROUS if entry.is_dangerous else entry.group) == title
    }
    exact_first = sorted(
        mine.values(), key=lambda entry: entry.label.removesuffix("…").lower() != typed
    )
    return [asdict(entry) for entry in exact_first]
