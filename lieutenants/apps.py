from reef_site.common.apps import ReefAppConfig


class LieutenantsConfig(ReefAppConfig):
    name = "lieutenants"
    organ = "lieutenant"
    page_urls = {"lieutenants/": "lieutenants.urls", "hosts/": "lieutenants.hosts.urls"}
    api_urls = {"": "lieutenants.routes"}
    task_prefix = "lieutenants"

    def ready(self) -> None:
        """Register the hooks of lieutenants."""
        from bootloader.inventory import reconcile
        from bootloader.providers.ssh import connection_test
        from bootloader.provisioning import runner
        from lieutenants import agents, rules, search_terms, tasks, vm_handler, vm_lookup
        from vmtree import aliases, permissions, removal
        from vmtree.operations import handlers
        from vmtree.snapshots import restore_hooks

        handler = vm_handler.LieutenantHandler()
        handlers.vm_handlers.register(handler, key=handler.name)
        restore_hooks.active_vms.register(vm_lookup.alive, key="its lieutenant lives")
        restore_hooks.destroyed_vms.register(
            vm_lookup.destroyed, key="its lieutenant was destroyed"
        )
        permissions.local_agent_hosts.register(vm_lookup.local_hosts)
        aliases.lieutenant_finders.register(vm_lookup.id_of_name)
        removal.removal_blockers.register(vm_lookup.alive, key="destroy the lieutenant first")
        for dialect in agents.DIALECTS.values():
            dialect.register_hooks()
        search_terms.register()
        rules.register()
        for dialect in agents.DIALECTS.values():
            if programs := dialect.usual_programs:
                connection_test.agent_programs.register(programs, key=dialect.name)
        reconcile.used_vms.register(vm_lookup.used_vms, key="lieutenants")
        runner.end_listeners.register(tasks.on_provisioning_end, key="lieutenants")
