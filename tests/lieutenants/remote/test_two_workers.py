"""Workers that die, freeze and come back while agents on VMs speak: each word is stored once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lieutenants.hosts import takeover
from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Message, Process
from lieutenants.states import MessageState, Outcome
from tests.bootloader.ssh_servers import Sshd
from tests.conftest import Api
from tests.lieutenants.remote.two_workers import Pair
from tests.stack import pause
from tests.waiting import until

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(600)]

# Speaks until it may end, and keeps what it has said.
SPEAKS = """
import os, sys, time
with open("said", "a") as copy:
    number = 0
    while not os.path.exists("end"):
        for file in (copy, sys.stdout):
            file.write("%s äöü %d; " % (os.environ["REEF_MESSAGE_ID"][-6:], number))
            file.flush()
        number += 1
        time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(
    params=[
        pytest.param((6, 3), id="6"),
        pytest.param((50, 10), marks=pytest.mark.thorough, id="50"),
    ]
)
def pair(
    request: pytest.FixtureRequest,
    api: Api,
    postgres: object,
    redis_server: str,
    tmp_path: Path,
) -> Iterator[Pair]:
    sessions, machines = request.param
    # One sshd at several addresses looks like several machines.
    addresses = [f"127.0.0.{number}" for number in range(1, machines + 1)]
    home = tmp_path / "home"
    home.mkdir()
    sshd = Sshd(tmp_path / "sshd", SetEnv=f"HOME={home}", ListenAddress=addresses)
    pair = Pair(api, sshd, home, tmp_path, addresses)
    try:
        pair.start()
        for number in range(sessions):
            command = ["python3", "-c", SPEAKS, "0.03" if sessions < 10 else "0.25"]
            pair.create(f"far-{number}", number % machines, command)
        yield pair
    finally:
        pair.close()
        sshd.stop()


def grows(names: list[str]) -> None:
    """Wait until more of each answer is stored."""
    last = {name: stored(name) for name in names}
    until(lambda: all(stored(name) > last[name] for name in names), 60)


def stored(name: str) -> int:
    chunks = Chunk.objects.filter(lieutenant__name=name).order_by("-id").values_list("rev")
    return int(chunks[0][0]) if chunks else 0


@pytest.mark.rotated
def test_nothing_is_lost_or_doubled_by_workers_that_die_and_freeze(pair: Pair) -> None:
    first, second = pair.workers
    rows = Lieutenant.objects.active()
    names = list(rows.values_list("name", flat=True))
    until(lambda: rows.filter(status="idle").count() == len(names), 120)
    until(lambda: first.followed() and second.followed(), 60)
    for name in names:
        pair.send(name, f"speak, {name}")
        pair.send(name, f"and then, {name}")
    grows(names)

    second.kill()
    second.fall_silent()
    until(lambda: first.followed() == len(names), 60)
    grows(names)

    second.start()
    until(second.followed, 90)
    grows(names)

    # The longer it stays frozen, the older is what it believes when it goes on.
    first.freeze_in_transaction()
    pause(takeover.FROZEN_SECONDS)
    first.fall_silent()
    until(lambda: second.followed() == len(names), 60)
    grows(names)
    first.signal(signal.SIGCONT)
    until(first.is_following, 60)
    pause(1.0)
    grows(names)

    for name in names:
        (pair.workspace(name) / "end").touch()
    until(lambda: not Message.objects.pending().exists(), 60)
    until(lambda: rows.filter(status="idle").count() == len(names), 60)
    assert pair.strangers() == []
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}
    assert not Chunk.objects.exists()
    for name in names:
        answers = Answer.objects.filter(lieutenant__name=name).order_by("id")
        assert {each.outcome for each in answers} == {Outcome.COMPLETED}
        said = (pair.workspace(name) / "said").read_text()
        assert "".join(each.text for each in answers) == said
        users = Entry.objects.filter(lieutenant__name=name, kind=Entry.Kind.USER).order_by("id")
        assert [each.text for each in users] == [f"speak, {name}", f"and then, {name}"]
    assert Process.objects.count() == len(names), "no agent was started again"
