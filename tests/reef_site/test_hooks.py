"""Hooks: registering, order, duplicates, and the command that lists them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command

from reef_site.common import hooks
from reef_site.common.hooks import Hook, HookError

Greet = Callable[[str], str]


def shout(name: str) -> str:
    return f"{name}!"


def ask(name: str) -> str:
    return f"{name}?"


@pytest.fixture
def greetings(monkeypatch: pytest.MonkeyPatch) -> Hook[Greet]:
    monkeypatch.setattr(hooks, "_declared", dict(hooks._declared))
    return Hook("tests.greetings", "Greet somebody.")


def test_items_come_in_the_order_in_which_they_were_registered(greetings: Hook[Greet]) -> None:
    greetings.register(shout, key="z")
    greetings.register(ask, key="a")

    assert [greet("you") for greet in greetings] == ["you!", "you?"]
    assert list(reversed(greetings)) == [ask, shout]
    assert greetings.items() == [("z", shout), ("a", ask)]


def test_an_item_is_found_by_its_key(greetings: Hook[Greet]) -> None:
    greetings.register(shout, key="loud")

    assert "loud" in greetings
    assert greetings["loud"] is shout
    assert greetings.get("loud") is shout
    assert greetings.get("quiet") is None


def test_without_a_key_the_dotted_name_is_the_key(greetings: Hook[Greet]) -> None:
    greetings.register(shout)

    assert greetings.keys() == [f"{__name__}.shout"]
    with pytest.raises(HookError, match="already"):
        greetings.register(shout)


def test_a_key_is_replaced_only_on_purpose(greetings: Hook[Greet]) -> None:
    greetings.register(shout, key="first")
    greetings.register(shout, key="second")
    with pytest.raises(HookError, match=r"tests\.greetings has an item 'first' already"):
        greetings.register(ask, key="first")

    greetings.register(ask, key="first", replace=True)

    assert greetings.items() == [("first", ask), ("second", shout)]


def test_unregistered_item_is_gone(greetings: Hook[Greet]) -> None:
    greetings.register(shout, key="loud")
    greetings.unregister("loud")

    assert list(greetings) == []
    with pytest.raises(HookError, match="no item 'loud'"):
        greetings.unregister("loud")


def test_items_may_register_others_while_they_are_called(greetings: Hook[Greet]) -> None:
    greetings.register(shout)
    for _ in greetings:
        greetings.register(ask)
    assert list(greetings) == [shout, ask]


def test_a_change_for_a_block_is_undone(greetings: Hook[Greet]) -> None:
    greetings.register(shout, key="loud")

    with greetings.changed({"loud": ask, "other": ask}):
        assert greetings.items() == [("loud", ask), ("other", ask)]
    assert greetings.items() == [("loud", shout)]


def test_a_hook_knows_the_modules_that_declare_and_register(greetings: Hook[Greet]) -> None:
    greetings.register(shout)

    assert greetings.declared_in == __name__
    assert Hook[Greet]("tests.other", "Greet somebody else.").declared_in == __name__
    assert [each.registered_by for each in greetings.registrations()] == [__name__]


def test_a_name_is_declared_once(greetings: Hook[Greet]) -> None:
    with pytest.raises(HookError, match="declared twice"):
        Hook("tests.greetings", "Greet somebody.")


# -- manage.py hooks -----------------------------------------------------------------------------


def listing() -> str:
    out = StringIO()
    call_command("hooks", stdout=out)
    return out.getvalue()


def test_the_command_lists_hooks_with_what_is_registered() -> None:
    found = listing()

    assert "operations.vm_handlers (vmtree.operations.handlers)\n  Pause, resume" in found
    assert re.search(r"^    vms +registry\.apps$", found, re.MULTILINE)
    assert re.search(r"^    ANTHROPIC_API_KEY +versconfig\.model_keys$", found, re.MULTILINE)


def test_the_command_lists_a_hook_without_items(greetings: Hook[Greet]) -> None:
    assert f"tests.greetings ({__name__})\n  Greet somebody.\n    nothing is" in listing()


def test_the_command_lists_every_hook_of_the_sources() -> None:
    found = listing()
    declaration = re.compile(r"^\w+: Hook\[.*\] = Hook\(\s*\"([\w.]+)\"", re.MULTILINE)
    roots = [Path(config.path) for config in apps.get_app_configs()]
    sources = {
        source
        for root in roots
        if root.is_relative_to(settings.BASE_DIR)
        for source in root.rglob("*.py")
        if ".venv" not in source.parts
    }
    declared = [name for source in sources for name in declaration.findall(source.read_text())]

    assert len(declared) > 10
    assert [name for name in declared if f"{name} (" not in found] == []
