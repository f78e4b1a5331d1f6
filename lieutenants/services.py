"""What may be asked of lieutenants. Each function commits rows, then events and tasks are sent.

`actor` is whoever asks: a caller as authentication found it, whose node is held to the one rule of
`vmtree.permissions`, or the name of an operator or of a part of reef.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from django.conf import settings
from django.db import IntegrityError, transaction
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils import timezone

from lieutenants import (
    delivery,
    folders,
    model_choice,
    presence,
    reattach,
    runtime,
    tasks,
)
from lieutenants.agents import find_agent
from lieutenants.creation import key_of
from lieutenants.exceptions import KeyReused, NameTaken, NoProvider, NotNow, TooLarge, TooLate
from lieutenants.hosts import silence, tombstones
from lieutenants.isolation import homes
from lieutenants.models import Lieutenant, Message, Process
from lieutenants.states import Mode, RestartPolicy, Status
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
PROMPT_NOTE = "sent as prompt since lieutenant is idle"
STARTING_NOTE = "queued until the lieutenant is ready"
RESTARTING_NOTE = "queued until the lieutenant is running again"
COVERED_NOTE = "a secret was covered before this was stored; the agent gets it with {}"
RESTARTABLE = frozenset({Status.IDLE, Status.WORKING, Status.ERROR})
MOST_OF_MODEL = 200
NO_REMOTE = (
    "local: lieutenants run on this host only; a VM that reef provisions "
    "(POST /bootloader/provision) can run lieutenants of its own"
)
_NO_POLICY = f"restartPolicy: must be one of {', '.join(RestartPolicy.values)}"


@dataclass(frozen=True)
class Wish:
    """A lieutenant that somebody wants to have. Texts are as they were given."""

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
    # The VM it stands below in the tree; a node's own, if it names none.
    parent_vm_id: str = ""


def create(wish: Wish, *, actor: object) -> Lieutenant:
    """Enlist a lieutenant; a worker brings its agent up after commit.

    Raises BadInput, Forbidden, NameTaken, NoProvider, AgentMissing.
    """
    return create_once(wish, actor=actor)[0]


def create_once(wish: Wish, *, actor: object, key: str = "") -> tuple[Lieutenant, bool]:
    """Enlist a lieutenant, or return the one that the same request made before; whether it is new.

    `key` is the request's Idempotency-Key. Raises what `create` raises, and KeyReused.
    """
    name, role = wish.name.strip(), wish.role.strip()
    if not wish.remote:
        # The right comes first: who may not start a process here learns nothing else.
        permissions.check(actor, Action.START_BELOW, permissions.node_of(actor))
    _check(wish, name, role)
    wish = _without_secrets(wish)
    role = wish.role.strip()
    creation = key_of(key, caller=actor, facts=asdict(wish))
    if known := creation.find():
        return known, False
    parent = _parent(wish, actor)
    if wish.remote:
        raise NoProvider(NO_REMOTE)
    permissions.check(actor, Action.START_BELOW, parent)
    folder = _folder(wish, actor)
    find_agent()
    homes.check_config()
    pk = new_ulid()
    stall = settings.STALL_SECONDS if wish.stall_limit_seconds is None else wish.stall_limit_seconds
    tools = settings.TOOL_SECONDS if wish.tool_limit_seconds is None else wish.tool_limit_seconds
    lieutenant = Lieutenant(
        id=pk,
        name=name,
        role=role,
        directive=wish.directive.strip(),
        model=wish.model.strip() or settings.DEFAULT_MODEL,
        system_prompt=system_prompt(name, role, wish.directive.strip()),
        folder=folder or runtime.default_workspace(pk),
        host=settings.HOST,
        parent_agent=((parent.name or parent.vm_id) if parent else settings.AGENT_NAME)[:200],
        restart_policy=wish.restart_policy,
        idle_limit_minutes=wish.idle_limit_minutes,
        stall_limit_seconds=stall,
        creation_key=creation.key,
        creation_digest=creation.digest,
        tool_limit_seconds=tools,
    )
    try:
        with transaction.atomic():
            lieutenant.save(force_insert=True)
            lieutenant.moves.create(
                old="", new=Status.STARTING, reason="created", actor=_named(actor)
            )
            presence.enlist(lieutenant, actor=actor, parent=parent)
            _settle_later(lieutenant)
    except IntegrityError:
        # The same request may have come twice at a time.
        if known := creation.find():
            return known, False
        raise NameTaken(
            f"Lieutenant '{name}' already exists. Destroy it first or use a different name."
        ) from None
    return lieutenant, True


def system_prompt(name: str, role: str, directive: str) -> str:
    """What the agent is told about itself, in addition to its own instructions."""
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
    """The living lieutenant of this name, or NotFound with the given text."""
    lieutenant = Lieutenant.objects.living().filter(name=name).first()
    if lieutenant is None:
        raise NotFound(missing)
    return lieutenant


def called(name: str) -> str:
    """Return the name of the lieutenant whose `vmId` in the API this is; any other as it is."""
    if not name.startswith(ids.LOCAL) or Lieutenant.objects.filter(name=name).exists():
        return name
    return name.removeprefix(ids.LOCAL)


def find_kept(name_or_id: str) -> Lieutenant:
    """The living lieutenant of this name, else any of this id: what was said is kept for good."""
    living = Lieutenant.objects.living().filter(name=name_or_id).first()
    return living or Lieutenant.objects.filter(pk=name_or_id).first() or find(name_or_id)


def send(
    name: str, text: object, *, mode: object = None, key: str = "", actor: object = ""
) -> tuple[Message, bool]:
    """Put a message on its way; returns it and whether it is new.

    The same idempotency key gives the same message, if text and mode are the same, else KeyReused.
    Secrets in the text are covered; the agent gets the covered text, and a note says so.
    Raises BadInput, TooLarge, NotFound, Forbidden, NotNow.
    """
    text, asked = _message_text(text), _message_mode(mode)
    screen, names = sources.for_node(_vm_id_of(name), recheck=True), set[str]()
    text = screen.cover(text, names)
    if len(key) > 200 or not is_storable(key):
        raise BadInput("Idempotency-Key: at most 200 characters")
    with transaction.atomic():
        lieutenant = _locked(name, actor)
        if key and (known := lieutenant.messages.filter(idempotency_key=key).first()):
            if screen.cover(known.text) != text or known.mode_asked != asked:
                raise KeyReused("Idempotency-Key: was used for another message")
            return known, False
        actual, note = _fitting_mode(lieutenant, asked)
        silent = silence.host_of(lieutenant)
        if silent:
            note = "; ".join(part for part in (silent.asked, note) if part)
        message = Message.objects.create(
            lieutenant=lieutenant,
            text=text,
            mode=actual,
            mode_asked=asked,
            note=_with_covered(note, names),
            actor=_named(actor),
            idempotency_key=key or None,
        )
        counted = {"task_count": lieutenant.task_count + (actual == Mode.PROMPT)}
        # On a host that does not answer nothing works on it yet: the follower moves it then.
        if lieutenant.status == Status.IDLE and not silent:
            lieutenant.move(
                Status.WORKING,
                reason="a message was sent",
                actor=_named(actor) or "reef",
                **counted,
            )
        elif actual == Mode.PROMPT:
            Lieutenant.objects.filter(pk=lieutenant.pk).update(**counted)
        events.wake_follower(lieutenant.pk)
    return message, True


def pause(name: str, *, actor: object, force: bool = False) -> Lieutenant:
    """End the agent in an orderly way; its session stays. Pausing twice is no error."""
    lieutenant = _permitted(name, actor, Action.COMMAND)
    if lieutenant.status == Status.PAUSED:
        return lieutenant
    if lieutenant.status == Status.WORKING and not force:
        raise NotNow(f"Lieutenant '{name}' is working. Wait for it to finish or steer it first.")
    _move(lieutenant, Status.PAUSED, "pause asked", actor)
    return lieutenant


def resume(name: str, *, actor: object) -> Lieutenant:
    """Start the agent of a paused lieutenant again, on its session."""
    lieutenant = _permitted(name, actor, Action.START)
    if lieutenant.status != Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is not paused (status: {lieutenant.status})")
    _check_agent(lieutenant)
    tombstones.clear(lieutenant)
    with transaction.atomic():
        _let_go_of_process(lieutenant)
        _move(lieutenant, Status.STARTING, "resume asked", actor, restarts=0)
    return lieutenant


def restart(name: str, *, actor: object) -> Lieutenant:
    """End the agent, if it runs, and start it again on its session."""
    lieutenant = _permitted(name, actor, Action.START)
    if lieutenant.status == Status.STARTING:
        raise NotNow(f"Lieutenant '{name}' is starting already")
    _check_agent(lieutenant)
    tombstones.clear(lieutenant)
    with transaction.atomic():
        _let_go_of_process(lieutenant)
        _move(lieutenant, Status.STARTING, "restart asked", actor, restarts=0)
    return lieutenant


def new_session(
    name: str, *, actor: object, begin: Callable[..., Lieutenant] | None = None
) -> Lieutenant:
    """Start the agent with a new, empty session. The file of the old one stays beside it.

    `begin` is `resume` or `restart`; without it the status decides.
    """
    lieutenant = _permitted(name, actor, Action.START)
    begin = begin or (resume if lieutenant.status == Status.PAUSED else restart)
    with transaction.atomic():
        found = begin(name, actor=actor)
        Lieutenant.objects.filter(pk=found.pk).update(
            session_name=f"session-{new_ulid()}.jsonl",
            session_since=timezone.now(),
            session_problem="",
            failures={},
            failing_since=None,
            trouble="",
        )
    logger.info("%s: new session asked by %s", name, actor)
    return found


def adjust(
    name: str, changes: Mapping[str, object], *, actor: object, restart_now: bool = False
) -> Lieutenant:
    """Change how it is run: its model, its restart policy, its limits (names of columns).

    A model counts from the agent's next start, which may be asked for at once; one that is paused
    or starting is left as it is. Raises BadInput, NotFound, Forbidden, AgentMissing.
    """
    # A policy that restarts it starts a process later, without anybody asking.
    restarts = changes.get("restart_policy", RestartPolicy.NEVER) != RestartPolicy.NEVER
    action = Action.START if restart_now or restarts else Action.COMMAND
    lieutenant = _permitted(name, actor, action)
    if "model" in changes:
        _check_model(str(changes["model"]))
        if changes["model"] != lieutenant.model:
            model_choice.check(lieutenant, str(changes["model"]))
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
    """Break off the running answer. What waits behind it is withdrawn, too."""
    lieutenant = _permitted(name, actor, Action.COMMAND)
    if lieutenant.status != Status.WORKING:
        raise NotNow(f"Lieutenant '{name}' is not working (status: {lieutenant.status})")
    with transaction.atomic():
        now = timezone.now()
        Lieutenant.objects.filter(pk=lieutenant.pk).update(abort_asked_at=now)
        delivery.withdraw_queued(lieutenant, delivery.WITHDRAWN, now)
        events.wake_follower(lieutenant.pk)
    logger.info("%s: abort asked by %s", name, actor)
    return lieutenant


def withdraw(name: str, message_id: str, *, actor: object) -> Message:
    """Take back a message that waits in the queue. Repeating it is no error.

    Raises NotFound, Forbidden, TooLate.
    """
    lieutenant = find_kept(name)
    permissions.check(actor, Action.COMMAND, presence.vm_of(lieutenant))
    message = find_message(lieutenant, message_id)
    note = delivery.WITHDRAWN_BY.format(_named(actor))
    if delivery.withdraw(message.pk, note, timezone.now()):
        events.publish_lieutenant(lieutenant.pk)
        logger.info("%s: message %s withdrawn by %s", lieutenant.name, message.pk, actor)
    message.refresh_from_db()
    if not delivery.is_withdrawn(message):
        what = delivery.whereabouts(message)
        raise TooLate(f"message: cannot be withdrawn, {what}")
    return message


def find_message(lieutenant: Lieutenant, message_id: str) -> Message:
    """Return the lieutenant's message of this id. Raises NotFound."""
    message = lieutenant.messages.filter(pk=message_id).first() if is_storable(message_id) else None
    if message is None:
        raise NotFound("Message not found")
    return message


def find_cursor(lieutenant: Lieutenant, cursor: str) -> Message:
    """Return the message that an earlier page ended with. Raises BadInput."""
    try:
        return find_message(lieutenant, cursor)
    except NotFound:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor") from None


def destroy(name: str, *, actor: object) -> str:
    """End the lieutenant for good; its transcript stays. Repeating it is no error."""
    lieutenant = Lieutenant.objects.living().filter(name=name).first()
    if lieutenant is None:
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            raise NotFound(f"Lieutenant '{name}' not found")
        permissions.check(actor, Action.DESTROY, presence.vm_of(lieutenant))
        return _epitaph(lieutenant)
    permissions.check(actor, Action.DESTROY, presence.vm_of(lieutenant))
    with transaction.atomic():
        _move(lieutenant, Status.DESTROYED, "destroy asked", actor)
        delivery.withdraw_queued(lieutenant, delivery.DESTROYED, timezone.now())
        transaction.on_commit(lambda: tombstones.leave(lieutenant))
    return _epitaph(lieutenant)


def destroy_all(*, actor: object) -> list[str]:
    """Destroy every living lieutenant that the actor commands, oldest first.

    For a node these are the ones below it. One that fails does not stop the others.
    """
    results = []
    living = Lieutenant.objects.living().order_by("created_at", "id")
    mine = [
        each.name for each in living if permissions.may(actor, Action.DESTROY, presence.vm_of(each))
    ]
    for name in mine:
        try:
            results.append(destroy(name, actor=actor))
        except (LostRace, IllegalMove) as error:
            results.append(f"{name}: failed — {error}")
    return results


def discover(*, actor: object) -> list[str]:
    """Take up agents that run on this host and that nobody follows; one line for each.

    They may belong anywhere in the fleet, so no node may ask for it. Raises Forbidden.
    """
    permissions.check(actor, Action.COMMAND, None)
    return reattach.discover()


def at_rest(lieutenant_id: str) -> bool:
    """Whether start or stop of this lieutenant has come to its end."""
    lieutenant = Lieutenant.objects.filter(pk=lieutenant_id).first()
    if lieutenant is None or lieutenant.status == Status.STARTING:
        return lieutenant is None
    if lieutenant.rewind_to is not None:
        return False
    stopping = Process.objects.live().filter(lieutenant=lieutenant)
    return lieutenant.should_run or not stopping.exists()


# -- rules of the above -----------------------------------------------------------------------


def _named(actor: object) -> str:
    """How rows name whoever asked."""
    return str(actor)[:200]


def _permitted(name: str, actor: object, action: Action) -> Lieutenant:
    """Return the living lieutenant of this name. Raises NotFound, Forbidden."""
    lieutenant = find(name, missing=f"Lieutenant '{name}' not found")
    permissions.check(actor, action, presence.vm_of(lieutenant))
    return lieutenant


def _check_agent(lieutenant: Lieutenant) -> None:
    """Refuse a start without an agent program, where that is known: on this host."""
    if lieutenant.data_folder == settings.DATA_FOLDER_ID:
        find_agent()


def _parent(wish: Wish, actor: object) -> Node | None:
    """The node that a new one stands below: the one it names, else the one that asks."""
    if not wish.parent_vm_id.strip():
        return permissions.node_of(actor)
    parent = tree.parent_of(wish.parent_vm_id.strip())
    permissions.check(actor, Action.WRITE, parent)
    return parent


def _folder(wish: Wish, actor: object) -> str:
    """Return the folder that the request names, resolved; empty if it names none."""
    if not wish.folder.strip():
        return ""
    node = permissions.node_of(actor)
    return str(folders.check(wish.folder.strip(), line_of=node.vm_id if node else ""))


def _check(wish: Wish, name: str, role: str) -> None:
    """Refuse what is no lieutenant, with the contract's texts."""
    if not name:
        raise BadInput("name is required", "name")
    if not role:
        raise BadInput("role is required", "role")
    if not NAME.fullmatch(name):
        raise BadInput("name: 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first", "name")
    if name.startswith(ids.LOCAL):
        # `vmId` of a lieutenant begins so.
        raise BadInput(f"name: must not begin with {ids.LOCAL}", "name")
    if route := _route_in_the_way(name):
        raise BadInput(f"name: '{name}' cannot be used, as {route} is a route of its own", "name")
    if wish.restart_policy not in RestartPolicy.values:
        raise BadInput(_NO_POLICY, "restart_policy")
    for label, text, most in (
        ("role", role, 4000),
        ("directive", wish.directive, 20_000),
        ("folder", wish.folder, 1000),
        ("parentVmId", wish.parent_vm_id, 255),
    ):
        if len(text) > most:
            raise BadInput(f"{label}: at most {most} characters", label)
        if not is_storable(text):
            raise BadInput(f"{label}: has characters that are no text", label)
    _check_model(wish.model)


def _route_in_the_way(name: str) -> str:
    """Return the path of a lieutenant of this name if it leads elsewhere; empty if it does not."""
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
    if len(model) > MOST_OF_MODEL:
        raise BadInput(f"model: at most {MOST_OF_MODEL} characters", "model")
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
    """Return the id that the living lieutenant of this name has in the tree, else nothing."""
    found = Lieutenant.objects.living().filter(name=name).first() if is_storable(name) else None
    return presence.vm_of(found) if found else ""


def _with_covered(note: str, names: set[str]) -> str:
    """Return the note of a message in which secrets of these names were covered."""
    marks = ", ".join(f"[{name}]" for name in sorted(names))
    covered = COVERED_NOTE.format(marks) if names else ""
    return "; ".join(part for part in (note, covered) if part)[:200]


def _without_secrets(wish: Wish) -> Wish:
    """Return the wish with secrets in its texts covered. Raises BadInput for one in a name."""
    cover = sources.current(recheck=True).cover
    for label, text in (("name", wish.name), ("model", wish.model), ("folder", wish.folder)):
        if cover(text) != text:
            raise BadInput(f"{label}: must not hold a secret", label)
    return replace(wish, role=cover(wish.role), directive=cover(wish.directive))


def _message_mode(mode: object) -> Mode:
    if mode is None:
        return Mode.PROMPT
    if not isinstance(mode, str) or mode not in Mode.values:
        raise BadInput(f"mode: must be one of {', '.join(Mode.values)}", "mode")
    return Mode(mode)


def _locked(name: str, actor: object) -> Lieutenant:
    """The row to send to, held until commit, or why nothing can be sent."""
    lieutenant = Lieutenant.objects.select_for_update().living().filter(name=name).first()
    if lieutenant is None:
        if Lieutenant.objects.filter(name=name).exists():
            raise NotFound(f"Lieutenant '{name}' has been destroyed")
        raise NotFound(f"Lieutenant '{name}' not found")
    permissions.check(actor, Action.SEND, presence.vm_of(lieutenant))
    if lieutenant.status == Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is paused. Resume it first.")
    if lieutenant.status == Status.ERROR and lieutenant.restart_at is None:
        raise NotNow(_no_connection(lieutenant))
    return lieutenant


def _no_connection(lieutenant: Lieutenant) -> str:
    """The contract's text, with what is wrong and what helps."""
    reason = f": {lieutenant.error.splitlines()[0][:300]}" if lieutenant.error.strip() else ""
    told = f"No active RPC connection for '{lieutenant.name}'{reason}"
    return f"{told.rstrip('.')}. POST …/restart starts its agent again."


def _fitting_mode(lieutenant: Lieutenant, asked: Mode) -> tuple[Mode, str]:
    """The mode that loses nothing in the lieutenant's present status, and a note if it differs."""
    first = not lieutenant.messages.pending().exists()
    if lieutenant.status == Status.IDLE:
        return Mode.PROMPT, "" if asked == Mode.PROMPT else PROMPT_NOTE
    if lieutenant.status in (Status.STARTING, Status.ERROR):
        note = STARTING_NOTE if lieutenant.status == Status.STARTING else RESTARTING_NOTE
        return (Mode.PROMPT if first or asked == Mode.PROMPT else asked), note
    if asked == Mode.PROMPT:
        return Mode.FOLLOW_UP, FOLLOW_UP_NOTE
    return asked, ""


def _move(lieutenant: Lieutenant, to: Status, reason: str, actor: object, **fields: object) -> None:
    with transaction.atomic():
        lieutenant.move(to, reason=reason, actor=_named(actor), **fields)
        _settle_later(lieutenant)


def _let_go_of_process(lieutenant: Lieutenant) -> None:
    """The process that still lives is to end, and another one starts when it has.

    It lives also when a resume follows the pause so closely that nobody has stopped it yet.
    """
    asked = lieutenant.processes.filter(ended_at__isnull=True, stop_asked_at__isnull=True)
    asked.update(stop_asked_at=timezone.now())


def _settle_later(lieutenant: Lieutenant) -> None:
    """Have a worker of its data folder act; without a broker the next reconcile finds the row."""
    dispatch(tasks.settle, lieutenant.pk, queue=tasks.queue_of(lieutenant.data_folder))


def _epitaph(lieutenant: Lieutenant) -> str:
    if note := silence.note_on(lieutenant):
        return f"{lieutenant.name}: {note}"
    tasks_done = f"{lieutenant.task_count} tasks completed"
    return f"{lieutenant.name}: destroyed (local, {tasks_done})"
