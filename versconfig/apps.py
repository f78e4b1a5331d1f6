"""App configuration of versconfig, the fleet's settings and secrets."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"

    def ready(self) -> None:
        """Register the tests of model keys, the rules for SSH keys and the check of the vault.

        From now on secrets are masked in all logs of this process.
        """
        from versconfig import checks, model_keys, models, ssh_keys, values, vault
        from versconfig.screening import log_records

        model_keys.register()
        checks.register_call()
        values.register("REEF_SSH_AUTHORIZED_KEYS", ssh_keys.public_problem)
        values.register("REEF_SSH_PRIVATE_KEY", ssh_keys.private_problem)
        vault.watch(models.has_sealed)
        log_records.install()
