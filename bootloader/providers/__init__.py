"""Registry of VM providers: each module here that defines `PROVIDER`.

A provider of several modules is a package, and its module `provider` defines `PROVIDER`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from bootloader.exceptions import UnknownProvider
from bootloader.providers.base import Provider


def get(slug: str) -> Provider:
    """Return the provider with this name. Raise UnknownProvider."""
    try:
        return _all()[slug]
    except KeyError:
        known = ", ".join(all_slugs())
        raise UnknownProvider(f"There is no VM provider '{slug[:80]}', only {known}") from None


def all_slugs() -> tuple[str, ...]:
    """Return the names of all providers, sorted."""
    return tuple(_all())


def slug_problem(slug: str) -> str:
    """Return the error text for an unknown provider name; empty if the name is valid."""
    return "" if slug in _all() else f"must be one of {', '.join(all_slugs())}"


@cache
def _all() -> MappingProxyType[str, Provider]:
    found: dict[str, Provider] = {}
    for module in pkgutil.iter_modules(__path__):
        name = f"{module.name}.provider" if module.ispkg else module.name
        loaded = importlib.import_module(f"{__name__}.{name}")
        provider: Provider | None = getattr(loaded, "PROVIDER", None)
        if provider is not None:
            found[provider.slug] = provider
    return MappingProxyType(dict(sorted(found.items())))
