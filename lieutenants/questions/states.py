"""Kinds, sources and states of questions, and the allowed transitions."""

from __future__ import annotations

from django.db.models import TextChoices


class Kind(TextChoices):
    """Kinds of questions, by their answer: an option's value, true or false, or text."""

    SELECT = "select", "choice"
    CONFIRM = "confirm", "yes or no"
    INPUT = "input", "line of text"
    EDITOR = "editor", "text"
    PERMISSION = "permission", "permission"
    ASK = "ask", "question"


class Source(TextChoices):
    """Origins of questions."""

    DIALOG = "dialog", "a dialog of the agent"
    TOOL = "tool", "a tool call"
    FAILURE = "failure", "a failure"


class QuestionState(TextChoices):
    """State of a question. All but the first are final."""

    OPEN = "open", "open"
    ANSWERED = "answered", "answered"
    # Its deadline passed: the default counts, or, without one, nobody has decided.
    DEFAULTED = "defaulted", "default taken"
    EXPIRED = "expired", "expired"
    # Nobody waits for the answer any more.
    WITHDRAWN = "withdrawn", "withdrawn"


QUESTION_MOVES: dict[QuestionState, frozenset[QuestionState]] = {
    QuestionState.OPEN: frozenset(set(QuestionState) - {QuestionState.OPEN}),
    **{state: frozenset() for state in QuestionState if state is not QuestionState.OPEN},
}

# Kinds whose answer is the value of one of the options.
CHOICES = frozenset({Kind.SELECT, Kind.PERMISSION})
# A lieutenant's further dialogs are dismissed; further questions of an agent are refused.
MAX_OPEN = 20
MAX_OPTIONS = 100
MAX_OPTION_LENGTH = 2000
MAX_TEXT_LENGTH = 20_000
MAX_ANSWER_LENGTH = 200_000
MAX_REQUEST_ID_LENGTH = 200
