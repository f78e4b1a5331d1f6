"""App configuration of the dashboard: pages of the fleet, which combine several apps."""

from reef_site.common.apps import ReefAppConfig


class DashboardConfig(ReefAppConfig):
    name = "reef_site.dashboard"
    label = "dashboard"
    # The overview is there in each reef; `reef_site.urls` has it.
    organ = "vm-tree"
    page_urls = {"fleet/": "reef_site.dashboard.urls"}

    def ready(self) -> None:
        """Register the lists of VMs."""
        from reef_site.dashboard import vm_bulk

        vm_bulk.register()
