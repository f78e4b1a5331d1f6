"""Pages of configuration. The consequences of a change are shown before it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.lists.bulk import bulk_lists
from reef_site.common.outside_answers import page_answer
from reef_site.common.paging import take_page
from reef_site.common.text import parse_number
from versconfig import checks, history, impact, keys, presenters, scopes, services, values, vault
from versconfig.keys import Key, Kind
from versconfig.models import Scope, Version
from versconfig.services import SettingChange
from vmtree import actors
from vmtree.models import Node

MAX_RECENT, PAGE_SIZE = 8, 50

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]
render_errors = ErrorPage("versconfig:index", "Config")


def config_page(view: View[P]) -> View[P]:
    """Decorate a view of these pages: for users who signed in, and never cached."""
    return never_cache(login_required(render_errors(view)))


@config_page
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List all keys for the fleet, or for the VM that `?vm=` names."""
    query = request.GET.get("vm", "").strip()[:255]
    found = presenters.matches(query) if query else []
    node = found[0] if len(found) == 1 else None
    groups, problems = presenters.groups(node)
    context = {
        "words": query,
        "node": node,
        "matches": found if node is None else [],
        "most": presenters.MAX_MATCHES,
        "groups": groups,
        "problems": problems,
        "recent": history.versions()[:MAX_RECENT],
    }
    return render(request, "versconfig/index.html", context)


@config_page
@require_GET
def one(request: HttpRequest, name: str) -> HttpResponse:
    """Show one key: its chain, other stored values, a form, its history."""
    return _one(request, _key(name), _node(request.GET.get("vm", "")))


def _one(
    request: HttpRequest, key: Key, node: Node | None, *, status: int = 200, **more: Any
) -> HttpResponse:
    found, steps, left_out = presenters.chain(key, node)
    # The form starts with the current list; secrets are never sent back.
    edited = key.kind in (Kind.LINES, Kind.PAIRS, Kind.NAMES) and not key.secret
    context = {
        "key": key,
        "node": node,
        "found": found,
        "steps": steps,
        "left_out": left_out,
        "choices": presenters.choices(key, node),
        "stored": presenters.stored_settings(key),
        "versions": history.versions(key=key.name)[:PAGE_SIZE],
        "testable": key.name in checks.key_checks and found.value is not None,
        "long": key.kind is Kind.LINES,
        "draft": (found.value or "") if edited else "",
        **more,
    }
    return render(request, "versconfig/one.html", context, status=status)


@config_page
@require_POST
def preview(request: HttpRequest, name: str) -> HttpResponse:
    """Show what a change would do; nothing is stored yet."""
    key, node = _key(name), _node(request.POST.get("vm", ""))
    given = request.POST.get("value", "").replace("\r\n", "\n")
    removing = request.POST.get("remove") == "yes"
    try:
        target = scopes.target_of(request.POST.get("scope", ""), _vm_for(request))
        if not removing and not given.strip():
            raise BadInput("value: is empty; to take a stored value away, use Remove", "value")
        change = services.build_change(name, "" if removing else given, target)
        services.check_may_change(request.user, key, target)
    except BadInput as error:
        draft = "" if values.is_secret(key, given) else given
        more = {"problem": str(error), "draft": draft, "scope": request.POST.get("scope", "")}
        return _one(request, key, node, status=400, **more)
    return _confirmation_page(request, change, node)


@config_page
@require_POST
def save(request: HttpRequest, name: str) -> HttpResponse:
    """Make the change that `preview` showed, unless the setting was changed meanwhile."""
    key, node = _key(name), _node(request.POST.get("vm", ""))
    target = scopes.target_of(request.POST.get("scope", ""), _vm_for(request))
    sealed = request.POST.get("sealed", "")
    text = vault.unseal(_draft_of(key), sealed) if sealed else ""
    change = services.build_change(name, text, target, parse_number(request.POST.get("seen", "")))
    preview = impact.preview(change)
    services.put(change, by=request.user)
    result = "set for" if text else "removed for"
    message = f"{key.name} {result} {target}."
    if preview.overridden_by:
        messages.warning(request, f"{message} But {preview.overridden_by} overrides it.")
    else:
        messages.success(request, message)
    return _next_page(request, _address("versconfig:one", name, node))


@config_page
@require_POST
def check_key(request: HttpRequest, name: str) -> HttpResponse:
    """Test whether the value works."""
    node = _node(request.POST.get("vm", ""))
    call = checks.start(_key(name).name, node, by=request.user)
    is_index = request.POST.get("from") == "index"
    route, key = ("versconfig:index", "") if is_index else ("versconfig:one", name)
    return page_answer(request, call, _address(route, key, node))


@config_page
@require_GET
def history_page(request: HttpRequest) -> HttpResponse:
    """List all changes, newest first; `?before=` shows older ones."""
    before = parse_number(request.GET.get("before", ""))
    rows, has_more = take_page(history.versions(before=before), PAGE_SIZE)
    actors.remember(request, [row.actor for row in rows])
    context = {"versions": rows, "next": rows[-1].pk if has_more else None}
    return render(request, "versconfig/history.html", context)


@config_page
@require_http_methods(["GET", "POST"])
def revert(request: HttpRequest, version_id: int, verb: str) -> HttpResponse:
    """GET previews undoing or restoring a version; POST does it."""
    version = _version(version_id)
    node = version.node
    if request.method == "GET":
        change = services.build_revert(version, undoing=verb == "undo")
        return _confirmation_page(request, change, node, version=version, verb=verb)
    act = services.undo if verb == "undo" else services.revert_to
    act(version_id, by=request.user)
    messages.success(request, f"{version} was {'undone' if verb == 'undo' else 'restored'}.")
    return _next_page(request, _address("versconfig:one", version.key, node))


def _next_page(request: HttpRequest, address: str) -> HttpResponse:
    """Redirect to the key, or with its fields to the plan of the restarts, if that was pressed."""
    chosen = request.POST.get("then", "")
    if chosen in bulk_lists:
        return redirect("lists:plan", chosen, preserve_request=True)
    return redirect(address)


def _confirmation_page(
    request: HttpRequest, change: SettingChange, node: Node | None, **more: Any
) -> HttpResponse:
    """Render the confirmation page, which carries the value encrypted."""
    last = services.newest(change.key.name, change.target)
    context = {
        "key": change.key,
        "node": node,
        "change": change,
        "impact": impact.preview(change),
        "sealed": vault.seal(_draft_of(change.key), change.text) if change.text else "",
        "seen": last.pk if last else "",
        "back": _address("versconfig:one", change.key.name, node),
        **more,
    }
    return render(request, "versconfig/confirm.html", context)


# -- parsing requests ----------------------------------------------------------------------------


def _key(name: str) -> Key:
    if name not in keys.ALL:
        raise NotFound(f"There is no key {name[:80]}")
    return keys.ALL[name]


def _node(vm_id: str) -> Node | None:
    return scopes.find(vm_id) if vm_id else None


def _vm_for(request: HttpRequest) -> str:
    """Return the VM of the change; on a VM's page the change may be for the fleet."""
    fleet = request.POST.get("scope", "") == Scope.FLEET
    return "" if fleet else request.POST.get("target", request.POST.get("vm", ""))


def _draft_of(key: Key) -> str:
    """Return the name under which an unconfirmed value is encrypted: usable for nothing else."""
    return f"draft of {key.name}"


def _version(version_id: int) -> Version:
    found = history.versions().filter(pk=version_id).first()
    if found is None:
        raise NotFound("There is no such version")
    return found


def _address(name: str, key: str, node: Node | None) -> str:
    base = reverse(name, args=[key] if key else [])
    return f"{base}?{urlencode({'vm': node.vm_id})}" if node else base
