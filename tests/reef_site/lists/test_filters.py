"""Filters of lists, and those that people save."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from lieutenants.models import Answer, Question
from lieutenants.states import Outcome, Status
from reef_site.lists.models import HiddenPreset, SavedFilter
from registry.models import VM
from tests.fleets import plant
from tests.lieutenants.rows import Told, enlist, page
from tests.reef_site.lists.test_sorting import listed

pytestmark = pytest.mark.django_db


@pytest.fixture
def crew() -> None:
    """One lieutenant for each reason to look at it, and one that is fine."""
    enlist("fine", model="a/fable")
    enlist("broken", Status.ERROR, host="far")
    enlist("held", Status.PAUSED, error="It must not run.")
    enlist("troubled", Status.IDLE, trouble="The model refuses.")
    long_ago = timezone.now() - timedelta(hours=3)
    silent = {"last_activity_at": long_ago, "status_since": long_ago}
    enlist("stuck", Status.WORKING, waiting_for="the model", **silent)
    asking = enlist("asking", Status.WORKING)
    Question.objects.create(
        lieutenant=asking, vm_id=asking.pk, source="tool", kind="ask", text="Which one?"
    )
    failed = Told(enlist("failed-once"))
    failed.open_answer()
    Answer.objects.update(outcome=Outcome.ERROR, ended_at=timezone.now())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=needs-me", "asking broken held stuck troubled"),
        ("q=failed", "broken failed-once"),
        ("q=stalled", "stuck"),
        ("q=working", "asking stuck"),
        ("q=Working ask", "asking"),
        ("q=model:fable", "fine"),
        ("q=host:far", "broken"),
        ("q=fine", "fine"),
        ('q="failed"', "failed-once"),
        ("status=error", "broken"),
        ("status=error&q=fine", ""),
    ],
)
def test_filters_of_lieutenants(operator: Client, crew: None, query: str, expected: str) -> None:
    assert sorted(listed(operator, query)) == expected.split()


def test_unknown_filter_is_explained(operator: Client, crew: None) -> None:
    html = page(operator, "/lieutenants/?q=colour:red", 400)

    assert "Unknown filter &quot;colour:&quot;" in html
    assert 'aria-invalid="true"' in html


def test_vms_without_a_place_are_found(operator: Client) -> None:
    plant("placed")
    loose = VM(id="loose", name="loose", role="worker", registered_by="tests")
    loose.seen(timezone.now())
    loose.save(force_insert=True)

    assert listed(operator, "q=unplaced", "/fleet/vms/") == ["loose"]


# -- saved filters -----------------------------------------------------------------------------


def save(client: Client, name: str, query: str, where: str = "lieutenants") -> Any:
    return client.post(f"/lists/filters/{where}/", {"name": name, "query": query})


def test_person_saves_renames_and_deletes_a_filter(operator: Client) -> None:
    enlist()
    answer = save(operator, "Far ones", "page=3&sort=-cost&q=host:far&status=")

    assert answer["Location"] == "/lieutenants/?q=host%3Afar&sort=-cost"
    html = page(operator, "/lieutenants/?q=host:far")
    assert 'href="/lieutenants/?q=host%3Afar&amp;sort=-cost" aria-current="true">Far ones<' in html
    row = SavedFilter.objects.get()
    assert operator.post(f"/lists/filters/{row.pk}/rename", {"name": "Farther"}).status_code == 302
    assert "Farther" in page(operator, "/lieutenants/")
    assert operator.post(f"/lists/filters/{row.pk}/delete").status_code == 302
    assert "Farther" not in page(operator, "/lieutenants/_rows")


def test_each_list_has_presets(operator: Client) -> None:
    enlist()
    presets = {"/lieutenants/": "Needs me", "/fleet/vms/": "Silent", "/fleet/": "Late"}
    for path, word in presets.items():
        assert f">{word}</a>" in page(operator, path)


def hide(client: Client, preset: str, verb: str = "hide", where: str = "lieutenants") -> Any:
    form = {"preset": preset, "query": "q=fine&page=2"}
    return client.post(f"/lists/presets/{where}/{verb}", form)


def test_person_hides_a_preset_and_shows_it_again(operator: Client) -> None:
    enlist()
    chip = ">Working</a>"
    for _ in range(2):
        answer = hide(operator, "Working")
        assert answer["Location"] == "/lieutenants/?q=fine"
    html = page(operator, "/lieutenants/")
    assert chip not in html
    assert ">Needs me</a>" in html
    assert 'aria-label="Show the filter Working"' in html
    assert chip in page(operator, "/fleet/")
    other = Client()
    # A read-only account has settings of its own, too.
    other.force_login(User.objects.create_user("joe"))
    assert chip in page(other, "/lieutenants/")
    assert hide(other, "Failed").status_code == 302
    assert ">Failed</a>" not in page(other, "/lieutenants/")

    assert hide(operator, "Working", "show").status_code == 302
    html = page(operator, "/lieutenants/")
    assert chip in html
    assert ">Failed</a>" in html


@pytest.mark.parametrize(
    ("preset", "where"), [("Nonsense", "lieutenants"), ("", "lieutenants"), ("Working", "nowhere")]
)
def test_only_presets_of_a_list_can_be_hidden(operator: Client, preset: str, where: str) -> None:
    for verb in ("hide", "show"):
        assert hide(operator, preset, verb, where).status_code == 404
    assert operator.get("/lists/presets/lieutenants/hide").status_code == 405
    assert not HiddenPreset.objects.exists()


def test_filters_are_of_one_person(operator: Client) -> None:
    enlist()
    save(operator, "mine", "q=a")
    row = SavedFilter.objects.get()
    other = Client()
    # A read-only account has filters, too.
    other.force_login(User.objects.create_user("joe"))

    assert "mine" not in page(other, "/lieutenants/")
    for verb in ("rename", "delete"):
        answer = other.post(f"/lists/filters/{row.pk}/{verb}", {"name": "stolen"})
        assert answer.status_code == 404
    assert save(other, "mine", "q=b").status_code == 302
    found = dict(SavedFilter.objects.values_list("user__username", "query"))
    assert found == {"joe": "q=b", row.user.username: "q=a"}


@pytest.mark.parametrize(
    ("name", "query", "where", "status"),
    [
        ("", "q=a", "lieutenants", 400),
        ("n" * 61, "q=a", "lieutenants", 400),
        ("n", "q=" + "é" * 2000, "lieutenants", 400),
        ("twice", "q=b", "lieutenants", 409),
        ("n", "q=a", "nowhere", 404),
    ],
)
def test_wrong_filters_are_refused(
    operator: Client, name: str, query: str, where: str, status: int
) -> None:
    save(operator, "twice", "q=a")

    assert save(operator, name, query, where).status_code == status
    assert SavedFilter.objects.count() == 1


def test_long_words_of_any_script_are_saved(operator: Client) -> None:
    assert save(operator, "long", "q=" + "я" * 500).status_code == 302
    assert len(SavedFilter.objects.get().query) == len("q=") + 6 * 500


def test_number_of_filters_is_limited(operator: Client) -> None:
    for number in range(30):
        assert save(operator, f"f{number}", f"q={number}").status_code == 302

    assert save(operator, "one more", "q=x").status_code == 409


def test_names_are_escaped(operator: Client) -> None:
    enlist()
    save(operator, "<script>alert(1)</script>", "q=a")

    assert "<script>alert" not in page(operator, "/lieutenants/")
