"""App configuration of the registry: which VMs answer now."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"

    def ready(self) -> None:
        """Have the registry in the tree's snapshots, and its words in the tree's search.

        VMs that are removed with their whole subtree are forgotten.
        """
        from registry import services, words
        from registry.snapshots import ALIVE, VMS, alive
        from vmtree import removal
        from vmtree.snapshots import living, tables

        tables.add(VMS)
        living.add(ALIVE, alive)
        removal.also(services.forget)
        words.teach()
