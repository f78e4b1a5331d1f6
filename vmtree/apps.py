"""App configuration of the VM tree."""

from django.apps import AppConfig


class VmtreeConfig(AppConfig):
    name = "vmtree"
    verbose_name = "VM tree"
