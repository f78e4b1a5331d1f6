"""App configuration of the VM tree."""

from reef_site.common.apps import ReefAppConfig


class VmtreeConfig(ReefAppConfig):
    name = "vmtree"
    verbose_name = "VM tree"
    organ = "vm-tree"
    tools = "vmtree.tools"
    api_urls = {"": "vmtree.api"}
    task_prefix = "vmtree"
    # Each minute, so that a missed hourly snapshot is made up for soon.
    ticks = {"vmtree.snapshot": 60.0}

    def ready(self) -> None:
        """Register the reads of the tree that the edge answers, and how long rows are kept."""
        from vmtree import fast_routes, retention

        fast_routes.register()
        retention.register()
