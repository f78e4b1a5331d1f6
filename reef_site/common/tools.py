"""Tools of agents: what each is for, what it takes, and what it does.

An app lists its tools as `TOOLS` in the module that its configuration names (`tools`). They are
served by `/tools`, MCP, the pi extension and the command line, all from this declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import orjson
from rest_framework.fields import empty

from reef_site.common import json_format, request_names
from reef_site.common.api.fields import ApiField
from reef_site.common.api.serializers import Body
from reef_site.common.apps import enabled_apps
from reef_site.common.errors import BadInput

Json = dict[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """The result of a call: text for the model, and the same as data for programs."""

    text: str
    details: Json = field(default_factory=dict)
    # Value of the header `Reef-Wait`: the edge holds the response until this wait is over.
    wait: str = ""


@dataclass(frozen=True)
class Tool:
    """A tool. `call` takes the caller and the valid arguments by `source`; it raises ReefError."""

    name: str
    # What it does and when to use it, for the model.
    purpose: str
    arguments: type[Body]
    call: Callable[[Any, Json], ToolResult]
    # It changes nothing.
    read_only: bool = False
    # It ends or removes something for good.
    destructive: bool = False
    # Its result has a secret in clear, such as a join token.
    shows_secret: bool = False
    # The action of `vmtree.permissions` that it needs; empty if every caller may use it.
    action: str = ""
    # It acts on the whole fleet, so a right on some VMs is not enough.
    on_fleet: bool = False

    @property
    def is_sensitive(self) -> bool:
        """Return whether a person must have signed in recently to call it."""
        return self.destructive or self.shows_secret

    def input_schema(self) -> Json:
        """Return the JSON Schema of the arguments."""
        return schema_of(self.arguments)

    def parse(self, arguments: object) -> Json:
        """Return the valid arguments; null counts as absent.

        Raises ValidationError, ParseError for unknown names, BadInput.
        """
        if not isinstance(arguments, dict):
            raise BadInput("body: must be an object with the arguments", "body")
        request_names.check(arguments, self.arguments.names(), place="body")
        given = {name: value for name, value in arguments.items() if value is not None}
        return self.arguments.parse_data(given)


class Fields(ApiField):
    """An argument that is an object with the fields of a body; null counts as absent in it."""

    def __init__(self, body: type[Body], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = body

    def to_internal_value(self, data: Any) -> Json:
        if not isinstance(data, dict):
            self.refuse("must be an object")
        request_names.check(data, self.body.names(), place=self.field_name or "body")
        return self.body.parse_data({key: each for key, each in data.items() if each is not None})

    def schema(self) -> Json:
        return schema_of(self.body)


class NoArguments(Body):
    """A tool that takes nothing."""


class ToolError(Exception):
    """Two tools have the same name."""


def declared_tools() -> dict[str, Tool]:
    """Return the tools of all enabled apps by name, the lower apps first. Raises ToolError."""
    found: dict[str, Tool] = {}
    for config in enabled_apps():
        for tool in import_module(config.tools).TOOLS if config.tools else ():
            if tool.name in found:
                raise ToolError(f"the tool {tool.name} is declared twice")
            found[tool.name] = tool
    return found


def schema_of(body: type[Body]) -> Json:
    """Return the JSON Schema of a body's fields."""
    fields: Mapping[str, ApiField] = dict(body().fields)  # type: ignore[arg-type]
    required = [name for name, each in fields.items() if each.required]
    schema: Json = {
        "type": "object",
        "properties": {name: _property(each) for name, each in fields.items()},
        "additionalProperties": False,
    }
    return {**schema, "required": required} if required else schema


def json_text(value: object) -> str:
    """Return a value as JSON in lines, as existing agents know it from responses."""
    return orjson.dumps(orjson.loads(json_format.dumps(value)), option=orjson.OPT_INDENT_2).decode()


def _property(each: ApiField) -> Json:
    schema = each.schema()
    if each.help_text:
        schema["description"] = str(each.help_text)
    if each.default is not empty and isinstance(each.default, bool | int | str) and each.default:
        schema["default"] = each.default
    return schema
