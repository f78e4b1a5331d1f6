"""App configuration of versconfig: what the fleet's members are configured with."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"

    def ready(self) -> None:
        """Register the checks of model keys and SSH keys, and keep secrets out of the logs."""
        from versconfig import checks, model_keys, models, ssh_keys, values, vault
        from versconfig.screening import log_records

        model_keys.register()
        checks.register_call()
        rules = values.value_rules
        rules.register(ssh_keys.public_problem, key="REEF_SSH_AUTHORIZED_KEYS")
        rules.register(ssh_keys.private_problem, key="REEF_SSH_PRIVATE_KEY")
        vault.encrypted_row_checks.register(models.has_sealed)
        log_records.install()
