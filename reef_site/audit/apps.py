"""App configuration of the audit log."""

from importlib import import_module

from reef_site.common.apps import ReefAppConfig


class AuditConfig(ReefAppConfig):
    name = "reef_site.audit"
    label = "audit"
    verbose_name = "audit log"
    default_auto_field = "django.db.models.BigAutoField"
    page_urls = {"audit/": "reef_site.audit.urls"}

    def ready(self) -> None:
        """Record Django's signals of sign-ins and sign-outs, and what the edge changes."""
        import_module("reef_site.audit.log").connect()
        changes = import_module("reef_site.audit.edge_changes")
        import_module("registry.write_routes").record_changes.register(changes.record)
