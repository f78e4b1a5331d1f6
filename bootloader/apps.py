"""App configuration of the bootloader: how a VM becomes a member of the fleet."""

from django.apps import AppConfig


class BootloaderConfig(AppConfig):
    name = "bootloader"
