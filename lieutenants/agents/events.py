"""Neutral events: the vocabulary in which every agent dialect reports on its agent.

A dialect decodes its journal records into these; nothing else reads an agent's own words. Stop
reasons are the agent's own and are stored with its usage, except `ERROR` and `ABORTED`, which each
dialect must use for a run that failed or was aborted. `details` is the agent's report as it came,
stored in the transcript and never interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ERROR = "error"
ABORTED = "aborted"
HANDLED = "handled"

BlockKind = Literal["text", "thinking", "tool_call"]


class Screening(Protocol):
    """Covers secrets in what an agent reports, before a dialect reads it."""

    def cover(self, value: Any) -> Any:
        """Return a JSON value with all secrets covered."""

    def cover_message(self, event: dict[str, Any]) -> Any:
        """Cover a complete message, reusing the results for text that was streamed."""


# -- runs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The agent began to work."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run ended. Empty texts: as its last message said."""

    stop_reason: str = ""
    failure: str = ""
    # The agent will begin another run by itself.
    will_retry: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The agent has nothing left to do."""

    aborted: bool = False


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A model call and its tool calls are complete."""


# -- messages --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a block of the message that the agent is writing."""

    kind: BlockKind
    block: int
    text: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    """The agent took up a message."""

    text: str
    images: int = 0
    # Size of a message of which the journal holds only the beginning; else 0.
    bytes_left_out: int = 0


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A complete block of text. `number` is its position in the message."""

    number: int
    kind: Literal["text", "thinking"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBlock:
    """A tool call that the model requested. `number` is its position in the message."""

    number: int
    tool: str
    call_id: str
    arguments: Any = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one model call, and its cost in dollars, as the agent reported them."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: Any = 0


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """A complete message of the model."""

    blocks: tuple[TextBlock | ToolCallBlock, ...] = ()
    stop_reason: str = ""
    failure: str = ""
    # The failure is only the agent's own abort.
    is_abort: bool = False
    usage: TokenUsage | None = None
    provider: str = ""
    model: str = ""


# -- tools -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool call began to run."""

    call_id: str
    tool: str
    arguments: Any = None


@dataclass(frozen=True, slots=True)
class ToolUpdated:
    """The result of a running tool call so far."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool call has its result."""

    call_id: str
    tool: str
    text: str
    images: int = 0
    is_error: bool = False
    killed_for_memory: bool = False
    # Size of a result of which the journal holds only the beginning; else 0.
    bytes_left_out: int = 0
    duration_ms: int | None = None
    # The result as the model gets it, which may repeat an earlier event.
    is_copy: bool = False


# -- trouble with the model, context ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RetryStarted:
    """A model call failed, and the agent waits before it tries again."""

    failure: str
    attempt: str
    max_attempts: str
    delay_ms: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetryEnded:
    """A retry succeeded, or the agent gave up."""

    success: bool
    failure: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompactionStarted:
    """The agent began to shorten its context."""

    reason: Literal["full", "nearly full", "requested"] = "requested"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompactionEnded:
    """The agent shortened its context, or failed to."""

    success: bool
    failure: str = ""
    aborted: bool = False
    will_retry: bool = False
    tokens_before: int = 0
    usage: TokenUsage | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


# -- extensions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExtensionError:
    """An extension of the agent failed."""

    extension: str
    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers that a dialog offers: what the agent gets, and what people read."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Dialog:
    """The agent asks a person. Without a request id it cannot be answered.

    `kind` is one of `questions.states.Kind`.
    """

    request_id: str | None
    kind: str
    title: str = ""
    message: str = ""
    options: tuple[Option, ...] = ()
    placeholder: str = ""
    # Text that the person edits.
    prefill: str = ""
    # The agent goes on by itself after this time.
    timeout_seconds: float | None = None
    # A part of it was too long for the journal.
    is_cut: bool = False

    @property
    def text(self) -> str:
        """Return title and message on one line."""
        return " ".join(filter(None, (self.title, self.message)))


@dataclass(frozen=True, slots=True)
class Notice:
    """The agent informs a person."""

    text: str


# -- replies to commands ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the agent: `name` is its provider and id, as in "anthropic/opus"."""

    name: str
    label: str = ""
    # The agent has a model. False: it started without one.
    is_known: bool = True
    # None: the agent did not tell.
    takes_images: bool | None = None


@dataclass(frozen=True, slots=True)
class AgentState:
    """Reply to a state query."""

    is_working: bool = False
    has_queue: bool = False
    model: Model | None = None
    session_file: str = ""


@dataclass(frozen=True, slots=True)
class MessageReceipt:
    """Reply to a message: it is handled without a run, queued, or a run started with it."""

    # HANDLED, "queued" or "started"; empty if the agent does not tell.
    disposition: str = ""


@dataclass(frozen=True, slots=True)
class ContextUsage:
    """Usage of the context: `tokens`, `window` and `percent`; None if unknown."""

    figures: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class QueueReturned:
    """Reply to the command that empties the queue: the texts of the messages in it."""

    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models that the agent can use."""

    models: tuple[Model, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionMessages:
    """The user messages in the agent's session, oldest first: the agent's id and the text."""

    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionForked:
    """The agent continues a copy of its session, unless an extension forbade it."""

    cancelled: bool = False


ReplyContent = (
    AgentState
    | MessageReceipt
    | ContextUsage
    | QueueReturned
    | ModelList
    | SessionMessages
    | SessionForked
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply to a command. `request_id` is the id with which the command was sent."""

    request_id: str
    success: bool
    error: str = ""
    content: ReplyContent | None = None
    # The reply as it came, without bulky data: stored with the message as proof.
    evidence: Mapping[str, Any] = field(default_factory=dict)


Event = (
    RunStarted
    | RunEnded
    | Settled
    | TurnEnded
    | TextDelta
    | UserMessage
    | AssistantMessage
    | ToolStarted
    | ToolUpdated
    | ToolEnded
    | RetryStarted
    | RetryEnded
    | CompactionStarted
    | CompactionEnded
    | ExtensionError
    | Dialog
    | Notice
    | Reply
)
