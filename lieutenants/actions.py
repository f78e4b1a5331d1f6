"""Actions that pages and the admin offer for a lieutenant, with their conditions and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lieutenants import services
from lieutenants.agents import dialect_of
from lieutenants.exceptions import NotNow
from lieutenants.hosts import liveness
from lieutenants.messages import retrying, rewinding
from lieutenants.models import Lieutenant, Message
from lieutenants.sessions import failure_series
from lieutenants.states import Status

S = Status
MAX_LISTED_MESSAGES = 50


@dataclass(frozen=True)
class LieutenantAction:
    """One action. `act` takes name, actor and whether it is confirmed; returns the result."""

    name: str
    label: str
    act: Callable[[str, object, bool], str]
    when: frozenset[Status]
    # Statuses in which it needs a confirmation.
    confirm_in: frozenset[Status]
    # Text of the confirmation.
    effect: str
    destructive: bool = False
    # Drops queued messages; needs a confirmation if there are any.
    drops_queued: bool = False
    # Further condition for offering it.
    is_offered: Callable[[Lieutenant], bool] = lambda _: True

    def is_available(self, lieutenant: Lieutenant) -> bool:
        """Return whether the action is available in the lieutenant's status."""
        return lieutenant.status in self.when and self.is_offered(lieutenant)

    def needs_confirmation(self, lieutenant: Lieutenant) -> bool:
        """Return whether the action needs a confirmation."""
        return lieutenant.status in self.confirm_in or bool(self.dropped_messages(lieutenant))

    def dropped_messages(self, lieutenant: Lieutenant) -> list[Message]:
        """Return the first queued messages that the action would drop."""
        if not self.drops_queued or not self.is_available(lieutenant):
            return []
        return list(lieutenant.messages.pending()[:MAX_LISTED_MESSAGES])


def _result(lieutenant: Lieutenant, text: str) -> str:
    """Return the result, or a note that the host does not respond."""
    return f"{lieutenant.name}: {liveness.pending_note(lieutenant) or text}."


def _pause(name: str, actor: object, confirmed: bool) -> str:
    lieutenant = services.pause(name, actor=actor, force=confirmed)
    return _result(lieutenant, "pausing; the session is kept")


def _resume(name: str, actor: object, _sure: bool) -> str:
    return _result(services.resume(name, actor=actor), "resuming")


def _abort(name: str, actor: object, confirmed: bool) -> str:
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    waiting = lieutenant.messages.pending().count()
    if waiting and not confirmed:
        queued = f"{waiting} queued message{'s' if waiting > 1 else ''}"
        raise NotNow(f"Aborting {name} would drop {queued}. Confirm it first.")
    return _result(services.abort(name, actor=actor), "aborting the running answer")


def _restart(name: str, actor: object, _sure: bool) -> str:
    return _result(services.restart(name, actor=actor), "restarting the agent")


def _rewind(name: str, actor: object, _sure: bool) -> str:
    _, entry = rewinding.request_rewind(name, actor=actor)
    return f"{name}: going back to before “{' '.join(entry.text.split())[:80]}”."


def _retry(name: str, actor: object, _sure: bool) -> str:
    retrying.retry(name, actor=actor)
    return f"{name}: the failed task was sent again."


def _new_session(name: str, actor: object, _sure: bool) -> str:
    services.new_session(name, actor=actor)
    return f"{name}: starting with a new session; the old one is kept."


def _destroy(name: str, actor: object, _sure: bool) -> str:
    return services.destroy(name, actor=actor)


def _may_need_new_session(lieutenant: Lieutenant) -> bool:
    may_help = bool(lieutenant.session_problem) or failure_series.is_poisoned(lieutenant)
    return dialect_of(lieutenant).features.session and may_help


_LIVING = frozenset(S) - {S.DESTROYED}

ACTIONS: dict[str, LieutenantAction] = {
    verb.name: verb
    for verb in (
        LieutenantAction(
            "abort",
            "Abort",
            _abort,
            when=frozenset({S.WORKING}),
            confirm_in=frozenset(),
            effect="The running answer is aborted.",
            drops_queued=True,
        ),
        LieutenantAction(
            "resume",
            "Resume",
            _resume,
            when=frozenset({S.PAUSED}),
            confirm_in=frozenset(),
            effect="The agent starts again with the kept session.",
        ),
        LieutenantAction(
            "pause",
            "Pause",
            _pause,
            when=_LIVING - {S.PAUSED},
            confirm_in=frozenset({S.WORKING}),
            effect="It is working now. Its answer is aborted and its agent stops. The session "
            "is kept: resume it later and it remembers everything.",
        ),
        LieutenantAction(
            "retry",
            "Retry",
            _retry,
            when=frozenset({S.IDLE}),
            confirm_in=frozenset(),
            effect="The message of the newest task, which has not completed, is sent again.",
            is_offered=retrying.can_retry,
        ),
        LieutenantAction(
            "rewind",
            "Go back",
            _rewind,
            when=frozenset({S.IDLE}),
            confirm_in=frozenset({S.IDLE}),
            effect="Each request fails since one message. The agent goes on from before that "
            "message and forgets what came after it. The transcript and the earlier session "
            "file are kept.",
            is_offered=failure_series.can_rewind,
        ),
        LieutenantAction(
            "new-session",
            "New session",
            _new_session,
            when=frozenset({S.IDLE, S.ERROR, S.PAUSED}),
            confirm_in=frozenset({S.IDLE, S.ERROR, S.PAUSED}),
            effect="The agent starts without any memory of this session. The transcript and the "
            "old session file are kept.",
            is_offered=_may_need_new_session,
        ),
        LieutenantAction(
            "restart",
            "Restart",
            _restart,
            when=frozenset({S.IDLE, S.WORKING, S.ERROR}),
            confirm_in=frozenset({S.WORKING}),
            effect="It is working now. Its answer is aborted; its agent stops and starts again "
            "with the same session.",
        ),
        LieutenantAction(
            "destroy",
            "Destroy",
            _destroy,
            when=_LIVING,
            confirm_in=_LIVING,
            effect="Its agent stops, queued messages are rejected, and the lieutenant cannot be "
            "brought back. Its transcript, its usage and its folder stay; of one on a VM, the "
            "folder that reef made there is removed.",
            destructive=True,
        ),
    )
}
