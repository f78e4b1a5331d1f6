"""Queries and bodies of the lieutenants' API, in the wire format.

`services` checks the characters and lengths of texts, since pages send them too.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from bootloader.states import CleanupPolicy
from lieutenants import agents
from lieutenants.limits import LIMITS
from lieutenants.messages.images import MAX_BYTES, MAX_IMAGES, MEDIA_TYPES, NewImage
from lieutenants.next_sign import MAX_AHEAD, MAX_PERIOD
from lieutenants.services import CreateLieutenant
from lieutenants.states import LimitAction, Mode, RestartPolicy
from lieutenants.transcript.export import ExportFormat
from reef_site.common.api.fields import (
    SENTENCE,
    AnyText,
    ApiField,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    ListOf,
    NullableText,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.serializers import Body, Query
from reef_site.common.errors import BadInput
from vmtree import aliases

Json = dict[str, Any]

MAX_WAIT_SECONDS = 60
# Default of pause and destroy; all others return at once.
DEFAULT_WAIT_SECONDS = 10
MAX_ENTRIES = 1000
MAX_FOUND = 100
MAX_ID = 1 << 53
# Limits of a lieutenant's settings, for the API and for forms.
IDLE_LIMIT_MINUTES: Json = {"least": 1, "most": 525_600}
STALL_LIMIT_SECONDS: Json = {"least": 0, "most": 604_800}
TOOL_LIMIT_SECONDS: Json = {"least": 0, "most": 2_592_000}
DIALOG_LIMIT_SECONDS: Json = {"least": 0, "most": 2_592_000}
SIGN_PERIOD_SECONDS: Json = {"least": 0, "most": MAX_PERIOD}
SIGN_GRACE_SECONDS: Json = {"least": 0, "most": MAX_PERIOD}
MAX_ARGUMENTS = 256
OPTIONAL: Json = {"required": False, "allow_null": True}

# -- fields --------------------------------------------------------------------------------------


def is_texts(data: Any) -> bool:
    """Return whether this is a list of texts."""
    return isinstance(data, list) and all(isinstance(each, str) for each in data)


class GivenText(NullableText):
    """Text as it was sent; null is an empty one."""

    def __init__(self, **kwargs: Any) -> None:
        if "default" not in kwargs:
            kwargs["required"] = False
        super().__init__(strip=False, accepts=lambda _text: True, **kwargs)


class RequiredText(Text):
    """Text as it was sent; anything else counts as a missing one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strip=False, blank=False, accepts=lambda _text: True, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data if isinstance(data, str) else None)


class Policy(GivenText):
    """A restart policy; empty is the default one. `services` rejects unknown ones."""

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data) or RestartPolicy.NEVER

    def schema(self) -> Json:
        return {**super().schema(), "enum": [*RestartPolicy.values, "", None]}


class AgentChoice(ApiField):
    """A kind of agent, or an object with its `dialect`, its `command` and its settings.

    Empty is the default in config. `services` rejects unknown kinds and settings. The value has the
    fields of `CreateLieutenant`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, allow_null=True, **kwargs)

    def to_internal_value(self, data: Any) -> Json:
        if not isinstance(data, dict):
            return {"agent": GivenText().to_internal_value(data)}
        options = dict(data)
        dialect = options.pop("dialect", None)
        if not isinstance(dialect, str) or not dialect:
            self.refuse("must be a text, or an object with a dialect")
        chosen: Json = {"agent": dialect}
        if (command := self._take_command(dialect, options)) is not None:
            chosen["command"] = command
        return {**chosen, "agent_options": options}

    def _take_command(self, dialect: str, options: Json) -> list[str] | None:
        """Remove command and preset from the options; return the command line, if one is given."""
        preset = options.pop("preset", None)
        if "command" not in options:
            return self._command_of(dialect, preset) if preset else None
        command = options.pop("command")
        if preset:
            self.refuse("has both command and preset")
        if not is_texts(command):
            self.refuse("command must be a list of texts")
        return list(command)

    def _command_of(self, dialect: str, preset: Any) -> list[str]:
        known = agents.DIALECTS[dialect].presets if dialect in agents.DIALECTS else {}
        if not isinstance(preset, str) or preset not in known:
            names = ", ".join(known) or f"nothing for the agent '{dialect}'"
            self.refuse(f"preset must be one of {names}")
        return list(known[preset].command)

    def schema(self) -> Json:
        kinds = list(agents.DIALECTS)
        as_object = {**_agent_schema(), "required": ["dialect"]}
        return {
            "oneOf": [{"type": ["string", "null"], "enum": [*kinds, "", None]}, as_object],
        }


class AgentChanges(AgentChoice):
    """An object with other settings of an agent whose kind stays, or another `command` or `preset`.

    The value is the object with the command of the preset, see `agent_choice.changed_columns`.
    """

    def to_internal_value(self, data: Any) -> Json:
        if not isinstance(data, dict) or not data:
            self.refuse("must be an object with settings of the agent")
        options = dict(data)
        dialect = options.get("dialect", "acp")
        if not isinstance(dialect, str):
            self.refuse("dialect must be a text")
        if (command := self._take_command(dialect, options)) is not None:
            options["command"] = command
        return options

    def schema(self) -> Json:
        return {**_agent_schema(), "minProperties": 1}


def _agent_schema() -> Json:
    presets = [name for each in agents.DIALECTS.values() for name in each.presets]
    return {
        "type": "object",
        "properties": {
            "dialect": {"type": "string", "enum": list(agents.DIALECTS)},
            "command": CommandLine().schema(),
            "preset": {"type": "string", "enum": presets},
            "permissions": {"type": "string", "enum": ["ask", "allow", "reject"]},
            "files": {"type": "string", "enum": ["none", "read", "write"]},
            "terminals": {"type": "string", "enum": ["no", "yes"]},
            "mode": {"type": "string", "maxLength": 200},
        },
        "additionalProperties": False,
    }


class CommandLine(ListOf):
    """Program and arguments; null is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(GivenText(), most=MAX_ARGUMENTS, required=False, **kwargs)

    def to_internal_value(self, data: Any) -> list[str]:
        if data is None:
            return []
        if not is_texts(data):
            self.refuse("must be a list of texts")
        return list(data)

    def schema(self) -> Json:
        return {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": self.most}


class VMId(GivenText):
    """The id of a VM, or an alias of one. As the parent, empty is the caller's own."""

    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data).strip())


class LimitChoice(Choice):
    def __init__(self) -> None:
        super().__init__(
            LimitAction.values,
            **OPTIONAL,
            source="limit_action",
            help_text="What happens when a model or tool reaches its limit.",
        )


class SignPeriod(WholeNumber):
    def __init__(self) -> None:
        super().__init__(
            **SIGN_PERIOD_SECONDS,
            **OPTIONAL,
            source="sign_period_seconds",
            help_text="A sign of it is expected this often; 0 is never.",
        )


class SignGrace(WholeNumber):
    def __init__(self) -> None:
        super().__init__(
            **SIGN_GRACE_SECONDS,
            **OPTIONAL,
            source="sign_grace_seconds",
            help_text="How much later a sign may come before it is missed.",
        )


class SessionChoice(Choice):
    """The session to start in; null and empty are the kept one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(("kept", "new"), default="kept", **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if data is not None and not isinstance(data, str):
            self.refuse("must be a string")
        return super().to_internal_value(data or "kept")

    def schema(self) -> Json:
        return {"type": ["string", "null"], "enum": [*self.choices, "", None]}


class Images(ListOf):
    """Images of a message; null is none. `messages.images` checks their sizes and contents."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(JsonValue("object"), most=MAX_IMAGES, of="images", **kwargs)

    def to_internal_value(self, data: Any) -> list[NewImage]:
        found = super().to_internal_value([] if data is None else data)
        return [self._parse(number, each) for number, each in enumerate(found)]

    def _parse(self, number: int, given: Json) -> NewImage:
        media_type, data = given.get("mediaType"), given.get("data")
        for name in given:
            if name not in ("mediaType", "data"):
                self.refuse(f"images[{number}]: must have mediaType and data only", SENTENCE)
        if media_type not in MEDIA_TYPES:
            types = ", ".join(MEDIA_TYPES)
            self.refuse(f"images[{number}].mediaType: must be one of {types}", SENTENCE)
        try:
            decoded = base64.b64decode(data if isinstance(data, str) else "", validate=True)
        except ValueError:
            decoded = b""
        if not decoded:
            self.refuse(f"images[{number}].data: must be base64", SENTENCE)
        return NewImage(media_type, decoded)

    def schema(self) -> Json:
        image = {
            "type": "object",
            "properties": {
                "mediaType": {"type": "string", "enum": list(MEDIA_TYPES)},
                "data": {"type": "string", "contentEncoding": "base64", "minLength": 4},
            },
            "required": ["mediaType", "data"],
            "additionalProperties": False,
        }
        return {"type": "array", "items": image, "maxItems": self.most}


# -- queries -------------------------------------------------------------------------------------


class WaitQuery(Query):
    wait = WholeNumber(
        most=MAX_WAIT_SECONDS, default=0, help_text="Seconds to wait for the outcome."
    )


class StopQuery(Query):
    wait = WholeNumber(
        most=MAX_WAIT_SECONDS,
        default=DEFAULT_WAIT_SECONDS,
        help_text="Seconds to wait for the agent's end.",
    )


class BriefQuery(Query):
    brief = Flag(default=False, help_text="Omit long texts.")


class LieutenantsQuery(Query):
    status = AnyText(default="")
    brief = Flag(default=False, help_text="Omit long texts.")


class ReadQuery(Query):
    tail = WholeNumber(default=0, help_text="Number of characters at the end.")
    history = WholeNumber(default=0, help_text="Number of earlier answers to return as well.")
    after = WholeNumber(default=0, help_text="With `limit`: the position to begin after.")
    limit = WholeNumber(default=0, help_text="Number of characters.")


class TranscriptQuery(Query):
    cursor = Cursor()
    after = Cursor(older_name=True)
    limit = WholeNumber(least=1, most=MAX_ENTRIES, default=200)
    textLimit = WholeNumber(
        source="text_limit", default=0, help_text="Shorten longer texts to both ends."
    )


class FindQuery(Query):
    q = AnyText(help_text="Words that an entry contains as they are.")
    cursor = Cursor(help_text="`next` of an earlier page.")
    limit = WholeNumber(least=1, most=MAX_FOUND, default=MAX_FOUND)


class MessagesQuery(Query):
    cursor = AnyText(help_text="`next` of an earlier page.")
    limit = WholeNumber(least=1, most=MAX_ENTRIES, default=100)


class ExportQuery(Query):
    format = Choice(ExportFormat, default=ExportFormat.HTML)


class StreamQuery(Query):
    cursor = Cursor(help_text="The revision after which the stream continues.")
    after = Cursor(older_name=True)


# -- bodies --------------------------------------------------------------------------------------


class CreateBody(Body):
    """A new lieutenant."""

    name = RequiredText(help_text="1 to 64 letters, digits, dots, dashes and underscores.")
    role = RequiredText(help_text="Its job in a sentence.")
    local = Flag(**OPTIONAL)
    model = GivenText(help_text="`provider/model`; empty for the default.")
    directive = GivenText(help_text="More for its system prompt.")
    folder = GivenText(help_text="Its working folder; empty for a new one.")
    restartPolicy = Policy(source="restart_policy")
    parentVmId = VMId(source="parent_vm_id")
    idleLimitMinutes = WholeNumber(**IDLE_LIMIT_MINUTES, **OPTIONAL, source="idle_limit_minutes")
    stallLimitSeconds = WholeNumber(**STALL_LIMIT_SECONDS, **OPTIONAL, source="stall_limit_seconds")
    toolLimitSeconds = WholeNumber(**TOOL_LIMIT_SECONDS, **OPTIONAL, source="tool_limit_seconds")
    vmId = VMId(source="vm_id", help_text="Run it on this VM of a provider.")
    commitId = GivenText(source="commit_id", help_text="Make a VM for it from this saved machine.")
    provider = JsonValue(**OPTIONAL, help_text="Like `local: false`.")
    agent = AgentChoice(help_text="Its kind of agent; as an object also its settings.")
    command = CommandLine(help_text="Program and arguments, for the agents `command` and `acp`.")
    sshHost = GivenText(source="ssh_host", help_text="Run it on this registered SSH host.")
    profile = GivenText(help_text="Make a VM for it by this profile.")
    onFailure = Choice(
        CleanupPolicy.values,
        **OPTIONAL,
        source="on_failure",
        help_text="What becomes of a VM that was made for it if its first start fails.",
    )
    dialogLimitSeconds = WholeNumber(
        **DIALOG_LIMIT_SECONDS, **OPTIONAL, source="dialog_limit_seconds"
    )
    limitAction = LimitChoice()
    signPeriodSeconds = SignPeriod()
    signGraceSeconds = SignGrace()

    example = {"name": "ada", "role": "Keep the tests of the shop green."}


def to_creation(values: Json) -> CreateLieutenant:
    """Return the command of a valid CreateBody."""
    names = ("vm_id", "commit_id", "ssh_host", "profile")
    elsewhere = [values.pop("provider", None), *(values.get(name) for name in names)]
    local = values.pop("local", None)
    chosen = values.pop("agent", None) or {}
    if "command" in chosen and "command" in values:
        raise BadInput("command: is given twice", "command")
    if not values.get("on_failure"):
        values.pop("on_failure", None)
    return CreateLieutenant(
        **values, **chosen, remote=any(elsewhere) if local is None else not local
    )


class ChangesBody(Body):
    """New settings of a lieutenant. At least one of them is required."""

    model = GivenText(help_text="`provider/model`; empty for the default.")
    restartPolicy = Policy(source="restart_policy")
    idleLimitMinutes = WholeNumber(**IDLE_LIMIT_MINUTES, **OPTIONAL, source="idle_limit_minutes")
    stallLimitSeconds = WholeNumber(**STALL_LIMIT_SECONDS, **OPTIONAL, source="stall_limit_seconds")
    toolLimitSeconds = WholeNumber(**TOOL_LIMIT_SECONDS, **OPTIONAL, source="tool_limit_seconds")
    dialogLimitSeconds = WholeNumber(
        **DIALOG_LIMIT_SECONDS,
        **OPTIONAL,
        source="dialog_limit_seconds",
        help_text="How long a dialog waits for a person; 0 dismisses it at once.",
    )
    limitAction = LimitChoice()
    signPeriodSeconds = SignPeriod()
    signGraceSeconds = SignGrace()
    role = GivenText(help_text="Its job in a sentence; from the agent's next start.")
    directive = GivenText(help_text="More for its system prompt; from the agent's next start.")
    agent = AgentChanges(help_text="Settings of its agent; those that are missing stay.")
    restart = Flag(default=False, help_text="Start the agent again at once.")

    example = {"model": "anthropic/claude-opus-4-5", "restart": True}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        settable = [name for name in self.names() if name != "restart"]
        if not any(name in data for name in settable):
            also = "; POST …/restart starts the agent again as it is" if "restart" in data else ""
            raise BadInput(f"body: must have one of {', '.join(settable)}{also}")
        return super().to_internal_value(data)


def to_changes(values: Json) -> Json:
    """Return columns and values of a valid ChangesBody or form; an empty limit is None.

    Defaults depend on the lieutenant and its place in the tree, so `services` finds them.
    """
    changes = {name: values[name] for name in values if name != "restart"}
    if "model" in changes:
        changes["model"] = changes["model"].strip()
    empty = [name for name in LIMITS if name in changes and changes[name] in ("", None)]
    return changes | dict.fromkeys(empty)


class NextSignBody(Body):
    """When the next sign is due: at a time, or in a number of seconds."""

    at = Timestamp(**OPTIONAL, help_text="When it is due; at most seven days ahead.")
    seconds = WholeNumber(
        least=1, most=MAX_AHEAD, **OPTIONAL, help_text="In how many seconds it is due."
    )
    reason = RequiredText(help_text="Why it takes so long, such as: the tests run.")
    graceSeconds = WholeNumber(
        **SIGN_GRACE_SECONDS,
        **OPTIONAL,
        source="grace",
        help_text="How much later it may come; absent for the setting of the lieutenant.",
    )

    example = {"seconds": 1800, "reason": "The tests run.", "graceSeconds": 120}


def due_of(values: Json) -> datetime:
    """Return when the sign of a valid NextSignBody is due. Raises BadInput."""
    at: datetime | None = values.get("at")
    seconds: int | None = values.get("seconds")
    if (at is None) == (seconds is None):
        raise BadInput("at: give either at or seconds", "at")
    return at or timezone.now() + timedelta(seconds=seconds or 0)


class SendBody(Body):
    """A message to a lieutenant."""

    message = RequiredText()
    mode = Choice(Mode.values, **OPTIONAL, help_text="How it is sent while the agent works.")
    images = Images(
        default=[], help_text=f"Together at most {MAX_BYTES} bytes, without the base64."
    )

    example = {
        "message": "Why is this page empty?",
        "mode": "followUp",
        "images": [{"mediaType": "image/gif", "data": "R0lGODlhAQABAAAAACwAAAAAAQABAAAC"}],
    }


class MessageChangesBody(Body):
    """A change of a queued message: of its text, its position, or both."""

    text = Text(strip=False, accepts=lambda _text: True, **OPTIONAL)
    position = WholeNumber(
        least=1,
        most=MAX_ID,
        **OPTIONAL,
        help_text="Among the queued messages, from 1; beyond the end it is the last.",
    )

    example = {"text": "Run the tests, and mend them.", "position": 1}


class ForceBody(Body):
    force = Flag(default=False)

    example = {"force": True}


class SessionBody(Body):
    session = SessionChoice()

    example = {"session": "new"}


class RewindBody(Body):
    """The message to go back to before; without one, the first that fails."""

    messageId = GivenText(source="message_id", default="")
    entryId = WholeNumber(least=1, most=MAX_ID, source="entry_id", allow_null=True, default=None)

    example = {"messageId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D"}
