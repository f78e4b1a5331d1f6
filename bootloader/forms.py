"""Forms for provisioning. The rules are in `provisioning`; forms only collect input."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from rest_framework.exceptions import ValidationError

from bootloader import providers
from bootloader.boot import profiles
from bootloader.provisioning.machine_spec import LABELS
from bootloader.provisioning.requests import MAX_COUNT, ProvisionRequest
from bootloader.provisioning.serializers.provision_requests import ProvisionBody, to_request
from bootloader.states import CleanupPolicy
from reef_site.common.api.fields import bad_input
from reef_site.common.errors import ReefError
from reef_site.common.forms import ServiceForm
from versconfig import config

_PLAIN_INPUT = {"autocomplete": "off", "spellcheck": "false"}


def _text_field(label: str = "", help_text: str = "", *, required: bool = False) -> forms.CharField:
    return forms.CharField(
        required=required,
        label=label or None,
        help_text=help_text,
        widget=forms.TextInput(attrs=_PLAIN_INPUT),
    )


class ProvisionForm(ServiceForm):
    """A request for VMs. Empty fields fall back to config or the profile."""

    name = _text_field(
        help_text="1–64 letters, digits, dots, dashes or underscores.", required=True
    )
    type = forms.ChoiceField(label="Profile")
    parent_vm_id = _text_field("Parent", "Id of the parent VM. Leave empty for the roof.")
    count = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_COUNT,
        label="How many",
        help_text="Leave empty for one VM of exactly this name. More are named name-1, name-2 …",
    )
    provider = forms.ChoiceField(required=False)
    on_failure = forms.ChoiceField(
        choices=CleanupPolicy.choices,
        label="If it fails",
        help_text="A VM that is kept can be inspected, and a retry continues with it.",
    )
    commit = _text_field(LABELS["commit"], "Saved VM to restore instead of booting an image.")
    image = _text_field(LABELS["image"], "Image to boot instead of the configured one.")
    vcpus = forms.IntegerField(required=False, min_value=1, label=LABELS["vcpus"])
    memory_mib = forms.IntegerField(required=False, min_value=1, label=LABELS["memory_mib"])
    disk_mib = forms.IntegerField(required=False, min_value=1, label=LABELS["disk_mib"])
    extra_organs = _text_field("More organs", "Comma-separated, in addition to the profile's.")
    extra_capabilities = _text_field("More capabilities", "Comma-separated.")

    MORE = ("commit", "image", "vcpus", "memory_mib", "disk_mib", "extra_organs")
    KEYS: ClassVar = {
        "type": "type",
        "parent_vm_id": "parentVmId",
        "on_failure": "onFailure",
        "commit": "commitId",
        "memory_mib": "memoryMib",
        "disk_mib": "diskMib",
        "extra_organs": "extraOrgans",
        "extra_capabilities": "extraCapabilities",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = profiles.all()
        types: Any = self.fields["type"]
        types.choices = [
            (each.type, f"{each.type} — {each.description}") for each in known.values()
        ]
        provider: Any = self.fields["provider"]
        try:
            default = config.text("REEF_VM_PROVIDER")
        except ReefError:
            default = ""
        provider.choices = [
            ("", f"as configured ({default})"),
            *((slug, slug) for slug in providers.all_slugs()),
        ]

    def to_request(self) -> ProvisionRequest:
        """Return the request; the form must be valid. Raise BadInput."""
        data = {self.KEYS.get(name, name): value for name, value in self.cleaned_data.items()}
        for key in ("extraOrgans", "extraCapabilities"):
            data[key] = [word.strip() for word in data[key].split(",") if word.strip()]
        given = {key: value for key, value in data.items() if value not in ("", None)}
        try:
            values = ProvisionBody.parse_data(given)
        except ValidationError as error:
            raise bad_input(error) from None
        return to_request(values)
