"""Forms of the page Notifications."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import User

from reef_site.accounts import zones
from reef_site.activity.models import Channel, Form, Subscriber
from reef_site.activity.personal import kinds
from reef_site.common.forms import ServiceErrors
from vmtree import aliases
from vmtree.models import Node

WAITS = (
    (0, "At once"),
    (60, "1 minute"),
    (300, "5 minutes"),
    (900, "15 minutes"),
    (3600, "1 hour"),
)
# What the person chooses, and the channel and form of it.
CHANNELS: dict[str, tuple[str, Channel, Form]] = {
    "email": ("E-mail", Channel.EMAIL, Form.GENERIC),
    "slack": ("Slack", Channel.WEBHOOK, Form.SLACK),
    "discord": ("Discord", Channel.WEBHOOK, Form.DISCORD),
    "webhook": ("Webhook (signed JSON)", Channel.WEBHOOK, Form.GENERIC),
    "browser": ("Browser, in open tabs of reef", Channel.BROWSER, Form.GENERIC),
}


class PacingForm(forms.Form):
    """Settings of a channel: kinds of events, gathering time, and quiet hours."""

    kinds = forms.MultipleChoiceField(label="Tell me when", widget=forms.CheckboxSelectMultiple)
    subtree = forms.CharField(
        required=False,
        max_length=255,
        label="Only below VM",
        help_text="The id of a VM, or nothing for the whole fleet.",
    )
    wait_seconds = forms.TypedChoiceField(
        label="How soon",
        choices=WAITS,
        coerce=int,
        initial=0,
        help_text="What happens within this time is one message; what is over by then is left out.",
    )
    only_away = forms.BooleanField(
        required=False, label="Only while I have no page of reef in front of me"
    )
    quiet_from = forms.TimeField(
        required=False,
        label="Quiet hours from",
        widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"),
    )
    quiet_until = forms.TimeField(
        required=False,
        label="until",
        widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"),
        help_text="In your time zone. What happens meanwhile is told when they end.",
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        """Offer only kinds of which this person may read the events."""
        super().__init__(*args, **kwargs)
        offered = [(key, kind.label) for key, kind in kinds.kinds_for(user).items()]
        self.fields["kinds"].choices = offered  # type: ignore[attr-defined]

    def clean_subtree(self) -> str:
        """Require a VM of the tree."""
        vm_id = aliases.resolve(self.cleaned_data["subtree"])
        if vm_id and not Node.objects.filter(vm_id=vm_id).exists():
            raise forms.ValidationError("There is no such VM.")
        return vm_id

    def clean(self) -> dict[str, Any]:
        """Require both ends of the quiet hours, or none."""
        given = super().clean() or self.cleaned_data
        if (given.get("quiet_from") is None) != (given.get("quiet_until") is None):
            self.add_error("quiet_until", "Enter both ends of the quiet hours, or none.")
        return given

    def columns(self) -> dict[str, Any]:
        """Return the columns of the channel's row."""
        given = self.cleaned_data
        wanted = kinds.filter_for(given["kinds"], given["subtree"])
        names = ("wait_seconds", "only_away", "quiet_from", "quiet_until")
        return {
            **{name: given[name] for name in names},
            "quiet_zone": zones.current_name(),
            "wanted": wanted.as_json(),
        }

    @staticmethod
    def initial_of(channel: Subscriber) -> dict[str, Any]:
        """Return the values of a channel."""
        return {
            "kinds": kinds.keys_of(channel.filter),
            "subtree": channel.filter.subtree,
            "wait_seconds": channel.wait_seconds,
            "only_away": channel.only_away,
            "quiet_from": channel.quiet_from,
            "quiet_until": channel.quiet_until,
        }


class ChannelForm(ServiceErrors, PacingForm):
    """A new channel."""

    field_order = ("by", "address")
    KEYS: ClassVar = {"by": "channel"}

    by = forms.ChoiceField(
        label="By", choices=[(key, label) for key, (label, _, _) in CHANNELS.items()]
    )
    address = forms.CharField(
        required=False,
        max_length=500,
        label="Address",
        help_text="An e-mail address, or the URL of a webhook. Browsers need none.",
    )

    def field_of(self, key: str) -> str:
        """Return the name of the field that services call `key`; they know two addresses."""
        return "address" if key in ("url", "email") else super().field_of(key)

    @property
    def url(self) -> str:
        """Return the URL of a webhook; empty for other channels."""
        is_webhook = CHANNELS[self.cleaned_data["by"]][1] == Channel.WEBHOOK
        return str(self.cleaned_data["address"]) if is_webhook else ""

    def columns(self) -> dict[str, Any]:
        _, channel, form = CHANNELS[self.cleaned_data["by"]]
        email = self.cleaned_data["address"] if channel == Channel.EMAIL else ""
        return {**super().columns(), "channel": channel, "form": form, "email": email}


def defaults() -> list[str]:
    """Return the kinds that a new channel tells about."""
    return [key for key, kind in kinds.KINDS.items() if kind.is_default]
