"""Go back to before a message: the agent continues a copy of its session that ends there.

The agent does it with its own commands; its earlier session file is kept. `request_rewind` stores
the request, and the follower carries it out: it lists the agent's messages, forks, and queries
which file the agent continues. No message is sent meanwhile.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.agents.events import AgentState, Reply, SessionForked, SessionMessages
from lieutenants.exceptions import NotNow, NotSupported
from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.sessions import failure_series
from lieutenants.states import Status
from reef_site.common import events
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.text import is_storable
from vmtree import permissions
from vmtree.permissions import Action

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

logger = logging.getLogger(__name__)

REPLY_SECONDS = 10.0
SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.jsonl")
_LIST, _FORK, _FILE = "~rewind-", "~fork-", "~forked-"
_MAX_WORDS = 80
_MAX_HEAD = 200

# The agent's id and the text of each message in its session.
Messages = tuple[tuple[str, str], ...]


# -- requests --------------------------------------------------------------------------------


def request_rewind(
    name: str, *, actor: object, message_id: str = "", entry_id: int | None = None
) -> tuple[Lieutenant, Entry]:
    """Request that an idle lieutenant goes back to before a message.

    Return the lieutenant and the message's entry. The message is given by its id or by its
    transcript entry; the default is the first one that failed. Raises NotFound, Forbidden,
    NotNow, BadInput.
    """
    with transaction.atomic():
        found = Lieutenant.objects.select_for_update().active().filter(name=name).first()
        if found is None:
            raise NotFound(f"Lieutenant '{name}' not found")
        permissions.check(actor, Action.COMMAND, membership.vm_id_of(found))
        if not dialect_of(found).features.rewind:
            raise NotSupported(f"The agent '{found.agent}' cannot go back to before a message")
        if found.status == Status.WORKING:
            raise NotNow(f"Lieutenant '{name}' is working. Abort its answer first.")
        if found.status != Status.IDLE:
            raise NotNow(
                f"Lieutenant '{name}' has no running agent (status: {found.status}). Start it "
                "first (resume or restart)."
            )
        entry = _target(found, message_id, entry_id)
        Lieutenant.objects.filter(pk=found.pk).update(
            rewind_to=entry.pk, rewind_asked_at=timezone.now()
        )
        events.wake_follower(found.pk)
    logger.info("%s: going back to before entry %s requested by %s", name, entry.pk, actor)
    return found, entry


def _target(lieutenant: Lieutenant, message_id: str, entry_id: int | None) -> Entry:
    mine = lieutenant.entries.filter(kind=Entry.Kind.USER).order_by("-id")
    if message_id:
        if not is_storable(message_id):
            raise BadInput("messageId: has characters that are no text", "messageId")
        entry = mine.filter(message_id=message_id).first()
        field, wanted = "messageId", f"'{message_id[:40]}' is not a message that its agent took up"
    elif entry_id is not None:
        entry = mine.filter(pk=entry_id).first()
        field, wanted = "entryId", f"{entry_id} is not a message in its transcript"
    elif known := lieutenant.failures.get("entry"):
        entry = mine.filter(pk=known).first()
        field, wanted = "entryId", "the message since which requests fail is gone"
    else:
        raise BadInput("messageId or entryId is required", "messageId")
    if entry is None:
        raise BadInput(f"{field}: {wanted}", field)
    if entry.data.get("rewound") or "command" in entry.data:
        raise BadInput(f"{field}: this message is not in the agent's session", field)
    return entry


# -- execution -------------------------------------------------------------------------------


def advance(session: Session, row: Lieutenant, clock: float) -> None:
    """Begin a requested rewind, or continue one whose last command got no reply."""
    memory = session.memory
    if memory.rewinding:
        if session.rewind_at is None:
            session.rewind_at = clock
        elif clock - session.rewind_at > REPLY_SECONDS:
            _on_time_out(session, clock)
    elif row.rewind_to is not None and session.process.ready_at and not session.ended:
        if memory.busy or memory.inflight:
            return
        mark = str(int(time.time() * 1000))
        memory.rewinding, session.rewind_at = f"{_LIST}{mark}", clock
        memory.rewind_to = row.rewind_to
        session.outgoing.append(dialect_of(row).list_messages(memory.rewinding))
        session.quiescent = False


def on_reply(session: Session, reply: Reply, at: datetime) -> None:
    """Handle the agent's reply to one of the three commands."""
    command, content = reply.request_id, reply.content
    if not command or command != session.memory.rewinding:
        return
    session.rewind_at = None
    if not reply.success:
        fail(session, f"the agent refused: {reply.error}", at)
    elif command.startswith(_LIST):
        _fork(session, content.messages if isinstance(content, SessionMessages) else (), at)
    elif command.startswith(_FORK):
        if isinstance(content, SessionForked) and content.cancelled:
            fail(session, "an extension of the agent forbids it", at)
            return
        _query_file(session)
    else:
        _finish(session, content.session_file if isinstance(content, AgentState) else "", at)


def fail(session: Session, why: str, at: datetime) -> None:
    """Report that the rewind failed; the session is unchanged."""
    _clear_request(session)
    text = f"Could not go back to before a message: {why}."
    session.notice(at, text, is_error=True)


def cancel(session: Session, at: datetime) -> None:
    """Cancel the rewind because the process ends."""
    requested = Lieutenant.objects.filter(pk=session.lieutenant.pk, rewind_to__isnull=False)
    if session.memory.rewinding or requested.exists():
        fail(session, "its agent ended first", at)


def _fork(session: Session, listed: Messages, at: datetime) -> None:
    entry = Entry.objects.filter(pk=session.memory.rewind_to).first()
    found = _match(session, entry, listed) if entry else None
    if found is None:
        fail(session, "the agent does not have this message in its session any more", at)
    elif _sent_since(session.lieutenant):
        fail(session, "a message was sent meanwhile", at)
    else:
        mark = session.memory.rewinding.removeprefix(_LIST)
        session.memory.rewinding = f"{_FORK}{mark}"
        dialect = dialect_of(session.lieutenant)
        session.outgoing.append(dialect.fork(session.memory.rewinding, found))


def _match(session: Session, entry: Entry, listed: Messages) -> str | None:
    """Return the agent's id of the message: among equal texts, the same one counted from the end.

    The transcript holds only the beginning of a very long message, which is found by position.
    """
    cover = session.screening.cover
    texts = [cover(text) for _, text in listed]
    since = _in_session(session, entry.pk)
    # Rows were covered with the secrets known at that time.
    wanted = cover(entry.text)
    same = [number for number, text in enumerate(texts) if text == wanted]
    later = [each for each in since if cover(each.text) == wanted]
    if same and 0 < len(later) <= len(same):
        return listed[same[-len(later)]][0]
    if 0 < len(since) <= len(texts) and texts[-len(since)][:_MAX_HEAD] == wanted[:_MAX_HEAD]:
        return listed[-len(since)][0]
    return None


def _in_session(session: Session, since: int) -> list[Entry]:
    """Return the messages from this one on that the agent's session contains."""
    rows = Entry.objects.filter(lieutenant=session.lieutenant, kind=Entry.Kind.USER, pk__gte=since)
    return [
        each
        for each in rows.order_by("id")
        if not each.data.get("rewound") and "command" not in each.data
    ]


def _sent_since(lieutenant: Lieutenant) -> bool:
    """Return whether a message reached the agent after the rewind was requested."""
    requested = Lieutenant.objects.filter(pk=lieutenant.pk).values_list(
        "rewind_asked_at", flat=True
    )
    later = Q(delivered_at__gt=requested.first()) if requested.first() else Q(pk=None)
    return Message.objects.filter(later, lieutenant=lieutenant).exists()


def _query_file(session: Session) -> None:
    mark = session.memory.rewinding.rpartition("-")[2]
    session.memory.rewinding = f"{_FILE}{mark}"
    session.outgoing.append(dialect_of(session.lieutenant).query_state(session.memory.rewinding))


def _finish(session: Session, file: str, at: datetime) -> None:
    lieutenant = session.lieutenant
    name = PurePosixPath(file).name
    row = Lieutenant.objects.only("session_name").get(pk=lieutenant.pk)
    if not SESSION_NAME.fullmatch(name) or name == row.session_name:
        fail(session, "the agent still continues the same session", at)
        return
    target = Entry.objects.filter(pk=session.memory.rewind_to).first()
    words = " ".join(session.screening.cover(target.text).split())[:_MAX_WORDS] if target else ""
    for entry in _in_session(session, session.memory.rewind_to):
        session.revise(entry, data={**entry.data, "rewound": True})
    Lieutenant.objects.filter(pk=lieutenant.pk).update(session_name=name, session_since=at)
    lieutenant.session_name = name
    _clear_request(session)
    failure_series.clear(session)
    lieutenant.trouble = ""
    text = (
        f"Went back to before message “{words}”. The earlier session stays in {row.session_name}."
    )
    session.notice(at, text, data={"rewind": {"from": row.session_name, "to": name}})


def _clear_request(session: Session) -> None:
    session.memory.rewinding, session.memory.rewind_to, session.rewind_at = "", 0, None
    Lieutenant.objects.filter(pk=session.lieutenant.pk).update(rewind_to=None, rewind_asked_at=None)


def _on_time_out(session: Session, clock: float) -> None:
    """Query the session file after a timeout: it tells whether the fork happened."""
    session.rewind_at = clock
    if session.memory.rewinding.startswith(_FILE):
        # A new id, since the keeper passes each id on once.
        session.memory.rewinding = f"{_FILE}{int(time.time() * 1000)}"
        dialect = dialect_of(session.lieutenant)
        session.outgoing.append(dialect.query_state(session.memory.rewinding))
    else:
        _query_file(session)
