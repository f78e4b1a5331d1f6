"""App configuration of accounts."""

from importlib import import_module

from reef_site.common.apps import ReefAppConfig


class AccountsConfig(ReefAppConfig):
    name = "reef_site.accounts"
    label = "accounts"
    verbose_name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"
    page_urls = {"": "reef_site.accounts.urls"}

    def ready(self) -> None:
        """Note the time of each sign-in in its session."""
        import_module("reef_site.accounts.proof").connect()
