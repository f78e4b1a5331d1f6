"""All kinds of VM providers. A module in this folder that has a `PROVIDER` is one of them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from bootloader.exceptions import UnknownProvider
from bootloader.providers.base import Provider


def get(slug: str) -> Provider:
    """The provider of this name; raises UnknownProvider."""
    try:
        return _all()[slug]
    except KeyError:
        known = ", ".join(all_slugs())
        raise UnknownProvider(f"There is no VM provider '{slug[:80]}', only {known}") from None


def all_slugs() -> tuple[str, ...]:
    """The names of all of them, sorted."""
    return tuple(_all())


def slug_problem(slug: str) -> str:
    """What is wrong with this name for a provider; empty if there is one."""
    return "" if slug in _all() else f"must be one of {', '.join(all_slugs())}"


@cache
def _all() -> MappingProxyType[str, Provider]:
    found: dict[str, Provider] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        provider: Provider | None = getattr(loaded, "PROVIDER", None)
        if provider is not None:
            found[provider.slug] = provider
    return MappingProxyType(dict(sorted(found.items())))
