"""Scripts over SSH work the same with every login shell and whatever it prints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootloader.exceptions import ShellRefused
from bootloader.providers.ssh import shell
from tests.bootloader import overlay_machine
from tests.bootloader.login_shells import ACCOUNTS, Accounts
from tests.bootloader.provisioning_stack import BARE
from tests.stack import Stack
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(
        not overlay_machine.is_supported(), reason="a machine to throw away takes root"
    ),
    pytest.mark.timeout(600),
]

GOOD = [account.name for account in ACCOUNTS if account.runs_scripts]
REFUSING = {"refuses": "This account is currently not available", "told": "Ask Anna for access"}
# With quotes, spaces and characters that are special in some shells.
SCRIPT = """
printf 'one\\ntwo without an end'
echo "it's ! \\$HOME * ~" >&2
pwd >&2
exit 7
"""
HOST = """
from bootloader.models import SshHost
for name, port in {ports!r}.items():
    host = SshHost(name=name, address="127.0.0.1", port=port, user=name)
    host.set_key({key!r})
    host.save()
"""


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with Accounts(tmp_path_factory.mktemp("accounts")) as found:
        yield found


@pytest.mark.parametrize("name", GOOD)
def test_script_returns_only_its_own_output_and_status(accounts: Accounts, name: str) -> None:
    with shell.connect(accounts.login(name)) as session:
        ran = session.script(SCRIPT, timeout=20)
        empty = session.script("true", timeout=20)
    assert (ran.exit_status, ran.output) == (7, b"one\ntwo without an end")
    assert ran.errors.decode() == f"it's ! $HOME * ~\n/home/{name}\n"
    assert (empty.exit_status, empty.output) == (0, b"")


@pytest.mark.parametrize("name", GOOD)
def test_file_is_written_completely_below_the_home(accounts: Accounts, name: str) -> None:
    data = os.urandom(300_000)
    with shell.connect(accounts.login(name)) as session:
        session.put(".reef-boot/it's a file", data, 0o640)
        session.put(".reef-boot/empty", b"", 0o600)
        seen = session.script('cat ".reef-boot/it\'s a file"', timeout=20)
        names = session.script("cd ~/.reef-boot && ls && cat empty; rm -r ~/.reef-boot", timeout=20)
    assert seen.output == data
    assert names.output == b"empty\nit's a file\n"


@pytest.mark.parametrize(("name", "words"), REFUSING.items())
def test_message_of_an_account_without_shell_is_quoted(
    accounts: Accounts, name: str, words: str
) -> None:
    login = accounts.login(name)
    with shell.connect(login) as session, pytest.raises(ShellRefused, match=words):
        session.script("true", timeout=20)
    with shell.connect(login) as session, pytest.raises(ShellRefused, match=words):
        session.put("file", b"x" * 100_000, 0o600)


@pytest.mark.thorough
def test_provisioning_works_with_every_login_shell(accounts: Accounts, tmp_path: Path) -> None:
    with Stack(tmp_path, REEF_PROVISION_AT_ONCE="10") as stack:
        stack.env["VERS_INFRA_URL"] = f"http://127.0.0.1:{stack.port}"
        stack.manage("shell", "-c", BARE)
        stack.manage("shell", "-c", HOST.format(ports=accounts.ports, key=accounts.key))
        # The provider chooses a host for each of them.
        asked = [_provision(stack, f"vm-{number}") for number in range(len(ACCOUNTS))]
        ended = [_wait(stack, key) for key in asked]
        came_up = [_log(stack, each["id"]) for each in ended if each["state"] == "done"]
        failed = [each["reason"] for each in ended if each["state"] == "failed"]
    users = [re.search(r"identity: (\w+)@", log) for log in came_up]
    assert sorted(found[1] for found in users if found) == sorted(GOOD), failed
    for words in REFUSING.values():
        assert [why for why in failed if why.startswith("wait for SSH") and words in why], failed


def _provision(stack: Stack, name: str) -> str:
    body = {"name": name, "type": "bare", "provider": "ssh"}
    answer = stack.client.post("/bootloader/provision", json={**body, "onFailure": "keep"})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["provisioning"]["id"]
    return found


def _wait(stack: Stack, key: str) -> dict[str, str]:
    def ended() -> dict[str, str] | None:
        found: dict[str, str] = stack.client.get(f"/bootloader/provisionings/{key}").json()[
            "provisioning"
        ]
        return found if found["state"] in ("done", "failed") else None

    found: dict[str, str] = until(ended, 180)
    return found


def _log(stack: Stack, key: str) -> str:
    lines = stack.client.get(f"/bootloader/provisionings/{key}/log?limit=1000").json()["lines"]
    return "\n".join(f"{line['step'] or ''}: {line['text']}" for line in lines)
