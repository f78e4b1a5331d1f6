from reef_site.common.apps import ReefAppConfig


class LieutenantsConfig(ReefAppConfig):
    name = "lieutenants"
    organ = "lieutenant"
    page_urls = {
        "lieutenants/": "lieutenants.urls",
        "hosts/": "lieutenants.hosts.urls",
        "questions/": "lieutenants.questions.urls",
        "costs/": "lieutenants.usage.urls",
    }
    api_urls = {"": "lieutenants.routes"}
    task_prefix = "lieutenants"
    tools = "lieutenants.tools"
    ticks = {"lieutenants.questions": 5.0}

    def ready(self) -> None:
        """Register the hooks of lieutenants."""
        from bootloader.inventory import reconcile
        from bootloader.models.hosts import busy_hosts
        from bootloader.providers.ssh import connection_test
        from bootloader.provisioning import runner
        from lieutenants import (
            agent_choice,
            agents,
            attention,
            fast_reads,
            palette,
            retention,
            rules,
            search_terms,
            tasks,
            vm_handler,
            vm_lookup,
        )
        from lieutenants.lists import bulk
        from lieutenants.usage import spending
        from reef_site.common.palette import palette_sources
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
        _register_calls()
        spending.register()
        rules.register()
        agent_choice.register()
        attention.register()
        retention.register()
        bulk.register()
        palette_sources.register(palette.entries, key="lieutenants")
        for dialect in agents.DIALECTS.values():
            if programs := dialect.usual_programs:
                connection_test.agent_programs.register(programs, key=dialect.name)
        reconcile.used_vms.register(vm_lookup.used_vms, key="lieutenants")
        busy_hosts.register(vm_lookup.used_hosts, key="lieutenants")
        if self.is_enabled:
            fast_reads.register()
        runner.end_listeners.register(tasks.on_provisioning_end, key="lieutenants")


def _register_calls() -> None:
    """Register the outside calls of lieutenants."""
    from lieutenants.changes import calls as changes_calls
    from lieutenants.supervision.discovery import call as discovery_call
    from lieutenants.unknown_agents import call as unknown_agents_call

    for each in (changes_calls, discovery_call, unknown_agents_call):
        each.register()
