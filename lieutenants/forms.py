"""Forms of lieutenants. They only parse; `services` validates."""

from __future__ import annotations

import shlex
from typing import Any

from django import forms

from bootloader.states import CleanupPolicy
from lieutenants import agent_choice, agents
from lieutenants.limits import LIMITS
from lieutenants.models import Lieutenant
from lieutenants.requests import (
    DIALOG_LIMIT_SECONDS,
    IDLE_LIMIT_MINUTES,
    SIGN_GRACE_SECONDS,
    SIGN_PERIOD_SECONDS,
    STALL_LIMIT_SECONDS,
    TOOL_LIMIT_SECONDS,
    to_changes,
)
from lieutenants.services import CreateLieutenant
from lieutenants.states import LimitAction, Mode, RestartPolicy
from lieutenants.supervision import remote_places
from reef_site.common.forms import ServiceForm
from versconfig import config

ROLE_HELP = "Its job in a sentence. The agent is told this; you can search for it."
DIRECTIVE_HELP = "Added to the system prompt: rules, style, what to report."


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
    dialog_limit_seconds = forms.IntegerField(
        required=False,
        min_value=DIALOG_LIMIT_SECONDS["least"],
        max_value=DIALOG_LIMIT_SECONDS["most"],
        label="Dismiss a dialog after (seconds)",
        help_text="How long the agent waits for a person's answer. 0 = dismiss at once.",
    )

    limit_action = forms.ChoiceField(
        choices=LimitAction.choices,
        required=False,
        label="At these limits",
        help_text="The page and “Needs you” show a tool that comes near its limit.",
    )
    sign_period_seconds = forms.IntegerField(
        required=False,
        min_value=SIGN_PERIOD_SECONDS["least"],
        max_value=SIGN_PERIOD_SECONDS["most"],
        label="Expect a sign every (seconds)",
        help_text="“Needs you” says if nothing is heard for this long, also while idle. 0 = never.",
    )
    sign_grace_seconds = forms.IntegerField(
        required=False,
        min_value=SIGN_GRACE_SECONDS["least"],
        max_value=SIGN_GRACE_SECONDS["most"],
        label="Grace (seconds)",
        help_text="How much later an expected sign may come, also one that was declared.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if default_model := config.resolve("REEF_AGENT_MODEL").value:
            self.fields[
                "model"
            ].help_text = f"provider/model. Leave empty for the default, {default_model}."
        for name, key in LIMITS.items():
            self.fields[name].widget.attrs["placeholder"] = config.resolve(key).value


# Fields with settings of the agent, and the names by which its dialect knows these.
_OPTIONS = {
    "permissions": "permissions",
    "file_access": "files",
    "terminals": "terminals",
    "mode": "mode",
}


def _take_options(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of the agent from values of a form; return them by the dialect's names.

    Empty ones are defaults.
    """
    return {name: values.pop(field) for field, name in _OPTIONS.items() if field in values}


class AgentForm(RunForm):
    """Also the settings of its agent."""

    command = forms.CharField(
        required=False,
        help_text="For the agents “command” and “acp”: program and arguments. Quotes work as in a "
        "shell, but no shell is used. The program of “command” gets the message on stdin; its "
        "stdout is the answer. That of “acp” speaks the Agent Client Protocol.",
        widget=forms.Textarea(attrs={"rows": 2, "autocomplete": "off", "spellcheck": "false"}),
    )
    permissions = forms.ChoiceField(
        required=False,
        choices=[("", "Ask a person"), ("allow", "Allow"), ("reject", "Reject")],
        help_text="For the agents “acp”: what happens when one asks whether it may do something.",
    )
    file_access = forms.ChoiceField(
        required=False,
        choices=[("", "None"), ("read", "Read"), ("write", "Read and write")],
        label="Files through reef",
        help_text="In its working folder, for an agent “acp”. Its own tools are not limited by it.",
    )
    terminals = forms.BooleanField(
        required=False,
        label="Commands through reef",
        help_text="Let an agent “acp” run commands, with its own rights.",
    )
    mode = forms.CharField(
        required=False,
        max_length=200,
        label="Agent’s mode",
        help_text="A mode of the agent “acp”, by id or name. Leave empty for its usual one.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def clean_command(self) -> tuple[str, ...]:
        """Split the command like a shell."""
        try:
            return tuple(shlex.split(self.cleaned_data["command"]))
        except ValueError as error:
            raise forms.ValidationError(f"command: {error}") from None

    def clean_terminals(self) -> str:
        """Return the setting; empty is the default."""
        return "yes" if self.cleaned_data["terminals"] else ""


class AdjustForm(AgentForm):
    """Change the settings of a lieutenant."""

    field_order = (
        *("role", "directive", "model"),
        *("restart_policy", "idle_limit_minutes", "stall_limit_seconds"),
        *("tool_limit_seconds", "dialog_limit_seconds", "limit_action"),
        *("sign_period_seconds", "sign_grace_seconds", "command", *_OPTIONS, "restart"),
    )

    role = forms.CharField(
        required=False, help_text=ROLE_HELP, widget=forms.Textarea(attrs={"rows": 2})
    )
    directive = forms.CharField(
        required=False, help_text=DIRECTIVE_HELP, widget=forms.Textarea(attrs={"rows": 4})
    )
    restart = forms.BooleanField(
        required=False,
        label="Restart the agent now",
        help_text="A new role, directive or model takes effect when the agent next starts. The "
        "session is kept; a running answer is aborted.",
    )

    def __init__(self, lieutenant: Lieutenant, data: Any = None) -> None:
        options = lieutenant.agent_options
        initial = {field: options.get(name, "") for field, name in _OPTIONS.items()}
        initial |= {**vars(lieutenant), "terminals": options.get("terminals") == "yes"}
        super().__init__(data, initial={**initial, "command": shlex.join(lieutenant.command)})
        self._agent = lieutenant.agent
        self._leave_out(lieutenant)

    def _leave_out(self, lieutenant: Lieutenant) -> None:
        """Remove the fields that this lieutenant's agent has no use for."""
        features = agents.dialect_of(lieutenant).features
        if not features.dialogs:
            del self.fields["dialog_limit_seconds"]
        if not features.models:
            del self.fields["model"]
            self.fields["restart"].help_text = "The running program is ended."
        elif not features.default_model:
            self.fields["model"].help_text = "Leave empty for the agent's own default."
        known = agents.dialect_of(lieutenant).option_names
        for field, name in _OPTIONS.items():
            if name not in known:
                del self.fields[field]
        if not features.command:
            del self.fields["command"]
            return
        self.fields["command"].help_text = (
            "Program and arguments. Takes a restart, or a paused lieutenant"
            + (", and begins a new session." if features.session else ".")
        )
        self.fields["restart"].help_text += " Other settings of the agent need it, too."

    def changes(self) -> dict[str, object]:
        """Return the values by column; call it on a valid form. Texts that were not sent stay."""
        absent = {name for name in ("role", "directive") if name not in self.data}
        given = {name: self.cleaned_data[name] for name in self.cleaned_data.keys() - absent}
        agent = _take_options(given)
        if "command" in given:
            agent["command"] = list(given.pop("command"))
        return to_changes({**given, "agent": agent} if agent else given)


def agent_choices() -> list[tuple[str, str]]:
    """Return the kinds of agents, and presets as `kind:name`, with their labels."""
    found = []
    for each in agents.DIALECTS.values():
        found.append((each.name, each.label))
        for name, preset in each.presets.items():
            found.append((f"{each.name}:{name}", f"{each.name}: {preset.label}"))
    return found


class CreateForm(AgentForm):
    """Create a lieutenant."""

    KEYS = {"machine": "sshHost"}
    field_order = (
        "name",
        "role",
        "machine",
        "keep_vm",
        "agent",
        "command",
        "permissions",
        "model",
        "directive",
        "folder",
        "file_access",
        "terminals",
        "mode",
    )
    name = forms.CharField(
        help_text="1 to 64 letters, digits, dots, dashes and underscores.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    role = forms.CharField(help_text=ROLE_HELP, widget=forms.Textarea(attrs={"rows": 2}))
    machine = forms.ChoiceField(
        required=False,
        label="Runs on",
        help_text="On a VM or an SSH host, its agent is started over SSH.",
    )
    keep_vm = forms.BooleanField(
        required=False,
        label="Keep a new VM if the start fails",
        help_text="Otherwise it is deleted.",
    )
    agent = forms.ChoiceField(
        choices=agent_choices(),
        required=False,
    )
    directive = forms.CharField(
        required=False, help_text=DIRECTIVE_HELP, widget=forms.Textarea(attrs={"rows": 4})
    )
    folder = forms.CharField(
        required=False,
        label="Working folder",
        help_text="An absolute path on the machine it runs on. Leave empty for a new folder.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mark_default()
        machines = remote_places.offered()
        if machines:
            field = self.fields["machine"]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", "This host"), *machines]
        else:
            del self.fields["machine"]
        if not any(value.startswith("profile:") for value, _ in machines):
            del self.fields["keep_vm"]

    def _mark_default(self) -> None:
        """Choose the default agent of the fleet, and say that it is."""
        default = config.resolve(agent_choice.KEY).value
        self.fields["limit_action"].initial = config.resolve(LIMITS["limit_action"]).value
        field = self.fields["agent"]
        assert isinstance(field, forms.ChoiceField)
        field.initial = default
        field.choices = [
            (value, f"{label} (default)" if value == default else label)
            for value, label in agent_choices()
        ]

    def wish(self) -> CreateLieutenant:
        """Return the request to create it; call it on a valid form."""
        given = {**self.cleaned_data}
        given["agent"], command = agent_choice.parse(given["agent"])
        given["command"] = given["command"] or command
        options = _take_options(given)
        given["agent_options"] = {name: value for name, value in options.items() if value}
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
