"""Several answers at once. SQLite admits one writer at a time; on PostgreSQL the race is real."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connections
from django.utils import timezone

from lieutenants.models import Question
from lieutenants.questions import deadlines, services
from lieutenants.questions.exceptions import AlreadyDecided, TooManyOpen
from lieutenants.questions.states import MAX_OPEN
from reef_site.api.authentication import Caller
from tests.lieutenants.questions.test_questions_api import confirmation
from tests.lieutenants.rows import enlist
from vmtree import services as tree
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db(transaction=True)


def _race(works: list[Callable[[], bool]]) -> list[bool]:
    """Start all functions at the same moment; return their results."""
    start, results = threading.Barrier(len(works)), [False] * len(works)

    def run(number: int) -> None:
        try:
            start.wait(10)
            results[number] = works[number]()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_one_of_several_answers_at_once_wins(database: str) -> None:
    row = enlist("ada")
    for _ in range(10):
        question = confirmation(row, deadline=timezone.now())

        def answer(value: bool, pk: str = question.pk) -> bool:
            try:
                services.answer(pk, value, actor=f"says {value}")
            except AlreadyDecided:
                return False
            return True

        def expire() -> bool:
            return deadlines.decide_overdue() == 1

        won = _race([lambda: answer(True), lambda: answer(False), expire])
        assert sum(won) == 1
        question.refresh_from_db()
        expected = [(True, "says True"), (False, "says False"), (None, "reef")]
        assert (question.answer, question.decided_by) == expected[won.index(True)]


def test_questions_at_once_do_not_exceed_the_limit(database: str) -> None:
    row = enlist("ada")
    node = tree.create(NewNode("ada", "lieutenant", row.pk), by="tests")
    caller = Caller("node ada", node)
    for _ in range(MAX_OPEN - 1):
        services.ask(caller, "Deploy now?")

    def ask() -> bool:
        try:
            services.ask(caller, "And now?")
        except TooManyOpen:
            return False
        return True

    assert sum(_race([ask] * 6)) == 1
    assert Question.objects.open().count() == MAX_OPEN
