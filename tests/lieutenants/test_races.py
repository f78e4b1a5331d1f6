"""Races of threads. SQLite admits one writer at a time; on PostgreSQL they are real."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections

from lieutenants.messages import delivery
from lieutenants.models import Lieutenant, Message, Move, Process
from lieutenants.states import MessageState, Mode, Status
from reef_site.common.errors import LostRace

ROUNDS = 50

pytestmark = pytest.mark.django_db(transaction=True)


def race(*works: Callable[[], Any]) -> list[Any]:
    """Start all functions at the same moment; return their results."""
    start = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

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


def mover(lieutenant: Lieutenant, to: Status) -> Callable[[], bool]:
    row = Lieutenant.objects.get(pk=lieutenant.pk)

    def work() -> bool:
        try:
            row.move(to, reason="race")
        except LostRace:
            return False
        return True

    return work


def decider(message: Message, *, accepted: bool) -> Callable[[], bool]:
    evidence = {"accepted": accepted}
    return lambda: delivery.decide(
        message.pk, accepted=accepted, evidence=evidence, at=message.created_at
    )


def test_one_of_two_concurrent_transitions_wins(redis_server: str) -> None:
    lieutenant = Lieutenant.objects.create(name="ada", role="r", status=Status.IDLE)
    for _ in range(ROUNDS):
        Lieutenant.objects.filter(pk=lieutenant.pk).update(status=Status.IDLE)
        Move.objects.all().delete()
        won = race(mover(lieutenant, Status.PAUSED), mover(lieutenant, Status.WORKING))
        assert sorted(won) == [False, True]
        move = Move.objects.get()
        winner = (Status.PAUSED, Status.WORKING)[won.index(True)]
        assert (move.old, move.new) == (Status.IDLE, winner)
        assert Lieutenant.objects.get().status == winner


def test_one_of_two_concurrent_claims_gets_the_lease() -> None:
    lieutenant = Lieutenant.objects.create(name="ada", role="r")
    for _ in range(ROUNDS):
        Lieutenant.objects.update(leased_until=None)

        def claim() -> bool:
            return Lieutenant.objects.claim(lieutenant.pk, timedelta(minutes=1)) is not None

        assert sorted(race(claim, claim, claim)) == [False, False, True]


def test_one_of_two_concurrent_decisions_is_stored() -> None:
    lieutenant = Lieutenant.objects.create(name="ada", role="r")
    for _ in range(ROUNDS):
        message = Message.objects.create(
            lieutenant=lieutenant, text="x", mode=Mode.PROMPT, mode_asked=Mode.PROMPT
        )

        won = race(decider(message, accepted=True), decider(message, accepted=False))
        assert sorted(won) == [False, True]
        message.refresh_from_db()
        accepted = won.index(True) == 0
        assert message.evidence == {"accepted": accepted}
        assert message.state == (MessageState.ACCEPTED if accepted else MessageState.REJECTED)


def test_lieutenant_cannot_have_two_live_processes() -> None:
    lieutenant = Lieutenant.objects.create(name="ada", role="r")

    def launch() -> bool:
        row = Process(lieutenant=lieutenant, host="h", transport="local", directory="/nowhere")
        try:
            row.save(force_insert=True)
        except IntegrityError:
            return False
        return True

    for _ in range(ROUNDS // 5):
        Process.objects.all().delete()
        assert sorted(race(launch, launch)) == [False, True]
