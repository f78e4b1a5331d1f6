from django.db import migrations, models
from django.db.migrations.state import StateApps


def rename_earlier_tokens(apps: StateApps, _editor: object) -> None:
    """Give revoked tokens another name if a later token has theirs."""
    tokens = apps.get_model("vmtree", "OperatorToken").objects
    seen: set[str] = set()
    # At most one of a name is not revoked; it keeps the name.
    order = (models.F("revoked_at").desc(nulls_first=True), "-pk")
    for pk, name in list(tokens.order_by(*order).values_list("pk", "name")):
        if name in seen:
            # No new name may contain a tilde.
            tokens.filter(pk=pk).update(name=f"{name[:75]}~{pk}")
        seen.add(name)


class Migration(migrations.Migration):
    dependencies = [
        ("vmtree", "0006_operator_tokens"),
    ]

    operations = [
        migrations.RunPython(rename_earlier_tokens, migrations.RunPython.noop, elidable=True),
        migrations.RemoveConstraint("operatortoken", "one_operator_token_a_name"),
        migrations.AddConstraint(
            "operatortoken",
            models.UniqueConstraint(fields=["name"], name="operator_token_names_are_unique"),
        ),
    ]
