"""Rows as JSON by the field list of a response, fast: without a serializer at run time.

The `source` of a field names the model's attribute, which is also the column. Each reader is one
function, compiled once from the field list, as dataclasses compile `__init__`. That of

    class VMResponse(ResponseBody):
        vmId = Text(source="vm_id")
        metadata = JsonValue(required=False)
        liveness = Text()

by `object_reader(VMResponse, given=["liveness"], present={"metadata": "has_metadata"})` is

    def read(row, liveness):
        facts = {'vmId': row.vm_id}
        if row.has_metadata: facts['metadata'] = row.metadata
        facts['liveness'] = liveness
        return facts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reef_site.common.api.serializers import ResponseBody

Json = dict[str, Any]


def object_reader(
    response: type[ResponseBody],
    *computed: str,
    given: Sequence[str] = (),
    present: Mapping[str, str] | None = None,
    blank_as_null: bool = False,
) -> Callable[..., Json]:
    """Return a function that reads the response's fields from a model object.

    `computed` fields are null, until the caller sets them. The values of `given` fields are
    arguments behind the object. `present` maps optional fields to the attribute that must be true,
    else they are absent. With `blank_as_null`, empty texts of nullable fields become null.
    """
    values = {}
    for name, field in response().fields.items():
        value = f"row.{field.source}"
        if name in computed:
            value = "None"
        elif name in given:
            value = name
        elif blank_as_null and field.allow_null:
            value = f"None if {value} == '' else {value}"
        values[name] = value
    conditions = {name: f"row.{source}" for name, source in (present or {}).items()}
    return _compile(response, ["row", *given], values, conditions)


def _compile(
    response: type[ResponseBody],
    parameters: Iterable[str],
    values: Mapping[str, str],
    conditions: Mapping[str, str],
) -> Callable[..., Json]:
    """Return the function that builds a dict of these expressions, in their order."""
    lines = [*_statements(values, conditions), "return facts"]
    text = f"def read({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: Json = {}
    # Only names of our own fields and columns are in the text.
    exec(compile(text, f"<reader of {response.__name__}>", "exec"), {}, namespace)  # noqa: S102
    read: Callable[..., Json] = namespace["read"]
    return read


def _statements(values: Mapping[str, str], conditions: Mapping[str, str]) -> list[str]:
    names = list(values)
    count = next((n for n, name in enumerate(names) if name in conditions), len(names))
    always = ", ".join(f"{name!r}: {values[name]}" for name in names[:count])
    lines = [f"facts = {{{always}}}"]
    for name in names[count:]:
        line = f"facts[{name!r}] = {values[name]}"
        lines.append(f"if {conditions[name]}: {line}" if name in conditions else line)
    return lines
