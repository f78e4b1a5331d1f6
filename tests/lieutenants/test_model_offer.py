"""Models that agents reported: offered by forms, and checked before a lieutenant is created."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from lieutenants.models import AgentModels, Lieutenant
from tests.conftest import STANDIN, Api
from tests.lieutenants.rows import enlist, process_of

pytestmark = pytest.mark.django_db
ROUTE = "/lieutenant/lieutenants"
NAMES = ["Acme/large", "acme/small", "other/tiny"]


@pytest.fixture(autouse=True)
def _agent(settings: Any, tmp_path: Path) -> None:
    settings.PI_PATH = str(STANDIN)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()


def listed(name: str = "ada", **state: Any) -> AgentModels:
    lieutenant = enlist(name)
    process = process_of(lieutenant, state=state)
    return AgentModels.objects.create(
        lieutenant=lieutenant, names=NAMES, labels=["Large one", "Small one", ""], process=process
    )


def create(api: Api, model: str, **more: Any) -> Any:
    return api.post(ROUTE, {"name": "bob", "role": "tests", "model": model, **more})


@pytest.mark.parametrize("model", ["nosuch/zz", "medium"])
def test_unknown_model_is_refused_at_creation(api: Api, model: str) -> None:
    listed()
    answer = create(api, model)

    assert answer.status_code == 400
    assert answer.json()["error"] == (
        f"model: the agent has no '{model}'; these are: Acme/large, acme/small, other/tiny"
    )
    assert not Lieutenant.objects.filter(name="bob").exists()


@pytest.mark.parametrize(
    "model", ["", "acme/large", "SMALL:high", "large one", "acme/custom-id", "OTHER/new:low"]
)
def test_model_that_the_agent_would_take_is_not_refused(api: Api, model: str) -> None:
    listed()
    assert create(api, model).status_code == 201


def test_nothing_is_refused_by_the_list_of_an_ended_agent(api: Api) -> None:
    known = listed()
    known.process.ended_at = timezone.now()
    known.process.save()
    assert create(api, "nosuch/zz").status_code == 201


def test_nothing_is_refused_by_the_list_of_an_agent_with_other_keys(api: Api) -> None:
    listed(secret_versions=[4711])
    assert create(api, "nosuch/zz").status_code == 201


def test_nothing_is_refused_after_a_change_of_the_configuration(api: Api, settings: Any) -> None:
    known = listed()
    known.process.started_at -= timedelta(minutes=1)
    known.process.save()
    (settings.AGENT_CONFIG_DIR / "models.json").write_text("{}")
    assert create(api, "nosuch/zz").status_code == 201


def test_custom_id_of_a_known_provider_is_taken_at_a_change(api: Api) -> None:
    listed()
    for model, status in (("acme/custom", 200), ("nosuch/zz", 400)):
        answer = api.client.patch(
            f"{ROUTE}/ada", data={"model": model}, content_type="application/json"
        )
        assert answer.status_code == status


def test_forms_offer_the_models(operator: Client) -> None:
    listed()
    own = listed("bea")
    AgentModels.objects.filter(pk=own.pk).update(names=["bea/only"])

    new = operator.get("/lieutenants/_new").content.decode()
    assert 'list="models"' in new
    for name in ("acme/small", "bea/only"):
        assert f'<option value="{name}">' in new
    settings_page = operator.get("/lieutenants/bea/settings").content.decode()
    assert '<option value="bea/only">' in settings_page
    assert "acme/small" not in settings_page
