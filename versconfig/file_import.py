"""Import of the files of `~/.vers` into the store, for the whole fleet, with a preview."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from versconfig import files, keys, services, values
from versconfig.exceptions import Unreadable
from versconfig.files import Files
from versconfig.keys import Key
from versconfig.models import Scope, Setting, What

NEW, OTHER, SAME, BAD = "set", "replace", "stored already", "refused"


@dataclass(frozen=True)
class Step:
    """The import of one key from a file. `problem` says why it is refused."""

    key: Key
    place: str
    text: str = field(repr=False)
    what: str
    problem: str = ""

    @property
    def shown(self) -> str:
        """Return the value, masked if secret."""
        return values.shown(self.key, self.text) or ""


@dataclass(frozen=True)
class Plan:
    """All steps, problems with the files, and names in them that are not imported."""

    steps: list[Step]
    problems: list[str]
    unknown_names: list[str]

    @property
    def refused(self) -> list[Step]:
        """Return the steps with invalid values."""
        return [step for step in self.steps if step.what == BAD]


def plan() -> Plan:
    """Return what an import would do now."""
    found = files.read()
    steps = [step for key in keys.ALL.values() for step in _steps(key, found)]
    broken = [problem for key in keys.ALL.values() for *_, problem in found.layers(key) if problem]
    problems = [*found.problems.values(), *dict.fromkeys(broken)]
    return Plan(steps, problems, found.unknown_names())


def apply(plan: Plan, *, by: object) -> int:
    """Carry out the plan; return how many settings were stored."""
    steps = [step for step in plan.steps if step.what in (NEW, OTHER)]
    for step in steps:
        services.put(services.build_change(step.key.name, step.text), by=by, what=What.IMPORTED)
    return len(steps)


def _steps(key: Key, found: Files) -> Iterator[Step]:
    """Yield a step if a file has the key; of several places only the effective one."""
    values_by_place = [(str(place), text) for place, text, _ in found.layers(key) if text]
    for place, text in values_by_place[:1]:
        problem = values.problem(key, text)
        yield Step(key, place, text, BAD if problem else _what(key, text), problem)


def _what(key: Key, text: str) -> str:
    row = Setting.objects.for_scope(key.name, Scope.FLEET, None).first()
    if row is None:
        return NEW
    try:
        return SAME if row.text() == text else OTHER
    except Unreadable:
        return OTHER
