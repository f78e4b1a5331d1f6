"""X-Forwarded-For counts only from a trusted proxy, for limits, sign-in and audit."""

from __future__ import annotations

import ipaddress
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import pytest

from reef_site.edge.client_addresses import TrustedProxies
from tests.reef_site.account_helpers import browser, create_account, sign_in
from tests.stack import EVENT_STREAM, Stack
from tests.waiting import until

PROXIES = TrustedProxies(map(ipaddress.ip_network, ("127.0.0.1/32", "10.0.0.0/8", "::1/128")))
CLIENT = {"x-forwarded-for": "203.0.113.7"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "REEF_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
        "REEF_MAX_CONNECTIONS_PER_ADDRESS": "3",
    }
    with Stack(tmp_path_factory.mktemp("proxied"), **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("direct")) as stack:
        yield stack


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [b"203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", [b"198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", [b"198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        ("127.0.0.1", [b"198.51.100.1", b"203.0.113.7", b"10.1.2.3"], "203.0.113.7"),
        ("127.0.0.1", [b"10.1.2.4, 10.1.2.3"], "10.1.2.4"),
        ("127.0.0.1", [b"203.0.113.7:4711"], "203.0.113.7"),
        ("::1", [b"[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:127.0.0.1", [b"::ffff:203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", [b"203.0.113.7, unknown, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", [b"\xff\xfe"], "127.0.0.1"),
        ("127.0.0.2", [b"203.0.113.7"], "127.0.0.2"),
        ("198.51.100.1", [b"203.0.113.7"], "198.51.100.1"),
        ("", [b"203.0.113.7"], ""),
    ],
)
def test_the_client_is_the_last_hop_that_is_not_trusted(
    peer: str, forwarded: list[bytes], client: str
) -> None:
    assert PROXIES.client(peer, forwarded) == client


def addresses_in_audit(stack: Stack) -> set[str]:
    with closing(sqlite3.connect(stack.data / "db.sqlite3", timeout=20)) as database:
        return {row[0] for row in database.execute("SELECT address FROM audit_record")}


@pytest.mark.rotated
def test_audit_shows_address_from_trusted_proxy(stack: Stack) -> None:
    with browser(stack, **CLIENT) as client:
        sign_in(client, "nobody", "wrong")
        client.post("/registry/vms/x/heartbeat", headers={"authorization": "Bearer nope"})

    until(lambda: addresses_in_audit(stack) == {"203.0.113.7"}, 5)


def test_client_of_proxy_cannot_block_others(stack: Stack) -> None:
    create_account(stack, "owner")
    with browser(stack, **CLIENT) as guesser:
        answers = [sign_in(guesser, f"name-{number}", "x").status_code for number in range(32)]
    assert answers[-1] == 429

    with browser(stack, **{"x-forwarded-for": "203.0.113.8"}) as owner:
        assert sign_in(owner, "owner").status_code == 302


@pytest.mark.rotated
def test_untrusted_forwarded_header_is_ignored(direct: Stack) -> None:
    with browser(direct, **CLIENT) as client:
        sign_in(client, "nobody", "wrong")

    assert addresses_in_audit(direct) == {"127.0.0.1"}


def test_requests_through_a_proxy_count_for_their_client(stack: Stack) -> None:
    with ExitStack() as opened:
        for _ in range(3):
            stream = stack.client.stream(
                "GET", "/events", headers={**CLIENT, **EVENT_STREAM}, timeout=20
            )
            assert opened.enter_context(stream).status_code == 200

        refused = stack.client.get("/health", headers=CLIENT)
        assert refused.status_code == 429
        assert refused.json() == {"error": "too many connections from your address"}
        other = {"x-forwarded-for": "203.0.113.8"}
        assert stack.client.get("/health", headers=other).status_code == 200
        assert stack.client.get("/health").status_code == 200

    def is_counted_again() -> bool:
        return stack.client.get("/health", headers=CLIENT).status_code == 200

    until(is_counted_again, 10)


@pytest.mark.rotated
def test_a_forged_hop_does_not_evade_limits(stack: Stack) -> None:
    forged = {"x-forwarded-for": "192.0.2.99, 203.0.113.9"}
    with ExitStack() as opened:
        for number in range(3):
            headers = {"x-forwarded-for": f"192.0.2.{number}, 203.0.113.9"}
            stream = stack.client.stream(
                "GET", "/events", headers={**headers, **EVENT_STREAM}, timeout=20
            )
            assert opened.enter_context(stream).status_code == 200

        answer = httpx.get(f"{stack.client.base_url}/health", headers=forged, timeout=20)
        assert answer.status_code == 429
