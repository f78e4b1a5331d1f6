"""App configuration of the bootloader, which brings VMs into the fleet."""

from reef_site.common.apps import ReefAppConfig


class BootloaderConfig(ReefAppConfig):
    name = "bootloader"
    organ = "bootloader"
    tools = "bootloader.tools"
    page_urls = {"provisioning/": "bootloader.urls"}
    api_urls = {r"^bootloader(?:/|$)": "bootloader.routes"}
    task_prefix = "bootloader"
    ticks = {
        "bootloader.tick": 5.0,
        "bootloader.sweep": 3600.0,
        "bootloader.reconcile": 180.0,
        "bootloader.budgets": 60.0,
    }

    def ready(self) -> None:
        """Register this app's checks, secrets and key rotation with config, and its outside
        calls.
        """
        from bootloader import attention, fast_routes, outside_calls, providers, retention
        from bootloader.inventory import rules, vm_handler
        from bootloader.join import fast_reports
        from bootloader.providers.ssh import hosts as ssh_hosts
        from bootloader.providers.vers import provider as vers
        from versconfig import checks, rotation, values
        from versconfig.screening import sources
        from vmtree.operations import handlers

        values.value_rules.register(providers.slug_problem, key="REEF_VM_PROVIDER")
        checks.key_checks.register(vers.check_key, key="VERS_API_KEY")
        checks.key_checks.register(ssh_hosts.check_shared_key, key="REEF_SSH_PRIVATE_KEY")
        rotation.reencrypt_tables.register(ssh_hosts.reencrypt_keys, key="SSH hosts")
        keys = sources.Source(ssh_hosts.encrypted_keys, ssh_hosts.secrets)
        sources.secret_sources.register(keys, key="SSH hosts")
        if self.is_enabled:
            fast_routes.register()
            fast_reports.register()
        outside_calls.register()
        rules.register()
        attention.register()
        retention.register()
        handler = vm_handler.ProviderHandler()
        handlers.vm_handlers.register(handler, key=handler.name)
