"""The pure core: text in, text out, whole and in pieces."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import random
import re
import string
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from versconfig.screening import sources
from versconfig.screening.screen import MAX_UNHELD_CHARS, Screen, Secret
from versconfig.screening.strength import is_distinctive

KEY = "sk-ant-test-0123456789abcdef"
SHORT = "hunter22xyz"
TOKEN = "reef_" + "aB3-x_Y9" * 5 + "Zq7"
MARK = "[ANTHROPIC_API_KEY]"
ALPHABET = string.ascii_letters + string.digits + "_-"
SECRETS = [Secret("ANTHROPIC_API_KEY", KEY), Secret("root token", SHORT)]
# The screens for the agent's own secrets and for those of others.
SCREEN = Screen(own=SECRETS)
OTHERS = Screen(SECRETS)


def stream_through(screen: Screen, parts: Iterable[str], unheld: int) -> str:
    """Return what a stream shows when it is fed these parts."""
    shown, held, done = [], "", 0
    for part in parts:
        given = held + part
        piece = screen.feed(given, shown=done, unheld=unheld)
        shown.append(piece.text)
        held, done = given[len(given) - piece.held :], piece.shown
    shown.append(screen.feed(held, shown=done, last=True, unheld=unheld).text)
    return "".join(shown)


def leaks(text: str, secret: str) -> list[str]:
    """Return the parts of 8 characters of the secret that occur in the text."""
    parts = (secret[start : start + 8] for start in range(len(secret) - 7))
    return [part for part in parts if part in text]


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        (f"KEY={KEY}\nHOME=/root", f"KEY={MARK}\nHOME=/root"),
        (f"{KEY}{KEY}", f"{MARK}{MARK}"),
        (f"{KEY[:14]}\n{KEY[14:]}", MARK),
        (f"{KEY[:9]}\r\n{KEY[9:]}", MARK),
        (json.dumps({"key": f"{KEY[:9]}\n{KEY[9:]}"}), f'{{"key": "{MARK}"}}'),
        (f"the password is {SHORT}.", "the password is [root token]."),
        (f"token {TOKEN}, and on", "token [VERS_AUTH_TOKEN], and on"),
        ("use reefop_" + "aB3-x_Y9" * 5 + "Zq7", "use [operator token]"),
        ("join reefjoin_" + "aB3-x_Y9" * 5 + "Zq7", "join [join token]"),
        ("http://reef/signin/" + "a1B2" * 8 + " in", "http://reef/signin/[sign-in link] in"),
        (f"it begins with {KEY[:10]}", f"it begins with {MARK}"),
        (f"{KEY[-10:]} is its end", f"{MARK} is its end"),
        (f"cut to {KEY[3:20]} in the middle", f"cut to {MARK} in the middle"),
        (f"the end of a text cuts {TOKEN[:11]}", "the end of a text cuts [VERS_AUTH_TOKEN]"),
        ("see reef_settings", "see reef_settings"),
        ("sk-ant- is how keys begin", "sk-ant- is how keys begin"),
    ],
)
def test_secrets_are_covered_and_nothing_else(text: str, covered: str) -> None:
    assert SCREEN.cover(text) == covered
    assert SCREEN.cover(covered) == covered


@pytest.mark.parametrize("secret", [KEY, SHORT, TOKEN])
@pytest.mark.parametrize("before", ["", "a", "ab", "HOME=/root\nKEY="])
@pytest.mark.parametrize("width", [0, 40, 76])
def test_base64_is_covered_in_each_alignment(secret: str, before: str, width: int) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(f"{before}{secret}\nLANG=C".encode()).decode()
        wrapped = "\n".join(textwrap.wrap(text, width)) if width else text
        covered = SCREEN.cover(f"$ base64\n{wrapped}\n$ ")
        assert "[" in covered
        data = re.sub(r"\[.*?\]|\s|\$ base64", "", covered)
        assert len(data) <= len(text) - len(secret), covered


def test_secret_split_into_two_or_three_pieces_is_covered() -> None:
    for secret, name in ((KEY, MARK), (SHORT, "[root token]"), (TOKEN, "[VERS_AUTH_TOKEN]")):
        text = f"it is {secret}, really"
        for first, second in itertools.combinations(range(len(text) + 1), 2):
            parts = [text[:first], text[first:second], text[second:]]
            assert stream_through(SCREEN, parts, 0) == f"it is {name}, really"
            shown = stream_through(SCREEN, parts, MAX_UNHELD_CHARS)
            assert not leaks(shown, secret)
            begun, _, rest = shown.partition(name)
            assert f"it is {secret[:MAX_UNHELD_CHARS]}".startswith(begun)
            assert rest == ", really"


def test_streamed_pieces_equal_the_covered_text() -> None:
    rng = random.Random(20261129)
    values = ["".join(rng.choices(ALPHABET, k=k)) for k in (8, 10, 15, 16, 17, 40, 51, 108)]
    screen = Screen([Secret(f"K{number}", value) for number, value in enumerate(values)])
    for _ in range(1500):
        text = "".join(_random_text(rng, values) for _ in range(rng.randint(1, 4)))
        whole = screen.feed(text, last=True).text
        assert stream_through(screen, _random_pieces(rng, text), 0) == whole
        shown = re.split(
            r"\[K\d\]", stream_through(screen, _random_pieces(rng, text), MAX_UNHELD_CHARS)
        )
        covered = re.split(r"\[K\d\]", whole)
        assert len(shown) == len(covered)
        for more, less in zip(shown, covered, strict=True):
            assert more.startswith(less)
            assert len(more) <= len(less) + MAX_UNHELD_CHARS


def _random_text(rng: random.Random, values: list[str]) -> str:
    value = rng.choice(values)
    kinds = [
        "".join(rng.choices(ALPHABET + " \n\\", k=rng.randint(0, 30))),
        value,
        value[: rng.randint(1, len(value))],
        value[rng.randint(1, len(value)) :],
        base64.b64encode(b"x" * rng.randint(0, 3) + value.encode()).decode(),
        "\n".join(textwrap.wrap(value, 9)),
        "\\n".join(textwrap.wrap(value, 9)),
    ]
    return rng.choice(kinds)


def _random_pieces(rng: random.Random, text: str) -> Iterable[str]:
    at = 0
    while at < len(text):
        size = rng.choice([1, 2, 3, 7, 40])
        yield text[at : at + size]
        at += size


def test_held_text_is_released_once_it_is_not_a_secret() -> None:
    piece = SCREEN.feed(f"it begins like {KEY[:12]}")
    assert piece.text == "it begins like "
    assert SCREEN.feed(KEY[:12] + "!", shown=piece.shown).text == KEY[:12] + "!"
    assert SCREEN.feed("some ordinary words").text == "some ordinary words"


def test_secrets_across_block_boundaries_are_covered() -> None:
    filler = "0123456789 abcdefghij\n" * 3000
    for offset in range(65_500, 65_545, 3):
        text = filler[:offset] + KEY + filler
        assert SCREEN.cover(text) == filler[:offset] + MARK + filler


def test_json_values_are_covered_with_their_keys() -> None:
    names: set[str] = set()
    value = {"arguments": {KEY: [1, None, f"echo {KEY}"]}, "n": 1.5, "ok": True}
    covered = SCREEN.cover_value(value, names)
    assert covered == {"arguments": {MARK: [1, None, f"echo {MARK}"]}, "n": 1.5, "ok": True}
    assert names == {"ANTHROPIC_API_KEY"}
    clean = {"text": "nothing here"}
    assert SCREEN.cover_value(clean) is clean


def test_private_key_is_covered_except_for_its_common_lines() -> None:
    rng = random.Random(7)
    lines = ["".join(rng.choices(ALPHABET, k=70)) for _ in range(5)]
    begin, end = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
    screen = Screen([Secret("KEY", "\n".join([begin, *lines, end]))])
    assert screen.cover(f"{begin}\n{lines[2]}\n{end}") == f"{begin}\n[KEY]\n{end}"
    whole = screen.cover("\n".join([begin, *lines, end]))
    assert whole == f"{begin}\n[KEY]\n{end}"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "test",
            "true",
            "secret1",
            "1234567",
            "password",
            "Password123",
            "changeme!",
            "aaaaaaaa1",
        ),
        *("20261129", "127.0.0.1:3000", "localhost", "production", "test-key", "my secret key"),
        *("db.internal.example.com", "https://api.example.com/v1", "anthropic/claude-sonnet-4"),
        *("ANTHROPIC_API_KEY", "abababababab"),
    ],
)
def test_short_and_common_values_are_not_covered(value: str) -> None:
    assert not is_distinctive(value)
    text = f"a text with {value} in it"
    assert Screen([Secret("KEY", value)]).cover(text) == text


@pytest.mark.parametrize(
    "value",
    [
        *(KEY, SHORT, TOKEN, "s3cretpw", "a-token-of-the-tests", "correct horse battery"),
        *("postgres://reef:pa55word@db/reef", "0123456789012345678", "sk-proj-Ab12Cd34"),
    ],
)
def test_distinctive_values_are_covered(value: str) -> None:
    assert is_distinctive(value)
    covered = Screen([Secret("KEY", value)]).cover(f"a text with {value} in it")
    assert covered == "a text with [KEY] in it"


def test_logs_show_no_secret(
    caplog: pytest.LogCaptureFixture, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_known", None)
    monkeypatch.setattr(sources, "_first", None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    logger = logging.getLogger("tests")
    try:
        raise ValueError(f"refused: {KEY}")
    except ValueError:
        logger.exception("token %s of %s", settings.ROOT_TOKEN, "ada")
    assert "token [root token] of ada" in caplog.text
    assert f"ValueError: refused: {MARK}" in caplog.text
    assert not leaks(caplog.text, KEY)


@pytest.mark.django_db
def test_changed_secrets_are_covered(client: Any, settings: Any) -> None:
    assert sources.current(recheck=True).cover(f"x {KEY}") == f"x {KEY}"
    headers = {"authorization": f"Bearer {settings.ROOT_TOKEN}"}
    body = {"value": KEY}
    url = "/vers-config/ANTHROPIC_API_KEY"
    client.put(url, body, content_type="application/json", headers=headers)
    screen = sources.current(recheck=True)
    assert screen.cover(f"x {KEY}") == f"x {MARK}"
    assert sources.current() is screen
    client.delete(url, headers=headers)
    assert sources.current(recheck=True).cover(f"x {KEY}") == f"x {MARK}", "agents have it still"


def test_keys_in_the_agents_own_files_are_covered(settings: Any, tmp_path: Path) -> None:
    settings.AGENT_CONFIG_DIR = tmp_path
    provider = {"apiKey": "ollama-9f8e7d6c5b4a", "baseUrl": "http://127.0.0.1:9/v1"}
    other = {"apiKey": "OPENAI_API_KEY"}
    models = {"providers": {"mine": provider, "other": other}}
    (tmp_path / "models.json").write_text(json.dumps(models))
    screen = Screen(sources.agent_secrets())
    text = "ollama-9f8e7d6c5b4a OPENAI_API_KEY http://127.0.0.1:9/v1"
    assert screen.cover(text) == "[mine key] OPENAI_API_KEY http://127.0.0.1:9/v1"
