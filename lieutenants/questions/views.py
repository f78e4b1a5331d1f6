"""The page of questions: open ones in their order, and those that were decided."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from lieutenants.models import Question
from lieutenants.questions import listing, services
from lieutenants.questions.states import Kind, QuestionState
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import BadInput
from reef_site.common.page_values import text_value
from reef_site.common.text import parse_number
from vmtree import actors

MAX_SHOWN = 50
PAGE_SIZE = 50

render_errors = ErrorPage("questions:index", "All questions")


@login_required
@require_GET
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List the open questions and the newest decided ones; both lists stay live."""
    return render(request, "questions/index.html", {**_open(), **_decided(request)})


@login_required
@require_GET
def open_questions(request: HttpRequest) -> HttpResponse:
    """Render the open questions, which the page fetches again after changes."""
    return render(request, "questions/_open.html", _open())


@login_required
@require_GET
@render_errors
def decided(request: HttpRequest) -> HttpResponse:
    """Render the decided questions, which the page fetches again after changes."""
    return render(request, "questions/_decided.html", _decided(request))


@login_required
@require_GET
def count(request: HttpRequest) -> HttpResponse:
    """Render the number of open questions, for the navigation of every page."""
    return render(request, "questions/_count.html")


@login_required
@require_POST
@render_errors
def answer(request: HttpRequest, pk: str) -> HttpResponse:
    """Answer or dismiss a question, from its page or from its lieutenant's."""
    question = services.find(pk, actor=request.user)
    services.answer(pk, _given(request, question), actor=request.user)
    if is_script(request):
        return HttpResponse(status=204)
    messages.success(request, "Answered.")
    if request.POST.get("page") == "lieutenant" and question.lieutenant:
        return redirect("lieutenants:detail", question.lieutenant.name)
    return redirect("questions:index")


def _given(request: HttpRequest, question: Question) -> str | bool | None:
    """Return the answer of the form: its button, or else its text. Raises BadInput."""
    button = request.POST.get("button", "")
    if button == "dismiss":
        return None
    if button in ("yes", "no") and question.kind == Kind.CONFIRM:
        return button == "yes"
    if button.startswith("option-"):
        # Browsers change line ends in values, so the number is sent.
        number = parse_number(button.removeprefix("option-"))
        if number is None or number >= len(question.options):
            raise BadInput("answer: must be the value of an option", "answer")
        return str(question.options[number]["value"])
    return request.POST.get("text", "").replace("\r\n", "\n")


def _decided(request: HttpRequest) -> dict[str, Any]:
    rows = Question.objects.select_related("lieutenant").exclude(state=QuestionState.OPEN)
    before = text_value(request.GET, "before")
    page = list(listing.by_time(rows, before)[: PAGE_SIZE + 1])
    actors.remember(request, [row.decided_by for row in page])
    return {
        "decided": page[:PAGE_SIZE],
        "earlier": page[PAGE_SIZE - 1].pk if len(page) > PAGE_SIZE else "",
        "before": before,
    }


def _open() -> dict[str, Any]:
    found = listing.by_urgency(Question.objects.select_related("lieutenant"))
    return {"open": found[:MAX_SHOWN], "more": len(found[MAX_SHOWN:])}
