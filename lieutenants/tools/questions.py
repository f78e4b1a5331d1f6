"""Tools by which agents ask people, and answer what agents below them ask."""

from __future__ import annotations

from typing import Any

from lieutenants.conditions import Conditions
from lieutenants.models import Question
from lieutenants.questions import listing, services
from lieutenants.questions.serializers import AskBody, GivenAnswer, question_json
from lieutenants.questions.states import Kind
from lieutenants.requests import RequiredText
from lieutenants.sessions.state import ASK_TOOL
from lieutenants.tools.waiting import DEFAULT_SECONDS, MAX_SECONDS
from reef_site.common.api.fields import Flag, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.errors import BadInput
from reef_site.common.tools import NoArguments, Tool, ToolResult
from vmtree.permissions import Action

Json = dict[str, Any]
MAX_LISTED = 50
YES_NO = {"yes": True, "no": False}


class AskArguments(AskBody):
    seconds = WholeNumber(
        most=MAX_SECONDS,
        default=DEFAULT_SECONDS,
        help_text="Wait at most this long for the answer. Over HTTP a call ends after a minute at "
        "the latest; the question stays open.",
    )


class AnswerArguments(Body):
    question = RequiredText(help_text="Id of the question.")
    answer = GivenAnswer(
        required=False, help_text="yes or no, the value of an option, or text, as it asks for."
    )
    dismiss = Flag(default=False, help_text="Leave the decision to the agent.")


def ask(caller: object, arguments: Json) -> ToolResult:
    seconds = arguments.pop("seconds")
    question = services.ask(caller, arguments.pop("text"), **arguments)
    conditions = Conditions(seconds=seconds, questions=[question.pk])
    return ToolResult(**conditions.state(), wait=conditions.header() if seconds else "")


def answer(caller: object, arguments: Json) -> ToolResult:
    question = services.find(arguments["question"], actor=caller)
    given = arguments.get("answer")
    if (given is None) != arguments["dismiss"]:
        raise BadInput("answer: give either an answer or dismiss", "answer")
    if question.kind == Kind.CONFIRM and isinstance(given, str):
        given = YES_NO.get(given.strip().lower(), given)
    done = services.answer(question.pk, given, actor=caller)
    return ToolResult(f"Question {done.pk} is {done.decision}.", question_json(done))


def list_open(caller: object, _arguments: Json) -> ToolResult:
    found = listing.by_urgency(listing.readable_by(caller))[:MAX_LISTED]
    blocks = [_block(each.question) for each in found]
    facts = [question_json(each.question, each.waiting_below) for each in found]
    return ToolResult("\n\n".join(blocks) or "No open questions.", {"questions": facts})


def _block(question: Question) -> str:
    asker = question.lieutenant.name if question.lieutenant else question.vm_id
    lines = [f"{question.pk} from {asker} ({question.get_kind_display()}):", question.text]
    lines += [question.details] if question.details else []
    lines += [f"- {each['value']}" for each in question.options]
    return "\n".join(lines)


TOOLS = (
    Tool(
        ASK_TOOL,
        "Ask a person, or an agent above you, for a decision that is not yours to make, and wait "
        "for the answer. Suggest answers as options. Give a default with a deadline if you can go "
        "on without an answer.",
        AskArguments,
        ask,
    ),
    Tool(
        "reef_questions",
        "List the open questions of agents below you, and your own, the most urgent first.",
        NoArguments,
        list_open,
        read_only=True,
        action=Action.READ_TRANSCRIPT,
    ),
    Tool(
        "reef_answer",
        "Answer a question of an agent below you. The first answer counts.",
        AnswerArguments,
        answer,
        action=Action.ANSWER,
    ),
)
