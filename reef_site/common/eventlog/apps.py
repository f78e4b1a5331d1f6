"""App configuration of the event log."""

from reef_site.common.apps import ReefAppConfig


class EventLogConfig(ReefAppConfig):
    name = "reef_site.common.eventlog"
    label = "eventlog"
    verbose_name = "event log"
    default_auto_field = "django.db.models.BigAutoField"
