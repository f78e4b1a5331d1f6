"""Actions that pages and the admin offer for a lieutenant, with their conditions and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lieutenants import failing, rewinding, services
from lieutenants.exceptions import NotNow
from lieutenants.hosts import silence
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status

S = Status
MAX_LISTED = 50


@dataclass(frozen=True)
class Verb:
    """One action. `act` takes name, actor and whether it is confirmed; returns the result."""

    name: str
    label: str
    act: Callable[[str, str, bool], str]
    when: frozenset[Status]
    # Statuses in which it needs a confirmation.
    asks_in: frozenset[Status]
    # Text of the confirmation.
    outlook: str
    grave: bool = False
    # Drops queued messages; needs a confirmation if there are any.
    drops_queue: bool = False
    # Further condition for offering it.
    offered: Callable[[Lieutenant], bool] = lambda _: True

    def fits(self, lieutenant: Lieutenant) -> bool:
        """Return whether the action is available in the lieutenant's status."""
        return lieutenant.status in self.when and self.offered(lieutenant)

    def asks(self, lieutenant: Lieutenant) -> bool:
        """Return whether the action needs a confirmation."""
        return lieutenant.status in self.asks_in or bool(self.dropped_by(lieutenant))

    def dropped_by(self, lieutenant: Lieutenant) -> list[Message]:
        """Return the first queued messages that the action would drop."""
        if not self.drops_queue or not self.fits(lieutenant):
            return []
        return list(lieutenant.messages.pending()[:MAX_LISTED])


def _said(lieutenant: Lieutenant, text: str) -> str:
    """Return the result, or a note that the host does not respond."""
    return f"{lieutenant.name}: {silence.note_on(lieutenant) or text}."


def _pause(name: str, actor: str, sure: bool) -> str:
    lieutenant = services.pause(name, actor=actor, force=sure)
    return _said(lieutenant, "pausing; the session is kept")


def _resume(name: str, actor: str, _sure: bool) -> str:
    return _said(services.resume(name, actor=actor), "resuming")


def _abort(name: str, actor: str, sure: bool) -> str:
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    waiting = lieutenant.messages.pending().count()
    if waiting and not sure:
        queued = f"{waiting} queued message{'s' if waiting > 1 else ''}"
        raise NotNow(f"Aborting {name} would drop {queued}. Confirm it first.")
    return _said(services.abort(name, actor=actor), "aborting the running answer")


def _restart(name: str, actor: str, _sure: bool) -> str:
    return _said(services.restart(name, actor=actor), "restarting the agent")


def _rewind(name: str, actor: str, _sure: bool) -> str:
    _, entry = rewinding.ask(name, actor=actor)
    return f"{name}: going back to before “{' '.join(entry.text.split())[:80]}”."


def _new_session(name: str, actor: str, _sure: bool) -> str:
    services.new_session(name, actor=actor)
    return f"{name}: starting with a new session; the old one is kept."


def _destroy(name: str, actor: str, _sure: bool) -> str:
    return services.destroy(name, actor=actor)


_LIVING = frozenset(S) - {S.DESTROYED}

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "abort",
            "Abort",
            _abort,
            when=frozenset({S.WORKING}),
            asks_in=frozenset(),
            outlook="The running answer is aborted.",
            drops_queue=True,
        ),
        Verb(
            "resume",
            "Resume",
            _resume,
            when=frozenset({S.PAUSED}),
            asks_in=frozenset(),
            outlook="The agent starts again with the kept session.",
        ),
        Verb(
            "pause",
            "Pause",
            _pause,
            when=_LIVING - {S.PAUSED},
            asks_in=frozenset({S.WORKING}),
            outlook="It is working now. Its answer is aborted and its agent stops. The session "
            "is kept: resume it later and it remembers everything.",
        ),
        Verb(
            "rewind",
            "Go back",
            _rewind,
            when=frozenset({S.IDLE}),
            asks_in=frozenset({S.IDLE}),
            outlook="Each request fails since one message. The agent goes on from before that "
            "message and forgets what came after it. The transcript and the earlier session "
            "file are kept.",
            offered=failing.can_rewind,
        ),
        Verb(
            "new-session",
            "New session",
            _new_session,
            when=frozenset({S.IDLE, S.ERROR, S.PAUSED}),
            asks_in=frozenset({S.IDLE, S.ERROR, S.PAUSED}),
            outlook="The agent starts without any memory of this session. The transcript and the "
            "old session file are kept.",
            offered=lambda each: bool(each.session_problem) or failing.can_rewind(each),
        ),
        Verb(
            "restart",
            "Restart",
            _restart,
            when=frozenset({S.IDLE, S.WORKING, S.ERROR}),
            asks_in=frozenset({S.WORKING}),
            outlook="It is working now. Its answer is aborted; its agent stops and starts again "
            "with the same session.",
        ),
        Verb(
            "destroy",
            "Destroy",
            _destroy,
            when=_LIVING,
            asks_in=_LIVING,
            outlook="Its agent stops, queued messages are rejected, and the lieutenant cannot be "
            "brought back. Its transcript, its usage and its folder stay.",
            grave=True,
        ),
    )
}
