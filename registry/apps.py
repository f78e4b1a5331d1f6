"""App configuration of the registry."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"

    def ready(self) -> None:
        """Register the registry's part of snapshots, search and removal of subtrees."""
        from registry import services, words
        from registry.snapshots import ALIVE, VMS, alive_among
        from vmtree import removal
        from vmtree.snapshots import living, tables

        tables.add(VMS)
        living.add(ALIVE, alive_among)
        removal.also(services.forget)
        words.teach()
