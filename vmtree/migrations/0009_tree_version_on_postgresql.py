from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from vmtree.queries import tree_version


def create(_apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    tree_version.create_marks(editor)


class Migration(migrations.Migration):
    dependencies = [
        ("vmtree", "0008_tree_version"),
    ]

    operations = [
        migrations.RunPython(create, migrations.RunPython.noop),
    ]
