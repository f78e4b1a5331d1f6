"""App configuration of versconfig: what the fleet's members are configured with."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"

    def ready(self) -> None:
        """Say how models' keys are tried out, what SSH takes, whether the vault has sealed any.

        From now on no log of this process shows a secret.
        """
        from versconfig import checks, model_keys, models, ssh_keys, values, vault
        from versconfig.screening import log_records

        model_keys.register()
        checks.register_call()
        values.register("REEF_SSH_AUTHORIZED_KEYS", ssh_keys.public_problem)
        values.register("REEF_SSH_PRIVATE_KEY", ssh_keys.private_problem)
        vault.watch(models.has_sealed)
        log_records.install()
