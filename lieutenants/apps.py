"""App configuration of lieutenants."""

from django.apps import AppConfig


class LieutenantsConfig(AppConfig):
    name = "lieutenants"

    def ready(self) -> None:
        """Make known who handles VMs (lieutenants their own, providers theirs, the registry all
        others), and which agents feel a change of configuration only when started again."""
        from lieutenants import configured
        from lieutenants.operations import agents, handlers, machines, plain_vms
        from versconfig import impact

        handlers.add_handler(plain_vms.PlainVM())
        handlers.add_handler(machines.ProviderVM())
        handlers.add_handler(agents.AgentVM())
        impact.register(configured.to_restart)
