"""Templates that people can read."""

from __future__ import annotations

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
