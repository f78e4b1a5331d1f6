"""App configuration of lieutenants."""

from django.apps import AppConfig


class LieutenantsConfig(AppConfig):
    name = "lieutenants"

    def ready(self) -> None:
        """Register what the tree, config and operations need to know about lieutenants."""
        from lieutenants import configured, search_terms, vm_lookup
        from lieutenants.operations import agents, handlers, machines, plain_vms
        from lieutenants.rules import secret_source
        from versconfig import impact
        from versconfig.screening import sources
        from vmtree import aliases, permissions, removal
        from vmtree.snapshots import living

        # The last one is asked first: an agent's own VM, a provider's machine, any other VM.
        for handler in (plain_vms.PlainVM(), machines.ProviderVM(), agents.AgentVM()):
            handlers.vm_handlers.register(handler, key=handler.name)
        living.active_vms.register(vm_lookup.alive, key="its lieutenant lives")
        living.destroyed_vms.register(vm_lookup.destroyed, key="its lieutenant was destroyed")
        permissions.local_agent_hosts.register(vm_lookup.local_hosts)
        aliases.lieutenant_finders.register(vm_lookup.id_of_name)
        removal.removal_blockers.register(vm_lookup.alive, key="destroy the lieutenant first")
        impact.restart_finders.register(configured.to_restart)
        webhooks = sources.Source(secret_source.encrypted_secrets, secret_source.secrets)
        sources.secret_sources.register(webhooks, key="webhooks")
        search_terms.register()
