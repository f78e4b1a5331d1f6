"""App configuration of the audit log."""

from importlib import import_module

from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "reef_site.audit"
    label = "audit"
    verbose_name = "audit log"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Record Django's signals of sign-ins and sign-outs."""
        import_module("reef_site.audit.log").connect()
