"""The form of a command; the rules are in `services`."""

from __future__ import annotations

from typing import ClassVar

from django import forms

from bootloader.commands.services import DEFAULT_SECONDS, MAX_COMMAND, MAX_SECONDS
from reef_site.common.forms import ServiceForm


class CommandForm(ServiceForm):
    """A command and its time limit."""

    KEYS: ClassVar = {"limit_seconds": "limitSeconds"}

    command = forms.CharField(
        strip=False,
        max_length=MAX_COMMAND,
        help_text="Run by sh, without input. Several lines are one script.",
        widget=forms.Textarea(
            attrs={"rows": 4, "autocomplete": "off", "spellcheck": "false", "class": "mono"}
        ),
    )
    limit_seconds = forms.IntegerField(
        min_value=1,
        max_value=MAX_SECONDS,
        initial=DEFAULT_SECONDS,
        label="Time limit in seconds",
        help_text=f"At most {MAX_SECONDS}. The command is ended then.",
    )
