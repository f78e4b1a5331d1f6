"""Streams end when session or account no longer allow them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from reef_site.edge import revocation
from tests.reef_site.account_helpers import browser, change, create_account, sign_in, sign_out
from tests.stack import EVENT_STREAM, Stack, pause
from tests.waiting import until
from vmtree import tokens

# It takes less than a second, but other tests may slow down the machine.
LIMIT_SECONDS = 5.0
LIEUTENANTS = "/lieutenant/lieutenants"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("sessions")) as stack:
        stack.create("heard")
        yield stack


class Stream:
    """An open stream; `ended_at` is set when the server ends it."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.ended_at = 0.0
        self.is_open = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(client, path), daemon=True)
        self._thread.start()
        assert self.is_open.wait(10)

    def _read(self, client: httpx.Client, path: str) -> None:
        with client.stream("GET", path, headers=EVENT_STREAM, timeout=30) as answer:
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                self.is_open.set()
        self.ended_at = time.monotonic()

    def seconds_until_end(self, since: float) -> float:
        until(lambda: self.ended_at, 10)
        return self.ended_at - since


def signed_in(stack: Stack, name: str) -> httpx.Client:
    create_account(stack, name)
    client = browser(stack)
    assert sign_in(client, name).status_code == 302
    return client


def by_sql(statement: str) -> Callable[[Stack, httpx.Client, str], None]:
    return lambda stack, _client, name: change(stack, statement, name)


ENDINGS: dict[str, Callable[[Stack, httpx.Client, str], None]] = {
    "signed-out": lambda _stack, client, _name: sign_out(client),
    "deactivated": by_sql("UPDATE auth_user SET is_active = 0 WHERE username = ?"),
    "deleted": by_sql("DELETE FROM auth_user WHERE username = ?"),
    "no-superuser": by_sql("UPDATE auth_user SET is_superuser = 0 WHERE username = ?"),
    "no-staff": by_sql("UPDATE auth_user SET is_staff = 0 WHERE username = ?"),
    "other-password": by_sql("UPDATE auth_user SET password = 'another' WHERE username = ?"),
}


@pytest.mark.rotated
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("path", ["/events", "/lieutenant/lieutenants/heard/stream"])
def test_a_stream_ends_within_a_second(stack: Stack, ending: str, path: str) -> None:
    name = f"{ending}-{'listing' if path == '/events' else 'transcript'}"
    client, bystander = signed_in(stack, name), signed_in(stack, f"bystander-{name}")
    stream, other = Stream(client, path), Stream(bystander, path)
    # The account must have been checked once before it changes.
    pause(2 * revocation.INTERVAL_SECONDS)

    began = time.monotonic()
    ENDINGS[ending](stack, client, name)

    assert stream.seconds_until_end(began) < LIMIT_SECONDS
    assert not other.ended_at
    sign_out(bystander)
    assert other.seconds_until_end(time.monotonic()) < LIMIT_SECONDS


@pytest.mark.parametrize("way", ["deleted", "expired"])
def test_a_stream_ends_with_its_session(stack: Stack, way: str) -> None:
    client = signed_in(stack, f"session-{way}")
    stream = Stream(client, "/events")

    began = time.monotonic()
    if way == "deleted":
        change(stack, "DELETE FROM django_session WHERE session_key LIKE ?", "s%")
    else:
        change(stack, "UPDATE django_session SET expire_date = ?", "2026-01-01 00:00:00")

    assert stream.seconds_until_end(began) < LIMIT_SECONDS


def test_a_stream_ends_while_redis_is_down(stack: Stack) -> None:
    client = signed_in(stack, "without-redis")
    stream = Stream(client, "/events")
    stack.kill("redis")
    try:
        began = time.monotonic()
        change(stack, "UPDATE auth_user SET is_active = 0 WHERE username = ?", "without-redis")

        assert stream.seconds_until_end(began) < LIMIT_SECONDS
    finally:
        stack.start("redis")


def test_many_streams_of_one_session_end_together(stack: Stack) -> None:
    client = signed_in(stack, "many")
    streams = [Stream(client, "/events") for _ in range(40)]

    began = time.monotonic()
    sign_out(client)

    assert max(stream.seconds_until_end(began) for stream in streams) < LIMIT_SECONDS


def test_streams_end_when_an_operator_token_is_revoked(stack: Stack) -> None:
    columns = "name, digest, scope, made_at, made_by, revoked_by, last_address"
    for name in ("ended", "kept"):
        digest = tokens.digest_of(f"reefop_{name}")
        statement = f"INSERT INTO vmtree_operatortoken ({columns}) VALUES (?, ?, ?, ?, '', '', '')"
        change(stack, statement, name, digest, "read", "2026-01-01 00:00:00")
    ended, kept = (
        httpx.Client(
            base_url=stack.client.base_url, headers={"authorization": f"Bearer reefop_{name}"}
        )
        for name in ("ended", "kept")
    )
    with ended, kept:
        streams = [Stream(ended, path) for path in ("/events", f"{LIEUTENANTS}/heard/stream")]
        bystander = Stream(kept, "/events")

        began = time.monotonic()
        statement = "UPDATE vmtree_operatortoken SET revoked_at = ? WHERE name = ?"
        change(stack, statement, "2026-01-02 00:00:00", "ended")

        assert max(stream.seconds_until_end(began) for stream in streams) < LIMIT_SECONDS
        assert not bystander.ended_at
        # A body is read for a valid token only, and refused by its scope.
        new = {"name": "new", "role": "r", "local": True}
        assert ended.post(LIEUTENANTS, json=new).status_code == 401
        assert kept.post(LIEUTENANTS, json=new).status_code == 403
        change(stack, "DELETE FROM vmtree_operatortoken WHERE name = ?", "kept")
        assert bystander.seconds_until_end(time.monotonic()) < LIMIT_SECONDS


def test_stream_ends_when_lieutenant_leaves_subtree(stack: Stack) -> None:
    for vm_id in ("reader", "elsewhere"):
        body = {"name": vm_id, "category": "swarm_vm", "vmId": vm_id}
        stack.client.post("/vm-tree/vms", json=body).raise_for_status()
    token = stack.client.post("/vm-tree/vms/reader/token").json()["token"]
    stack.create("moved", parentVmId="reader")
    stack.create("kept", parentVmId="reader")
    with httpx.Client(
        base_url=stack.client.base_url, headers={"authorization": f"Bearer {token}"}
    ) as client:
        moved = Stream(client, "/lieutenant/lieutenants/moved/stream")
        others = [
            Stream(client, "/lieutenant/lieutenants/kept/stream"),
            Stream(client, "/events"),
            Stream(stack.client, "/lieutenant/lieutenants/moved/stream"),
        ]

        began = time.monotonic()
        path = f"/vm-tree/vms/{stack.get('moved')['id']}"
        stack.client.patch(path, json={"parentVmId": "elsewhere"}).raise_for_status()

        assert moved.seconds_until_end(began) < LIMIT_SECONDS
        refused = client.get("/lieutenant/lieutenants/moved/stream")
        assert refused.status_code == 403
        pause(2 * revocation.INTERVAL_SECONDS)
        assert not any(other.ended_at for other in others)
        stack.client.delete("/vm-tree/vms/reader/token").raise_for_status()
        assert others[0].seconds_until_end(time.monotonic()) < LIMIT_SECONDS
