"""App configuration of versconfig: what the fleet's members are configured with."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"

    def ready(self) -> None:
        """Make known how keys of model providers are tried out."""
        from versconfig import model_keys

        model_keys.register()
