"""App configuration of the registry: which VMs answer now."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"

    def ready(self) -> None:
        """Have the registry in the tree's snapshots, and its words in the tree's search."""
        from registry import words
        from registry.snapshots import VMS
        from vmtree.snapshots import tables

        tables.add(VMS)
        words.teach()
