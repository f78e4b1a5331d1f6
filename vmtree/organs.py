"""Organs: the service modules that a VM's DNA may name, and which of them a reef has.

Pure; the settings read it. A reef without an organ lacks its routes, tasks and pages; tables and
rows are those of every reef, so that an organ that comes later finds them.
"""

from __future__ import annotations

from collections.abc import Iterable

# Modules of this reef, in the order in which /health lists them.
MODULES = ("lieutenant", "registry", "vm-tree", "vers-config", "bootloader")
# Words of DNA for what other programs on a VM do; a reef has nothing to leave out for them.
OTHERS = ("store", "cron", "docs", "installer")
KNOWN = (*MODULES, *OTHERS)
NONE = "none"

# What a module cannot be without: a lieutenant has a place in tree and registry, a registry's
# tokens belong to nodes of the tree, config is scoped by the tree, and a VM is brought up from
# config into tree and registry.
NEEDS = {
    "lieutenant": ("registry", "vm-tree"),
    "registry": ("vm-tree",),
    "vers-config": ("vm-tree",),
    "bootloader": ("registry", "vm-tree", "vers-config"),
}


def unknown(named: Iterable[str]) -> list[str]:
    """Those of the words that are no organs."""
    return [word for word in named if word not in KNOWN and word != NONE]


def kept(named: Iterable[str]) -> frozenset[str]:
    """The modules that a reef with these organs has: those named and what they need.

    Nothing named is all of them; the word `none` alone is none.
    """
    words = set(named)
    found = words & set(MODULES) if words else set(MODULES)
    for module in tuple(found):
        found.update(NEEDS.get(module, ()))
    return frozenset(found)


def told(named: Iterable[str]) -> str:
    """What a reef with these organs has, in a sentence for its operator; empty if it has all."""
    words = set(named)
    has = kept(words)
    if has == set(MODULES):
        return ""
    sentence = f"organs: {_listed(has) or 'none of reef'}"
    if added := has - words:
        sentence += f"; {_listed(added)} because the others need it"
    return sentence


def _listed(modules: frozenset[str]) -> str:
    return ", ".join(module for module in MODULES if module in modules)
