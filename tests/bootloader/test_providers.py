"""Rules for every kind of provider, and adding a new kind."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from bootloader import providers
from bootloader.exceptions import UnknownProvider
from bootloader.providers.base import Provider

VERBS = [name for name, _ in inspect.getmembers(Provider, inspect.isfunction) if name[0] != "_"]


@pytest.mark.parametrize("slug", providers.all_slugs())
def test_each_provider_implements_the_interface(slug: str) -> None:
    provider = providers.get(slug)
    assert provider.slug == slug
    assert {"create", "find_created", "login", "check"} < set(VERBS)
    for name in VERBS:
        wanted = inspect.signature(getattr(Provider, name)).parameters
        given = inspect.signature(getattr(provider, name)).parameters
        assert list(given) == list(wanted)[1:], name


def test_vers_and_ssh_are_registered() -> None:
    assert providers.all_slugs() == ("ssh", "vers")
    with pytest.raises(UnknownProvider, match="no VM provider 'aws', only ssh, vers") as caught:
        providers.get("aws")
    assert caught.value.status == 400


def test_new_provider_needs_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third.py").write_text(
        "from bootloader.providers.ssh.provider import SshHosts\n"
        "class Third(SshHosts):\n"
        "    slug = 'third'\n"
        "PROVIDER = Third()\n"
    )
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(tmp_path)])
    providers._all.cache_clear()
    try:
        assert providers.all_slugs() == ("ssh", "third", "vers")
        assert providers.get("third").slug == "third"
    finally:
        monkeypatch.undo()
        providers._all.cache_clear()
