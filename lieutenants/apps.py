from django.apps import AppConfig


class LieutenantsConfig(AppConfig):
    name = "lieutenants"

    def ready(self) -> None:
        """Register the handlers and hooks of lieutenants.

        VM handlers: the one registered last is queried first, so the registry's fallback comes
        first here.
        """
        from lieutenants import configured, presence, search_terms
        from lieutenants.operations import agents, handlers, machines, plain_vms
        from lieutenants.rules import secret
        from versconfig import impact
        from versconfig.screening import sources
        from vmtree import aliases, permissions, removal
        from vmtree.snapshots import living

        handlers.add_handler(plain_vms.RegistryHandler())
        handlers.add_handler(machines.ProviderHandler())
        handlers.add_handler(agents.LieutenantHandler())
        living.add("its lieutenant lives", presence.alive)
        living.add_gone("its lieutenant was destroyed", presence.destroyed)
        permissions.register_local_agents(presence.local_hosts)
        aliases.register(presence.id_of_name)
        removal.refuse("destroy the lieutenant first", presence.alive)
        impact.register(configured.lieutenants_to_restart)
        sources.register(
            "webhooks", sources.Source(secret.encrypted_secrets, secret.decrypted_secrets)
        )
        search_terms.register()
