"""App configuration of the site itself: commands and template tags."""

from importlib import import_module

from django.apps import AppConfig


class ReefSiteConfig(AppConfig):
    name = "reef_site"
    verbose_name = "reef"

    def ready(self) -> None:
        """Make our Celery app the one that `shared_task` rings, in every process."""
        import_module("reef_site.celery")
