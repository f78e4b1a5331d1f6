"""App configuration of the attention list."""

from reef_site.common.apps import ReefAppConfig


class AttentionConfig(ReefAppConfig):
    name = "reef_site.attention"
    label = "attention"
    page_urls = {"attention/": "reef_site.attention.urls"}
