"""App configuration of the site itself: commands and template tags."""

from django.apps import AppConfig


class ReefSiteConfig(AppConfig):
    name = "reef_site"
    verbose_name = "reef"
