"""Jobs and steps, whose tables belonged to `lieutenants` before and keep their names."""

import django.db.models.deletion
import reef_site.common.clock
import reef_site.common.ids
from django.db import migrations, models

from reef_site.common.moved_models import MoveContentTypes


MODELS = ("job", "step")


class Migration(migrations.Migration):
    dependencies = [
        ("contenttypes", "0002_remove_content_type_name"),
        ("lieutenants", "0014_moved_operations_and_rules"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="Job",
                    fields=[
                        (
                            "id",
                            models.CharField(
                                default=reef_site.common.ids.new_ulid,
                                editable=False,
                                max_length=26,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "verb",
                            models.CharField(
                                choices=[
                                    ("pause", "pause"),
                                    ("resume", "resume"),
                                    ("destroy", "destroy"),
                                ],
                                max_length=10,
                            ),
                        ),
                        (
                            "vm_id",
                            models.CharField(
                                help_text="The VM at the top.", max_length=255, verbose_name="VM id"
                            ),
                        ),
                        ("name", models.CharField(blank=True, max_length=255)),
                        ("actor", models.CharField(max_length=200)),
                        (
                            "cause",
                            models.CharField(
                                blank=True, help_text="The rule's firing, if one.", max_length=200
                            ),
                        ),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "open"),
                                    ("done", "done"),
                                    ("failed", "failed"),
                                    ("cancelled", "cancelled"),
                                ],
                                default="open",
                                max_length=10,
                            ),
                        ),
                        (
                            "reason",
                            models.TextField(
                                blank=True, help_text="Why it could not go on, or did nothing."
                            ),
                        ),
                        (
                            "snapshot",
                            models.CharField(
                                blank=True, help_text="Taken before it began.", max_length=200
                            ),
                        ),
                        ("created_at", models.DateTimeField(default=reef_site.common.clock.now)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "leased_until",
                            models.DateTimeField(blank=True, editable=False, null=True),
                        ),
                        ("look_at", models.DateTimeField(blank=True, editable=False, null=True)),
                    ],
                    options={
                        "db_table": "lieutenants_job",
                        "ordering": ["-id"],
                        "indexes": [
                            models.Index(fields=["state", "id"], name="job_by_state"),
                            models.Index(fields=["vm_id", "id"], name="job_of_vm"),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("state", "open")),
                                fields=("vm_id",),
                                name="one_open_job_a_vm",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("verb__in", ["pause", "resume", "destroy"])),
                                name="job_verb_is_known",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("state__in", ["open", "done", "failed", "cancelled"])
                                ),
                                name="job_state_is_known",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Step",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("position", models.PositiveIntegerField()),
                        ("vm_id", models.CharField(max_length=255, verbose_name="VM id")),
                        ("name", models.CharField(blank=True, max_length=255)),
                        ("category", models.CharField(blank=True, max_length=20)),
                        ("above", models.CharField(blank=True, max_length=255)),
                        (
                            "handler",
                            models.CharField(help_text="Who knows how to do it.", max_length=40),
                        ),
                        ("does", models.CharField(max_length=300)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "waiting"),
                                    ("running", "running"),
                                    ("done", "done"),
                                    ("failed", "failed"),
                                    ("blocked", "blocked"),
                                    ("left-out", "left out"),
                                    ("cancelled", "cancelled"),
                                ],
                                default="waiting",
                                max_length=10,
                            ),
                        ),
                        (
                            "reason",
                            models.TextField(blank=True, help_text="Why it failed or is left out."),
                        ),
                        ("attempts", models.PositiveSmallIntegerField(default=0)),
                        ("started_at", models.DateTimeField(blank=True, null=True)),
                        ("acted_at", models.DateTimeField(blank=True, null=True)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "leased_until",
                            models.DateTimeField(blank=True, editable=False, null=True),
                        ),
                        (
                            "job",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="steps",
                                to="operations.job",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "lieutenants_step",
                        "ordering": ["job", "position"],
                        "indexes": [
                            models.Index(fields=["job", "state", "position"], name="step_by_state"),
                            models.Index(fields=["job", "above", "state"], name="step_below"),
                        ],
                        "constraints": [
                            models.UniqueConstraint(fields=("job", "vm_id"), name="one_step_a_vm"),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "state__in",
                                        [
                                            "waiting",
                                            "running",
                                            "done",
                                            "failed",
                                            "blocked",
                                            "left-out",
                                            "cancelled",
                                        ],
                                    )
                                ),
                                name="step_state_is_known",
                            ),
                        ],
                    },
                ),
            ]
        ),
        MoveContentTypes(MODELS, old="lieutenants", new="operations"),
    ]
