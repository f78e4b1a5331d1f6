"""Several with one join token at the same moment, on both databases."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bootloader.join import reports
from bootloader.join import tokens as join_tokens
from bootloader.join.tokens import JoinFacts
from bootloader.models import BootReport, JoinRefusal, JoinToken, ReportStatus
from registry.models import VM
from tests.bootloader.join_clients import issue_join_token
from tests.bootloader.root_stack import RootStack
from tests.stack import TOKEN
from tests.vmtree.conftest import database
from tests.vmtree.test_races import run_concurrently
from vmtree import tokens
from vmtree.models import Node, NodeToken

__all__ = ["database"]
ROUNDS = 10
AT_ONCE = 6


def joins(token: str, nonce: str, given: list[str]) -> Callable[[], object]:
    def join() -> None:
        given.append(
            join_tokens.redeem(token, JoinFacts(hostname=nonce, nonce=nonce, remote=nonce))[1]
        )

    return join


def test_only_one_of_many_joins_succeeds(database: str) -> None:
    for number in range(ROUNDS):
        token, given = issue_join_token(f"vm-{number}"), list[str]()

        outcomes = run_concurrently(*(joins(token, f"n{each}", given) for each in range(AT_ONCE)))

        assert outcomes.count("done") == 1, outcomes
        assert len(given) == 1
        assert tokens.node_of(given[0]) == Node.objects.get(vm_id=f"vm-{number}")
        rest = [each for each in outcomes if each != "done"]
        assert all("this join token was used at" in each for each in rest), rest
        refused = JoinRefusal.objects.filter(token__vm_id=f"vm-{number}")
        assert refused.count() == AT_ONCE - 1
    assert (Node.objects.count(), VM.objects.count()) == (ROUNDS, ROUNDS)


def test_repeated_join_leaves_one_valid_token(database: str) -> None:
    for number in range(ROUNDS):
        token, given = issue_join_token(f"vm-{number}"), list[str]()

        outcomes = run_concurrently(*(joins(token, "mine", given) for _ in range(3)))

        assert outcomes == ["done"] * 3
        good = NodeToken.objects.good().filter(node__vm_id=f"vm-{number}")
        assert good.count() == 1
        assert good.get().digest in {tokens.digest_of(each) for each in given}
        row = JoinToken.objects.get(vm_id=f"vm-{number}")
        assert row.given_digest == good.get().digest


def test_join_with_a_token_revoked_meanwhile_is_consistent(database: str) -> None:
    for number in range(ROUNDS):
        token, given = issue_join_token(f"vm-{number}"), list[str]()

        outcomes = run_concurrently(
            joins(token, "mine", given), partial(join_tokens.revoke_unused, f"vm-{number}")
        )

        row = JoinToken.objects.get(vm_id=f"vm-{number}")
        assert (row.used_at is None) != (row.voided_at is None)
        assert (outcomes[0] == "done") == (row.used_at is not None) == bool(given)


def test_concurrent_reports_of_a_step_are_one_row(database: str) -> None:
    said = [
        reports.StepReport("r", "dns", status)
        for status in (ReportStatus.STARTED, ReportStatus.OK, ReportStatus.OK, ReportStatus.STARTED)
    ]
    for number in range(ROUNDS):
        acts = [
            lambda each=each, number=number: reports.record(f"vm-{number}", each) for each in said
        ]

        assert run_concurrently(*acts) == ["done"] * 4
    assert BootReport.objects.filter(status="ok").count() == ROUNDS
    assert BootReport.objects.count() == ROUNDS


@pytest.mark.rotated
@pytest.mark.timeout(180)
def test_slow_downloads_do_not_block_others(tmp_path: Path) -> None:
    """There are more downloads than web threads, and no client reads its response."""
    with RootStack(tmp_path) as roof:
        files = roof.client.get("/bootloader/dist/").json()["files"]
        slow = []
        for _ in range(30):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", roof.port))
            client.sendall(
                f"GET /bootloader/dist/{files[0]['name']} HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
            slow.append(client)
        assert all(client.recv(15) == b"HTTP/1.1 200 OK" for client in slow)

        assert roof.client.get("/health", timeout=10).status_code == 200

        for client in slow:
            client.close()
