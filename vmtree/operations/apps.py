"""App configuration of operations on subtrees."""

from reef_site.common.apps import ReefAppConfig


class OperationsConfig(ReefAppConfig):
    name = "vmtree.operations"
    verbose_name = "operations"
    organ = "lieutenant"
    tools = "vmtree.operations.tools"
    api_urls = {"": "vmtree.operations.api"}
    task_prefix = "operations"
    ticks = {"operations.tick": 10.0}
