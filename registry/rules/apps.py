"""App configuration of lifecycle rules."""

from reef_site.common.apps import ReefAppConfig


class RulesConfig(ReefAppConfig):
    name = "registry.rules"
    verbose_name = "lifecycle rules"
    organ = "lieutenant"
    page_urls = {"rules/": "registry.rules.urls"}
    api_urls = {"": "registry.rules.api"}
    task_prefix = "rules"
    ticks = {"rules.tick": 15.0}

    def ready(self) -> None:
        """Register what rules about VMs need, and the source of webhook secrets."""
        from registry.models import VM
        from registry.rules import (
            actions,
            attention,
            conditions,
            engine,
            outside_calls,
            retention,
            secret_source,
        )
        from versconfig.screening import sources

        outside_calls.register()
        actions.register(actions.ACTIONS)
        conditions.register(conditions.CONDITIONS)
        attention.register()
        retention.register()
        engine.subject_tables.register(VM.objects.all, key="VMs")
        webhooks = sources.Source(secret_source.encrypted_secrets, secret_source.decrypted_secrets)
        sources.secret_sources.register(webhooks, key="webhooks")
