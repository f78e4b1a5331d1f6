"""Read what the rows hold that an input of the reducer depends on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from lieutenants import queries
from lieutenants.agents import events
from lieutenants.models import Lieutenant, Message, Question
from lieutenants.sessions import inputs, rewind_rows
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import endings, rewinding, settling
from lieutenants.states import RestartPolicy, Status

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session


def read_facts(session: Session, given: object, at: datetime) -> Facts:
    """Return the facts for this input. Most inputs need no query."""
    facts = Facts(at, session.process.stop_asked_at is not None)
    read = _READERS.get(type(given))
    return read(session, given, facts) if read else facts


def _of_run_end(session: Session, _event: events.RunEnded, facts: Facts) -> Facts:
    message = session.state.inflight
    if not message:
        return facts
    taken_up = Message.objects.filter(pk=message, taken_up_at__isnull=False)
    return facts._replace(is_taken_up=taken_up.exists())


def _of_check(session: Session, _check: inputs.SettleCheck, facts: Facts) -> Facts:
    if not settling.needs_pending(session.state):
        return facts
    return facts._replace(pending=queries.pending_states(session.lieutenant.pk))


def _of_dialog(session: Session, dialog: events.Dialog, facts: Facts) -> Facts:
    row = Lieutenant.objects.only("dialog_limit_seconds").get(pk=session.lieutenant.pk)
    known = Question.objects.filter(process=session.process, request_id=dialog.request_id or "")
    return facts._replace(
        dialog_limit_seconds=row.dialog_limit_seconds, is_known_dialog=known.exists()
    )


def _of_reply(session: Session, reply: events.Reply, facts: Facts) -> Facts:
    state, content = session.state, reply.content
    if reply.request_id and reply.request_id == state.rewinding:
        return _of_rewind(session, reply, facts)
    if isinstance(content, events.AgentState) and not state.is_ready:
        return _of_start(session, content, facts)
    if isinstance(content, events.ModelList):
        return facts._replace(model_in_use=session.lieutenant.model_in_use)
    return facts


def _of_start(session: Session, reply: events.AgentState, facts: Facts) -> Facts:
    dialect, notes, model = session.dialect, session.state.notes, reply.model
    row = Lieutenant.objects.only("model_wanted", "model_in_use").get(pk=session.lieutenant.pk)
    names = [model.name, model.label] if model else []
    return facts._replace(
        pending=queries.pending_states(session.lieutenant.pk),
        wanted_model=row.model_wanted,
        previous_model=row.model_in_use,
        has_wanted_model=dialect.matches_model(row.model_wanted, names),
        is_change_announced=any(map(dialect.is_model_warning, notes)),
        infos=frozenset(filter(dialect.is_info, notes)),
        now=timezone.now(),
    )


def _of_rewind(session: Session, reply: events.Reply, facts: Facts) -> Facts:
    lieutenant, command, content = session.lieutenant, reply.request_id, reply.content
    if command.startswith(rewinding.FILE):
        row = Lieutenant.objects.only("session_name").get(pk=lieutenant.pk)
        return facts._replace(session_name=row.session_name)
    if not command.startswith(rewinding.LIST):
        return facts
    listed = content.messages if isinstance(content, events.SessionMessages) else ()
    entry, cover = session.state.rewind_to, session.recorder.screening.cover
    return facts._replace(
        rewind_target=rewind_rows.find_target(lieutenant, entry, listed, cover),
        was_sent_since=rewind_rows.was_sent_since(lieutenant),
    )


def _of_end(session: Session, _end: object, facts: Facts) -> Facts:
    row, now = Lieutenant.objects.get(pk=session.lieutenant.pk), timezone.now()
    ready_at = session.process.ready_at
    return facts._replace(
        was_healthy=ready_at is not None and now - ready_at > endings.HEALTHY_AFTER,
        restarts=row.restarts,
        restart_policy=RestartPolicy(row.restart_policy),
        is_destroyed=row.status == Status.DESTROYED,
        rewind_requested=row.rewind_to is not None,
        now=now,
    )


_READERS: dict[type, Callable[[Session, Any, Facts], Facts]] = {
    events.RunEnded: _of_run_end,
    events.Dialog: _of_dialog,
    events.Reply: _of_reply,
    inputs.SettleCheck: _of_check,
    inputs.ProcessEnded: _of_end,
    inputs.ProcessLost: _of_end,
    inputs.ProcessUnreachable: _of_end,
    inputs.ProcessUseless: _of_end,
}
