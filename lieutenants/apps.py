"""App configuration of lieutenants."""

from django.apps import AppConfig


class LieutenantsConfig(AppConfig):
    name = "lieutenants"

    def ready(self) -> None:
        """Make known who handles VMs: lieutenants their own, the registry all others.

        And that a lieutenant that lives keeps its place in the tree.
        """
        from lieutenants import presence
        from lieutenants.operations import agents, handlers, plain_vms
        from vmtree.snapshots import living

        handlers.add_handler(plain_vms.PlainVM())
        handlers.add_handler(agents.AgentVM())
        living.add("its lieutenant lives", presence.alive)
