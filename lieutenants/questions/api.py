"""API of questions: `/lieutenant/questions`."""

from __future__ import annotations

from django.db.models import Q
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.messages import waits
from lieutenants.models import Question
from lieutenants.questions import listing, services
from lieutenants.questions.models import QuestionQuerySet
from lieutenants.questions.serializers import (
    AnswerBody,
    AskBody,
    QuestionResponse,
    QuestionsQuery,
    question_json,
)
from lieutenants.questions.states import QuestionState
from lieutenants.requests import WaitQuery
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import list_of

UNREADABLE = {
    403: "rule: a node reads transcripts of itself and its descendants",
    404: "Question not found",
}
DECIDED = {409: "question: was answered by admin already"}


def hold_until_decided(response: Response, question: Question, seconds: int) -> Response:
    """Let the edge hold the response back until the question is decided."""
    if seconds and question.is_open:
        response[waits.HEADER] = waits.decided(question.pk, seconds)
    return response


class Questions(APIView):
    """`GET` and `POST /lieutenant/questions`"""

    checks_permission = True

    @endpoint(
        query=QuestionsQuery,
        response=list_of("questions", QuestionResponse, next_page=Text),
        errors={400: "cursor: must be the `next` of an earlier page"},
    )
    def get(self, request: Request) -> Response:
        """Return questions of agents, newest first.

        `?state=open` returns the open ones, the most urgent first: how many agents wait for the
        answer, times how long.
        """
        query = QuestionsQuery.parse(request)
        rows, limit = _filtered(listing.readable_by(request.user), query), query["limit"]
        if query["state"] == QuestionState.OPEN:
            listed = listing.by_urgency(rows)[:limit]
            found = [question_json(each.question, each.waiting_below) for each in listed]
            return Response({"questions": found, "count": len(found), "next": None})
        page = list(listing.by_time(rows, query["cursor"])[: limit + 1])
        more, page = len(page) > limit, page[:limit]
        return Response(
            {
                "questions": [question_json(row) for row in page],
                "count": len(page),
                "next": page[-1].pk if more else None,
            }
        )

    @endpoint(
        query=WaitQuery,
        body=AskBody,
        response=QuestionResponse,
        status=201,
        errors={
            403: f"rule: {services.ONLY_AGENTS}",
            429: "20 questions are open; wait for answers, or withdraw some",
        },
    )
    def post(self, request: Request) -> Response:
        """Ask people on behalf of the calling agent; `?wait=<seconds>` waits for the answer."""
        seconds, body = WaitQuery.parse(request)["wait"], AskBody.parse(request)
        question = services.ask(request.user, body.pop("text"), **body)
        return hold_until_decided(Response(question_json(question), 201), question, seconds)


def _filtered(rows: QuestionQuerySet, query: dict[str, str]) -> QuestionQuerySet:
    if query["state"]:
        rows = rows.filter(state=query["state"])
    if query["lieutenant"]:
        mine = Q(lieutenant__name=query["lieutenant"]) | Q(lieutenant=query["lieutenant"])
        rows = rows.filter(mine)
    return rows.filter(vm_id=query["vm_id"]) if query["vm_id"] else rows


class OneQuestion(APIView):
    """`GET` and `DELETE /lieutenant/questions/<id>`"""

    checks_permission = True

    @endpoint(query=WaitQuery, response=QuestionResponse, errors=UNREADABLE)
    def get(self, request: Request, question_id: str) -> Response:
        """Return a question; `?wait=<seconds>` waits until it is decided."""
        seconds = WaitQuery.parse(request)["wait"]
        question = services.find(question_id, actor=request.user)
        return hold_until_decided(Response(question_json(question)), question, seconds)

    @endpoint(response=QuestionResponse, errors={**UNREADABLE, **DECIDED})
    def delete(self, request: Request, question_id: str) -> Response:
        """Withdraw a question that was asked with the API. Its agent may do so, too."""
        return Response(question_json(services.withdraw(question_id, actor=request.user)))


class Answer(APIView):
    """`POST /lieutenant/questions/<id>/answer`"""

    checks_permission = True

    @endpoint(body=AnswerBody, response=QuestionResponse, errors={**UNREADABLE, **DECIDED})
    def post(self, request: Request, question_id: str) -> Response:
        """Answer a question, for operators, the root token and ancestors of the agent.

        The first answer counts. The agent gets it within seconds; `deliveredAt` says when.
        """
        question = services.find(question_id, actor=request.user)
        value = AnswerBody.parse(request)["answer"]
        return Response(question_json(services.answer(question.pk, value, actor=request.user)))


urlpatterns = [
    re_path(r"^lieutenant/questions/?$", Questions.as_view()),
    re_path(r"^lieutenant/questions/(?P<question_id>[^/]+)/?$", OneQuestion.as_view()),
    re_path(r"^lieutenant/questions/(?P<question_id>[^/]+)/answer/?$", Answer.as_view()),
]
