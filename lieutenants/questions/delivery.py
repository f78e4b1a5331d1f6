"""Deliver what was decided to the dialogs of agents, and tell sessions which questions are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lieutenants.models import Question
from lieutenants.questions.states import Source
from lieutenants.sessions.inputs import QuestionSeen

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

# The row says what was decided until the journal says that the agent has it. Keepers pass only the
# first of equal commands on, so sending it again does no harm.
RESEND_SECONDS = 5.0


class ReplyDesk:
    """Used by the follower's thread. All that it must not forget is in the rows."""

    def __init__(self) -> None:
        # When the replies that no journal has confirmed yet were sent, by question.
        self._sent: dict[str, float] = {}

    def refresh(
        self,
        sessions: Mapping[str, Session],
        clock: float,
        *,
        collect: Callable[[Session], None],
        commit: Callable[[Session, QuestionSeen], None],
    ) -> None:
        """Send replies that are due, and note the open questions of agents.

        `collect` takes the new commands of a session, `commit` applies an input to it.
        """
        rows = list(Question.objects.relevant_here().order_by("created_at", "id"))
        self._send_replies([row for row in rows if not row.is_open], sessions, clock, collect)
        asked: dict[str | None, str] = {}
        for row in rows:
            if row.is_open and row.source == Source.TOOL:
                asked.setdefault(row.lieutenant_id, row.text)
        for session in sessions.values():
            text = asked.get(session.lieutenant.pk, "")
            if text != session.state.question and not session.state.is_ended:
                commit(session, QuestionSeen(text))

    def _send_replies(
        self,
        decided: list[Question],
        sessions: Mapping[str, Session],
        clock: float,
        collect: Callable[[Session], None],
    ) -> None:
        self._sent = {row.pk: self._sent[row.pk] for row in decided if row.pk in self._sent}
        for row in decided:
            session = sessions.get(row.process_id or "")
            if session is None or session.state.is_ended:
                continue
            sent = self._sent.get(row.pk)
            if sent is None or clock - sent >= RESEND_SECONDS:
                self._sent[row.pk] = clock
                session.reply_to_dialog(row)
                collect(session)
