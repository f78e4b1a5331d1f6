"""Behind a proxy: on another port, and below a path that the proxy strips."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.stack import Stack

PUBLIC = "https://reef.example:8443/reef"
# As a proxy forwards it: the host without its port, the path without its prefix.
PROXIED = {"host": "reef.example", "x-forwarded-proto": "https"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("proxied"), REEF_PUBLIC_URL=PUBLIC) as stack:
        yield stack


@pytest.fixture
def person(stack: Stack) -> Iterator[httpx.Client]:
    """Return a signed-in client that strips the proxy's path."""
    link = stack.manage("signin").split()[0]
    assert link.startswith(f"{PUBLIC}/signin/")
    url = f"http://127.0.0.1:{stack.port}"
    with httpx.Client(base_url=url, headers={**PROXIED, "accept": "text/html"}) as client:
        answer = client.get(link.removeprefix(PUBLIC))
        assert answer.headers["location"] == "/reef/"
        cookies = answer.headers.get_list("set-cookie")
        assert all("Secure" in each and "Path=/reef/" in each for each in cookies)
        client.headers["cookie"] = "; ".join(each.split(";")[0] for each in cookies)
        yield client


@pytest.mark.rotated
def test_all_urls_are_below_the_public_path(person: httpx.Client) -> None:
    html = person.get("/").text
    found = re.findall(r'(?:href|src|action|data-[a-z-]+|hx-get)="(/[^"]*)"', html)
    assert len(found) > 20
    assert [each for each in found if not each.startswith("/reef/")] == []
    for path in [each for each in found if "/static/" in each]:
        answer = person.get(path.removeprefix("/reef"))
        assert answer.status_code == 200, path


def test_forms_are_accepted_from_the_public_address_only(person: httpx.Client) -> None:
    html = person.get("/lieutenants/_new").text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', html)
    assert token
    fields = {"csrfmiddlewaretoken": token[1], "name": ""}
    ours = person.post("/lieutenants/_new", data=fields, headers={"origin": PUBLIC[:-5]})
    assert ours.status_code == 400
    other = person.post(
        "/lieutenants/_new", data=fields, headers={"origin": "https://reef.example"}
    )
    assert other.status_code in (400, 403)
    strange = person.post(
        "/lieutenants/_new", data=fields, headers={"origin": "https://evil.example"}
    )
    assert strange.status_code == 403
    assert "REEF_PUBLIC_URL" in strange.text


def test_anonymous_users_are_redirected_below_the_path(stack: Stack) -> None:
    answer = httpx.get(f"http://127.0.0.1:{stack.port}/fleet/", headers=PROXIED)
    assert answer.headers["location"].startswith("/reef/signin/?next=/reef/fleet/")
