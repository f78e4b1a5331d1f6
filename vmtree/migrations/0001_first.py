import django.db.models.deletion
import reef_site.common.clock
import vmtree.models
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Node",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("vm_id", models.CharField(max_length=255, unique=True, verbose_name="VM id")),
                ("name", models.CharField(blank=True, max_length=255)),
                (
                    "category",
                    models.CharField(
                        choices=[
                            ("lieutenant", "lieutenant"),
                            ("swarm_vm", "swarm VM"),
                            ("agent_vm", "agent VM"),
                            ("infra_vm", "infrastructure"),
                        ],
                        max_length=20,
                    ),
                ),
                (
                    "reef_config",
                    models.JSONField(
                        blank=True,
                        encoder=vmtree.models.CompactEncoder,
                        null=True,
                        verbose_name="DNA",
                    ),
                ),
                ("created_at", models.DateTimeField(default=reef_site.common.clock.now)),
                (
                    "updated_at",
                    models.DateTimeField(db_index=True, default=reef_site.common.clock.now),
                ),
                ("removed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="children",
                        to="vmtree.node",
                    ),
                ),
            ],
            options={
                "ordering": ["created_at", "id"],
            },
        ),
        migrations.CreateModel(
            name="NodeToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("digest", models.CharField(editable=False, max_length=64, unique=True)),
                ("made_at", models.DateTimeField(default=reef_site.common.clock.now)),
                ("made_by", models.CharField(max_length=200)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tokens",
                        to="vmtree.node",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Revision",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(default=reef_site.common.clock.now)),
                ("actor", models.CharField(max_length=200)),
                (
                    "what",
                    models.CharField(
                        choices=[
                            ("created", "created"),
                            ("changed", "changed"),
                            ("removed", "removed"),
                            ("restored", "restored"),
                        ],
                        max_length=10,
                    ),
                ),
                ("name", models.CharField(blank=True, max_length=255)),
                (
                    "category",
                    models.CharField(
                        choices=[
                            ("lieutenant", "lieutenant"),
                            ("swarm_vm", "swarm VM"),
                            ("agent_vm", "agent VM"),
                            ("infra_vm", "infrastructure"),
                        ],
                        max_length=20,
                    ),
                ),
                ("parent_vm_id", models.CharField(blank=True, max_length=255, null=True)),
                (
                    "reef_config",
                    models.JSONField(
                        blank=True,
                        encoder=vmtree.models.CompactEncoder,
                        null=True,
                        verbose_name="DNA",
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="revisions",
                        to="vmtree.node",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="Trait",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("organ", "organ"), ("capability", "capability")], max_length=10
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("position", models.PositiveIntegerField()),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="traits",
                        to="vmtree.node",
                    ),
                ),
            ],
            options={
                "ordering": ["node", "kind", "position"],
            },
        ),
        migrations.AddIndex(
            model_name="node",
            index=models.Index(fields=["created_at", "id"], name="node_by_age"),
        ),
        migrations.AddIndex(
            model_name="node",
            index=models.Index(
                fields=["removed_at", "category", "created_at"], name="node_by_category"
            ),
        ),
        migrations.AddIndex(
            model_name="node",
            index=models.Index(
                fields=["parent", "removed_at", "created_at"],
                name="node_children",
            ),
        ),
        migrations.AddConstraint(
            model_name="node",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("parent__isnull", True),
                    models.Q(("parent", models.F("id")), _negated=True),
                    _connector="OR",
                ),
                name="node_is_not_its_own_parent",
            ),
        ),
        migrations.AddConstraint(
            model_name="node",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("category__in", ["lieutenant", "swarm_vm", "agent_vm", "infra_vm"])
                ),
                name="node_category_is_known",
            ),
        ),
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["node", "at"], name="revision_of_node"),
        ),
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["at"], name="revision_by_time"),
        ),
        migrations.AddIndex(
            model_name="trait",
            index=models.Index(fields=["kind", "name", "node"], name="trait_by_name"),
        ),
        migrations.AddConstraint(
            model_name="trait",
            constraint=models.UniqueConstraint(
                fields=("node", "kind", "position"), name="one_trait_a_position"
            ),
        ),
        migrations.AddConstraint(
            model_name="trait",
            constraint=models.CheckConstraint(
                condition=models.Q(("kind__in", ["organ", "capability"])),
                name="trait_kind_is_known",
            ),
        ),
    ]
