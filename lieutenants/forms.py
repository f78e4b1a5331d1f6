"""Forms of lieutenants. They only parse; `services` validates."""

from __future__ import annotations

import shlex
from typing import Any

from django import forms
from django.conf import settings

from bootloader.states import CleanupPolicy
from lieutenants import agents
from lieutenants.models import Lieutenant
from lieutenants.requests import (
    IDLE_LIMIT_MINUTES,
    STALL_LIMIT_SECONDS,
    TOOL_LIMIT_SECONDS,
    to_changes,
)
from lieutenants.services import CreateLieutenant
from lieutenants.states import Mode, RestartPolicy
from lieutenants.supervision import remote_places
from reef_site.common.forms import ServiceForm
from versconfig import config


class RunForm(ServiceForm):
    """Settings that can be changed at any time."""

    model = forms.CharField(
        required=False,
        help_text="provider/model. Leave empty for the agent's own default.",
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "spellcheck": "false", "list": "models"}
        ),
    )
    restart_policy = forms.ChoiceField(
        choices=RestartPolicy.choices,
        label="Restart",
        help_text="Whether to restart the agent when it exits by itself.",
    )
    idle_limit_minutes = forms.IntegerField(
        required=False,
        min_value=IDLE_LIMIT_MINUTES["least"],
        max_value=IDLE_LIMIT_MINUTES["most"],
        label="Pause when idle after (minutes)",
        help_text="The session is kept. Leave empty for never.",
    )
    stall_limit_seconds = forms.IntegerField(
        required=False,
        min_value=STALL_LIMIT_SECONDS["least"],
        max_value=STALL_LIMIT_SECONDS["most"],
        label="Abort after silence (seconds)",
        help_text="Abort the answer if the model is silent this long. 0 = never.",
    )
    tool_limit_seconds = forms.IntegerField(
        required=False,
        min_value=TOOL_LIMIT_SECONDS["least"],
        max_value=TOOL_LIMIT_SECONDS["most"],
        label="Abort a tool after (seconds)",
        help_text="Abort the answer if one tool call runs this long. 0 = never.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if default_model := config.resolve("REEF_AGENT_MODEL").value:
            self.fields[
                "model"
            ].help_text = f"provider/model. Leave empty for the default, {default_model}."
        self.fields["stall_limit_seconds"].widget.attrs["placeholder"] = settings.STALL_SECONDS
        self.fields["tool_limit_seconds"].widget.attrs["placeholder"] = settings.TOOL_SECONDS


class AdjustForm(RunForm):
    """Change the settings of a lieutenant."""

    restart = forms.BooleanField(
        required=False,
        label="Restart the agent now",
        help_text="A new model takes effect when the agent next starts. The session is kept; a "
        "running answer is aborted.",
    )

    def leave_out(self, lieutenant: Lieutenant) -> None:
        """Remove the fields that this lieutenant's agent has no use for."""
        if not agents.dialect_of(lieutenant).features.models:
            del self.fields["model"]
            self.fields["restart"].help_text = "The running program is ended."

    def changes(self) -> dict[str, object]:
        """Return the values by column; call it on a valid form."""
        return to_changes(self.cleaned_data)


class CreateForm(RunForm):
    """Create a lieutenant."""

    KEYS = {"machine": "sshHost"}
    field_order = (
        "name",
        "role",
        "machine",
        "keep_vm",
        "agent",
        "command",
        "model",
        "directive",
        "folder",
    )
    name = forms.CharField(
        help_text="1 to 64 letters, digits, dots, dashes and underscores.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    role = forms.CharField(
        help_text="Its job in a sentence. The agent is told this; you can search for it.",
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    machine = forms.ChoiceField(
        required=False,
        label="Runs on",
        help_text="Its agent is started there over SSH.",
    )
    keep_vm = forms.BooleanField(
        required=False,
        label="Keep a new VM if the start fails",
        help_text="Otherwise it is deleted.",
    )
    agent = forms.ChoiceField(
        choices=[(each.name, each.label) for each in agents.DIALECTS.values()],
        initial=agents.DEFAULT,
        required=False,
    )
    command = forms.CharField(
        required=False,
        help_text="For the agent “command”: program and arguments. Quotes work as in a shell, but "
        "no shell is used. The program gets the message on stdin; its stdout is the answer.",
        widget=forms.Textarea(attrs={"rows": 2, "autocomplete": "off", "spellcheck": "false"}),
    )
    directive = forms.CharField(
        required=False,
        help_text="Added to the system prompt: rules, style, what to report.",
        widget=forms.Textarea(attrs={"rows": 4}),
    )
    folder = forms.CharField(
        required=False,
        label="Working folder",
        help_text="An absolute path on the machine it runs on. Leave empty for a new folder.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        machines = remote_places.offered()
        if machines:
            field = self.fields["machine"]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", "This host"), *machines]
        else:
            del self.fields["machine"]
        if not any(value.startswith("profile:") for value, _ in machines):
            del self.fields["keep_vm"]

    def clean_agent(self) -> str:
        """Return the chosen agent, or the default one."""
        return self.cleaned_data["agent"] or agents.DEFAULT

    def clean_command(self) -> tuple[str, ...]:
        """Split the command like a shell."""
        try:
            return tuple(shlex.split(self.cleaned_data["command"]))
        except ValueError as error:
            raise forms.ValidationError(f"command: {error}") from None

    def wish(self) -> CreateLieutenant:
        """Return the request to create it; call it on a valid form."""
        given = {**self.cleaned_data}
        kind, _, name = given.pop("machine", "").partition(":")
        if kind:
            given |= {"remote": True, kind: name}
        if given.pop("keep_vm", False):
            given["on_failure"] = CleanupPolicy.KEEP
        return CreateLieutenant(**given)


# Modes of the composer: value, label, help text.
MODES = (
    (Mode.PROMPT, "Prompt", "A new task. While it works, this waits as a follow-up."),
    (Mode.STEER, "Steer", "Into the running answer, at the agent's next step."),
    (Mode.FOLLOW_UP, "Follow-up", "After the running answer, in the same session."),
)
