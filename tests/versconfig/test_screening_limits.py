"""Screening tells nobody a secret, and nobody can blank out other people's texts with it."""

from __future__ import annotations

import base64
import json
import logging
import random
import textwrap
import time
from collections.abc import Iterable
from typing import Any

import pytest
from django.db import connection, transaction

from bootloader.join import reports
from tests.conftest import Api
from tests.versconfig.conftest import plant
from tests.versconfig.test_api import as_node, put
from tests.versconfig.test_screening import ALPHABET, KEY, MARK, OTHERS, SHORT, stream_through
from versconfig.models import Version
from versconfig.screening import log_records, sources, stored
from versconfig.screening.screen import Screen, Secret
from versconfig.services import build_change
from versconfig.services import put as put_setting


@pytest.fixture(autouse=True)
def _fresh_screens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the caches, as in a process that has not read secrets yet."""
    monkeypatch.setattr(sources, "_known", None)
    monkeypatch.setattr(sources, "_first", None)
    monkeypatch.setattr(stored, "_newest_by_nodes", (float("-inf"), None))
    monkeypatch.setattr(log_records, "_refreshed_at", float("-inf"))


# -- no oracle for guesses -----------------------------------------------------------------------


def guesses(secret: str) -> Iterable[tuple[str, str]]:
    """Yield pairs of texts: with a correct guess of some characters, and with a wrong one."""
    for length in range(8, len(secret) - 1):
        right, wrong = secret[:length], secret[: length - 1] + "~"
        for before, after in (("", ""), ("it is ", ""), ("it is ", " or not")):
            yield f"{before}{right}{after}", f"{before}{wrong}{after}"
        yield secret[-length:] + " is it", "~" + secret[1 - length :] + " is it"


def test_guesses_of_others_secrets_are_shown_unchanged() -> None:
    for secret in (KEY, SHORT):
        for right, wrong in guesses(secret):
            assert OTHERS.cover(right) == right
            assert OTHERS.cover(wrong) == wrong
            assert OTHERS.cover_value({"text": right}) == {"text": right}
    coded = base64.b64encode(KEY.encode()).decode()
    assert OTHERS.cover(f"x {coded[:24]}") == f"x {coded[:24]}"


def test_streams_treat_correct_and_wrong_guesses_equally() -> None:
    for secret in (KEY, SHORT):
        for length in range(4, len(secret)):
            right = OTHERS.feed(f"it is {secret[:length]}")
            wrong = OTHERS.feed(f"it is {secret[: length - 1]}~")
            assert (right.text, right.held, right.shown) == (wrong.text, wrong.held, wrong.shown)


@pytest.mark.parametrize(
    "text",
    [
        f"KEY={KEY}\nHOME=/root",
        "\n".join(textwrap.wrap(KEY, 5)),
        json.dumps("\n".join(textwrap.wrap(KEY, 5))),
        base64.b64encode(f"k={KEY}\n".encode()).decode(),
        "\n".join(textwrap.wrap(base64.b64encode(f"HOME=/\n{KEY}\n".encode()).decode(), 20)),
    ],
)
def test_whole_secrets_of_others_are_covered(text: str) -> None:
    covered = OTHERS.cover(text)
    assert covered.count(MARK) == 1
    assert KEY[:12] not in covered
    for size in (1, 2, 5, 13):
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        assert stream_through(OTHERS, parts, 0) == covered
        shown = stream_through(OTHERS, parts, 3)
        assert shown.count(MARK) == 1
        assert KEY[:4] not in shown


def test_held_text_ends_with_the_word() -> None:
    assert OTHERS.feed("it begins sk-or-so").text == "it begins "
    assert OTHERS.feed("it begins sk-or-so, and").text == "it begins sk-or-so, and"


def test_long_values_are_covered_in_pieces_and_marked_once() -> None:
    rng = random.Random(3)
    value = "".join(rng.choices(ALPHABET, k=3000))
    screen = Screen([Secret("KEY", value)])
    assert screen.cover(f"a {value} b") == "a [KEY] b"
    assert screen.cover(f"a {value[:100]} b") == f"a {value[:100]} b"


def test_reports_of_vms_do_not_confirm_guesses(api: Api, db: None) -> None:
    put(api, "ANTHROPIC_API_KEY", KEY)
    plant("web")
    for guess in (KEY[:-1], KEY[:16], KEY[4:26]):
        assert reports.masked_tail("web", f"guess {guess}") == f"guess {guess}"
    assert reports.masked_tail("web", f"key {KEY}") == f"key {MARK}"


def test_only_an_agents_own_secrets_are_covered_in_fragments(api: Api, db: None) -> None:
    put(api, "ANTHROPIC_API_KEY", KEY)
    version = Version.objects.get().pk
    given = sources.for_node("ada", [version], is_agent=True, recheck=True)
    other = sources.for_node("bea", [], is_agent=True)
    text = f"cut {KEY[:20]}"
    assert given.cover(text) == f"cut {MARK}"
    assert other.cover(text) == text
    assert other.cover(f"whole {KEY}") == f"whole {MARK}"


# -- secrets of nodes do not affect others --------------------------------------------------------


def test_secret_of_a_node_is_covered_only_in_its_subtree(api: Api, database: str) -> None:
    plant("root")
    web, low = plant("web", "root"), plant("low", "web")
    word = "/usr/lib/python3/dist-packages/django"
    assert put(as_node(web), "OPENAI_API_KEY", word, scope="subtree", vm="web").status_code == 200
    text = f"in {word}"
    for vm_id, covered in (("web", "in [OPENAI_API_KEY]"), (low.vm_id, "in [OPENAI_API_KEY]")):
        assert sources.for_node(vm_id, recheck=True).cover(text) == covered
    for vm_id in ("root", "nobody"):
        assert sources.for_node(vm_id, recheck=True).cover(text) == text
    assert sources.current(recheck=True).cover(text) == text


def test_many_changes_do_not_evict_current_secrets(
    api: Api, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(api, "ANTHROPIC_API_KEY", KEY)
    put(api, "GROQ_API_KEY", "gsk-older-0123456789")
    put(api, "GROQ_API_KEY", "gsk-newer-0123456789")
    monkeypatch.setattr(stored, "MAX_OLD", 3)
    for number in range(50):
        put_setting(build_change("OPENAI_API_KEY", f"sk-proj-{number:04}-abcdef"), by="tests")
    screen = sources.current(recheck=True)
    text = f"{KEY} gsk-older-0123456789 sk-proj-0049-abcdef sk-proj-0047-abcdef"
    marks = "[ANTHROPIC_API_KEY] [GROQ_API_KEY] [OPENAI_API_KEY] [OPENAI_API_KEY]"
    assert screen.cover(text) == marks
    assert screen.cover("sk-proj-0003-abcdef") == "sk-proj-0003-abcdef"


def test_change_of_one_value_among_many_is_applied_quickly() -> None:
    rng = random.Random(9)
    known = [Secret(f"K{n}", "".join(rng.choices(ALPHABET, k=100))) for n in range(200)]
    Screen(known)
    taken = []
    for number in range(5):
        new = Secret("NEW", "".join(rng.choices(ALPHABET, k=512)))
        begun = time.process_time()
        Screen([new, *known[number:]], own=[new])
        taken.append(time.process_time() - begun)
    # Without the cache it takes more than ten times as long.
    assert min(taken) < 0.05


def test_reading_secrets_does_not_block_others(db: None) -> None:
    inside: list[bool] = []

    def secrets() -> list[Secret]:
        inside.append(sources._lock.locked())
        return []

    slow = sources.Source(lambda: len(inside), secrets)
    with sources.secret_sources.changed({"slow": slow}):
        sources.current(recheck=True)
    assert inside == [False]


# -- logs ----------------------------------------------------------------------------------------


def test_logs_cover_a_secret_stored_just_now(api: Api, db: None, caplog: Any) -> None:
    put(api, "ANTHROPIC_API_KEY", KEY)
    sources._known = None
    logging.getLogger("tests").warning("refused: %s", KEY)
    assert f"refused: {MARK}" in caplog.text
    assert KEY not in caplog.text


def test_logs_reread_secrets_only_every_few_seconds(
    db: None, caplog: Any, django_assert_num_queries: Any
) -> None:
    logger = logging.getLogger("tests")
    logger.warning("one")
    with django_assert_num_queries(0):
        for _ in range(20):
            logger.warning("another")


def test_logging_in_a_broken_transaction_runs_no_query(
    db: None, caplog: Any, django_assert_num_queries: Any
) -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with django_assert_num_queries(0):
            logging.getLogger("tests").warning("said in a broken transaction")
        transaction.set_rollback(False)
    assert "said in a broken transaction" in caplog.text
    assert not connection.needs_rollback


def test_reading_secrets_while_logging_may_log(db: None, caplog: Any) -> None:
    asked = []

    def secrets() -> list[Secret]:
        asked.append(1)
        logging.getLogger("tests").warning("cannot read one of them")
        return []

    loud = sources.Source(lambda: len(asked), secrets)
    with sources.secret_sources.changed({"loud": loud}):
        logging.getLogger("tests").warning("the line itself")
    assert len(asked) == 1
    assert "the line itself" in caplog.text
    assert "cannot read one of them" in caplog.text
