"""App configuration of lists: saved filters and actions on many rows."""

from reef_site.common.apps import ReefAppConfig


class ListsConfig(ReefAppConfig):
    name = "reef_site.lists"
    label = "lists"
    default_auto_field = "django.db.models.BigAutoField"
    page_urls = {"lists/": "reef_site.lists.urls"}
    task_prefix = "lists"
    ticks = {"lists.tick": 15.0}

    def ready(self) -> None:
        """Register how long plans and results are kept."""
        from reef_site.lists import retention

        retention.register()
