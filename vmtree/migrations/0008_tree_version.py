from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from vmtree.queries import tree_version


def create(_apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    tree_version.create(editor)


class Migration(migrations.Migration):
    dependencies = [
        ("vmtree", "0007_operator_token_names"),
    ]

    operations = [
        migrations.RunPython(create, migrations.RunPython.noop),
    ]
