"""README and documentation: links lead somewhere, and every setting is described."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from reef_site import env
from reef_site.docs import rendering
from tests.stack import ROOT
from versconfig import keys

DOCS = ROOT / "reef_site" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# `up` sets these for its own processes.
INTERNAL = {"REEF_DEMO", "REEF_NO_VMS", "REEF_OWN_AGENT", "REEF_VMS_EMULATED"}


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a page's headings get on common hosts of Markdown."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_setting_is_described() -> None:
    assert settings.configured
    described = set(re.findall(r"`([A-Z][A-Z_]+)`", (DOCS / "operations.md").read_text()))
    # Config keys are described on the page Config.
    assert env._known - set(keys.ALL) - INTERNAL - described == set()


@pytest.mark.django_db
def test_pages_of_the_documentation_need_a_signed_in_account(client: Client) -> None:
    assert client.get("/docs/").status_code == 302
    assert client.get("/docs/architecture/").status_code == 302


@pytest.mark.django_db
def test_links_on_pages_of_the_documentation_lead_to_headings(admin_client: Client) -> None:
    pages = {slug: admin_client.get(f"/docs/{slug}/").content.decode() for slug in rendering.PAGES}
    ids = {slug: set(re.findall(r'<h[1-6] id="([^"]*)"', page)) for slug, page in pages.items()}
    index = admin_client.get("/docs/").content.decode()

    assert set(pages) == {each.stem for each in DOCS.glob("*.md")}
    for slug, page in pages.items():
        assert f'href="/docs/{slug}/"' in index
        article = page.partition('<article class="prose docs">')[2].partition("</article>")[0]
        for link in re.findall(r'href="([^"]*)"', article):
            path, _, fragment = link.partition("#")
            target = path.removeprefix("/docs/").strip("/") or slug
            assert not fragment or fragment in ids[target], link


@pytest.mark.django_db
def test_unknown_page_of_the_documentation_is_a_404(admin_client: Client) -> None:
    assert admin_client.get("/docs/settings/").status_code == 404


def test_large_pages_are_compressed_to_changing_lengths(admin_client: Client) -> None:
    plain = admin_client.get("/docs/glossary/")
    assert "Content-Encoding" not in plain.headers
    answers = [
        admin_client.get("/docs/glossary/", headers={"accept-encoding": "gzip"}) for _ in range(20)
    ]
    for answer in answers:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert b"Glossary" in gzip.decompress(answer.content)
    assert len(answers[0].content) < len(plain.content) / 2
    assert len({len(answer.content) for answer in answers}) > 3
