"""`manage.py hooks`: the places where apps above take part in what lower apps do."""

from __future__ import annotations

from django.core.management.base import BaseCommand

from reef_site.common.hooks import Hook, declared_hooks


class Command(BaseCommand):
    help = "List every hook, the module that calls it, and who registered what."
    requires_system_checks = "__all__"

    def handle(self, *_args: str, **_options: object) -> None:
        """Print a paragraph for each hook, by name."""
        self.stdout.write("\n\n".join(described(hook) for hook in declared_hooks()))


def described(hook: Hook[object]) -> str:
    """Return name, declaring module and description, then key and module of each item."""
    found = hook.registrations()
    width = max((len(each.key) for each in found), default=0)
    lines = [f"{hook.name} ({hook.declared_in})", f"  {hook.description}"]
    lines += [f"    {each.key:<{width}}  {each.registered_by}" for each in found]
    return "\n".join(lines if found else [*lines, "    nothing is registered"])
