"""App configuration of the registry."""

from reef_site.common.apps import ReefAppConfig


class RegistryConfig(ReefAppConfig):
    name = "registry"
    organ = "registry"
    tools = "registry.tools"
    api_urls = {r"^registry(?:/|$)": "registry.routes"}
    task_prefix = "registry"
    ticks = {"registry.sweep": 10.0}

    def ready(self) -> None:
        """Register the registry's part of what lower apps do, and the reads of the edge."""
        from registry import (
            attention,
            fast_changes,
            fast_routes,
            retention,
            search_terms,
            services,
            vm_handler,
        )
        from registry.snapshots import ALIVE, VMS, alive_among
        from vmtree import removal
        from vmtree.operations import handlers, plan
        from vmtree.snapshots import restore_hooks, tables

        tables.snapshot_tables.register(VMS, key=VMS.name)
        restore_hooks.active_vms.register(alive_among, key=ALIVE)
        removal.after_removal.register(services.deregister_all)
        fallback = vm_handler.RegistryHandler()
        handlers.vm_handlers.register(fallback, key=fallback.name)
        plan.child_finders.register(vm_handler.registered_children)
        search_terms.register()
        attention.register()
        fast_routes.register()
        fast_changes.register()
        retention.register()
