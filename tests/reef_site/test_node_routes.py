"""A node token tries every route with every method: what is not on the list is refused.

A bystander, a lieutenant that is not below the VM, keeps all its rows, and nothing that it said or
was told is in any answer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.test import Client
from django.urls import URLResolver, get_resolver, resolve

from bootloader.models import Finding, LogLine, Machine, MachineCommand, Provisioning
from lieutenants.models import Answer, Entry, Lieutenant, Process, Question, Usage
from lieutenants.states import Outcome
from reef_site.accounts.models import RequestCount
from reef_site.activity.models import Delivery
from reef_site.audit.models import Record
from reef_site.common import broker, clock
from reef_site.common.eventlog.models import Event
from reef_site.common.models import OutsideCall
from reef_site.common.request_names import NOTHING
from tests.conftest import STANDIN, Api, Fleet
from tests.dispatching import drop_tasks
from tests.vmtree.conftest import NodeApi
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node
from vmtree.services import NewNode

MARK = "Only-The-Bystander-Knows"
METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
REFUSED = {403, 404, 405}

# Requests that the token of a VM may send about others: reads of the fleet, and requests without
# an effect.
READS = (
    *(
        "/health",
        "/events",
        "/tools",
        "/lieutenant/_panel",
        "/lieutenant/usage",
        "/usage",
        "/lieutenant/lieutenants",
    ),
    "/lieutenant/lieutenants/{name}",
    *("/registry/vms", "/registry/_panel", "/registry/discover/lieutenant"),
    *(f"/registry/vms/{{id}}{tail}" for tail in ("", "/children", "/ancestors", "/subtree")),
    *("/registry/vms/{id}/gaps", "/registry/vms/{id}/diff/{id}"),
    *(
        "/vm-tree/vms",
        "/vm-tree/tree",
        "/vm-tree/stats",
        "/vm-tree/_panel",
        "/vm-tree/jobs",
        "/vm-tree/jobs/{job}",
    ),
    *(f"/vm-tree/vms/{{id}}{tail}" for tail in ("", "/children", "/ancestors", "/descendants")),
    *("/vm-tree/vms/{id}/history", "/vm-tree/vms/{id}/diff/{id}"),
    *("/vm-tree/find/organ/{name}", "/vm-tree/find/capability/{name}", "/vers-config/keys"),
    *("/vers-config/", "/vers-config/settings", "/vers-config/history"),
    "/vers-config/explain/REEF_AGENT_MODEL",
    *("/bootloader/provisionings", "/bootloader/provisionings/{provisioning}"),
    *("/bootloader/machines", "/bootloader/findings", "/bootloader/grants"),
    *("/bootloader/profiles", "/bootloader/profiles/swarm", "/bootloader/script/swarm"),
    "/bootloader/dist",
    *("/api/schema", "/agent/extension.ts"),
)
ALLOWED = {(method, path) for path in READS for method in ("get", "head")} | {
    # Destroys its descendants: there are none.
    ("post", "/lieutenant/lieutenants/destroy-all"),
    # Returns for each VM why it was not placed.
    ("post", "/registry/place"),
}
# These concern the caller itself, whatever the input; other tests cover them.
ABOUT_ITSELF = {
    *("/bootloader/token", "/bootloader/token/confirm", "/bootloader/report"),
    *("/whoami", "/can", "/mcp", "/lieutenant/questions"),
}
# Sign-in and sign-out, which are public and ignore tokens.
# Also what browsers load before anybody has signed in; it is the same for all.
FOR_PEOPLE = re.compile(
    r"/signin/.*|/signout/|/ui/.*|/admin/(login|logout)/"
    r"|/manifest\.webmanifest|/service-worker\.js|/offline/"
)


class Surroundings:
    """Create a VM, and an unrelated one with everything that a VM can have."""

    def __init__(self, api: Api) -> None:
        tree.create(NewNode("vm", "agent_vm", "vm"), by="tests")
        made = api.post("/lieutenant/lieutenants", {"name": "bystander", "role": "tests"})
        assert made.status_code == 201, made.content
        self.lieutenant = Lieutenant.objects.get()
        self.id = self.lieutenant.pk
        self.token = tokens.issue(Node.objects.get(vm_id="vm"), made_by="tests")
        picture = base64.b64encode(b"GIF89a" + MARK.encode()).decode()
        body = {"message": MARK, "images": [{"mediaType": "image/gif", "data": picture}]}
        self.message = api.post("/lieutenant/lieutenants/bystander/send", body).json()["messageId"]
        self._create_transcript()
        self._create_related_rows(api)

    def _create_transcript(self) -> None:
        process = Process.objects.create(lieutenant=self.lieutenant, host="h", transport="local")
        facts = {"lieutenant": self.lieutenant, "process": process}
        now = clock.now()
        answer = Answer.objects.create(
            **facts, started_at=now, ended_at=now, text=MARK, outcome=Outcome.COMPLETED
        )
        Entry.objects.create(**facts, answer=answer, kind="text", text=MARK, rev=1, at=now)
        Usage.objects.create(lieutenant=self.lieutenant, model=MARK, at=now, day=now.date())
        told = {"error": MARK, "trouble": MARK, "directive": MARK, "system_prompt": MARK}
        Lieutenant.objects.filter(pk=self.id).update(status="idle", **told)

    def _create_related_rows(self, api: Api) -> None:
        body = {"value": f"stub/{MARK}", "vm": self.id}
        stored = api.client.put(
            "/vers-config/REEF_AGENT_MODEL", body, content_type="application/json"
        )
        assert stored.status_code == 200, stored.content
        asked = api.post(
            "/bootloader/provision", {"name": "p", "type": "swarm", "parentVmId": self.id}
        )
        self.provisioning = asked.json()["provisioning"]["id"]
        row = Provisioning.objects.get()
        LogLine.objects.create(provisioning=row, kind=LogLine.Kind.OUTPUT, text=MARK)
        Machine.objects.create(provider="vers", machine_id="m", vm_id=self.id, note=MARK)
        self.finding = Finding.objects.create(
            kind="unknown", provider="vers", machine_id="m", vm_id=self.id, text=MARK
        ).pk
        self.snapshot = api.post("/vm-tree/snapshot").json()["id"]
        rule = {"name": "r", "event": "vm-late", "action": "note", "text": MARK}
        self.rule = api.post("/registry/rules", rule).json()["id"]
        hook = {"name": MARK, "channel": "webhook", "url": "http://127.0.0.1:1/"}
        self.subscriber = api.post("/events/subscribers", hook).json()["id"]
        self.delivery = Delivery.objects.create(subscriber_id=self.subscriber, kind=MARK).pk
        call = OutsideCall.objects.create(
            id="0" * 32,
            kind=MARK,
            made_by="tests",
            limit_seconds=10,
            made_at=clock.now(),
            sent_at=clock.now(),
        )
        self.call = call.pk
        self.command = MachineCommand.objects.create(
            place="m",
            vm_id=self.id,
            actor="tests",
            command=MARK,
            output=MARK,
            limit_seconds=10,
            overdue_at=clock.now() + timedelta(hours=1),
        ).pk
        question = {"vm_id": self.id, "kind": "ask", "source": "tool", "text": MARK}
        self.question = Question.objects.create(**question).pk
        self.job = api.post(f"/vm-tree/vms/{self.id}/pause").json()["job"]["id"]

    def samples(self) -> dict[str, str]:
        """Return the values of a route's parameters."""
        return {
            **dict.fromkeys(("vm_id", "other", "id", "pk"), self.id),
            **dict.fromkeys(("key", "entry_id", "version_id", "object_id", "content_type_id"), "1"),
            **dict.fromkeys(("secret", "url", "app_label", "model"), "x"),
            **dict.fromkeys(("provisioning_id", "provisioning"), self.provisioning),
            "name": "bystander",
            **dict.fromkeys(("run", "run_id"), "01BX5ZZKBKACTAV9WEVGEMMVRZ"),
            "call_id": self.call,
            "command_id": self.command,
            "question_id": self.question,
            "subscriber_id": str(self.subscriber),
            "delivery_id": str(self.delivery),
            "channel_id": str(self.subscriber),
            "action": "test",
            "message_id": self.message,
            "number": "0",
            "rule_id": str(self.rule),
            "finding_id": str(self.finding),
            "snapshot_id": str(self.snapshot),
            "job_id": self.job,
            "job": self.job,
            "role": "lieutenant",
            "type": "swarm",
            "kind": "organ",
            "slug": "architecture",
        }

    def query(self, path: str) -> str:
        """Return the query string that a GET needs."""
        wanted = path == "/bootloader/cloud-init"
        return f"?vmId={self.id}&name=evil&type=swarm" if wanted else ""

    def body(self, path: str) -> dict[str, Any]:
        """Return the most harmful body for a route."""
        facts = {"name": "evil", "role": "worker", "address": "a", "registeredBy": "evil"}
        bodies: dict[str, dict[str, Any]] = {
            "/lieutenant/lieutenants": {"name": "evil", "role": "r", "local": True},
            "/registry/vms": {**facts, "id": self.id},
            "/registry/heartbeats": {"ids": [self.id]},
            "/registry/place": {"ids": [self.id], "parentVmId": "vm"},
            "/events/subscribers": {"name": "evil", "channel": "webhook", "url": "http://[::1]/"},
            "/registry/rules": {"name": "evil", "event": "vm-late", "action": "note"},
            "/vm-tree/vms": {"name": "evil", "category": "agent_vm", "parentVmId": self.id},
            "/bootloader/provision": {"name": "evil", "type": "swarm", "parentVmId": self.id},
            "/bootloader/findings/act": {"ids": [self.finding]},
            "/bootloader/commands": {"vmId": self.id, "command": "touch evil"},
            "/bootloader/generate": {"vmId": self.id, "name": "evil", "type": "swarm"},
            "/bootloader/cloud-init": {"vmId": self.id, "name": "evil", "type": "swarm"},
        }
        if path in bodies:
            return bodies[path]
        if path.startswith("/vers-config/"):
            return {"value": "stub/evil", "vm": self.id}
        if path.endswith(("/pause", "/resume", "/destroy")) and path.startswith("/vm-tree/"):
            return {}
        if path.startswith("/bootloader/grants/"):
            return {"vms": 99}
        return {"name": "evil", "message": "run id", "model": "stub/evil", "machine": "delete"}


def routes(patterns: list[Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for each in patterns:
        route = head + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, route)
        else:
            yield route, each.callback


def paths(samples: dict[str, str]) -> dict[str, str]:
    """Map readable routes to paths with ids."""
    found = {}
    for route, callback in routes(get_resolver().url_patterns):
        plain = route.replace("(?:/|$)", "/").replace("(?:/.*)?", "/nothing")
        plain = plain.replace("(?:rules|firings)", "rules").replace("/.*$", "/nothing")
        plain = re.sub(r"/\^?\.\*\$$", "/one/two/nothing", plain)
        plain = plain.replace("^", "").replace("$", "").replace("/?", "")
        for choice in expand_choices(plain):
            path = "/" + re.sub(
                r"\(\?P<(?P<group>\w+)>[^()]*\)|<(?:(?P<kind>\w+):)?(?P<name>\w+)>",
                lambda part: (
                    "1" if part["kind"] == "int" else samples[part["group"] or part["name"]]
                ),
                choice,
            )
            if path.startswith("/vers-config/"):
                path = path.replace("bystander", "REEF_AGENT_MODEL")
            with_nothing = callback.__name__ == "UnknownPath" or path.startswith("/admin/")
            assert with_nothing or resolve(path).func == callback, path
            found[path] = route
    return found


def expand_choices(route: str) -> list[str]:
    """Expand alternatives in a route, such as `(?P<verb>a|b)`."""
    part = re.search(r"\(\?P<\w+>((?:[\w-]+\|)+[\w-]+)\)", route)
    if part is None:
        return [route.replace("<str:verb>", "pause")]
    return [
        done
        for word in part[1].split("|")
        for done in expand_choices(route.replace(part[0], word, 1))
    ]


def rows() -> dict[str, list[Any]]:
    """Return all rows but those of both logs, which record refusals, and counts of requests."""
    return {
        model._meta.label: list(model._base_manager.order_by("pk").values())
        for model in apps.get_models()
        if model not in (Record, Event, RequestCount)
    }


def count_refusals() -> int:
    return Record.objects.count() + Event.objects.count()


@pytest.fixture
def surroundings(
    api: Api,
    transactional_db: None,
    redis_server: str,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Surroundings:
    broker.client.cache_clear()
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")
    drop_tasks(monkeypatch, "bootloader.")
    return Surroundings(api)


def is_refused(answer: Any) -> bool:
    """Return whether it is a refusal; pages redirect anonymous users to the sign-in page."""
    if answer.status_code == 302:
        return "/signin/" in answer["Location"] or "/login/" in answer["Location"]
    return answer.status_code in REFUSED


def content_of(answer: Any) -> str:
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return str(content.decode("utf-8", "replace"))


def send(client: Client, method: str, path: str, body: dict[str, Any]) -> Any:
    client.cookies.clear()
    if method in ("get", "head"):
        return getattr(client, method)(path)
    body = accepted_fields(path.partition("?")[0], method, body)
    return getattr(client, method)(path, body, content_type="application/json")


def accepted_fields(path: str, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the route accepts; others would be refused first."""
    callback = resolve(path).func
    actions = getattr(callback, "actions", None) or {}
    handler = getattr(getattr(callback, "cls", None), actions.get(method, method), None)
    names = getattr(handler, "takes", NOTHING)
    return {name: value for name, value in body.items() if name in names.body}


@pytest.mark.timeout(600)
def test_unlisted_routes_refuse_nodes(surroundings: Surroundings) -> None:
    samples, client = surroundings.samples(), NodeApi(surroundings.token).client
    allowed = {(method, path.format(**samples)) for method, path in ALLOWED}
    before, wrong, tried = rows(), [], set()
    for path in paths(samples):
        for_people = bool(FOR_PEOPLE.fullmatch(path))
        for method in METHODS:
            if path in ABOUT_ITSELF and (method, path) not in allowed:
                continue
            written, recorded = connection.connection.total_changes, count_refusals()
            with transaction.atomic():
                query = surroundings.query(path) if method in ("get", "head") else ""
                answer = send(client, method, path + query, surroundings.body(path))
                # SQLite counts written rows. All tables are compared only if there are more
                # than those of both logs.
                recorded = count_refusals() - recorded
                if connection.connection.total_changes == written + recorded:
                    changed = []
                else:
                    changed = [label for label, found in rows().items() if found != before[label]]
                transaction.set_rollback(True)
            tried.add((method, path))
            good = answer.status_code < 300 if (method, path) in allowed else is_refused(answer)
            if not (good or for_people) or changed or MARK in content_of(answer):
                wrong.append((method, path, answer.status_code, changed))
    assert not wrong, "\n".join(map(str, wrong))
    assert allowed <= tried, allowed - tried
    assert len(tried) > 900


@pytest.mark.parametrize(
    "path",
    [
        *(f"/vers-config/{each}?vm={{id}}" for each in ("", "settings", "history")),
        "/vers-config/explain/REEF_AGENT_MODEL?vm={id}",
        *(f"/lieutenant/lieutenants/{{id}}/{each}" for each in ("transcript", "messages", "usage")),
        *(f"/lieutenant/lieutenants/{{id}}/{each}" for each in ("stream", "export")),
        "/lieutenant/lieutenants/{id}/messages/{message_id}/images/0",
        "/bootloader/cloud-init?vmId={id}&name=evil&type=swarm",
    ],
)
def test_reads_of_the_bystander_by_other_ways_are_refused(
    surroundings: Surroundings, path: str
) -> None:
    answer = NodeApi(surroundings.token).get(path.format(**surroundings.samples()))
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("rule: ")


def test_running_bystander_is_not_affected(fleet: Fleet) -> None:
    fleet.create("bystander")
    first = fleet.ask("bystander", "hello")
    pid, texts = fleet.process("bystander").handle["agent_pid"], fleet.texts("bystander")
    moves = fleet.row("bystander").moves.count()
    tree.create(NewNode("vm", "agent_vm", "vm"), by="tests")
    node = NodeApi(tokens.issue(Node.objects.get(vm_id="vm"), made_by="tests"))
    pk = fleet.row("bystander").pk

    at = "/lieutenant/lieutenants"
    for verb in ("send", "pause", "resume", "restart", "abort"):
        body = {"send": {"message": "run id"}, "pause": {"force": True}}.get(verb, {})
        answer = node.post(f"{at}/bystander/{verb}", body)
        assert answer.status_code == 403
    assert node.delete(f"{at}/bystander").status_code == 403
    assert node.post(f"{at}/destroy-all").json() == {"results": []}
    assert node.post(f"{at}/discover").status_code == 403
    assert node.post(at, {"name": "evil", "role": "r", "local": True}).status_code == 403
    for verb in ("pause", "resume", "destroy"):
        assert node.post(f"/vm-tree/vms/{pk}/{verb}").status_code == 403

    row = fleet.row("bystander")
    assert (row.status, row.moves.count()) == ("idle", moves)
    assert fleet.process("bystander").handle["agent_pid"] == pid
    assert (fleet.texts("bystander"), row.messages.count()) == (texts, 1)
    assert fleet.ask("bystander", "hello") == first
    assert Lieutenant.objects.count() == 1
