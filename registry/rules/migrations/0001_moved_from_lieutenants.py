"""Rules and firings, whose tables belonged to `lieutenants` before and keep their names."""

import django.db.models.deletion
import reef_site.common.clock
import vmtree.models
from django.db import migrations, models

from reef_site.common.moved_models import MoveContentTypes


MODELS = ("rule", "firing")


class Migration(migrations.Migration):
    dependencies = [
        ("contenttypes", "0002_remove_content_type_name"),
        ("lieutenants", "0014_moved_operations_and_rules"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="Rule",
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
                        ("name", models.CharField(max_length=100, unique=True)),
                        ("about", models.TextField(blank=True, help_text="What it is for.")),
                        ("enabled", models.BooleanField(default=False)),
                        (
                            "event",
                            models.CharField(
                                choices=[
                                    ("vm-late", "VM is late"),
                                    ("vm-silent", "VM is silent"),
                                    ("vm-registered", "VM was registered"),
                                    ("lieutenant-error", "lieutenant is in error"),
                                    ("lieutenant-failing", "each request of a lieutenant fails"),
                                    ("lieutenant-idle", "lieutenant is idle"),
                                    ("lieutenant-finished", "lieutenant finished its work"),
                                    (
                                        "finding-unknown",
                                        "a provider has a VM that the tree does not have",
                                    ),
                                    ("finding-vanished", "a VM vanished at its provider"),
                                    ("finding-useless", "a VM costs and serves nothing"),
                                ],
                                max_length=30,
                                verbose_name="when",
                            ),
                        ),
                        (
                            "minutes",
                            models.PositiveIntegerField(default=0, help_text="For so long."),
                        ),
                        (
                            "role",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("infra", "infra"),
                                    ("lieutenant", "lieutenant"),
                                    ("worker", "worker"),
                                    ("golden", "golden"),
                                    ("custom", "custom"),
                                ],
                                max_length=20,
                                verbose_name="only role",
                            ),
                        ),
                        (
                            "category",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("lieutenant", "lieutenant"),
                                    ("swarm_vm", "swarm VM"),
                                    ("agent_vm", "agent VM"),
                                    ("infra_vm", "infrastructure"),
                                ],
                                max_length=20,
                                verbose_name="only category",
                            ),
                        ),
                        (
                            "name_pattern",
                            models.CharField(
                                blank=True,
                                help_text="* is any text, ? one character.",
                                max_length=100,
                                verbose_name="only names like",
                            ),
                        ),
                        (
                            "action",
                            models.CharField(
                                choices=[
                                    ("note", "write it down"),
                                    ("webhook", "call a webhook"),
                                    ("snapshot", "take a snapshot of the tree"),
                                    ("mark-stopped", "mark the VM stopped"),
                                    ("pause", "pause it"),
                                    ("resume", "resume it"),
                                    ("restart", "restart the lieutenant"),
                                    ("destroy", "destroy it"),
                                    ("do-proposed", "do what the finding proposes"),
                                ],
                                max_length=20,
                                verbose_name="then",
                            ),
                        ),
                        (
                            "grace_minutes",
                            models.PositiveIntegerField(
                                default=0,
                                help_text="Wait so long, and look again, before anything is done.",
                            ),
                        ),
                        (
                            "most_an_hour",
                            models.PositiveIntegerField(
                                default=100,
                                help_text="More cases than these wait for the next hour.",
                            ),
                        ),
                        (
                            "text",
                            models.TextField(
                                blank=True, help_text="What a note or a webhook says."
                            ),
                        ),
                        ("webhook_url", models.CharField(blank=True, max_length=500)),
                        ("sealed_secret", models.TextField(blank=True, editable=False)),
                        (
                            "watched_from",
                            models.DateTimeField(
                                default=reef_site.common.clock.now, editable=False
                            ),
                        ),
                        (
                            "created_at",
                            models.DateTimeField(
                                default=reef_site.common.clock.now, editable=False
                            ),
                        ),
                        (
                            "updated_at",
                            models.DateTimeField(
                                default=reef_site.common.clock.now, editable=False
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "lifecycle rule",
                        "db_table": "lieutenants_rule",
                        "ordering": ["name"],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "event__in",
                                        [
                                            "vm-late",
                                            "vm-silent",
                                            "vm-registered",
                                            "lieutenant-error",
                                            "lieutenant-failing",
                                            "lieutenant-idle",
                                            "lieutenant-finished",
                                            "finding-unknown",
                                            "finding-vanished",
                                            "finding-useless",
                                        ],
                                    )
                                ),
                                name="rule_event_is_known",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "action__in",
                                        [
                                            "note",
                                            "webhook",
                                            "snapshot",
                                            "mark-stopped",
                                            "pause",
                                            "resume",
                                            "restart",
                                            "destroy",
                                            "do-proposed",
                                        ],
                                    )
                                ),
                                name="rule_action_is_known",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("action", "destroy"), _negated=True),
                                    models.Q(
                                        ("event__in", ["vm-silent", "lieutenant-error"]),
                                        ("grace_minutes__gte", 5),
                                    ),
                                    _connector="OR",
                                ),
                                name="rule_destroys_the_dead_after_grace",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("action", "do-proposed"), _negated=True),
                                    models.Q(
                                        ("event__startswith", "finding-"), ("grace_minutes__gte", 5)
                                    ),
                                    _connector="OR",
                                ),
                                name="rule_does_what_is_proposed_after_grace",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("action", "webhook"), _negated=True),
                                    models.Q(("webhook_url", ""), _negated=True),
                                    _connector="OR",
                                ),
                                name="rule_webhook_has_url",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Firing",
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
                        ("rule_name", models.CharField(max_length=100)),
                        (
                            "event",
                            models.CharField(
                                choices=[
                                    ("vm-late", "VM is late"),
                                    ("vm-silent", "VM is silent"),
                                    ("vm-registered", "VM was registered"),
                                    ("lieutenant-error", "lieutenant is in error"),
                                    ("lieutenant-failing", "each request of a lieutenant fails"),
                                    ("lieutenant-idle", "lieutenant is idle"),
                                    ("lieutenant-finished", "lieutenant finished its work"),
                                    (
                                        "finding-unknown",
                                        "a provider has a VM that the tree does not have",
                                    ),
                                    ("finding-vanished", "a VM vanished at its provider"),
                                    ("finding-useless", "a VM costs and serves nothing"),
                                ],
                                max_length=30,
                            ),
                        ),
                        (
                            "action",
                            models.CharField(
                                choices=[
                                    ("note", "write it down"),
                                    ("webhook", "call a webhook"),
                                    ("snapshot", "take a snapshot of the tree"),
                                    ("mark-stopped", "mark the VM stopped"),
                                    ("pause", "pause it"),
                                    ("resume", "resume it"),
                                    ("restart", "restart the lieutenant"),
                                    ("destroy", "destroy it"),
                                    ("do-proposed", "do what the finding proposes"),
                                ],
                                max_length=20,
                            ),
                        ),
                        (
                            "subject",
                            models.CharField(
                                help_text="The VM's id, or its machine's.", max_length=255
                            ),
                        ),
                        ("subject_name", models.CharField(blank=True, max_length=255)),
                        (
                            "cause_at",
                            models.DateTimeField(help_text="Since when what caused it holds."),
                        ),
                        (
                            "evidence",
                            models.JSONField(default=dict, encoder=vmtree.models.CompactEncoder),
                        ),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "waiting"),
                                    ("done", "done"),
                                    ("failed", "failed"),
                                    ("dropped", "dropped"),
                                ],
                                default="waiting",
                                max_length=10,
                            ),
                        ),
                        ("outcome", models.TextField(blank=True)),
                        ("at", models.DateTimeField(default=reef_site.common.clock.now)),
                        ("due_at", models.DateTimeField(default=reef_site.common.clock.now)),
                        ("attempts", models.PositiveSmallIntegerField(default=0)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "leased_until",
                            models.DateTimeField(blank=True, editable=False, null=True),
                        ),
                        (
                            "rule",
                            models.ForeignKey(
                                null=True,
                                on_delete=django.db.models.deletion.SET_NULL,
                                related_name="firings",
                                to="rules.rule",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "lieutenants_firing",
                        "ordering": ["-id"],
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "waiting")),
                                fields=["due_at"],
                                name="firing_due",
                            ),
                            models.Index(fields=["ended_at"], name="firing_by_end"),
                            models.Index(fields=["rule", "at"], name="firing_of_rule"),
                            models.Index(fields=["subject", "at"], name="firing_of_subject"),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("rule", "subject", "cause_at"), name="one_firing_a_cause"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("state__in", ["waiting", "done", "failed", "dropped"])
                                ),
                                name="firing_state_is_known",
                            ),
                        ],
                    },
                ),
            ]
        ),
        MoveContentTypes(MODELS, old="lieutenants", new="rules"),
    ]
