"""Preview a request before anything happens: machine, script, cloud-init, and differences."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from bootloader.boot.user_data import limits_of
from bootloader.models import Provisioning
from bootloader.provisioning import machine_spec, rendering, services
from bootloader.provisioning.rendering import RenderedTexts
from bootloader.provisioning.requests import ProvisionRequest

MAX_DIFF_LINES = 4000
_OWN_LINES = re.compile(r"\s*(ADDRESS|RUN)=|\s*(hostname|fqdn): ")


@dataclass(frozen=True)
class Difference:
    """A unified diff between a text and the one used last."""

    against: Provisioning
    lines: list[str]

    @property
    def is_empty(self) -> bool:
        """Return whether both are equal."""
        return not self.lines


@dataclass(frozen=True)
class Preview:
    """The result of a preview. `told` explains where each part of the specification comes from."""

    vm_request: ProvisionRequest
    names: list[str]
    spec: dict[str, Any]
    explanation: list[str]
    texts: RenderedTexts
    script_diff: Difference | None
    user_data_diff: Difference | None
    known: list[Provisioning]

    @property
    def user_data_limits(self) -> list[dict[str, object]]:
        """List each cloud with its limit, and whether this user-data fits."""
        return limits_of(self.user_data_bytes)

    @property
    def user_data_bytes(self) -> int:
        """Return the size of the user-data."""
        return len(self.texts.user_data.encode())


def make_preview(vm_request: ProvisionRequest, *, by: object) -> Preview:
    """Return the preview, changing nothing.

    Raise the errors that starting the request would raise.
    """
    vm_request, parent = services.resolve_placement(vm_request, by)
    names = vm_request.names()
    spec, explanation = machine_spec.spec_of_request(vm_request, parent)
    made = rendering.render_preview(vm_request, names[0])
    last = _last(vm_request)
    return Preview(
        vm_request=vm_request,
        names=names,
        spec=spec,
        explanation=explanation,
        texts=made,
        script_diff=_diff(last, last.script, made.script, names[0]) if last else None,
        user_data_diff=_diff(last, last.user_data, made.user_data, names[0]) if last else None,
        known=list(
            Provisioning.objects.without_texts()
            .reserving_names()
            .filter(name__in=names)
            .order_by("id")
        ),
    )


def _last(vm_request: ProvisionRequest) -> Provisioning | None:
    """Return the latest provisioning of this profile that has a script."""
    used = Provisioning.objects.filter(profile=vm_request.profile).exclude(script="")
    return used.order_by("-id").first()


def _diff(last: Provisioning, old: str, new: str, name: str) -> Difference:
    """Compare two texts, ignoring differences that only come from another VM's name and id."""
    known = _renamed(_renamed(old, last.vm_id, rendering.VM_ID_PLACEHOLDER), last.name, name)
    lines = difflib.unified_diff(_common(known), _common(new), "last used", "now", lineterm="", n=2)
    return Difference(last, list(lines)[:MAX_DIFF_LINES])


def _common(text: str) -> list[str]:
    """Return the lines, without those that differ between any two VMs."""
    return [line for line in text.splitlines() if not _OWN_LINES.match(line)]


def _renamed(text: str, old: str, new: str) -> str:
    """Replace one word by another."""
    if not old:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(old)}(?![\w-])", lambda _: new, text)
