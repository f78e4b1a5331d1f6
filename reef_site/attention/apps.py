"""App configuration of the list of what needs a look."""

from django.apps import AppConfig


class AttentionConfig(AppConfig):
    name = "reef_site.attention"
    label = "attention"
