"""A host that is not followed: what page, API and /health say, and what verbs answer."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from lieutenants.hosts import services as hosts
from lieutenants.hosts import strays
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions import session
from lieutenants.sessions.write_batch import save_progress
from lieutenants.states import Status
from lieutenants.supervision import runtime
from reef_site.accounts import signin_links
from tests.conftest import Api
from tests.fleets import database
from tests.lieutenants.rows import enlist, process_of

__all__ = ["database"]

pytestmark = pytest.mark.django_db

BOX1 = "01BOX1BOX1BOX1BOX1BOX1BOX1"
ASKED = "asked; host box1 does not answer"
AT = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def shared_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is one that several hosts have."""
    monkeypatch.setattr(hosts, "has_own_database", lambda: False)


def box1(age: timedelta | None = timedelta(minutes=5)) -> DataFolder:
    seen = None if age is None else timezone.now() - age
    return DataFolder.objects.create(
        pk=BOX1, host="box1", path="/srv/one/data", follower="F1", seen_at=seen, place="there"
    )


def on_box1(name: str = "neo", status: str = Status.IDLE, **fields: Any) -> Lieutenant:
    fields = {"folder": f"/srv/one/data/lieutenants/{name}/workspace", **fields}
    row = enlist(name, status, data_folder=BOX1, **fields)
    Lieutenant.objects.filter(pk=row.pk).update(host="box1")
    return row


def with_agent(lieutenant: Lieutenant) -> Process:
    return process_of(lieutenant, data_folder=BOX1, ready_at=timezone.now())


def test_health_names_the_host_and_counts_its_lieutenants(api: Api) -> None:
    box1()
    on_box1("neo")
    on_box1("trinity", Status.PAUSED)
    part = api.get("/health").json()["parts"]["hosts"]
    assert part["ok"] is False
    assert part["silent"][0]["host"] == "box1"
    assert part["silent"][0]["lieutenants"] == 2
    assert "2 lieutenants belong to it: host box1 does not answer since" in part["why"]
    assert api.get("/health").json()["status"] == "degraded"


def test_responding_or_empty_host_is_healthy(api: Api) -> None:
    box1(timedelta(seconds=3))
    on_box1()
    assert api.get("/health").json()["parts"]["hosts"]["ok"] is True
    assert "trouble" not in api.get(f"{AT}/neo").json()
    Lieutenant.objects.update(status=Status.DESTROYED)
    DataFolder.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    assert api.get("/health").json()["parts"]["hosts"]["ok"] is True


@pytest.mark.parametrize("age", [timedelta(minutes=5), None, timedelta(hours=-2)])
def test_lieutenant_reports_its_silent_host(api: Api, age: timedelta | None) -> None:
    """Also where it never signed, or did before its clock was set back."""
    box1(age)
    on_box1()
    trouble = api.get(f"{AT}/neo").json()["trouble"]
    expected = "was never heard of" if age is None else "does not answer since 20"
    assert trouble.startswith(f"host box1 {expected}")
    assert api.get(AT).json()["lieutenants"][0]["trouble"] == trouble
    # It is derived when read, and never stored.
    assert Lieutenant.objects.get().trouble == ""


@pytest.mark.parametrize(
    ("verb", "word", "status"),
    [
        ("pause", "paused", Status.IDLE),
        ("pause", "paused", Status.WORKING),
        ("restart", "restarted", Status.IDLE),
        ("abort", "aborted", Status.WORKING),
    ],
)
def test_actions_on_a_silent_host_return_202(api: Api, verb: str, word: str, status: str) -> None:
    box1()
    with_agent(on_box1(status=status))
    answer = api.post(f"{AT}/neo/{verb}", {"force": True} if verb == "pause" else {})
    assert answer.status_code == 202
    assert answer.json() == {word: False, "asked": True, "note": ASKED}
    # Nobody waits for what cannot happen.
    assert "Reef-Wait" not in answer.headers


def test_resume_on_a_silent_host_is_pending(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    box1()
    on_box1(status=Status.PAUSED)
    answer = api.post(f"{AT}/neo/resume")
    assert answer.status_code == 202
    assert answer.json()["resumed"] is False
    assert answer.json()["note"] == ASKED


def test_destroyed_lieutenant_with_a_possible_agent_is_kept(api: Api, client: Client) -> None:
    box1()
    row = on_box1()
    with_agent(row)
    answer = api.delete(f"{AT}/neo")
    assert answer.status_code == 202
    assert answer.json()["destroyed"] is False
    assert answer.json()["note"] == ASKED
    assert api.delete(f"{AT}/neo").json()["destroyed"] is False
    part = api.get("/health").json()["parts"]["hosts"]
    assert part["ok"] is False
    assert "1 agent to be ended belongs to it" in part["why"]
    client.force_login(signin_links.make_operator())
    page = client.get(f"/lieutenants/by-id/{row.pk}/").content.decode()
    assert "its agent may still run there" in page


def test_lieutenant_without_a_process_is_destroyed_at_once(api: Api) -> None:
    box1()
    on_box1(status=Status.PAUSED)
    assert api.delete(f"{AT}/neo").json()["destroyed"] is True


def test_message_to_a_silent_host_waits_with_a_reason(api: Api) -> None:
    box1()
    with_agent(on_box1())
    answer = api.post(f"{AT}/neo/send", {"message": "hello"}).json()
    assert answer["note"] == ASKED
    assert answer["state"] == "queued"
    # Nothing works on it, so it is not said to be working.
    assert api.get(f"{AT}/neo").json()["status"] == "idle"


def test_pages_show_the_host_and_its_lieutenants(client: Client) -> None:
    box1()
    with_agent(on_box1())
    client.force_login(signin_links.make_operator())
    overview = client.get("/").content.decode()
    assert "Needs you" in overview
    assert "1 lieutenant belongs to it: host box1 does not answer since" in overview
    for path in ("/lieutenants/", "/lieutenants/neo/", "/hosts/"):
        assert "host box1 does not answer since" in client.get(path).content.decode(), path
    assert "Take over here" in client.get("/hosts/").content.decode()
    assert "drained" not in client.get("/hosts/").content.decode()
    DataFolder.objects.update(is_draining=True)
    assert "manage.py drain --end" in client.get("/hosts/").content.decode()
    said = client.post("/lieutenants/neo/pause", {"sure": "yes"}, follow=True).content.decode()
    assert f"neo: {ASKED}" in said
    assert "pausing" not in said


def test_a_host_with_another_folder_never_steals() -> None:
    """Not even with the same host name, as containers may have."""
    box1(timedelta(seconds=3))
    row = on_box1(status=Status.STARTING)
    Lieutenant.objects.update(host=settings.HOST)
    idle = on_box1("idle", idle_limit_minutes=1)
    Lieutenant.objects.filter(pk=idle.pk).update(
        status_since=timezone.now() - timedelta(hours=1),
        last_activity_at=timezone.now() - timedelta(hours=1),
    )
    hosts.register_folder("FOLLOWER")
    runtime.reconcile()
    row.refresh_from_db()
    assert (row.data_folder, row.status) == (BOX1, Status.STARTING)
    assert not Process.objects.exists()
    assert not Lieutenant.objects.here().idle_too_long(timezone.now())
    assert not runtime.orphaned()


# -- taking over ---------------------------------------------------------------------------------


def test_responding_host_is_not_taken_over(api: Api) -> None:
    box1(timedelta(seconds=3))
    on_box1()
    answer = api.post("/lieutenant/hosts/box1/adopt")
    assert answer.status_code == 400
    assert answer.json() == {"error": "Host 'box1' answers, so its lieutenants are not taken over"}
    with pytest.raises(CommandError, match="answers"):
        call_command("adopt", "box1")
    assert Lieutenant.objects.get().data_folder == BOX1
    assert api.post("/lieutenant/hosts/box9/adopt").status_code == 404
    wrong = api.post("/lieutenant/hosts/box1/adopt", {"force": "yes"})
    assert wrong.json() == {"error": "force: must be true or false"}
    taken = api.post("/lieutenant/hosts/box1/adopt", {"force": True})
    assert taken.json()["results"] == ["neo: taken over from box1; its session is on box1"]


@pytest.mark.parametrize("status", [Status.IDLE, Status.WORKING, Status.STARTING, Status.PAUSED])
def test_adopted_lieutenant_without_its_session_has_a_reason(api: Api, status: str) -> None:
    box1()
    row = on_box1(status=status)
    process = process_of(row, data_folder=BOX1) if status != Status.PAUSED else None
    assert api.post("/lieutenant/hosts/box1/adopt").status_code == 200
    facts = api.get(f"{AT}/neo").json()
    assert facts["status"] == ("paused" if status == Status.PAUSED else "error")
    assert "Its session is on box1, in its folder /srv/one/data/lieutenants/" in facts["error"]
    assert facts["host"] == settings.HOST
    assert "trouble" not in facts
    runtime.reconcile()
    if process:
        process.refresh_from_db()
        assert process.ended_at
        assert process.is_abandoned
    # Nothing starts before somebody says so.
    assert Process.objects.live().count() == 0
    assert api.get("/health").json()["parts"]["hosts"]["ok"] is True


@pytest.mark.parametrize(("name", "is_here"), [("session-2.jsonl", True), ("session.jsonl", False)])
def test_the_session_that_the_agent_continues_is_looked_for(
    api: Api, name: str, is_here: bool
) -> None:
    box1()
    row = on_box1()
    process_of(row, data_folder=BOX1)
    Lieutenant.objects.update(session_name="session-2.jsonl")
    folder = settings.LIEUTENANTS_DIR / row.pk / "session"
    folder.mkdir(parents=True)
    (folder / name).write_text("{}\n")

    api.post("/lieutenant/hosts/box1/adopt")

    told = (
        "Its session is here" if is_here else "copy it here first, or start it with a new session."
    )
    facts = api.get(f"{AT}/neo").json()
    assert told in facts["error"]
    assert ("sessionProblem" in facts) is not is_here


def test_adopted_lieutenant_with_local_files_continues(api: Api) -> None:
    box1()
    row = on_box1()
    process = with_agent(row)
    Process.objects.update(directory=f"/srv/one/data/lieutenants/{row.pk}/runs/{process.pk}")
    home = settings.LIEUTENANTS_DIR / row.pk
    (home / "session").mkdir(parents=True)
    (home / "session" / "session.jsonl").write_text("{}\n")
    run = home / "runs" / process.pk
    run.mkdir(parents=True)
    (run / "keeper.json").write_text("{}")
    Lieutenant.objects.update(folder=f"/srv/one/data/lieutenants/{row.pk}/workspace")
    results = api.post("/lieutenant/hosts/box1/adopt").json()["results"]
    assert results == ["neo: taken over from box1"]
    row.refresh_from_db()
    process.refresh_from_db()
    assert row.folder == str(home / "workspace")
    assert (process.directory, process.data_folder) == (str(run), settings.DATA_FOLDER_ID)
    assert (row.status, process.ended_at) == (Status.IDLE, None)


@pytest.mark.parametrize("destroyed", [False, True])
def test_lieutenant_with_a_live_follower_is_not_adopted(
    api: Api, monkeypatch: pytest.MonkeyPatch, *, destroyed: bool
) -> None:
    """The others are taken over, and the answer has a line for each."""
    box1(timedelta(seconds=3))
    busy = on_box1("neo", Status.DESTROYED if destroyed else Status.WORKING)
    with_agent(busy)
    on_box1("trinity", Status.PAUSED)

    def save(sessions: Any) -> None:
        Lieutenant.objects.filter(pk=busy.pk).update(rev=7)
        save_progress(sessions)

    monkeypatch.setattr(session, "save_progress", save)
    answer = api.post("/lieutenant/hosts/box1/adopt", {"force": True})
    assert answer.status_code == 200
    lines = {line.partition(":")[0]: line for line in answer.json()["results"]}
    assert "left alone, its own host changed it at the same time" in lines["neo"]
    assert "taken over from box1" in lines["trinity"]
    busy.refresh_from_db()
    assert busy.data_folder == BOX1
    assert Process.objects.live().filter(data_folder=BOX1).count() == 1


def test_hosts_without_identities_are_told_apart_by_name(api: Api) -> None:
    """Rows of a shared database that was upgraded, before their followers have claimed them."""
    for name, host in (("neo", "box2"), ("trinity", "box2"), ("bob", "box3"), ("eve", "box3")):
        status = Status.DESTROYED if name == "eve" else Status.IDLE
        row = enlist(name, status, data_folder="", host=host)
        Process.objects.filter(pk=process_of(row, data_folder="").pk).update(host=host)
    found = api.get("/lieutenant/hosts").json()["hosts"]
    counts = {each["host"]: (each["lieutenants"], each["agentsToEnd"]) for each in found}
    assert (counts["box2"], counts["box3"]) == ((2, 0), (1, 1))
    assert api.get(f"{AT}/bob").json()["trouble"] == "host box3 was never heard of"
    assert api.get(f"{AT}/neo").json()["trouble"] == "host box2 was never heard of"
    results = api.post("/lieutenant/hosts/box2/adopt").json()["results"]
    assert sorted(line.partition(":")[0] for line in results) == ["neo", "trinity"]
    assert set(Lieutenant.objects.here().values_list("name", flat=True)) == {"neo", "trinity"}
    others = Process.objects.live().values_list("lieutenant__name", flat=True)
    assert set(others) == {"bob", "eve"}


def test_abandoned_agents_are_found_by_an_index_and_ended_once(database: str) -> None:
    rows = [process_of(enlist(name), ended_at=timezone.now()) for name in ("neo", "eve", "bob")]
    # As an earlier version marked it.
    Process.objects.filter(pk=rows[0].pk).update(handle={"abandoned": True, **rows[0].handle})
    Process.objects.filter(pk=rows[1].pk).update(handle={"abandoned": False, **rows[1].handle})
    import_module("lieutenants.migrations.0013_abandoned_processes").mark_abandoned(apps, None)
    found = Process.objects.here().abandoned()
    assert [process.pk for process in found] == [rows[0].pk]
    if database == "postgresql":
        # It reads tables as small as this one without any index.
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off")
    assert "process_abandoned" in found.order_by().explain()
    found.update(directory=str(settings.LIEUTENANTS_DIR / rows[0].lieutenant_id / "runs" / "gone"))
    strays.end_abandoned()
    assert not found.all().exists()
    ended = Process.objects.filter(end_reason__contains="Its agent was ended at")
    assert [process.pk for process in ended] == [rows[0].pk]


def test_operators_take_over_with_a_button_and_others_do_not(client: Client) -> None:
    box1()
    on_box1()
    assert client.post(f"/hosts/{BOX1}/adopt").status_code == 302
    assert Lieutenant.objects.get().data_folder == BOX1
    client.force_login(signin_links.make_operator())
    said = client.post(f"/hosts/{BOX1}/adopt", follow=True).content.decode()
    assert "neo: taken over from box1; its session is on box1" in said
    assert Lieutenant.objects.get().data_folder == settings.DATA_FOLDER_ID


def test_discover_tells_of_lieutenants_of_a_silent_host(api: Api) -> None:
    from lieutenants import membership

    box1()
    membership.register(on_box1(), actor="tests")
    (line,) = api.post(f"{AT}/discover").json()["results"]
    assert line.startswith("neo: host box1 does not answer since")
    assert line.endswith("take over: manage.py adopt box1")


def test_lieutenant_destroyed_after_the_backup_needs_attention(client: Client) -> None:
    enlist("eve", Status.PAUSED, error="It was destroyed after the backup was made.")
    enlist("bob", Status.PAUSED)
    client.force_login(signin_links.make_operator())
    overview = client.get("/").content.decode()
    assert "It was destroyed after the backup was made." in overview
    assert "/lieutenants/bob/" not in overview


# -- one identity, two followers -----------------------------------------------------------------


def test_newer_of_two_followers_of_one_identity_gives_way(api: Api) -> None:
    from lieutenants.exceptions import NotTheFollower

    DataFolder.objects.create(
        pk=settings.DATA_FOLDER_ID,
        host="box1",
        path="/srv/one/data",
        follower="FIRST",
        place="another machine",
        seen_at=timezone.now(),
    )
    with pytest.raises(NotTheFollower, match="has the identity of /srv/one/data on box1") as other:
        hosts.renew_lease("SECOND")
    assert DataFolder.objects.get().follower == "FIRST"
    hosts.record_rival(str(other.value))
    part = api.get("/health").json()["parts"]["hosts"]
    assert part["ok"] is False
    assert "remove its file `identity`" in part["why"]
    # Once the first is gone the second follows.
    DataFolder.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    hosts.renew_lease("SECOND")
    assert DataFolder.objects.get().follower == "SECOND"
    DataFolder.objects.update(place="another machine")
    with pytest.raises(NotTheFollower):
        hosts.renew_lease("FIRST")
    assert api.get("/health").json()["parts"]["hosts"]["ok"] is True


# -- names and rows of before ----------------------------------------------------------------------


def test_rows_of_earlier_versions_are_claimed_by_host_name_or_files() -> None:
    by_name = enlist("by-name", data_folder="")
    by_files = enlist("by-files", data_folder="")
    (settings.LIEUTENANTS_DIR / by_files.pk).mkdir(parents=True)
    foreign = enlist("foreign", data_folder="")
    Lieutenant.objects.filter(pk__in=[by_files.pk, foreign.pk]).update(host="box1")
    hosts.register_folder()
    here = set(Lieutenant.objects.here().values_list("name", flat=True))
    assert here == {"by-name", "by-files"}
    by_files.refresh_from_db()
    assert by_files.host == settings.HOST
    assert by_name.data_folder == ""


def test_a_database_in_the_folder_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a lost `identity` file, or a host of another name, loses nothing."""
    monkeypatch.setattr(hosts, "has_own_database", lambda: True)
    box1()
    on_box1()
    hosts.register_folder()
    row = Lieutenant.objects.get()
    assert (row.data_folder, row.host) == (settings.DATA_FOLDER_ID, settings.HOST)
    assert list(DataFolder.objects.values_list("pk", flat=True)) == [settings.DATA_FOLDER_ID]
