"""Images that are sent with a message: through the API and the page, to the agent, and back."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.test.utils import override_script_prefix
from django.urls import reverse

from lieutenants.agents import dialect_of
from lieutenants.messages import images
from lieutenants.messages.images import MAX_BYTES, MAX_IMAGES
from lieutenants.models import AgentModels, Lieutenant, Message, MessageImage
from lieutenants.transcript.serializers import image_json
from reef_site.common import events
from tests.conftest import Api
from tests.lieutenants.rows import Told, block, enlist, page, process_of

pytestmark = pytest.mark.django_db

ROUTE = "/lieutenant/lieutenants"
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 20
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 20
GIF = b"GIF89a" + b"g" * 20
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"w" * 20
KINDS = {"image/png": PNG, "image/jpeg": JPEG, "image/gif": GIF, "image/webp": WEBP}


@pytest.fixture(autouse=True)
def _no_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "wake_follower", lambda _pk: None)


def given(data: bytes = PNG, kind: str = "image/png") -> dict[str, str]:
    return {"mediaType": kind, "data": base64.b64encode(data).decode()}


def send(api: Api, *sent: object, name: str = "ada", **headers: str) -> Any:
    body = {"message": "look", "images": list(sent)}
    return api.post(f"{ROUTE}/{name}/send", body, **headers)


def test_each_kind_of_image_is_stored_listed_and_served(database: str, api: Api) -> None:
    ada = enlist()
    answer = send(api, *(given(data, kind) for kind, data in KINDS.items()))
    assert answer.status_code == 200
    message_id = answer.json()["messageId"]

    shown = api.get(f"{ROUTE}/ada/messages/{message_id}").json()["images"]
    assert [(each["mediaType"], each["size"]) for each in shown] == [
        (kind, len(data)) for kind, data in KINDS.items()
    ]
    assert api.get(f"{ROUTE}/ada/messages").json()["messages"][0]["images"] == shown
    assert shown[0]["url"] == f"{ROUTE}/{ada.pk}/messages/{message_id}/images/0"
    for each, data in zip(shown, KINDS.values(), strict=True):
        got = api.get(each["url"])
        assert (got["Content-Type"], got.content) == (each["mediaType"], data)
        assert got["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert got["X-Content-Type-Options"] == "nosniff"
    assert api.get(f"{ROUTE}/ada/messages/{message_id}/images/4").status_code == 404


@pytest.mark.parametrize("prefix", [None, "/reef"])
@pytest.mark.parametrize("lieutenant_id", ["01JD9Z3K8Q5V7W2X4Y6A8B0C1D", "local:a b@c~(d)"])
def test_url_of_an_image_is_that_of_its_route(
    settings: Any, lieutenant_id: str, prefix: str | None
) -> None:
    settings.FORCE_SCRIPT_NAME = prefix
    parts = {"name": lieutenant_id, "message_id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1E", "number": 3}
    with override_script_prefix(prefix or "/"):
        expected = reverse("lieutenant-image", kwargs=parts)
    facts = images.ImageFacts(str(parts["message_id"]), 3, "image/png", 7)
    assert image_json(lieutenant_id, facts)["url"] == expected


def test_message_without_images_has_no_such_key(api: Api) -> None:
    enlist()
    for body in (
        {"message": "x"},
        {"message": "x", "images": []},
        {"message": "x", "images": None},
    ):
        message_id = api.post(f"{ROUTE}/ada/send", body).json()["messageId"]
        assert "images" not in api.get(f"{ROUTE}/ada/messages/{message_id}").json()


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ("x", 400, "images: must be a list of 0 to 8 images"),
        ([given()] * (MAX_IMAGES + 1), 400, "images: must be a list of 0 to 8 images"),
        (["x"], 400, "images: must be an object"),
        ([{"mediaType": "image/svg+xml"}], 400, "images[0].mediaType: must be one of image/png, "),
        ([{"mimeType": "x"}], 400, "images[0]: must have mediaType and data only"),
        ([given(), {"mediaType": "image/png"}], 400, "images[1].data: must be base64"),
        ([{"mediaType": "image/png", "data": "?"}], 400, "images[0].data: must be base64"),
        ([given(b"<svg/>")], 400, "images[0].data: must be one of image/png, "),
        ([given(JPEG)], 400, "images[0].mediaType: the data is image/jpeg, not image/png"),
        (
            [given(PNG + bytes(MAX_BYTES // 2))] * 2,
            413,
            f"images: have {2 * len(PNG) + MAX_BYTES} bytes, at most {MAX_BYTES} are taken",
        ),
    ],
)
def test_invalid_images_are_refused(api: Api, sent: object, status: int, said: str) -> None:
    enlist()
    answer = api.post(f"{ROUTE}/ada/send", {"message": "look", "images": sent})
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said)
    assert not Message.objects.exists()


def test_images_are_part_of_the_idempotency_comparison(api: Api) -> None:
    enlist()
    key = {"idempotency-key": "k"}
    first = send(api, given(), given(GIF, "image/gif"), **key)
    assert send(api, given(), given(GIF, "image/gif"), **key).json() == first.json()
    for other in ([given()], [given(GIF, "image/gif"), given()], [given(PNG + b"x")], []):
        assert send(api, *other, **key).status_code == 409
    assert MessageImage.objects.count() == 2


def test_agent_without_images_refuses_them(api: Api) -> None:
    enlist(agent="command", command=["cat"])
    answer = send(api, given())
    assert answer.status_code == 400
    assert answer.json()["error"] == "images: the agent 'command' takes no images"


@pytest.mark.parametrize(
    ("image_names", "status"), [([], 400), (["a/sees"], 400), (None, 200), (["a/blind"], 200)]
)
def test_model_that_is_known_to_take_no_images_refuses_them(
    api: Api, image_names: list[str] | None, status: int
) -> None:
    ada = enlist(model_in_use="a/blind")
    names = ["a/blind", "a/sees"]
    AgentModels.objects.create(
        lieutenant=ada, names=names, image_names=image_names, process=process_of(ada)
    )
    answer = send(api, given())
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"] == "images: the model a/blind takes no images"


def test_agent_gets_the_images_with_the_prompt() -> None:
    ada = enlist()
    message = Message.objects.create(
        lieutenant=ada, text="look", mode="prompt", mode_asked="prompt"
    )
    images.store(message, [images.NewImage("image/png", PNG)])

    sent = dialect_of(ada).send_message(
        message.pk, message.text, steer=False, images=images.load(message.pk)
    )
    expected = {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}
    assert sent.line["images"] == [expected]


def test_transcript_lists_images_of_messages(api: Api, operator: Client) -> None:
    told = Told(enlist())
    message_id = send(api, given()).json()["messageId"]
    message = Message.objects.get(pk=message_id)
    entry = told.entry("user", "look", message=message, data={"images": 1})
    tool = told.entry("tool_result", "x", tool="read", call_id="c", data={"images": 2})

    entries = api.get(f"{ROUTE}/ada/transcript").json()["entries"]
    url = f"{ROUTE}/{told.lieutenant.pk}/messages/{message_id}/images/0"
    assert entries[0]["images"] == [{"mediaType": "image/png", "size": len(PNG), "url": url}]
    assert "images" not in entries[1]

    html = page(operator, "/lieutenants/ada/")
    shown = f"/lieutenants/by-id/{told.lieutenant.pk}/images/{message_id}/0"
    assert f'src="{shown}"' in block(html, entry)
    assert "not shown" not in block(html, entry)
    assert "2 images, not shown" in " ".join(block(html, tool).split())
    assert operator.get(shown).content == PNG
    assert Client().get(shown).status_code == 302


def test_image_of_another_lieutenant_is_not_found(api: Api) -> None:
    enlist()
    enlist("bob")
    message_id = send(api, given()).json()["messageId"]
    assert api.get(f"{ROUTE}/bob/messages/{message_id}/images/0").status_code == 404
    assert api.get(f"{ROUTE}/ada/messages/nope/images/0").json() == {"error": "Image not found"}


def test_page_sends_chosen_files(operator: Client) -> None:
    enlist()
    # The contents tell the type, not the browser's word.
    files = [SimpleUploadedFile("a.png", PNG, "text/plain"), io.BytesIO(GIF)]
    form = {"message": "look", "mode": "prompt", "images": files}
    assert operator.post("/lieutenants/ada/send", form).status_code == 302
    kinds = MessageImage.objects.order_by("number").values_list("media_type", flat=True)
    assert list(kinds) == ["image/png", "image/gif"]

    for name, shown in (("logo.svg", "logo.svg"), ("n" * 120 + ".png", "n" * 99 + "…")):
        bad = SimpleUploadedFile(name, b"<svg/>", "image/png")
        form = {"message": "look", "images": [SimpleUploadedFile("a.png", PNG), bad]}
        answer = operator.post("/lieutenants/ada/send", form, headers={"Reef-Script": "1"})
        assert answer.status_code == 400
        assert answer.content.decode() == f"{shown}: must be PNG, JPEG, GIF or WebP"
    assert Message.objects.count() == 1


def test_composer_offers_images_only_to_agents_that_take_them(operator: Client) -> None:
    enlist()
    enlist("carl", agent="command", command=["cat"])
    assert 'type="file"' in page(operator, "/lieutenants/ada/")
    assert 'type="file"' not in page(operator, "/lieutenants/carl/")


def test_images_go_with_their_lieutenant(api: Api) -> None:
    enlist()
    send(api, given())
    Lieutenant.objects.all().delete()
    assert not MessageImage.objects.exists()
