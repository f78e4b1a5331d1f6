"""App configuration of the registry: which VMs answer now."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"
