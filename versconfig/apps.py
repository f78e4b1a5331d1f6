"""App configuration of versconfig: what the fleet's members are configured with."""

from django.apps import AppConfig


class VersconfigConfig(AppConfig):
    name = "versconfig"
