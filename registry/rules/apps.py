"""App configuration of lifecycle rules."""

from django.apps import AppConfig


class RulesConfig(AppConfig):
    name = "registry.rules"
    verbose_name = "lifecycle rules"

    def ready(self) -> None:
        """Register what rules about VMs need, and the source of webhook secrets."""
        from registry.models import VM
        from registry.rules import actions, conditions, engine, secret_source
        from versconfig.screening import sources

        actions.register(actions.ACTIONS)
        conditions.register(conditions.CONDITIONS)
        engine.subject_tables.register(VM.objects.all, key="VMs")
        webhooks = sources.Source(secret_source.encrypted_secrets, secret_source.decrypted_secrets)
        sources.secret_sources.register(webhooks, key="webhooks")
