"""Dialogs of the agent: people answer them as questions, else they are dismissed."""

from __future__ import annotations

from lieutenants.agents import events
from lieutenants.questions.states import (
    CHOICES,
    MAX_OPEN,
    MAX_OPTION_LENGTH,
    MAX_OPTIONS,
    MAX_REQUEST_ID_LENGTH,
    MAX_TEXT_LENGTH,
)
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import AddLimitedEntry, Effect
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.rules.trouble import command_above
from lieutenants.sessions.state import MAX_QUESTION, State, replace
from reef_site.common.text import clip, one_line

NOBODY = "since nobody can answer it"
ABORTED, AGENT_ENDED = "the answer was aborted", "its agent ended"


def _opened(state: State, dialog: events.Dialog, facts: Facts) -> Step:
    """Ask people, or dismiss a dialog at once: else it would block the agent, and each abort."""
    found = command_above(state, facts)
    if dialog.request_id is None:
        return state, found
    data = {"dialog": dialog.kind}
    if reason := _why_dismissed(state, dialog, facts):
        text = f"The dialog “{dialog.text}” was dismissed, {reason}."
        found += [
            effects.Send(effects.Verb.DISMISS_DIALOG, dialog.request_id),
            AddLimitedEntry("dialog", facts.at, text, data=data),
        ]
        return state, found
    title = clip(one_line(dialog.text), MAX_QUESTION)
    text = f"A person is asked: “{dialog.text}”"
    found += [
        effects.OpenQuestion(dialog, facts.at, facts.dialog_limit_seconds),
        AddLimitedEntry("dialog", facts.at, text, data=data),
    ]
    return replace(state, dialogs=(*state.dialogs, (dialog.request_id, title))), found


def _why_dismissed(state: State, dialog: events.Dialog, facts: Facts) -> str:
    """Return why no person is asked; empty if one is."""
    if not facts.dialog_limit_seconds or facts.is_known_dialog:
        return NOBODY
    if len(state.dialogs) >= MAX_OPEN:
        return f"since {MAX_OPEN} others wait for answers"
    lengths = [len(each.value) for each in dialog.options]
    longest = max([len(dialog.text), len(dialog.prefill)])
    if (
        dialog.is_cut
        or len(lengths) > MAX_OPTIONS
        or any(each > MAX_OPTION_LENGTH for each in lengths)
        or longest > MAX_TEXT_LENGTH
        or len(dialog.request_id or "") > MAX_REQUEST_ID_LENGTH
    ):
        return "since it is too long"
    if dialog.kind in CHOICES and not dialog.options:
        return "since it offers nothing to choose"
    return ""


def _replied(state: State, replied: inputs.DialogReplied, facts: Facts) -> Step:
    left = tuple(each for each in state.dialogs if each[0] != replied.request_id)
    if left == state.dialogs:
        # It was dismissed at once.
        return state, []
    return replace(state, dialogs=left), [effects.CloseQuestion(replied.request_id, facts.at)]


def _question_seen(state: State, seen: inputs.QuestionSeen, _facts: Facts) -> Step:
    return replace(state, question=seen.text), []


def withdraw_all(state: State, note: str) -> list[Effect]:
    """Return the effect that withdraws all questions of open dialogs, if there are any.

    The follower dismisses the dialogs then: an agent that waits for a person does not even abort.
    """
    return [effects.WithdrawQuestions(note)] if state.dialogs else []


RULES: dict[type, Rule] = {
    events.Dialog: _opened,
    inputs.DialogReplied: _replied,
    inputs.QuestionSeen: _question_seen,
}
