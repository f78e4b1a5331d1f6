"""Migration for models that move from one app to another, with their permissions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from django.db.migrations import RunPython


class MoveContentTypes(RunPython):
    """Give the content types of moved models the label of their new app.

    Permissions, the users and groups that have them, and the admin's log refer to content types, so
    they follow. On a fresh database there is nothing to move: content types are made after all
    migrations.
    """

    def __init__(self, models: Iterable[str], *, old: str, new: str) -> None:
        """Take the names of the models in lower case, and both labels."""
        self.move = (tuple(models), old, new)
        models, old, new = self.move
        super().__init__(partial(_move, models, old, new), partial(_move, models, new, old))

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return how to make this operation again."""
        models, old, new = self.move
        return type(self).__name__, [models], {"old": old, "new": new}


def _move(models: tuple[str, ...], old: str, new: str, apps: Any, schema_editor: Any) -> None:
    rows = apps.get_model("contenttypes", "ContentType").objects
    rows = rows.using(schema_editor.connection.alias)
    # A type may have been made under the new label already, for instance by `loaddata`.
    there = list(rows.filter(app_label=new, model__in=models).values_list("model", flat=True))
    rows.filter(app_label=old, model__in=models).exclude(model__in=there).update(app_label=new)
