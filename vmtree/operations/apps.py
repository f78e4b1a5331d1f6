"""App configuration of operations on subtrees."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "vmtree.operations"
    verbose_name = "operations"
