"""App configuration of accounts."""

from importlib import import_module

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "reef_site.accounts"
    label = "accounts"
    verbose_name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Note the time of each sign-in in its session."""
        import_module("reef_site.accounts.proof").connect()
