"""App configuration of versconfig, the fleet's settings and secrets."""

from reef_site.common.apps import ReefAppConfig


class VersconfigConfig(ReefAppConfig):
    name = "versconfig"
    organ = "vers-config"
    tools = "versconfig.tools"
    page_urls = {"config/": "versconfig.urls"}
    api_urls = {r"^vers-config(?:/|$)": "versconfig.routes"}

    def ready(self) -> None:
        """Register the tests of model keys, the rules for SSH keys and the check of the vault.

        From now on secrets are masked in all logs of this process.
        """
        from versconfig import checks, model_keys, models, ssh_keys, values, vault
        from versconfig.screening import log_records

        model_keys.register()
        checks.register_call()
        rules = values.value_rules
        rules.register(ssh_keys.public_problem, key="REEF_SSH_AUTHORIZED_KEYS")
        rules.register(ssh_keys.private_problem, key="REEF_SSH_PRIVATE_KEY")
        vault.encrypted_row_checks.register(models.has_sealed)
        log_records.install()
