"""Hosts of the operator's own: taken, reached, given back, and honest about what they cannot do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.urls import reverse

from bootloader import providers
from bootloader.exceptions import (
    NoHostFree,
    NoSuchMachine,
    ProviderRefused,
    ShellBusy,
    ShellRefused,
    UnsupportedOperation,
)
from bootloader.inventory import machines
from bootloader.models import HostClaim, Provisioning, SshHost
from bootloader.providers.base import Ability, MachineState, Spec
from bootloader.providers.ssh import hosts as ssh_hosts
from bootloader.providers.ssh import shell
from bootloader.providers.ssh.connect import connect_machine
from lieutenants.models import Lieutenant
from reef_site.common import clock
from tests.bootloader.ssh_servers import Sshd, free_port, keygen
from tests.waiting import until
from versconfig import checks, vault

pytestmark = pytest.mark.django_db
ssh = providers.get("ssh")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


def host(name: str, **facts: Any) -> SshHost:
    row = SshHost(name=name, **{"address": f"{name}.invalid", **facts})
    row.save()
    return row


def real(sshd: Sshd, name: str = "real", key: str | None = None) -> SshHost:
    row = SshHost(name=name, address="127.0.0.1", port=sshd.port, user=sshd.login().user)
    row.set_key(sshd.key if key is None else key)
    row.save()
    return row


def test_host_is_claimed_reached_and_released(sshd: Sshd) -> None:
    row = real(sshd)
    machine = ssh.create(Spec(name="anna", labels={"a": "b"}))
    assert (machine.name, machine.labels) == ("anna", {"a": "b"})
    assert ssh.state(machine.id).state is MachineState.RUNNING
    assert [each.id for each in ssh.list()] == [machine.id]
    assert ssh.address(machine.id) == "127.0.0.1"
    with connect_machine(ssh, machine.id) as shell:
        assert shell.run("echo there", timeout=10).output == b"there\n"

    ssh.delete(machine.id)
    ssh.delete(machine.id)
    assert ssh.list() == []
    with pytest.raises(NoSuchMachine):
        ssh.state(machine.id)
    again = ssh.create(Spec(name="bert"))
    assert again.id != machine.id, "each use has an id of its own"
    assert HostClaim.objects.filter(host=row).count() == 2


def test_first_host_key_is_pinned(tmp_path: Path) -> None:
    server = Sshd(tmp_path)
    try:
        row = real(server)
        machine = ssh.create(Spec(name="anna"))
        connect_machine(ssh, machine.id).close()
        row.refresh_from_db()
        assert row.host_key == server.host_key
        server.stop()
        server.new_host_key()
        server.start()
        with pytest.raises(ShellRefused, match="another host key than before"):
            connect_machine(ssh, machine.id)
        row.refresh_from_db()
        assert row.host_key != server.host_key
    finally:
        server.stop()


def test_unsupported_operations_are_rejected() -> None:
    host("one")
    assert ssh.abilities == {Ability.CREATE, Ability.DELETE}
    for wish in (
        Spec(name="anna", commit="golden"),
        Spec(name="anna", image="default"),
        Spec(name="anna", kernel="default.bin"),
    ):
        with pytest.raises(UnsupportedOperation, match="A host of your own cannot"):
            ssh.create(wish)
    machine = ssh.create(Spec(name="anna"))
    for verb in (
        lambda: ssh.branch(machine.id),
        lambda: ssh.commit(machine.id, "golden"),
        lambda: ssh.pause(machine.id),
        lambda: ssh.resume(machine.id),
    ):
        with pytest.raises(UnsupportedOperation, match="A host of your own cannot be"):
            verb()


def test_smallest_sufficient_host_is_claimed() -> None:
    host("unknown")
    host("big", vcpus=16, memory_mib=65536, disk_mib=100_000, region="eu", size="l")
    host("small", vcpus=2, memory_mib=4096, disk_mib=8192, region="eu")
    host("asleep", vcpus=2, memory_mib=4096, in_service=False)

    def taken(**wish: Any) -> str:
        machine = ssh.create(Spec(name="anna", **wish))
        name = ssh_hosts.get(machine.id).host.name
        ssh.delete(machine.id)
        return name

    assert taken() == "small"
    assert taken(vcpus=2, memory_mib=4096, disk_mib=8192) == "small"
    assert taken(memory_mib=8192) == "big"
    assert taken(vcpus=32) == "unknown"
    assert taken(region="eu", size="l") == "big"
    with pytest.raises(NoHostFree, match="None of the 3 free SSH hosts"):
        taken(region="us")


def test_host_of_a_lieutenant_is_not_claimed() -> None:
    used, free = host("used"), host("free")
    Lieutenant.objects.create(
        name="ada", role="r", agent="command", folder="~/x", host="used", transport="ssh",
        ssh_host=used,
    )  # fmt: skip
    assert list(SshHost.objects.free()) == [free]


def test_error_when_all_hosts_are_claimed() -> None:
    with pytest.raises(NoHostFree, match="There are no SSH hosts"):
        ssh.create(Spec(name="anna"))
    host("one")
    ssh.create(Spec(name="anna"))
    with pytest.raises(NoHostFree, match="All 1 SSH hosts are in use"):
        ssh.create(Spec(name="bert"))


def test_machine_is_found_after_a_lost_response() -> None:
    began = clock.now()
    host("one")
    host("two")
    spec = Spec(name="anna", labels={"reef-provisioning": "7"})
    machine = ssh.create(spec)
    ssh.create(Spec(name="anna", labels={"reef-provisioning": "8"}))
    assert [each.id for each in ssh.find_created(spec, began, frozenset())] == [machine.id]
    assert ssh.find_created(spec, began, frozenset({machine.id})) == []
    assert ssh.find_created(spec, clock.now() + timedelta(seconds=1), frozenset()) == []


def test_unreachable_host_is_not_reported_as_running() -> None:
    host("away", address="127.0.0.1", port=free_port())
    machine = ssh.create(Spec(name="anna"))
    assert ssh.state(machine.id).state is MachineState.UNKNOWN
    assert ssh.list()[0].state is MachineState.UNKNOWN


@pytest.mark.parametrize("machine_id", ["", "x", "../..", "a" * 300])
def test_unknown_ids_are_rejected(machine_id: str) -> None:
    with pytest.raises(NoSuchMachine):
        ssh.login(machine_id)
    ssh.delete(machine_id)


@pytest.mark.django_db(transaction=True)
def test_concurrent_claims_get_different_hosts() -> None:
    for number in range(4):
        host(f"h{number}")
    start = threading.Barrier(8)
    got: list[str] = []
    refused: list[str] = []

    def take(number: int) -> None:
        start.wait()
        try:
            got.append(ssh.create(Spec(name=f"m{number}")).id)
        except NoHostFree as error:
            refused.append(str(error))
        connections.close_all()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(set(got)), len(refused)) == (4, 4)
    assert HostClaim.objects.active().values("host").distinct().count() == 4


def greeted(port: int) -> socket.socket | None:
    """A connection that the server greeted, or nothing while its slots are occupied."""
    connected = socket.create_connection(("127.0.0.1", port))
    if connected.recv(4) == b"SSH-":
        return connected
    connected.close()
    return None


def test_throttling_server_is_busy_not_unreachable(tmp_path: Path) -> None:
    server = Sshd(tmp_path, MaxStartups="1:100:1", LoginGraceTime="20")
    try:
        row = real(server)
        machine = ssh.create(Spec(name="anna"))
        # This connection occupies the only slot and sends nothing.
        with until(lambda: greeted(server.port)) as first:
            with pytest.raises(ShellBusy, match="hung up before its SSH greeting; it may be busy"):
                connect_machine(ssh, machine.id)
            assert ssh.state(machine.id).state is MachineState.RUNNING
            threading.Timer(1.5, first.shutdown, [socket.SHUT_RDWR]).start()
            assert ssh_hosts.try_logins([row]) == [""]
    finally:
        server.stop()


def test_logins_at_one_address_are_throttled(tmp_path: Path) -> None:
    server = Sshd(tmp_path, MaxStartups="2:100:2")
    try:
        row = real(server)
        assert ssh_hosts.try_logins([row] * 24) == [""] * 24
    finally:
        server.stop()


def test_host_without_key_login_names_its_methods(tmp_path: Path) -> None:
    server = Sshd(tmp_path, PubkeyAuthentication="no", PasswordAuthentication="yes")
    try:
        (said,) = ssh_hosts.try_logins([real(server)])
    finally:
        server.stop()
    assert "in with a key; it offers: password" in said


# -- keys ----------------------------------------------------------------------------------------


def test_key_is_encrypted_in_the_database(sshd: Sshd) -> None:
    row = real(sshd)
    with connection.cursor() as cursor:
        cursor.execute("SELECT sealed_key FROM bootloader_sshhost")
        (stored,) = cursor.fetchone()
    body = sshd.key.splitlines()[2]
    assert stored
    assert body not in stored
    assert "PRIVATE" not in stored
    assert SshHost.objects.get().key() == sshd.key
    assert body not in repr(row.__dict__)


def test_rotation_of_the_vault_includes_host_keys(
    sshd: Sshd, settings: Any, tmp_path: Path
) -> None:
    settings.CONFIG_KEYS_FILE = tmp_path / "keys"
    settings.CONFIG_KEYS = []
    real(sshd)
    old = vault.kept()
    call_command("rotate_config_key")
    assert not set(old) & set(vault.kept())
    assert SshHost.objects.get().key() == sshd.key


def test_hosts_without_a_key_use_the_key_from_config(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    real(sshd, key="")
    machine = ssh.create(Spec(name="anna"))
    with pytest.raises(ProviderRefused, match="has no private key"):
        ssh.login(machine.id)
    monkeypatch.setenv("REEF_SSH_PRIVATE_KEY", sshd.key)
    connect_machine(ssh, machine.id).close()


def test_check_of_the_common_key_tries_the_hosts(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REEF_SSH_PRIVATE_KEY", sshd.key)
    assert checks.run("REEF_SSH_PRIVATE_KEY").good is None
    real(sshd, key="")
    finding = checks.run("REEF_SSH_PRIVATE_KEY")
    assert (finding.good, finding.text) == (True, "1 SSH hosts let us in.")
    monkeypatch.setenv("REEF_SSH_PRIVATE_KEY", keygen(tmp_path / "wrong"))
    finding = checks.run("REEF_SSH_PRIVATE_KEY")
    assert finding.good is False
    assert "in with our key" in finding.text


def test_check_names_hosts_that_reject_the_login(sshd: Sshd, tmp_path: Path) -> None:
    assert ssh.check().text == "There are no SSH hosts"
    good = real(sshd)
    assert (ssh.check().good, ssh.check().text) == (True, "All 1 SSH hosts let us in")
    good.refresh_from_db()
    assert good.host_key == sshd.host_key
    good.set_key(keygen(tmp_path / "wrong"))
    good.save()
    verdict = ssh.check()
    assert not verdict.good
    assert "real: " in verdict.text
    assert "in with our key" in verdict.text


# -- admin ---------------------------------------------------------------------------------------


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


FORM = {
    "name": "mine",
    "address": "127.0.0.1",
    "port": "22",
    "user": "root",
    "host_key": "",
    "region": "",
    "size": "",
    "vcpus": "",
    "memory_mib": "",
    "disk_mib": "",
    "note": "",
    "in_service": "on",
}


def test_host_is_added_in_the_admin(staff: Client, sshd: Sshd) -> None:
    facts = {**FORM, "port": str(sshd.port), "user": sshd.login().user, "private_key": sshd.key}
    answer = staff.post(reverse("admin:bootloader_sshhost_add"), facts)
    assert answer.status_code == 302, answer.content
    row = SshHost.objects.get()
    assert row.key().strip() == sshd.key.strip()

    page = staff.get(reverse("admin:bootloader_sshhost_change", args=[row.pk]))
    assert sshd.key.splitlines()[2] not in page.content.decode()
    changed = {**facts, "private_key": "", "note": "in the cellar"}
    staff.post(reverse("admin:bootloader_sshhost_change", args=[row.pk]), changed)
    row = SshHost.objects.get()
    assert (row.note, row.key().strip()) == ("in the cellar", sshd.key.strip())

    listed = reverse("admin:bootloader_sshhost_changelist")
    tried = {"action": "log_in", "_selected_action": [str(row.pk)]}
    page = staff.post(listed, tried, follow=True)
    assert [str(each) for each in page.context["messages"]][-1:] == ["mine: lets us in"]
    assert SshHost.objects.get().host_key == sshd.host_key
    staff.post(listed, {**tried, "action": "forget_host_keys"})
    assert SshHost.objects.get().host_key == ""
    staff.post(listed, {**tried, "action": "take_out_of_service"})
    assert not SshHost.objects.get().in_service

    facts = {**changed, "forget_private_key": "on"}
    staff.post(reverse("admin:bootloader_sshhost_change", args=[row.pk]), facts)
    assert SshHost.objects.get().key() == ""


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("private_key", "-----BEGIN nonsense hunter2-----"),
        ("address", "a host"),
        ("address", "-oProxyCommand=x"),
        ("host_key", "host ssh-ed25519 AAAA"),
        ("user", "root; reboot"),
        ("port", "0"),
        ("port", "70000"),
    ],
)
def test_invalid_values_are_rejected_in_the_form(staff: Client, field: str, text: str) -> None:
    answer = staff.post(reverse("admin:bootloader_sshhost_add"), {**FORM, field: text})
    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors
    assert not SshHost.objects.exists()


def test_list_shows_the_user_of_a_host(staff: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(12):
        host(f"h{number}")
    ssh.create(Spec(name="anna-on-it"))
    with django_assert_max_num_queries(12):
        page = staff.get(reverse("admin:bootloader_sshhost_changelist"))
    assert page.content.decode().count("anna-on-it") == 1


def test_host_with_earlier_claims_is_not_deleted(staff: Client) -> None:
    row = host("one")
    machine = ssh.create(Spec(name="anna"))
    ssh.delete(machine.id)
    answer = staff.post(reverse("admin:bootloader_sshhost_delete", args=[row.pk]), {"post": "yes"})
    assert answer.status_code == 302
    assert SshHost.objects.exists()
    assert staff.get(reverse("admin:bootloader_hostclaim_changelist")).status_code == 200


def messages(answer: Any) -> str:
    """Return the messages on the page after the redirect."""
    return " ".join(str(each) for each in answer.context["messages"])


def test_admin_names_the_claim_that_prevents_deletion(staff: Client) -> None:
    row = host("one")
    machine = ssh.create(Spec(name="anna"))
    delete = reverse("admin:bootloader_sshhost_delete", args=[row.pk])
    page = reverse("admin:bootloader_sshhost_change", args=[row.pk])

    said = staff.get(delete, follow=True)
    assert "one is used by anna and is not deleted" in messages(said)
    assert "anna" in staff.get(page).content.decode()

    ssh.delete(machine.id)
    said = staff.post(delete, {"post": "yes"}, follow=True)
    assert "one was used by anna" in messages(said)
    assert SshHost.objects.filter(pk=row.pk).exists()


def test_release_of_an_unreachable_host_names_the_leftovers(sshd: Sshd) -> None:
    row = host("one", address="127.0.0.1", port=free_port())
    row.set_key(sshd.key)
    row.save()
    made = machines.record("ssh", ssh.create(Spec(name="anna")), name="anna")
    come = Provisioning.objects.create(
        name="anna", profile="full", provider="ssh", actor="t", machine=made
    )

    machines.delete_at_provider(made, by="tests")

    made.refresh_from_db()
    assert made.is_gone
    left = "its services, identity, tokens and keys are still on it"
    assert left in made.note
    assert left in come.log.get().text
    assert ssh.list() == []


# -- jump hosts ----------------------------------------------------------------------------------


def test_host_is_reached_through_its_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    behind = Sshd(tmp_path / "behind")
    try:
        door = real(sshd, "door")
        inner = real(behind, "inner")
        SshHost.objects.filter(pk=inner.pk).update(jump=door)
        inner.refresh_from_db()
        login = ssh_hosts.login(inner)
        assert login.jump is not None
        with shell.connect(login) as session:
            script = session.script('echo "$SSH_CONNECTION"', timeout=10)
        assert script.output.decode().split()[3] == str(behind.port)
        for row, server in ((door, sshd), (inner, behind)):
            row.refresh_from_db()
            assert row.host_key == server.host_key
        assert ssh_hosts.try_logins([inner]) == [""]
        assert ssh_hosts.probe_ssh([inner]) == [True]
    finally:
        behind.stop()


def test_unreachable_host_behind_a_jump_host_is_named(sshd: Sshd) -> None:
    door = real(sshd, "door")
    inner = host("inner", address="127.0.0.1", port=free_port(), jump=door)
    inner.set_key(sshd.key)
    inner.save()
    (problem,) = ssh_hosts.try_logins([inner])
    assert f"cannot be reached from 127.0.0.1:{sshd.port}" in problem


def test_jump_hosts_in_a_circle_are_refused() -> None:
    one = host("one")
    two = host("two", jump=one)
    one.jump = two
    with pytest.raises(ValidationError, match="is itself reached through one"):
        one.full_clean()
