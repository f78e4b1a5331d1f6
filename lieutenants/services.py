"""Use cases of lieutenants. Each function commits its rows, then events and tasks are sent.

`actor` is the requester: an authenticated caller, whose node is checked by `vmtree.permissions`, or
the name of an operator or of a part of reef.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from django.conf import settings
from django.db import IntegrityError, transaction
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils import timezone

from bootloader.states import CleanupPolicy
from lieutenants import agents, membership, tasks
from lieutenants.agents import dialect_of
from lieutenants.exceptions import (
    KeyReused,
    LieutenantNotFound,
    NameTaken,
    NotNow,
    NotSupported,
    TooLarge,
    TooLate,
)
from lieutenants.hosts import destroyed_marks, liveness
from lieutenants.idempotency import key_of
from lieutenants.isolation import folders
from lieutenants.messages import delivery
from lieutenants.messages import images as message_images
from lieutenants.messages.images import NewImage
from lieutenants.models import Lieutenant, Message, Process
from lieutenants.states import Mode, RestartPolicy, Status
from lieutenants.supervision import discovery, remote_places, remote_start, runtime
from lieutenants.troubles import is_reachability_trouble
from reef_site.common import events
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import BadInput, IllegalMove, LostRace, NotFound
from reef_site.common.ids import new_ulid
from reef_site.common.text import is_storable
from versconfig.screening import sources
from vmtree import ids, permissions
from vmtree import services as tree
from vmtree.models import Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FOLLOW_UP_NOTE = "auto-queued as follow-up since lieutenant is working"
NO_STEERING_NOTE = "sent as follow-up since the agent '{}' cannot be steered"
PROMPT_NOTE = "sent as prompt since lieutenant is idle"
STARTING_NOTE = "queued until the lieutenant is ready"
RESTARTING_NOTE = "queued until the lieutenant is running again"
UNREACHABLE_NOTE = "waits: its machine or supervisor cannot be reached"
COVERED_NOTE = "a secret was covered before this was stored; the agent gets it with {}"
RESTARTABLE = frozenset({Status.IDLE, Status.WORKING, Status.ERROR})
MAX_MODEL_LENGTH = 200
_NO_POLICY = f"restartPolicy: must be one of {', '.join(RestartPolicy.values)}"


@dataclass(frozen=True)
class CreateLieutenant:
    """Request for a new lieutenant. Texts are as they were given."""

    name: str
    role: str
    model: str = ""
    directive: str = ""
    folder: str = ""
    restart_policy: str = RestartPolicy.NEVER
    idle_limit_minutes: int | None = None
    stall_limit_seconds: int | None = None
    tool_limit_seconds: int | None = None
    remote: bool = False
    # Where a remote one runs: the VM id of a provider's machine, or the name of an SSH host.
    vm_id: str = ""
    ssh_host: str = ""
    # Or the VM that is made for it: from a saved machine, by a profile, or both.
    commit_id: str = ""
    profile: str = ""
    on_failure: str = CleanupPolicy.DELETE
    # VM of its parent in the tree; empty for the node of the actor.
    parent_vm_id: str = ""
    # Name of the dialect of its agent, and the command line for the agent `command`.
    agent: str = agents.DEFAULT
    command: Sequence[str] = ()

    def facts(self) -> dict[str, object]:
        """Return the fields; those that earlier versions lack only with another value."""
        usual = {"agent": agents.DEFAULT, "command": ()}
        usual |= {"vm_id": "", "ssh_host": "", "commit_id": "", "profile": ""}
        usual |= {"on_failure": CleanupPolicy.DELETE}
        found = {**asdict(self), "command": tuple(self.command)}
        return {key: value for key, value in found.items() if usual.get(key, self) != value}


def create(request: CreateLieutenant, *, actor: object) -> Lieutenant:
    """Create a lieutenant; a worker starts its agent after the commit.

    Raises BadInput, Forbidden, NameTaken, NoProvider, AgentMissing.
    """
    return create_once(request, actor=actor)[0]


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
    permissions.check(actor, Action.START_BELOW, permissions.node_of(actor))
    _check(request, name, role)
    request = _without_secrets(request)
    role = request.role.strip()
    creation = key_of(key, caller=actor, facts=request.facts())
    if known := creation.find():
        return known, False
    parent, place = _parent(request, actor), None
    if request.remote:
        place = remote_places.find(request, parent, actor)
        parent = parent or place.parent
        permissions.check(actor, Action.WRITE, parent)
        remote_places.check_room(place)
        folder = remote_places.check_folder(request.folder.strip())
    else:
        permissions.check(actor, Action.START_BELOW, parent)
        folder = _folder(request, actor)
    dialect = agents.DIALECTS[request.agent]
    dialect.check_config()
    if place is None:
        dialect.check_new_program(request.command)
        dialect.check_new_model(request.model.strip(), parent, folder)
    lieutenant = _new_row(request, name=name, role=role, folder=folder, parent=parent)
    if place is not None:
        place.assign(lieutenant)
    lieutenant.creation_key, lieutenant.creation_digest = creation.key, creation.digest
    try:
        with transaction.atomic():
            lieutenant.save(force_insert=True)
            lieutenant.moves.create(
                old="", new=Status.STARTING, reason="created", actor=_actor_name(actor)
            )
            membership.register(lieutenant, actor=actor, parent=parent)
            if place is not None and place.new_vm is not None:
                place.new_vm.order(lieutenant, parent=parent, actor=actor)
            _settle_later(lieutenant)
    except IntegrityError:
        # The same request may have arrived twice at once.
        if known := creation.find():
            return known, False
        raise NameTaken(
            f"Lieutenant '{name}' already exists. Destroy it first or use a different name."
        ) from None
    return lieutenant, True


def _new_row(
    request: CreateLieutenant, *, name: str, role: str, folder: str, parent: Node | None
) -> Lieutenant:
    """Return the unsaved row of a lieutenant; limits that the request omits have their defaults."""
    pk = new_ulid()
    local, remote = runtime.default_workspace, remote_start.default_workspace
    default_workspace = remote if request.remote else local
    stall, tools = request.stall_limit_seconds, request.tool_limit_seconds
    stall = settings.STALL_SECONDS if stall is None else stall
    tools = settings.TOOL_SECONDS if tools is None else tools
    return Lieutenant(
        id=pk,
        name=name,
        role=role,
        directive=request.directive.strip(),
        agent=request.agent,
        command=list(request.command),
        model=_model_of(request),
        system_prompt=system_prompt(name, role, request.directive.strip()),
        folder=folder or default_workspace(pk),
        host=settings.HOST,
        parent_agent=((parent.name or parent.vm_id) if parent else settings.AGENT_NAME)[:200],
        restart_policy=request.restart_policy,
        idle_limit_minutes=request.idle_limit_minutes,
        stall_limit_seconds=stall,
        tool_limit_seconds=tools,
    )


def _model_of(request: CreateLieutenant) -> str:
    """Return the model of a new lieutenant; empty for an agent without models."""
    if not agents.DIALECTS[request.agent].features.models:
        return ""
    return request.model.strip() or settings.DEFAULT_MODEL


def system_prompt(name: str, role: str, directive: str) -> str:
    """Return the text that is appended to the agent's own system prompt."""
    parts = [
        f"You are {name}, a lieutenant in a fleet of agents that one operator looks after.",
        f"Your role: {role}",
        "You keep this session from task to task, so build on what you learned before. Messages "
        "come from the operator or from other agents on the operator's behalf. Nobody watches "
        "while you work and nobody can answer questions in between: decide what is reasonable, "
        "do it, and end each task with a short report of what you did, what you found and what "
        "is still open.",
    ]
    return "\n\n".join(part for part in [*parts, directive] if part) + "\n"


def find(name: str, *, missing: str = "Lieutenant not found") -> Lieutenant:
    """Return the active lieutenant of this name. Raises NotFound with the given text."""
    lieutenant = Lieutenant.objects.active().filter(name=name).first()
    if lieutenant is None:
        raise NotFound(missing)
    return lieutenant


def name_of(name: str) -> str:
    """Return the name for a lieutenant's `vmId` as the API shows it; other names are unchanged."""
    if not name.startswith(ids.LOCAL) or Lieutenant.objects.filter(name=name).exists():
        return name
    return name.removeprefix(ids.LOCAL)


def find_any(name_or_id: str) -> Lieutenant:
    """Return the active lieutenant of this name, else the one of this id, even if it is destroyed.

    Transcripts stay readable for good. Raises NotFound.
    """
    living = Lieutenant.objects.active().filter(name=name_or_id).first()
    return living or Lieutenant.objects.filter(pk=name_or_id).first() or find(name_or_id)


def send(
    name: str,
    text: object,
    *,
    mode: object = None,
    key: str = "",
    actor: object = "",
    images: Sequence[NewImage] = (),
) -> tuple[Message, bool]:
    """Queue a message; return it and whether it is new.

    The same idempotency key returns the same message if text, mode and images are equal; otherwise
    KeyReused is raised. Secrets in the text are covered; the agent gets the covered text, and a
    note says so. Raises BadInput, TooLarge, NotFound, Forbidden, NotNow.
    """
    text, requested = _message_text(text), _message_mode(mode)
    message_images.check(images)
    screen, names = sources.for_node(_vm_id_of(name), recheck=True), set[str]()
    text = screen.cover(text, names)
    if len(key) > 200 or not is_storable(key):
        raise BadInput("Idempotency-Key: at most 200 characters")
    with transaction.atomic():
        lieutenant = _locked(name, actor)
        if key and (known := lieutenant.messages.filter(idempotency_key=key).first()):
            is_same = screen.cover(known.text) == text and known.mode_asked == requested
            if not is_same or not message_images.are_equal(known, images):
                raise KeyReused("Idempotency-Key: was used for another message")
            return known, False
        if images:
            message_images.check_accepted(lieutenant)
        actual, note = _effective_mode(lieutenant, requested)
        silent = liveness.silent_host_of(lieutenant)
        if silent:
            note = "; ".join(part for part in (silent.pending_note, note) if part)
        elif is_reachability_trouble(lieutenant.trouble):
            note = "; ".join(part for part in (note, UNREACHABLE_NOTE) if part)
        message = Message.objects.create(
            lieutenant=lieutenant,
            text=text,
            mode=actual,
            mode_asked=requested,
            note=_add_covered_note(note, names),
            actor=_actor_name(actor),
            idempotency_key=key or None,
        )
        message_images.store(message, images)
        # Nothing works on it yet on a host that does not respond: the follower moves it later.
        _count_and_move(lieutenant, actual, actor, may_move=not silent)
        events.wake_follower(lieutenant.pk)
    return message, True


def pause(name: str, *, actor: object, force: bool = False) -> Lieutenant:
    """Stop the agent gracefully and keep its session. Pausing a paused lieutenant does nothing."""
    lieutenant = _permitted(name, actor, Action.COMMAND)
    if lieutenant.status == Status.PAUSED:
        return lieutenant
    if lieutenant.status == Status.WORKING and not force:
        raise NotNow(f"Lieutenant '{name}' is working. Wait for it to finish or steer it first.")
    _move(lieutenant, Status.PAUSED, "pause requested", actor)
    return lieutenant


def resume(name: str, *, actor: object) -> Lieutenant:
    """Start the agent of a paused lieutenant again with its session."""
    lieutenant = _permitted(name, actor, Action.START)
    if lieutenant.status != Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is not paused (status: {lieutenant.status})")
    _check_agent(lieutenant)
    destroyed_marks.clear_mark(lieutenant)
    with transaction.atomic():
        _stop_live_process(lieutenant)
        _move(lieutenant, Status.STARTING, "resume requested", actor, restarts=0)
    return lieutenant


def restart(name: str, *, actor: object) -> Lieutenant:
    """Stop the agent, if it runs, and start it again with its session."""
    lieutenant = _permitted(name, actor, Action.START)
    if lieutenant.status == Status.STARTING:
        raise NotNow(f"Lieutenant '{name}' is starting already")
    _check_agent(lieutenant)
    destroyed_marks.clear_mark(lieutenant)
    with transaction.atomic():
        _stop_live_process(lieutenant)
        _stop_frozen_process(lieutenant)
        _move(lieutenant, Status.STARTING, "restart requested", actor, restarts=0)
    return lieutenant


def new_session(
    name: str, *, actor: object, begin: Callable[..., Lieutenant] | None = None
) -> Lieutenant:
    """Start the agent with a new, empty session. The old session's file is kept.

    `begin` is `resume` or `restart`; by default the status decides.
    """
    lieutenant = _permitted(name, actor, Action.START)
    if not dialect_of(lieutenant).features.session:
        raise NotSupported(
            f"The agent '{lieutenant.agent}' has no session: each message starts anew"
        )
    begin = begin or (resume if lieutenant.status == Status.PAUSED else restart)
    with transaction.atomic():
        found = begin(name, actor=actor)
        _stop_frozen_process(found)
        Lieutenant.objects.filter(pk=found.pk).update(
            session_name=f"session-{new_ulid()}.jsonl",
            session_since=timezone.now(),
            session_problem="",
            context_usage=None,
            failures={},
            failing_since=None,
            trouble="",
        )
    logger.info("%s: new session requested by %s", name, actor)
    return found


def adjust(
    name: str, changes: Mapping[str, object], *, actor: object, restart_now: bool = False
) -> Lieutenant:
    """Change settings of a lieutenant: model, restart policy, limits (by column name).

    A model takes effect at the agent's next start, which `restart_now` triggers unless the
    lieutenant is paused or starting. Raises BadInput, NotFound, Forbidden, AgentMissing.
    """
    # A policy that restarts the agent starts a process later without a further request.
    restarts = changes.get("restart_policy", RestartPolicy.NEVER) != RestartPolicy.NEVER
    action = Action.START if restart_now or restarts else Action.COMMAND
    lieutenant = _permitted(name, actor, action)
    if "model" in changes:
        _check_model(str(changes["model"]))
        if changes["model"] != lieutenant.model:
            dialect_of(lieutenant).check_model(lieutenant, str(changes["model"]))
            _stop_frozen_process(lieutenant)
    if changes.get("restart_policy", RestartPolicy.NEVER) not in RestartPolicy.values:
        raise BadInput(_NO_POLICY, "restart_policy")
    with transaction.atomic():
        Lieutenant.objects.filter(pk=lieutenant.pk).update(**changes)
        events.publish_lieutenant(lieutenant.pk)
        if restart_now and lieutenant.status in RESTARTABLE:
            restart(name, actor=actor)
    logger.info("%s: %s changed by %s", name, ", ".join(sorted(changes)), actor)
    lieutenant.refresh_from_db()
    return lieutenant


def abort(name: str, *, actor: object) -> Lieutenant:
    """Abort the running answer, and withdraw the messages queued behind it."""
    lieutenant = _permitted(name, actor, Action.COMMAND)
    if lieutenant.status != Status.WORKING:
        raise NotNow(f"Lieutenant '{name}' is not working (status: {lieutenant.status})")
    with transaction.atomic():
        now = timezone.now()
        Lieutenant.objects.filter(pk=lieutenant.pk).update(abort_asked_at=now)
        delivery.withdraw_queued(lieutenant, delivery.WITHDRAWN, now)
        events.wake_follower(lieutenant.pk)
    logger.info("%s: abort requested by %s", name, actor)
    return lieutenant


def withdraw(name: str, message_id: str, *, actor: object) -> Message:
    """Withdraw a queued message. Withdrawing it again does nothing.

    Raises NotFound, Forbidden, TooLate.
    """
    lieutenant = find_any(name)
    permissions.check(actor, Action.COMMAND, membership.vm_id_of(lieutenant))
    message = find_message(lieutenant, message_id)
    note = delivery.WITHDRAWN_BY.format(_actor_name(actor))
    if delivery.withdraw(message.pk, note, timezone.now()):
        events.publish_lieutenant(lieutenant.pk)
        logger.info("%s: message %s withdrawn by %s", lieutenant.name, message.pk, actor)
    message.refresh_from_db()
    if not delivery.is_withdrawn(message):
        what = delivery.why_too_late(message)
        raise TooLate(f"message: cannot be withdrawn, {what}")
    return message


def find_message(lieutenant: Lieutenant, message_id: str) -> Message:
    """Return the lieutenant's message of this id. Raises NotFound."""
    message = lieutenant.messages.filter(pk=message_id).first() if is_storable(message_id) else None
    if message is None:
        raise NotFound("Message not found")
    return message


def find_cursor(lieutenant: Lieutenant, cursor: str) -> Message:
    """Return the last message of the previous page. Raises BadInput."""
    try:
        return find_message(lieutenant, cursor)
    except NotFound:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor") from None


def destroy(name: str, *, actor: object) -> str:
    """End the lieutenant for good and keep its transcript. Destroying it again does nothing."""
    lieutenant = Lieutenant.objects.active().filter(name=name).first()
    if lieutenant is None:
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            raise LieutenantNotFound(name)
        permissions.check(actor, Action.DESTROY, membership.vm_id_of(lieutenant))
        return _destroy_summary(lieutenant)
    permissions.check(actor, Action.DESTROY, membership.vm_id_of(lieutenant))
    with transaction.atomic():
        _move(lieutenant, Status.DESTROYED, "destroy requested", actor)
        delivery.withdraw_queued(lieutenant, delivery.DESTROYED, timezone.now())
        transaction.on_commit(lambda: destroyed_marks.mark_destroyed(lieutenant))
    return _destroy_summary(lieutenant)


def destroy_all(*, actor: object) -> list[str]:
    """Destroy all active lieutenants that the actor may command, oldest first.

    A node may command its descendants. A failure does not stop the others.
    """
    results = []
    living = Lieutenant.objects.active().order_by("created_at", "id")
    mine = [
        each.name
        for each in living
        if permissions.may(actor, Action.DESTROY, membership.vm_id_of(each))
    ]
    for name in mine:
        try:
            results.append(destroy(name, actor=actor))
        except (LostRace, IllegalMove) as error:
            results.append(f"{name}: failed — {error}")
    return results


def discover(*, actor: object) -> list[str]:
    """Adopt running agents of this host that no follower follows; return one line for each.

    They may belong anywhere in the fleet, so nodes may not do this. Raises Forbidden.
    """
    permissions.check(actor, Action.COMMAND, None)
    return discovery.discover()


def at_rest(lieutenant_id: str) -> bool:
    """Return whether a start or stop of this lieutenant has completed."""
    lieutenant = Lieutenant.objects.filter(pk=lieutenant_id).first()
    if lieutenant is None or lieutenant.status == Status.STARTING:
        return lieutenant is None
    if lieutenant.rewind_to is not None:
        return False
    stopping = Process.objects.live().filter(lieutenant=lieutenant)
    return lieutenant.should_run or not stopping.exists()


# -- rules of the above -----------------------------------------------------------------------


def _actor_name(actor: object) -> str:
    """Return the actor's name as rows store it."""
    return str(actor)[:200]


def _permitted(name: str, actor: object, action: Action) -> Lieutenant:
    """Return the active lieutenant of this name. Raises NotFound, Forbidden."""
    lieutenant = find(name, missing=str(LieutenantNotFound(name)))
    permissions.check(actor, action, membership.vm_id_of(lieutenant))
    return lieutenant


def _check_agent(lieutenant: Lieutenant) -> None:
    """Raise AgentMissing if a lieutenant of this host has no agent program to start."""
    if lieutenant.is_local and lieutenant.data_folder == settings.DATA_FOLDER_ID:
        dialect_of(lieutenant).find_program(lieutenant)


def _parent(request: CreateLieutenant, actor: object) -> Node | None:
    """Return the parent node of a new lieutenant: the requested one, else the actor's."""
    if not request.parent_vm_id.strip():
        return permissions.node_of(actor)
    parent = tree.find_parent(request.parent_vm_id.strip())
    permissions.check(actor, Action.WRITE, parent)
    return parent


def _folder(request: CreateLieutenant, actor: object) -> str:
    """Return the requested folder, resolved; empty if none was requested."""
    if not request.folder.strip():
        return ""
    node = permissions.node_of(actor)
    return str(folders.check(request.folder.strip(), line_of=node.vm_id if node else ""))


def _check(request: CreateLieutenant, name: str, role: str) -> None:
    """Validate a request, with the error texts of the API."""
    if not name:
        raise BadInput("name is required", "name")
    if not role:
        raise BadInput("role is required", "role")
    if not NAME.fullmatch(name):
        raise BadInput("name: 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first", "name")
    if name.startswith(ids.LOCAL):
        # The `vmId` of a lieutenant has this prefix.
        raise BadInput(f"name: must not begin with {ids.LOCAL}", "name")
    if route := _route_in_the_way(name):
        raise BadInput(f"name: '{name}' cannot be used, as {route} is a route of its own", "name")
    if request.restart_policy not in RestartPolicy.values:
        raise BadInput(_NO_POLICY, "restart_policy")
    for label, text, most in (
        ("role", role, 4000),
        ("directive", request.directive, 20_000),
        ("folder", request.folder, 1000),
        ("parentVmId", request.parent_vm_id, 255),
    ):
        if len(text) > most:
            raise BadInput(f"{label}: at most {most} characters", label)
        if not is_storable(text):
            raise BadInput(f"{label}: has characters that are no text", label)
    _check_model(request.model)
    _check_agent_fields(request)


def _check_agent_fields(request: CreateLieutenant) -> None:
    """Validate the kind of agent, and what this kind needs or does not have."""
    dialect = agents.DIALECTS.get(request.agent)
    if dialect is None:
        raise BadInput(f"agent: must be one of {', '.join(agents.DIALECTS)}", "agent")
    dialect.check_command(request.command)
    if request.model.strip() and not dialect.features.models:
        raise BadInput(f"model: the agent '{dialect.name}' uses no model", "model")


def _route_in_the_way(name: str) -> str:
    """Return the URL path of this name if another route owns it; otherwise an empty string."""
    for route in ("lieutenant-detail", "lieutenants:detail"):
        try:
            path = "/" + reverse(route, args=[name]).removeprefix(get_script_prefix())
            leads_here = resolve(path).view_name == route
        except (NoReverseMatch, Resolver404):
            continue
        if not leads_here:
            return path
    return ""


def _check_model(model: str) -> None:
    if len(model) > MAX_MODEL_LENGTH:
        raise BadInput(f"model: at most {MAX_MODEL_LENGTH} characters", "model")
    if not is_storable(model):
        raise BadInput("model: has characters that are no text", "model")
    if model.strip().startswith("-"):
        raise BadInput("model: must not start with a dash", "model")


def _message_text(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise BadInput("message is required", "message")
    if not is_storable(text):
        raise BadInput("message: has characters that are no text (NUL or half a pair)", "message")
    size = len(text.encode())
    if size > settings.MAX_MESSAGE_BYTES:
        most = settings.MAX_MESSAGE_BYTES
        raise TooLarge(f"message: has {size} bytes, at most {most} are taken", "message")
    return text


def _vm_id_of(name: str) -> str:
    """Return the VM id of the active lieutenant of this name; empty if there is none."""
    found = Lieutenant.objects.active().filter(name=name).first() if is_storable(name) else None
    return membership.vm_id_of(found) if found else ""


def _add_covered_note(note: str, names: set[str]) -> str:
    """Return a message's note, extended by the names of the secrets that were covered."""
    marks = ", ".join(f"[{name}]" for name in sorted(names))
    covered = COVERED_NOTE.format(marks) if names else ""
    return "; ".join(part for part in (note, covered) if part)[:200]


def _without_secrets(request: CreateLieutenant) -> CreateLieutenant:
    """Return the request with secrets in its texts covered. Raises BadInput for one in a name."""
    cover = sources.current(recheck=True).cover
    for label, text in (
        ("name", request.name),
        ("model", request.model),
        ("folder", request.folder),
        ("command", "\n".join(request.command)),
    ):
        if cover(text) != text:
            raise BadInput(f"{label}: must not hold a secret", label)
    return replace(request, role=cover(request.role), directive=cover(request.directive))


def _count_and_move(lieutenant: Lieutenant, mode: Mode, actor: object, *, may_move: bool) -> None:
    """Count a sent message as a task, and make an idle lieutenant work."""
    counted = {"task_count": lieutenant.task_count + (mode == Mode.PROMPT)}
    if lieutenant.status == Status.IDLE and may_move:
        lieutenant.move(
            Status.WORKING,
            reason="a message was sent",
            actor=_actor_name(actor) or "reef",
            **counted,
        )
    elif mode == Mode.PROMPT:
        Lieutenant.objects.filter(pk=lieutenant.pk).update(**counted)


def _message_mode(mode: object) -> Mode:
    if mode is None:
        return Mode.PROMPT
    if not isinstance(mode, str) or mode not in Mode.values:
        raise BadInput(f"mode: must be one of {', '.join(Mode.values)}", "mode")
    return Mode(mode)


def _locked(name: str, actor: object) -> Lieutenant:
    """Return the lieutenant to send to, locked until the commit.

    Raises NotFound, Forbidden, or NotNow if it cannot take messages.
    """
    lieutenant = Lieutenant.objects.select_for_update().active().filter(name=name).first()
    if lieutenant is None:
        if Lieutenant.objects.filter(name=name).exists():
            raise NotFound(f"Lieutenant '{name}' has been destroyed")
        raise LieutenantNotFound(name)
    permissions.check(actor, Action.SEND, membership.vm_id_of(lieutenant))
    if lieutenant.status == Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is paused. Resume it first.")
    if lieutenant.status == Status.ERROR and lieutenant.restart_at is None:
        raise NotNow(_no_connection(lieutenant))
    return lieutenant


def _no_connection(lieutenant: Lieutenant) -> str:
    """Return the API's error text with the cause and the remedy."""
    reason = f": {lieutenant.error.splitlines()[0][:300]}" if lieutenant.error.strip() else ""
    text = f"No active RPC connection for '{lieutenant.name}'{reason}"
    return f"{text.rstrip('.')}. POST …/restart starts its agent again."


def _effective_mode(lieutenant: Lieutenant, requested: Mode) -> tuple[Mode, str]:
    """Return the mode that loses no message, and a note if it differs from `requested`."""
    first = not lieutenant.messages.pending().exists()
    if lieutenant.status == Status.IDLE:
        return Mode.PROMPT, "" if requested == Mode.PROMPT else PROMPT_NOTE
    if lieutenant.status in (Status.STARTING, Status.ERROR):
        note = STARTING_NOTE if lieutenant.status == Status.STARTING else RESTARTING_NOTE
        return (Mode.PROMPT if first or requested == Mode.PROMPT else requested), note
    if requested == Mode.PROMPT:
        return Mode.FOLLOW_UP, FOLLOW_UP_NOTE
    if requested == Mode.STEER and not dialect_of(lieutenant).features.steering:
        return Mode.FOLLOW_UP, NO_STEERING_NOTE.format(lieutenant.agent)
    return requested, ""


def _move(lieutenant: Lieutenant, to: Status, reason: str, actor: object, **fields: object) -> None:
    with transaction.atomic():
        lieutenant.move(to, reason=reason, actor=_actor_name(actor), **fields)
        _settle_later(lieutenant)


def _stop_live_process(lieutenant: Lieutenant) -> None:
    """Ask a live process to stop; the next one starts when it has ended.

    There may be one even after a pause, if a resume follows before anything has stopped it.
    """
    live = lieutenant.processes.filter(ended_at__isnull=True, stop_asked_at__isnull=True)
    live.update(stop_asked_at=timezone.now())


def _stop_frozen_process(lieutenant: Lieutenant) -> None:
    """Let an agent that waits in a paused VM end when that is resumed, instead of going on."""
    lieutenant.processes.filter(is_frozen=True).update(stop_asked_at=timezone.now())


def _settle_later(lieutenant: Lieutenant) -> None:
    """Ask a worker of its data folder to settle the lieutenant.

    Without a broker the next reconcile finds the row.
    """
    dispatch(tasks.settle, lieutenant.pk, queue=tasks.queue_of(lieutenant.data_folder))


def _destroy_summary(lieutenant: Lieutenant) -> str:
    if note := liveness.pending_note(lieutenant):
        return f"{lieutenant.name}: {note}"
    tasks_done = f"{lieutenant.task_count} tasks completed"
    where = "local" if lieutenant.is_local else f"VM {(lieutenant.on_vm or lieutenant.host)[:12]}"
    return f"{lieutenant.name}: destroyed ({where}, {tasks_done})"
