"""The page of a lieutenant's changes, its parts, and comments on lines."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from lieutenants import services
from lieutenants.changes import calls, comments, diffs
from lieutenants.changes.questions import FIRST_LINES, MAX_LINES, MAX_REV, Against, Question
from lieutenants.models import Lieutenant
from lieutenants.supervision.keeper.changes import names
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import BadInput, Conflict, LostRace
from reef_site.common.models import CallState, OutsideCall
from reef_site.common.page_values import number_value, text_value
from vmtree import permissions

_MAX_PATH = 16_400
render_errors = ErrorPage("lieutenants:index", "All lieutenants")


@never_cache
@login_required
@require_GET
@render_errors
def index(request: HttpRequest, name: str) -> HttpResponse:
    """Show what has changed in the folder; files are loaded when they are opened."""
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    context = {"lieutenant": lieutenant, "choices": Against.choices}
    context |= {"max_rev": MAX_REV, "max_text": comments.MAX_TEXT}
    status = 200
    try:
        context |= _listing(request, lieutenant, _question(request))
    except BadInput as error:
        # The form stays, with the problem below it.
        context |= {"question": Question(), "problem": str(error), "is_refused": True}
        status = error.status
    return render(request, "lieutenants/changes.html", context, status=status)


@never_cache
@login_required
@require_GET
@render_errors
def listing(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the list of files; with `?call=`, what an earlier request has asked for."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    context = _listing(request, lieutenant, _question(request))
    return render(request, "lieutenants/_changes.html", context)


@never_cache
@login_required
@require_GET
@render_errors
def one_file(request: HttpRequest, pk: str) -> HttpResponse:
    """Show how one file (`?path=`) differs: a part of the page, or without script its own page."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    question = _file_question(request)
    if not question.path:
        raise BadInput("path is required", "path")
    row, problem = _call(request, lieutenant, question)
    can_comment = is_script(request) and not permissions.is_read_only_account(request.user)
    context: dict[str, Any] = {"lieutenant": lieutenant, "question": question, "problem": problem}
    context["again_url"] = _url(lieutenant, question, lines=question.lines)
    if row is not None and row.state == CallState.DONE:
        found = row.result
        context |= {"found": found, "rows": list(diffs.rows_of(found.get("lines", ())))}
        context |= {"more_url": _url(lieutenant, question, lines=MAX_LINES)}
        context |= {"can_comment": can_comment, "max_lines": MAX_LINES}
    elif row is not None and not row.is_over:
        context["wait_url"] = _url(lieutenant, question, call=row.pk, lines=question.lines)
    part, page = "lieutenants/_changed_file.html", "lieutenants/changed_file.html"
    return render(request, part if is_script(request) else page, context)


@login_required
@require_POST
@render_errors
def comment(request: HttpRequest, pk: str) -> HttpResponse:
    """Send comments on lines as one message."""
    lieutenant = get_object_or_404(Lieutenant.objects.active(), pk=pk)
    given = comments.parse(request.POST.get("comments", ""))
    key = text_value(request.POST, "key")
    comments.send(lieutenant.name, given, key=key, actor=request.user)
    if is_script(request):
        return HttpResponse(status=204)
    return redirect("lieutenants:detail", lieutenant.name)


# -- the call of a worker --------------------------------------------------------------------------


def _file_question(request: HttpRequest) -> Question:
    """Return what the query asks for about one file. Raises BadInput."""
    return replace(
        _question(request),
        path=request.GET.get("path", "")[:_MAX_PATH],
        old_path=request.GET.get("oldPath", "")[:_MAX_PATH],
        lines=number_value(request.GET, "lines", default=FIRST_LINES, most=MAX_LINES) or 1,
    )


def _question(request: HttpRequest) -> Question:
    """Return what the query asks for about all files. Raises BadInput."""
    against = text_value(request.GET, "against") or Against.START
    # The field of the form may be filled in although something else is chosen.
    commit = text_value(request.GET, "commit", MAX_REV + 1) if against == Against.COMMIT else ""
    return Question(
        against=against,
        commit=commit,
        repository=request.GET.get("repository", "")[:_MAX_PATH],
    )


def _call(
    request: HttpRequest, lieutenant: Lieutenant, question: Question
) -> tuple[OutsideCall | None, str]:
    """Return the call of `?call=`, or a new one, and why there is no result.

    Raises BadInput, NotFound.
    """
    if call_id := text_value(request.GET, "call"):
        row = calls.find(lieutenant, call_id)
        if calls.question_of(row) != question:
            raise BadInput("call: was about something else", "call")
    else:
        try:
            row = calls.ask(lieutenant, question, by=request.user)
        except (Conflict, LostRace) as error:
            return None, str(error)
    return row, str(row.result.get("problem") or row.error)


def _listing(request: HttpRequest, lieutenant: Lieutenant, question: Question) -> dict[str, Any]:
    """Return the context of the list: `changes`, a `problem`, or a `wait_url`."""
    row, problem = _call(request, lieutenant, question)
    context: dict[str, Any] = {"lieutenant": lieutenant, "question": question, "problem": problem}
    found = row.result if row is not None and row.state == CallState.DONE else {}
    if row is not None and not row.is_over:
        base = reverse("lieutenants:changes-list", args=[lieutenant.pk])
        context["wait_url"] = f"{base}?{urlencode({**_values(question), 'call': row.pk})}"
        context["again_url"] = _page_url(lieutenant, **_values(question), call=row.pk)
    elif problem:
        context["repositories"] = [
            (each, _page_url(lieutenant, repository=_below(question.repository, each)))
            for each in found.get("repositories", ())
        ]
    else:
        context |= {"changes": found, "against_label": Against(question.against).label}
        more = {"repository": question.repository} if question.repository else {}
        context["head_url"] = _page_url(lieutenant, against=Against.HEAD, **more)
        context["files"] = [_file(lieutenant, question, each) for each in found["files"]]
    return context


def _file(lieutenant: Lieutenant, question: Question, file: dict[str, Any]) -> dict[str, Any]:
    """Return a file of the list with its id on the page and the URL of its part."""
    digest = hashlib.sha256(f"{question.repository}\n{file['path']}".encode()).hexdigest()
    url = _url(lieutenant, question, path=file["path"], oldPath=file["oldPath"])
    if file["kind"] == "repository":
        url = _page_url(lieutenant, repository=_below(question.repository, file["path"]))
    return {**file, "id": f"f-{digest[:16]}", "url": url}


def _below(folder: str, path: str) -> str:
    """Return a path below a folder; both may be in quotes, see `names`."""
    if not folder:
        return path
    try:
        return names.quote(names.parse_path(folder) + b"/" + names.parse_path(path))
    except ValueError:
        return path


def _values(question: Question) -> dict[str, Any]:
    given = {
        "against": question.against,
        "commit": question.commit,
        "repository": question.repository,
        "path": question.path,
        "oldPath": question.old_path,
    }
    return {name: value for name, value in given.items() if value}


def _page_url(lieutenant: Lieutenant, **values: Any) -> str:
    return f"{reverse('lieutenants:changes', args=[lieutenant.name])}?{urlencode(values)}"


def _url(lieutenant: Lieutenant, question: Question, **more: Any) -> str:
    """Return the URL of the part about one file."""
    values = {name: value for name, value in {**_values(question), **more}.items() if value}
    return f"{reverse('lieutenants:changed-file', args=[lieutenant.pk])}?{urlencode(values)}"
