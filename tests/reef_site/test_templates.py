"""Templates that people can read."""

from __future__ import annotations

import re

from django.conf import settings

MAX_LENGTH = 240


def test_no_line_of_a_template_is_too_long() -> None:
    files = sorted((settings.BASE_DIR / "templates").rglob("*.html"))
    assert len(files) > 50

    long = [
        f"{file.relative_to(settings.BASE_DIR)}:{number} has {len(line)} characters"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if len(line) > MAX_LENGTH
    ]

    assert long == []


CANCEL = re.compile(r"<a class=\"button\"[^\n]*>Cancel</a>")
GRAVE = re.compile(r"<button[^>]*\bgrave\b")


def test_cancel_is_before_the_destructive_button_and_has_the_focus() -> None:
    found = []
    for file in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = file.read_text()
        cancel, grave = CANCEL.search(text), GRAVE.search(text)
        if cancel and grave:
            found.append(file.name)
            assert cancel.start() < grave.start(), file
            assert "autofocus" in cancel[0], file
    assert len(found) >= 5
