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

from reef_site.common.api.fields import JsonValue, Timestamp
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


class PositionalReader:
    """Reads the response's fields from database rows that begin with `columns`.

    `given` and `present` are those of `object_reader`; `present` names columns, which are added if
    they are not there. Stored JSON is absent if it is an empty object.

    `read(row, parse, to_date, *given)` returns the fields; `parse` reads stored JSON, `to_date` the
    driver's timestamps.
    """

    def __init__(
        self,
        response: type[ResponseBody],
        alias: str,
        *,
        given: Sequence[str] = (),
        present: Mapping[str, str] | None = None,
    ) -> None:
        fields, present = dict(response().fields.items()), present or {}
        sources = {name: str(fields[name].source) for name in fields if name not in given}
        columns = list(dict.fromkeys([*sources.values(), *present.values()]))
        places = {column: f"row[{number}]" for number, column in enumerate(columns)}
        stored = {sources[name] for name in sources if isinstance(fields[name], JsonValue)}
        values = {
            name: name if name in given else _parsed(field, places[sources[name]])
            for name, field in fields.items()
        }
        conditions = {
            name: f"{places[column]} != '{{}}'" if column in stored else places[column]
            for name, column in present.items()
        }
        self.columns = [f"{alias}.{column}" for column in columns]
        self.read = _compile(response, ["row", "parse", "to_date", *given], values, conditions)


def _parsed(field: Any, value: str) -> str:
    """Return the expression that parses a column's value."""
    parser = {JsonValue: "parse", Timestamp: "to_date"}
    names = [name for kind, name in parser.items() if isinstance(field, kind)]
    if not names:
        return value
    parsed = f"{names[0]}({value})"
    is_never_null = field.required and not field.allow_null
    return parsed if is_never_null else f"None if {value} is None else {parsed}"


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
