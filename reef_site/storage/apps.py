"""App configuration of the page Storage."""

from reef_site.common.apps import ReefAppConfig


class StorageConfig(ReefAppConfig):
    name = "reef_site.storage"
    label = "storage"
    default_auto_field = "django.db.models.BigAutoField"
    page_urls = {"space/": "reef_site.storage.urls"}
    api_urls = {"": "reef_site.storage.routes"}
    task_prefix = "storage"
    ticks = {"storage.measure": 6 * 3600.0, "storage.prune": 600.0}

    def ready(self) -> None:
        """Register the measurement as an outside call, and how long the site keeps its rows."""
        from reef_site.storage import measuring, retention

        measuring.register()
        retention.register()
