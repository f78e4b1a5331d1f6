"""App configuration of versconfig: what the fleet's members are configured with."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"

    def ready(self) -> None:
        """Make known how models' keys are tried out, and whether the vault has sealed anything."""
        from versconfig import model_keys, models, vault

        model_keys.register()
        vault.watch(models.has_sealed)
