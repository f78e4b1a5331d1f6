"""App configuration of the bootloader, which brings VMs into the fleet."""

from django.apps import AppConfig


class BootloaderConfig(AppConfig):
    name = "bootloader"

    def ready(self) -> None:
        """Register this app's checks, secrets and key rotation with config, and its outside
        calls.
        """
        from bootloader import hosts, outside_calls, providers
        from bootloader.providers import vers
        from versconfig import checks, rotation, values
        from versconfig.screening import sources

        values.register("REEF_VM_PROVIDER", providers.slug_problem)
        checks.register("VERS_API_KEY", vers.check_key)
        checks.register("REEF_SSH_PRIVATE_KEY", hosts.check_shared_key)
        rotation.register("SSH hosts", hosts.reencrypt_keys)
        sources.register("SSH hosts", sources.Source(hosts.encrypted_keys, hosts.secrets))
        outside_calls.register()
