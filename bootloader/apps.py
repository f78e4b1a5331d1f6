"""App configuration of the bootloader: how a VM becomes a member of the fleet."""

from django.apps import AppConfig


class BootloaderConfig(AppConfig):
    name = "bootloader"

    def ready(self) -> None:
        """Say how the account's key at the platform is tried out."""
        from bootloader.providers import vers
        from versconfig import checks

        checks.register("VERS_API_KEY", vers.check_key)
