"""Rules in plain sentences, for pages."""

from __future__ import annotations

from registry.rules.models import Action, Event, Rule

# Each goes on as "for 10 minutes" or stands alone.
_WHEN: dict[Event, str] = {
    Event.VM_LATE: "a VM has been late",
    Event.VM_SILENT: "a VM has been silent",
    Event.VM_REGISTERED: "a VM has been registered",
    Event.LIEUTENANT_ERROR: "a lieutenant has been in error",
    Event.LIEUTENANT_FAILING: "every request of a lieutenant has failed",
    Event.LIEUTENANT_IDLE: "a lieutenant has been idle",
    Event.LIEUTENANT_FINISHED: "a lieutenant has finished its work",
    Event.FINDING_UNKNOWN: "a provider has had a VM that is not in the tree",
    Event.FINDING_VANISHED: "a VM has been gone at its provider",
    Event.FINDING_USELESS: "a VM has cost money without a use",
}
_THEN: dict[Action, str] = {
    Action.NOTE: "record it",
    Action.WEBHOOK: "call a webhook",
    Action.SNAPSHOT: "take a snapshot of the tree",
    Action.MARK_STOPPED: "mark the VM as stopped",
    Action.PAUSE: "pause it",
    Action.RESUME: "resume it",
    Action.RESTART: "restart the lieutenant",
    Action.DESTROY: "destroy it",
    Action.DO_PROPOSED: "do what the finding proposes",
}


def describe(rule: Rule) -> str:
    """Return when the rule does what, and to which subjects, as sentences."""
    duration = f" for {minutes(rule.minutes)}" if rule.minutes else ""
    if Event(rule.event) in (Event.VM_REGISTERED, Event.LIEUTENANT_FINISHED) and rule.minutes:
        duration = f" {minutes(rule.minutes)} ago"
    sentences = [f"When {_WHEN[Event(rule.event)]}{duration}, {then(rule)}."]
    if only := _only(rule):
        sentences.append(f"Only for {only}.")
    if rule.grace_minutes:
        sentences.append(f"Waits {minutes(rule.grace_minutes)} before that, and checks again.")
    return " ".join(sentences)


def then(rule: Rule) -> str:
    """Return what the rule does, such as "record it"."""
    return _THEN[Action(rule.action)]


def _only(rule: Rule) -> str:
    kinds = [
        f"the {name} {value}"
        for name, value in (("role", rule.role), ("category", rule.category))
        if value
    ]
    if rule.name_pattern:
        kinds.append(f"names like {rule.name_pattern}")
    return " and ".join(kinds)


def minutes(count: int) -> str:
    """Return a number of minutes in words, in hours or days if it is a whole number of these."""
    for size, unit in ((1440, "day"), (60, "hour")):
        if count >= size and count % size == 0:
            return _counted(count // size, unit)
    return _counted(count, "minute")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
