"""Permissions of generated trees, before and after moves, destroyed lieutenants and revocations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.accounts.signin_links import make_operator
from reef_site.api.authentication import Caller, caller_of
from registry import services as registry
from registry.services import Registration
from tests.conftest import Api
from tests.vmtree.conftest import NodeApi
from tests.vmtree.entrances import ACTS, ALLOWED, ENTRANCES, REFUSED, UNKNOWN, Act
from tests.vmtree.permission_model import KINDS, Tree, add
from vmtree import operator_tokens, permissions, services, tokens
from vmtree.models import Node, NodeToken, OperatorToken
from vmtree.permissions import Action
from vmtree.services import NewNode, NodeChange

pytestmark = pytest.mark.django_db

# Where each node goes (a number behind the last one makes a root), and its kind.
TREES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(KINDS)), min_size=2, max_size=8)
# What happens, to which node, and where it moves to.
CHANGES = st.lists(
    st.tuples(st.sampled_from(["move", "destroy", "revoke"]), st.integers(0, 9), st.integers(0, 9)),
    max_size=4,
)
FEW = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def grow(places: list[tuple[int, str]]) -> Tree:
    tree = Tree()
    for place, kind in places:
        add(tree, list(tree.parents)[place] if place < len(tree.parents) else "", kind)
    return tree


class Fleet:
    """A tree whose nodes have tokens, and the changes that may happen to it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.tokens = {
            node.vm_id: tokens.issue(node, made_by="tests") for node in Node.objects.all()
        }

    def move(self, vm_id: str, parent: str) -> None:
        if vm_id not in self.tree.with_ancestors(parent):
            services.change(vm_id, NodeChange(parent_vm_id=parent), by="tests")
            self.tree.parents[vm_id] = parent

    def destroy(self, vm_id: str, _parent: str) -> None:
        Lieutenant.objects.filter(pk=vm_id).update(status=Status.DESTROYED)
        self.tree.hosts.pop(vm_id, None)

    def revoke(self, vm_id: str, _parent: str) -> None:
        services.revoke_tokens(vm_id, by="tests")
        below = [each for each in self.tree.parents if vm_id in self.tree.with_ancestors(each)]
        for each in below:
            self.tokens[each] = ""

    def apply(self, changes: list[tuple[str, int, int]]) -> None:
        ids = list(self.tree.parents)
        for what, number, place in changes:
            getattr(self, what)(ids[number % len(ids)], ids[place % len(ids)])

    def callers(self) -> dict[str, Caller]:
        """Return the callers whose tokens must be valid, as authentication finds them."""
        found = {vm_id: caller_of(token) for vm_id, token in self.tokens.items() if token}
        assert all(found.values())
        return {vm_id: caller for vm_id, caller in found.items() if caller}

    def wrong_decisions(self) -> list[tuple[str, str, str]]:
        """Return caller, action and target of each decision that differs from the model."""
        targets = [*self.tree.parents, "", "unknown"]
        return [
            (vm_id, action.name, target)
            for vm_id, caller in self.callers().items()
            for action in Action
            for target in targets
            if permissions.may(caller, action, target or None)
            != self.tree.allows(vm_id, action.name, target)
        ]


def rolled_back(check: Callable[[], None]) -> None:
    """Run one example in a transaction of its own."""
    with transaction.atomic():
        check()
        transaction.set_rollback(True)


@FEW
@given(places=TREES, changes=CHANGES)
def test_every_pair_and_action_follows_the_table(
    places: list[tuple[int, str]], changes: list[tuple[str, int, int]]
) -> None:
    def check() -> None:
        fleet = Fleet(grow(places))
        assert not fleet.wrong_decisions()
        old = dict(fleet.tokens)
        fleet.apply(changes)
        assert not fleet.wrong_decisions()
        revoked = [vm_id for vm_id, token in fleet.tokens.items() if not token]
        assert not any(caller_of(old[vm_id]) for vm_id in revoked)
        assert NodeToken.objects.good().count() == len(old) - len(revoked)

    rolled_back(check)


@FEW
@given(
    places=TREES,
    changes=CHANGES,
    scope=st.sampled_from(OperatorToken.Scope.values),
    subtree=st.none() | st.integers(0, 9),
)
def test_operator_tokens_follow_the_table(
    places: list[tuple[int, str]],
    changes: list[tuple[str, int, int]],
    scope: str,
    subtree: int | None,
) -> None:
    def check() -> None:
        fleet = Fleet(grow(places))
        ids = list(fleet.tree.parents)
        top = "" if subtree is None else ids[subtree % len(ids)]
        node = Node.objects.get(vm_id=top) if top else None
        row = OperatorToken.objects.create(name="ci", digest="x" * 64, scope=scope, subtree=node)
        caller = Caller(str(row), operator_token=row)
        for _ in range(2):
            wrong = [
                (action.name, target)
                for action in Action
                for target in [*ids, "", "unknown"]
                if permissions.may(caller, action, target or None)
                != fleet.tree.token_allows(scope, top, action.name, target)
            ]
            assert not wrong, (scope, top)
            fleet.apply(changes)

    rolled_back(check)


# -- the same at the API ---------------------------------------------------------------------------

# Requests that change nothing whatever they answer: reads, and writes of no value.
SAMPLE: dict[str, Callable[[Api, str], Any]] = {
    "READ": lambda api, vm_id: api.get(f"/vm-tree/vms/{vm_id}"),
    "READ_CONFIG": lambda api, vm_id: api.get(f"/vers-config/explain/OPENAI_API_KEY?vm={vm_id}"),
    "WRITE": lambda api, vm_id: api.client.patch(
        f"/vm-tree/vms/{vm_id}", {}, content_type="application/json"
    ),
    "WRITE by a tool": lambda api, vm_id: api.post("/tools/registry_heartbeat", {"id": vm_id}),
    "COMMAND by a tool": lambda api, vm_id: api.post(
        "/tools/vm_tree_operate", {"vmId": vm_id, "operation": "pause", "dryRun": True}
    ),
    "COMMAND": lambda api, vm_id: api.post(f"/vm-tree/vms/{vm_id}/pause", {"dryRun": True}),
}


def outcome_of(answer: Any) -> str:
    """Return `allowed`, `refused`, or `unknown` for a token that is not valid."""
    if answer.status_code == 200 and answer.json().get("isError"):
        return "refused" if "Error: rule: " in answer.json()["text"] else "failed"
    return {200: "allowed", 403: "refused", 401: "unknown"}.get(answer.status_code, "failed")


@settings(FEW, max_examples=3)
@given(places=TREES, changes=CHANGES)
def test_the_api_follows_the_table(
    places: list[tuple[int, str]], changes: list[tuple[str, int, int]]
) -> None:
    def check() -> None:
        fleet = Fleet(grow(places[:5]))
        for vm_id in fleet.tree.parents:
            registry.register(Registration(vm_id, vm_id, "worker", "h", registered_by="tests"))
        fleet.apply(changes)
        wrong = []
        for vm_id, token in fleet.tokens.items():
            api = NodeApi(token or "reef_revoked")
            for action, ask in SAMPLE.items():
                for target in fleet.tree.parents:
                    allowed = fleet.tree.allows(vm_id, action.partition(" ")[0], target)
                    answer = ask(api, target)
                    expected = "allowed" if allowed else "refused"
                    if outcome_of(answer) != (expected if token else "unknown"):
                        wrong.append((vm_id, action, target, answer.status_code, answer.content))
        assert not wrong

    rolled_back(check)


# -- the same at each entrance ---------------------------------------------------------------------


class Entered:
    """A caller, its token, and the actions that the model permits it."""

    def __init__(self, fleet: Fleet, subtree: str) -> None:
        self.fleet = fleet
        self.tokens = dict(fleet.tokens)
        self.scopes: dict[str, tuple[str, str]] = {}
        for scope in OperatorToken.Scope.values:
            for top in ("", subtree):
                node = Node.objects.get(vm_id=top) if top else None
                name = f"{scope}-{top or 'all'}"
                _, self.tokens[name] = operator_tokens.make(
                    name, scope, subtree=node, by=make_operator()
                )
                self.scopes[name] = (scope, top)

    def expected(self, caller: str, act: Act, target: str) -> str:
        tree = self.fleet.tree
        if caller in self.scopes:
            scope, top = self.scopes[caller]
            allowed = tree.token_allows(scope, top, act.action, target)
        elif self.fleet.tokens[caller]:
            allowed = tree.allows(caller, act.action, target)
        else:
            return UNKNOWN
        return ALLOWED if allowed else REFUSED

    def relation(self, caller: str, target: str) -> str:
        """Return what a case is like: the place of the target, or how far a token reaches."""
        tree = self.fleet.tree
        if caller in self.scopes:
            return "token"
        if not self.fleet.tokens[caller]:
            return "revoked"
        if caller == target:
            return "self"
        if caller in tree.with_ancestors(target):
            return "descendant"
        return "ancestor" if target in tree.with_ancestors(caller) else "other"

    def cases(self, dice: random.Random) -> Iterable[tuple[str, Act, str]]:
        """Return a case of each kind: for each action and each relation."""
        living = set(Lieutenant.objects.active().values_list("pk", flat=True))
        pairs = [(caller, target) for caller in self.tokens for target in self.fleet.tree.parents]
        dice.shuffle(pairs)
        found = {
            (act.action, self.relation(caller, target)): (caller, act, target)
            for caller, target in pairs
            for act in ACTS
            if target in living or not act.on_lieutenant
        }
        return found.values()

    def wrong(self, dice: random.Random) -> list[tuple[str, ...]]:
        """Return what differs from the model, of a case of each kind at each entrance."""
        return [
            (entrance, caller, act.action, target, expected, found)
            for caller, act, target in self.cases(dice)
            for entrance, enter in ENTRANCES.items()
            if (found := enter(self.tokens[caller], act, target))
            != (expected := self.expected(caller, act, target))
        ]


@settings(FEW, max_examples=2)
@given(places=TREES, changes=CHANGES, seed=st.integers(0, 1 << 32))
def test_every_entrance_follows_the_table(
    places: list[tuple[int, str]], changes: list[tuple[str, int, int]], seed: int
) -> None:
    def check() -> None:
        dice = random.Random(seed)
        fleet = Fleet(grow([(0, "here"), *places[:5]]))
        for vm_id in fleet.tree.parents:
            registry.register(Registration(vm_id, vm_id, "worker", "h", registered_by="tests"))
        entered = Entered(fleet, dice.choice(list(fleet.tree.parents)))
        assert not entered.wrong(dice)
        fleet.apply([*changes, ("revoke", dice.randrange(10), 0)])
        assert not entered.wrong(dice)

    rolled_back(check)


def test_a_revoked_operator_token_is_refused_at_once() -> None:
    row, token = operator_tokens.make("ci", "everything", by=make_operator())
    services.create(NewNode("vm-1", "agent_vm", "vm-1"), by="tests")
    read = ACTS[0]
    assert {enter(token, read, "vm-1") for enter in ENTRANCES.values()} == {ALLOWED}
    operator_tokens.revoke(row.pk, by=make_operator())
    assert {enter(token, read, "vm-1") for enter in ENTRANCES.values()} == {UNKNOWN}
