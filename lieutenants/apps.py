"""App configuration of lieutenants."""

from django.apps import AppConfig


class LieutenantsConfig(AppConfig):
    name = "lieutenants"
