"""App configuration of the attention list."""

from django.apps import AppConfig


class AttentionConfig(AppConfig):
    name = "reef_site.attention"
    label = "attention"
