"""Organs: the service modules that DNA may name, and which of them this reef runs.

Pure; the settings use it. A reef without an organ has none of its routes, tasks and pages. Tables
and rows are always there, so that an organ that is enabled later finds them.
"""

from __future__ import annotations

from collections.abc import Iterable

# Modules of reef, in the order in which /health lists them.
MODULES = ("lieutenant", "registry", "vm-tree", "vers-config", "bootloader")
# Organs that other programs on a VM provide; reef has nothing to disable for them.
OTHERS = ("store", "cron", "docs", "installer")
KNOWN = (*MODULES, *OTHERS)
NONE = "none"

# Modules that a module depends on: a lieutenant has a place in tree and registry, tokens of the
# registry belong to nodes of the tree, config is scoped by the tree, and a VM is provisioned from
# config into tree and registry.
NEEDS = {
    "lieutenant": ("registry", "vm-tree"),
    "registry": ("vm-tree",),
    "vers-config": ("vm-tree",),
    "bootloader": ("registry", "vm-tree", "vers-config"),
}


def unknown_names(named: Iterable[str]) -> list[str]:
    """Return the names that are not organs."""
    return [name for name in named if name not in KNOWN and name != NONE]


def enabled_modules(named: Iterable[str]) -> frozenset[str]:
    """Return the modules that a reef with these organs runs: the named ones and their dependencies.

    An empty list means all modules; `none` alone means no module.
    """
    words = set(named)
    found = words & set(MODULES) if words else set(MODULES)
    for module in tuple(found):
        found.update(NEEDS.get(module, ()))
    return frozenset(found)


def describe(named: Iterable[str]) -> str:
    """Describe the enabled modules for the operator; return an empty text if all are enabled."""
    words = set(named)
    has = enabled_modules(words)
    if has == set(MODULES):
        return ""
    sentence = f"organs: {_listed(has) or 'none of reef'}"
    if added := has - words:
        sentence += f"; {_listed(added)} because the others need it"
    return sentence


def _listed(modules: frozenset[str]) -> str:
    return ", ".join(module for module in MODULES if module in modules)
