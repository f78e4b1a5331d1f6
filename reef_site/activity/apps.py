"""App configuration of what others get of the event log."""

from reef_site.common.apps import ReefAppConfig


class ActivityConfig(ReefAppConfig):
    name = "reef_site.activity"
    label = "activity"
    verbose_name = "subscribers of events"
    default_auto_field = "django.db.models.BigAutoField"
    page_urls = {
        "event-log/": "reef_site.activity.urls",
        "notifications/": "reef_site.activity.personal.urls",
    }
    api_urls = {"": "reef_site.activity.routes"}
    task_prefix = "activity"
    ticks = {"activity.tick": 15.0}

    def ready(self) -> None:
        """Have new events delivered soon and awaited by tools, and cover webhook secrets."""
        from lieutenants import awaited_events
        from reef_site.activity import waits
        from reef_site.activity.subscribers import distribution, secret_source
        from reef_site.common.eventlog import recording
        from versconfig.screening import sources

        recording.after_recording.register(distribution.distribute_soon, key="subscribers")
        awaited_events.event_waits.register(waits.LogWait, key=awaited_events.LOG)
        secrets = sources.Source(secret_source.encrypted_secrets, secret_source.decrypted_secrets)
        sources.secret_sources.register(secrets, key="subscribers")
