"""App configuration of the bootloader: how a VM becomes a member of the fleet."""

from django.apps import AppConfig


class BootloaderConfig(AppConfig):
    name = "bootloader"

    def ready(self) -> None:
        """Register what config needs to know about providers and SSH hosts."""
        from bootloader import hosts, outside_calls, providers
        from bootloader.providers import vers
        from versconfig import checks, rotation, values
        from versconfig.screening import sources

        values.value_rules.register(providers.slug_problem, key="REEF_VM_PROVIDER")
        checks.key_checks.register(vers.check_key, key="VERS_API_KEY")
        checks.key_checks.register(hosts.check_shared_key, key="REEF_SSH_PRIVATE_KEY")
        rotation.reencrypt_tables.register(hosts.reseal, key="SSH hosts")
        keys = sources.Source(hosts.sealed_keys, hosts.secrets)
        sources.secret_sources.register(keys, key="SSH hosts")
        outside_calls.register()
