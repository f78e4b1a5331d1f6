"""The models that agents offer."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from lieutenants.models.lieutenants import Lieutenant

# Lists of models that are looked at, and names that a form offers.
MAX_LISTS, MAX_OFFERED = 20, 500


class AgentModelsQuerySet(models.QuerySet["AgentModels"]):
    def offered(self, lieutenant: Lieutenant | None = None) -> list[str]:
        """Return the names of models for a form: those of this agent, else of all agents here."""
        here = self.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)
        own = here.filter(lieutenant=lieutenant)
        listed = own if lieutenant is not None and own.exists() else here
        newest = listed.order_by("-at").values_list("names", flat=True)[:MAX_LISTS]
        return sorted({name for names in newest for name in names})[:MAX_OFFERED]


class AgentModels(models.Model):
    """The models that the agent listed at its last start."""

    lieutenant = models.OneToOneField(
        Lieutenant, models.CASCADE, primary_key=True, related_name="agent_models"
    )
    names = models.JSONField(default=list, help_text="provider/id of each.")
    labels = models.JSONField(default=list, help_text="Their names for people.")
    image_names = models.JSONField(
        null=True, blank=True, help_text="Those that take images, if the agent said so."
    )
    process = models.ForeignKey("Process", models.CASCADE, related_name="+")
    at = models.DateTimeField(default=timezone.now)

    objects = AgentModelsQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "agent models"

    def __str__(self) -> str:
        return f"{len(self.names)} models of {self.lieutenant_id}"
