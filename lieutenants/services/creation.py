"""Create lieutenants."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, transaction

from bootloader.grants import budgets
from bootloader.grants import services as grants
from lieutenants import agents, limits, membership
from lieutenants.exceptions import NameTaken
from lieutenants.idempotency import key_of
from lieutenants.isolation import folders
from lieutenants.models import Lieutenant
from lieutenants.prompts import system_prompt
from lieutenants.services import agent_limits
from lieutenants.services.creation_request import (
    CreateLieutenant,
    check,
    default_model,
    with_agent,
    without_secrets,
)
from lieutenants.services.transitions import actor_name, record, settle_later
from lieutenants.states import Status
from lieutenants.supervision import remote_places, remote_start, runtime
from lieutenants.usage.spending import Reading
from reef_site.common.ids import new_ulid
from vmtree import permissions
from vmtree import services as tree
from vmtree.models import Node
from vmtree.permissions import Action


def create(request: CreateLieutenant, *, actor: object) -> Lieutenant:
    """Create a lieutenant; a worker starts its agent after the commit.

    Raises BadInput, Forbidden, NameTaken, NoProvider, AgentMissing.
    """
    return create_once(request, actor=actor)[0]


@budgets.recording_refusals()
def create_once(
    request: CreateLieutenant, *, actor: object, key: str = ""
) -> tuple[Lieutenant, bool]:
    """Create a lieutenant, or find the one that an earlier identical request created.

    Return the lieutenant and whether it is new. `key` is the request's Idempotency-Key. Raises
    KeyReused, and whatever `create` raises.
    """
    name, role = request.name.strip(), request.role.strip()
    # Checked first: an actor that may not start processes here learns nothing else. On a VM, too,
    # the agent gets keys of this host, so the token of a VM is not enough.
    permissions.check(actor, Action.START_BELOW, permissions.home_of(actor))
    check(request, name, role)
    request = without_secrets(request)
    role = request.role.strip()
    creation = key_of(key, caller=actor, facts=request.facts())
    if known := creation.find():
        return known, False
    parent, place, folder = _place(request, actor)
    agent_limits.check(
        actor,
        Action.START_BELOW,
        name,
        agent=request.agent,
        command=request.command,
        options=request.agent_options,
    )
    request = with_agent(request, parent)
    dialect = agents.DIALECTS[request.agent]
    dialect.check_config()
    if place is None:
        dialect.check_new_program(request.command)
        dialect.check_new_model(request.model.strip(), parent, folder)
    lieutenant = _new_row(request, name=name, role=role, folder=folder, parent=parent)
    if place is not None:
        place.assign(lieutenant)
    lieutenant.creation_key, lieutenant.creation_digest = creation.key, creation.digest
    # The sums may take a while, so they are not part of the transaction.
    spent = Reading.of(parent.vm_id) if parent else None
    try:
        with transaction.atomic():
            if spent is not None:
                spent_now = spent.now(spent.vm_id)
                budgets.check(actor, Action.START_BELOW, parent, known=spent_now)
            _insert(lieutenant, parent, place, actor)
    except IntegrityError:
        # The same request may have arrived twice at once.
        if known := creation.find():
            return known, False
        raise NameTaken(
            f"Lieutenant '{name}' already exists. Destroy it first or use a different name."
        ) from None
    return lieutenant, True


def _place(
    request: CreateLieutenant, actor: object
) -> tuple[Node | None, remote_places.NewPlace | None, str]:
    """Return parent node, place on a machine (None for this host), and folder.

    Raises BadInput, NotFound, Forbidden, NotNow.
    """
    parent = _parent(request, actor)
    if not request.remote:
        permissions.check(actor, Action.START_BELOW, parent)
        return parent, None, _folder(request, actor)
    place = remote_places.find(request, parent, actor)
    parent = parent or place.parent
    permissions.check(actor, Action.WRITE, parent)
    remote_places.check_room(place)
    return parent, place, remote_places.check_folder(request.folder.strip())


def _insert(
    lieutenant: Lieutenant,
    parent: Node | None,
    place: remote_places.NewPlace | None,
    actor: object,
) -> None:
    """Insert a new lieutenant with its memberships and its first start. Raises IntegrityError."""
    grants.draw_lieutenant(actor, parent)
    if place is not None:
        place.claim()
    lieutenant.save(force_insert=True)
    lieutenant.moves.create(old="", new=Status.STARTING, reason="created", actor=actor_name(actor))
    record("created", lieutenant, actor, agent=lieutenant.agent, model=lieutenant.model)
    membership.register(lieutenant, actor=actor, parent=parent)
    if place is not None and place.new_vm is not None:
        place.new_vm.order(lieutenant, parent=parent, actor=actor)
    settle_later(lieutenant)


def _new_row(
    request: CreateLieutenant, *, name: str, role: str, folder: str, parent: Node | None
) -> Lieutenant:
    """Return the unsaved row of a lieutenant; limits that the request omits have their defaults."""
    pk = new_ulid()
    local, remote = runtime.default_workspace, remote_start.default_workspace
    default_workspace = remote if request.remote else local
    given = {name: getattr(request, name) for name in limits.LIMITS}
    return Lieutenant(
        id=pk,
        name=name,
        role=role,
        directive=request.directive.strip(),
        agent=request.agent,
        command=list(request.command),
        agent_options=agents.DIALECTS[request.agent].check_options(request.agent_options),
        model=_model_of(request),
        system_prompt=system_prompt(name, role, request.directive.strip()),
        folder=folder or default_workspace(pk),
        host=settings.HOST,
        parent_agent=((parent.name or parent.vm_id) if parent else settings.AGENT_NAME)[:200],
        restart_policy=request.restart_policy,
        idle_limit_minutes=request.idle_limit_minutes,
        **limits.with_defaults(given, parent),
    )


def _model_of(request: CreateLieutenant) -> str:
    """Return the model of a new lieutenant; empty for an agent without models."""
    features = agents.DIALECTS[request.agent].features
    return (request.model.strip() or default_model(request.agent)) if features.models else ""


def _parent(request: CreateLieutenant, actor: object) -> Node | None:
    """Return the parent node of a new lieutenant: the requested one, else the actor's home."""
    if not request.parent_vm_id.strip():
        return permissions.home_of(actor)
    parent = tree.find_parent(request.parent_vm_id.strip())
    permissions.check(actor, Action.WRITE, parent)
    return parent


def _folder(request: CreateLieutenant, actor: object) -> str:
    """Return the requested folder, resolved; empty if none was requested."""
    if not request.folder.strip():
        return ""
    home = permissions.home_of(actor)
    return str(folders.check(request.folder.strip(), line_of=home.vm_id if home else ""))
