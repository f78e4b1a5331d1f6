"""Reads of lieutenants on the fast path: `both_paths` compares each with Django's response."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bootloader.boot.catalog import BUILT_IN
from lieutenants.hosts.models import DataFolder
from lieutenants.messages import images
from lieutenants.messages.images import NewImage
from lieutenants.models import Answer, Lieutenant, Message
from lieutenants.states import Outcome
from reef_site.common.asgi import JSONResponse
from reef_site.common.fast_routes import fast_routes
from registry import bearer_tokens, fast_path, fast_reads
from registry.models import VM
from tests import both_paths
from tests.lieutenants.rows import Told, enlist, use
from vmtree import tokens
from vmtree.models import Category, Node

pytestmark = pytest.mark.django_db

PATH = "/lieutenant/lieutenants"
ODD = 'q"uo\\te\n\t\x1f\u2028 ü 😀'


class Crew:
    """Lieutenants with transcripts, their nodes, and tokens by the names of lieutenants."""

    def __init__(self) -> None:
        self.tokens = {"": settings.ROOT_TOKEN}
        self.made: dict[str, Lieutenant] = {}

    def add(self, name: str, parent: str = "", **fields: Any) -> Told:
        lieutenant = enlist(name, **fields)
        above = Node.objects.filter(vm_id=self.made[parent].pk).first() if parent else None
        node = Node.objects.create(
            vm_id=lieutenant.pk, name=name, category=Category.LIEUTENANT, parent=above
        )
        self.tokens[name] = tokens.issue(node, made_by="tests")
        self.made[name] = lieutenant
        return Told(lieutenant)

    def get(self, path: str, token: str = "", *, is_fast: bool = True, **headers: str) -> Any:
        """Return Django's response; the fast path must respond equally, or pass it on."""
        client = Client(headers={"authorization": f"Bearer {self.tokens[token]}", **headers})
        before = both_paths.compared.total()
        response = client.get(path)
        assert (both_paths.compared.total() > before) == is_fast, path
        return response


def finished(told: Told, *texts: str, outcome: str = Outcome.COMPLETED) -> Answer:
    """Write a turn with these texts that has ended."""
    answer = told.open_answer()
    for text in texts:
        told.entry("text", text)
    Answer.objects.filter(pk=answer.pk).update(
        outcome=outcome, ended_at=timezone.now(), text="\n\n".join(texts)
    )
    return answer


@pytest.fixture
def crew(database: str) -> Crew:
    crew = Crew()
    now = timezone.now()
    ada = crew.add("ada", status="working", role=ODD, model="a/b", system_prompt=ODD * 3)
    finished(ada, "One.", "Two " + ODD)
    for number in range(44):
        finished(ada, f"Answer {number}" if number % 5 else " \n")
    finished(ada, "long " * 6000)
    ada.open_answer()
    ada.entry("thinking", "not shown")
    ada.entry("text", "x" * 15_000)
    ada.entry("text", "failed", data={"retried": True})
    ada.entry("text", "", data={})
    streaming = ada.entry("text", final=False)
    for number in range(5):
        ada.chunk(streaming, f"{number}: {ODD} " * 100)
    bea = crew.add("bea", "ada", agent="command", command=["sh", "-c", ODD], trouble=ODD)
    finished(bea, "Done.")
    use(bea.lieutenant, cost=Decimal("0.1"), cache_read=5)
    use(bea.lieutenant, cost=Decimal("0.000000203"))
    Lieutenant.objects.filter(pk=bea.lieutenant.pk).update(
        failing_since=now,
        failures={"count": 3, "text": ODD, "entry": 7, "key": "x"},
        context_usage={"tokens": 5, "window": 200_000, "percent": 0.1},
        model_problem="other",
        model_wanted="b/c",
        restart_at=now.replace(microsecond=0),
        idle_limit_minutes=5,
        agent_options={"mode": ODD},
        rewind_to=4,
    )
    cyd = crew.add("cyd", "bea", transport="ssh", on_vm="vm-7", host="vm-7", in_reach=True)
    Lieutenant.objects.filter(pk=cyd.lieutenant.pk).update(heard_at=now, reach_since=now)
    cyd.process.steps = [{"name": "ssh", "at": now.isoformat(), "seconds": 1.25, "note": ODD}]
    cyd.process.ready_at = now + timedelta(seconds=3)
    cyd.process.save()
    crew.add("dan", status="error", error=ODD, waiting_for="tool bash", waiting_since=now)
    gone = crew.add("gone", status="destroyed")
    finished(gone, "Last words.")
    return crew


def test_lieutenants_are_listed_as_by_django(crew: Crew) -> None:
    for token in crew.tokens:
        for query in ("", "?brief=true", "?status=idle", "/?status=none&brief=1", "?brief=1"):
            response = crew.get(f"{PATH}{query}", token)
            assert response.status_code == 200
    shown = {each["name"]: each for each in crew.get(PATH, "bea").json()["lieutenants"]}
    assert list(shown) == ["dan", "cyd", "bea", "ada"]
    assert "outputHistory" in shown["cyd"]
    assert "outputHistory" not in shown["ada"]
    assert len(crew.get(PATH).json()["lieutenants"][-1]["outputHistory"]) == 16


def test_one_lieutenant_is_read_as_by_django(crew: Crew) -> None:
    for token in crew.tokens:
        for name in ("ada", "bea", "cyd", "dan"):
            assert crew.get(f"{PATH}/{name}", token).status_code == 200
            assert crew.get(f"{PATH}/{name}/?brief=true", token).status_code == 200
    assert crew.get(f"{PATH}/ada").json()["lastOutputLength"] > 20_000
    assert crew.get(f"{PATH}/cyd").json()["startSteps"][1]["name"] == "ready"


def test_what_is_missing_or_an_alias_is_left_to_django(crew: Crew) -> None:
    for path in ("/gone", "/nobody", "/local-ada", "/ada?brief=false", "/ada?x=1", "/a%00b"):
        crew.get(f"{PATH}{path}", is_fast=False)
    crew.get(f"{PATH}?status=", is_fast=False)


def test_lieutenant_of_a_silent_host_is_left_to_django(crew: Crew) -> None:
    there = DataFolder.objects.create(
        id="other", host="elsewhere", path="/x", seen_at=timezone.now()
    )
    Lieutenant.objects.filter(name="dan").update(data_folder=there.pk)
    assert crew.get(f"{PATH}/dan").status_code == 200
    DataFolder.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert "does not answer" in crew.get(f"{PATH}/dan", is_fast=False).json()["trouble"]
    assert crew.get(f"{PATH}/ada").status_code == 200
    crew.get(PATH, is_fast=False)
    DataFolder.objects.all().delete()
    assert "never heard" in crew.get(f"{PATH}/dan", is_fast=False).json()["trouble"]


def test_unchanged_lieutenants_are_a_304(crew: Crew) -> None:
    etag = crew.get(PATH, "cyd")["ETag"]
    assert crew.get(PATH, "cyd", **{"if-none-match": etag}).status_code == 304
    assert crew.get(PATH, **{"if-none-match": etag}).status_code == 200


def ask(path: str, token: str) -> JSONResponse | None:
    """Return the response of the fast path alone."""
    plain, _, query = path.encode().partition(b"?")
    route = fast_path.FastPath.route({"method": "GET", "raw_path": plain, "query_string": query})
    assert route
    bearer_tokens.forget_root_token()
    headers = {b"authorization": f"Bearer {token}".encode(), b"host": b"testserver"}
    parsed = fast_path.parse(route, headers, b"")
    assert isinstance(parsed, fast_reads.ReadRequest)
    return fast_reads.Reader().read([parsed])[0]


def test_answers_are_read_as_by_django(crew: Crew) -> None:
    for name in ("ada", "bea", "cyd", "dan"):
        for query in ("", "?tail=50", "/?history=30", "?history=2&tail=9", "?tail=0&history=0"):
            assert crew.get(f"{PATH}/{name}/read{query}").status_code == 200
            crew.get(f"{PATH}/{name}/read{query}", "bea", is_fast=name in ("bea", "cyd"))
    assert crew.get(f"{PATH}/bea/read").json()["output"] == "Done."
    assert crew.get(f"{PATH}/ada/read").json()["historyCount"] == 16


def test_finished_answers_with_odd_blanks_are_read_as_by_django(crew: Crew) -> None:
    told = crew.add("eve")
    finished(told, "First.")
    for text in ("\n" * 30 + "late", "\u3000" * 10, " " * 2000 + "x", ""):
        finished(told, text, outcome=Outcome.ERROR)
    # Whether these are blank is not seen at their ends, so Django counts them.
    crew.get(f"{PATH}/eve/read", is_fast=False)
    crew.get(f"{PATH}/eve/read?history=9", is_fast=False)
    finished(told, "Last. " + ODD)
    assert crew.get(f"{PATH}/eve/read?history=9").json()["historyCount"] == 4
    told.open_answer()
    told.entry("text", "y" * 150_000)
    assert len(crew.get(f"{PATH}/eve/read?tail=70000").json()["output"]) == 70_003
    assert len(crew.get(f"{PATH}/eve/read", is_fast=False).json()["output"]) == 150_000


def test_what_reads_say_in_other_ways_is_left_to_django(crew: Crew) -> None:
    for query in ("?limit=5", "?after=1&limit=5", "?tail=-1", "?tail=", "?tail=1&tail=2"):
        crew.get(f"{PATH}/ada/read{query}", is_fast=False)
    assert crew.get(f"{PATH}/gone/read", is_fast=False).status_code == 404
    assert crew.get(f"{PATH}/ada/read", "bea", is_fast=False).status_code == 403


def test_transcripts_are_paged_as_by_django(crew: Crew) -> None:
    told = crew.add("eve", "bea")
    for number in range(3):
        told.call(f"call-{number}", command=ODD, big=number, f=0.1)
        told.result(
            f"call-{number}", ODD, is_error=number == 1, data={"cache_read": 5, "é": [None]}
        )
    told.entry("usage", data={"cost": 0.25, "cache_write": 3})
    sent = Message.objects.create(
        lieutenant=told.lieutenant,
        text="look",
        mode="prompt",
        mode_asked="prompt",
        state="accepted",
    )
    images.store(sent, [NewImage("image/gif", b"GIF89a"), NewImage("image/png", b"PNG")])
    told.entry("user", "look", message=sent, data={"images": 2})
    told.entry("user", "no image", message=sent)
    streaming = told.entry("text", final=False)
    told.chunk(streaming, "a" + ODD)
    told.chunk(streaming, "b")
    path, entries = f"{PATH}/eve/transcript", []
    cursor: int | None = 0
    while cursor is not None:
        page = crew.get(f"{path}?cursor={cursor}&limit=4", "bea").json()
        entries += page["entries"]
        cursor = page["next"]
    assert crew.get(path, "eve").json()["entries"] == entries
    assert [len(each.get("images", ())) for each in entries[-3:]] == [2, 0, 0]
    assert entries[-1]["text"] == f"a{ODD}b"
    crew.get(f"{path}?after={entries[2]['id']}")
    crew.get(f"{path}?cursor=0&after={entries[2]['id']}&limit=1")
    assert crew.get(f"{PATH}/{crew.made['gone'].pk}/transcript").json()["count"] == 1
    assert crew.get(f"{PATH}/ada/transcript?limit=200").json()["next"] is None


def test_long_pages_and_foreign_transcripts_are_left_to_django(crew: Crew) -> None:
    told = crew.add("eve")
    for _ in range(11):
        told.entry("tool_result", "z" * 100_000)
    crew.get(f"{PATH}/eve/transcript", is_fast=False)
    assert crew.get(f"{PATH}/eve/transcript?limit=3").json()["count"] == 3
    for query in ("?limit=0", "?limit=500", "?textLimit=100", "?cursor=x"):
        crew.get(f"{PATH}/eve/transcript{query}", is_fast=False)
    assert crew.get(f"{PATH}/eve/transcript", "ada", is_fast=False).status_code == 403
    assert crew.get(f"{PATH}/gone/transcript", is_fast=False).status_code == 404


def take_up(told: Told, mode: str = "prompt", state: str = "accepted", **fields: Any) -> Message:
    """Create a message, with its entry in the turn that is open if it was accepted."""
    message = Message.objects.create(
        lieutenant=told.lieutenant, text=ODD, mode=mode, mode_asked=mode, state=state, **fields
    )
    if state == "accepted":
        Message.objects.filter(pk=message.pk).update(taken_up_at=timezone.now())
        told.entry("user", ODD, message=message)
    return message


@pytest.fixture
def sent(crew: Crew) -> list[Message]:
    """Messages of bea: answered, parts of one turn, rejected, waiting, a command."""
    told = crew.add("eve", "bea")
    made = []
    for outcome, error in ((Outcome.COMPLETED, ""), (Outcome.ERROR, ODD)):
        answer = told.open_answer()
        made.append(take_up(told))
        told.entry("text", f"To the first {ODD}")
        made.append(take_up(told, "steer"))
        told.entry("text", "Steered.")
        made.append(take_up(told, "followUp", note=ODD, evidence={"type": "x", "é": [1.5, None]}))
        told.entry("text", "To the second")
        Answer.objects.filter(pk=answer.pk).update(outcome=outcome, error=error)
        use(told.lieutenant, message=made[-1], cost=Decimal("0.000000203"), cache_write=7)
    told.answer = None
    made.append(take_up(told, state="rejected", evidence={"error": ODD}))
    made.append(take_up(told, state="rejected", evidence={"note": "withdrawn by ada"}))
    made.append(take_up(told, state="queued"))
    command = take_up(told)
    command.entry_set.update(data={"command": "/compact"})
    images.store(command, [NewImage("image/gif", b"GIF89a")])
    made.append(command)
    told.open_answer()
    made.append(take_up(told, actor="vm-7"))
    streaming = told.entry("text", final=False)
    told.chunk(streaming, "So far.")
    long = take_up(told, state="queued")
    Message.objects.filter(pk=long.pk).update(text="l" * 30_000)
    return [*made, long]


def test_messages_are_listed_as_by_django(crew: Crew, sent: list[Message]) -> None:
    path = f"{PATH}/eve/messages"
    found = crew.get(path, "bea").json()["messages"]
    assert [each["id"] for each in found] == [each.pk for each in reversed(sent)]
    assert {each["outcome"] for each in found} == {"completed", "error", "aborted", "pending"}
    paged, cursor = [], ""
    while cursor is not None:
        page = crew.get(f"{path}/?limit=5{cursor and f'&cursor={cursor}'}", "eve").json()
        paged += page["messages"]
        cursor = page["next"]
    assert paged == found
    # All at one moment.
    Message.objects.update(created_at=timezone.now())
    crew.get(f"{path}?cursor={sent[4].pk}")
    assert crew.get(f"{PATH}/dan/messages").json()["count"] == 0
    for query in ("?cursor=none", "?limit=0", "?limit=500", f"?cursor={sent[0].pk}&x=1"):
        crew.get(f"{path}{query}", is_fast=False)
    assert crew.get(path, "ada").status_code == 200
    assert crew.get(path, "dan", is_fast=False).status_code == 403


def test_one_message_is_read_as_by_django(crew: Crew, sent: list[Message]) -> None:
    for message in sent:
        crew.get(f"{PATH}/eve/messages/{message.pk}")
        crew.get(f"{PATH}/{message.lieutenant_id}/messages/{message.pk}/", "eve")
    found = crew.get(f"{PATH}/eve/messages/{sent[0].pk}").json()
    assert found["answer"] == f"To the first {ODD}\n\nSteered."
    assert crew.get(f"{PATH}/eve/messages/{sent[-2].pk}").json()["answer"] == "So far."
    assert "cost" in crew.get(f"{PATH}/eve/messages/{sent[2].pk}").json()["usage"]
    for path in ("eve/messages/none", f"bea/messages/{sent[0].pk}", "eve/messages/a%00b"):
        assert crew.get(f"{PATH}/{path}", is_fast=False).status_code == 404
    crew.get(f"{PATH}/eve/messages/{sent[0].pk}?wait=1", is_fast=False)
    assert crew.get(f"{PATH}/eve/messages/{sent[0].pk}", "dan", is_fast=False).status_code == 403


def test_message_with_a_very_long_answer_is_left_to_django(crew: Crew) -> None:
    told = crew.add("eve")
    told.open_answer()
    message = take_up(told)
    told.entry("text", "y" * 150_000)
    crew.get(f"{PATH}/eve/messages/{message.pk}", is_fast=False)


@pytest.fixture
def paths() -> list[str]:
    return [
        PATH,
        f"{PATH}/ada",
        f"{PATH}/cyd",
        f"{PATH}/ada/read",
        f"{PATH}/cyd/transcript",
        f"{PATH}/cyd/messages",
    ]


def test_fast_reads_are_one_statement_beside_that_of_tokens(
    crew: Crew, paths: list[str], database: str
) -> None:
    for path in paths:
        # On SQLite the statements bypass Django's cursor.
        with CaptureQueriesContext(connection) as queries:
            assert ask(path, crew.tokens["ada"]) is not None, path
        assert len(queries) <= (2 if database == "postgresql" else 1), path


def test_callers_of_one_batch_get_their_own_responses(crew: Crew) -> None:
    requests = []
    for token in ("", "ada", "cyd"):
        route = fast_path.FastPath.route({"method": "GET", "raw_path": PATH.encode()})
        assert route
        bearer = f"Bearer {crew.tokens[token]}".encode()
        headers = {b"authorization": bearer, b"host": b"testserver"}
        parsed = fast_path.parse(route, headers, b"")
        assert isinstance(parsed, fast_reads.ReadRequest)
        requests.append(parsed)
    bodies = [each.body for each in fast_reads.Reader().read(requests) if each]
    assert len(set(bodies)) == 3
    assert bodies == [crew.get(PATH, token).content for token in ("", "ada", "cyd")]


# A plain request for each route that the edge answers itself, by the keys of the routes.
# `{vm}` is the VM of the lieutenant ada, `{message}` a message to it.
PLAIN_PATHS = {
    "tree.node": "/vm-tree/vms/{vm}",
    "tree.nodes": "/vm-tree/vms",
    "tree.by-category": "/vm-tree/vms?category=lieutenant",
    "tree.by-parent": "/vm-tree/vms?parentVmId={vm}",
    "tree.ancestors": "/vm-tree/vms/{vm}/ancestors",
    "tree.descendants": "/vm-tree/vms/{vm}/descendants",
    "tree.children": "/vm-tree/vms/{vm}/children",
    "tree.diff": "/vm-tree/vms/{vm}/diff/{vm}",
    "tree.stats": "/vm-tree/stats",
    "tree.tree": "/vm-tree/tree",
    "tree.root": "/vm-tree/tree?root={vm}",
    "tree.flat": "/vm-tree/tree?flat=true&since=2100-01-01T00:00:00Z",
    "tree.find-organ": "/vm-tree/find/organ/store",
    "tree.find-capability": "/vm-tree/find/capability/ssh",
    "registry.vm": "/registry/vms/{vm}",
    "registry.vms": "/registry/vms",
    "registry.discover": "/registry/discover/worker",
    "registry.running": "/registry/vms?status=running",
    "registry.by-role": "/registry/vms?role=worker",
    "registry.by-status": "/registry/vms?status=paused",
    "registry.by-parentVmId": "/registry/vms?parentVmId={vm}",
    "registry.children": "/registry/vms/{vm}/children",
    "registry.ancestors": "/registry/vms/{vm}/ancestors",
    "registry.subtree": "/registry/vms/{vm}/subtree",
    "bootloader.profiles": "/bootloader/profiles",
    "bootloader.profile": "/bootloader/profiles/{profile}",
    "lieutenants.one": f"{PATH}/ada",
    "lieutenants.all": PATH,
    "lieutenants.read": f"{PATH}/ada/read?tail=100",
    "lieutenants.transcript": f"{PATH}/ada/transcript",
    "lieutenants.messages": f"{PATH}/ada/messages",
    "lieutenants.message": f"{PATH}/ada/messages/{{message}}",
}


def test_each_declared_route_answers_its_plain_request(crew: Crew) -> None:
    assert set(PLAIN_PATHS) == set(fast_routes.keys())
    ada = crew.made["ada"]
    vm = VM(id=ada.pk, name="ada", role="worker", address="a", registered_by="tests")
    vm.seen(timezone.now())
    vm.save()
    message = Message.objects.create(lieutenant=ada, text="Hello", mode="prompt")
    facts = {"vm": ada.pk, "message": message.pk, "profile": next(iter(BUILT_IN))}
    for key, form in PLAIN_PATHS.items():
        path = form.format(**facts)
        raw_path, _, query = path.encode().partition(b"?")
        scope = {"method": "GET", "raw_path": raw_path, "query_string": query}
        route = fast_path.FastPath.route(scope)
        assert route, key
        assert route[0] is fast_routes[key]
        assert crew.get(path).status_code == 200, key
