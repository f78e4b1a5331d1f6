"""Which host is used for what, and whether its SSH answers."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet

from bootloader import shell
from bootloader.exceptions import NoHostFree, NoSuchMachine, ProviderRefused
from bootloader.models import HostClaim, SshHost
from bootloader.providers.base import Login, Spec
from versconfig import config
from versconfig.checks import Finding
from vmtree import dates
from vmtree.exceptions import FleetError
from vmtree.models import Node

_KNOCK_SECONDS = 2.0
# Connecting to a silent host ends before the ten seconds that a test may take.
_LOGIN_SECONDS = 8.0
AT_ONCE = 16


def claim(spec: Spec) -> HostClaim:
    """Take a free host that is big enough, the smallest such one. Raises NoHostFree."""
    for host in _fitting(spec):
        # The constraint is the lock: of two takers one goes on to the next host.
        with suppress(IntegrityError), transaction.atomic():
            return HostClaim.objects.create(host=host, name=spec.name, labels=dict(spec.labels))
    count = SshHost.objects.filter(in_service=True).count()
    free = SshHost.objects.free().count()
    if free:
        raise NoHostFree(f"None of the {free} free SSH hosts is what was asked for")
    raise NoHostFree(f"All {count} SSH hosts are in use" if count else "There are no SSH hosts")


def _fitting(spec: Spec) -> QuerySet[SshHost]:
    hosts = SshHost.objects.free()
    for name in ("vcpus", "memory_mib", "disk_mib"):
        wished = getattr(spec, name)
        if wished:
            hosts = hosts.filter(Q(**{f"{name}__gte": wished}) | Q(**{f"{name}__isnull": True}))
    if spec.region:
        hosts = hosts.filter(region=spec.region)
    if spec.size:
        hosts = hosts.filter(size=spec.size)
    return hosts.order_by(
        F("vcpus").asc(nulls_last=True), F("memory_mib").asc(nulls_last=True), "name"
    )


def get(machine_id: str) -> HostClaim:
    """The living claim of this id. Raises NoSuchMachine."""
    try:
        return HostClaim.objects.living().select_related("host").get(pk=UUID(machine_id))
    except (HostClaim.DoesNotExist, ValueError):
        raise NoSuchMachine(f"No SSH host is in use as '{machine_id[:80]}'") from None


def release(machine_id: str) -> None:
    """Give the host back, if it was not already. What is on it stays there."""
    with suppress(ValueError):
        claims = HostClaim.objects.living().filter(pk=UUID(machine_id))
        claims.update(released_at=dates.now())


def login(host: SshHost) -> Login:
    """How to reach it. Raises ProviderRefused without a key that can be read."""
    try:
        key = host.key() or config.secret("REEF_SSH_PRIVATE_KEY")
    except FleetError as error:
        raise ProviderRefused(str(error)) from None
    if not key:
        text = f"{host} has no private key, and there is no REEF_SSH_PRIVATE_KEY for all hosts"
        raise ProviderRefused(text)
    return Login(
        host=host.address,
        port=host.port,
        user=host.user,
        private_key=key,
        host_key=host.host_key or None,
        keep=host.keep_host_key,
    )


def reseal() -> tuple[int, list[str]]:
    """Seal all private keys with the vault's first key; how many, and which cannot be read."""
    count, lost = 0, []
    for host in SshHost.objects.exclude(sealed_key=""):
        try:
            host.set_key(host.key())
        except FleetError:
            lost.append(f"the private key of SSH host {host}")
            continue
        SshHost.objects.filter(pk=host.pk).update(sealed_key=host.sealed_key)
        count += 1
    return count, lost


def answering(hosts: list[SshHost]) -> list[bool]:
    """Whether the SSH port of each can be reached now, all asked at once."""
    if not hosts:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        return list(pool.map(_knock, [(host.address, host.port) for host in hosts]))


def _knock(where: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(where, _KNOCK_SECONDS) as sock:
            sock.settimeout(_KNOCK_SECONDS)
            return sock.recv(4) == b"SSH-"
    except (OSError, UnicodeError):
        return False


def try_logins(hosts: list[SshHost]) -> list[str]:
    """Log in on each; what is wrong with each, empty where nothing is."""
    if not hosts:
        return []
    ways: list[Login | str] = []
    for host in hosts:
        try:
            ways.append(login(host))
        except ProviderRefused as error:
            ways.append(str(error))
    # Threads have no database: the host keys they see are kept here, afterwards.
    seen: dict[int, str] = {}
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        found = list(pool.map(partial(_try, seen), range(len(ways)), ways))
    for number, line in seen.items():
        hosts[number].keep_host_key(line)
    return found


def check_shared_key(_node: Node | None) -> Finding:
    """The test button of REEF_SSH_PRIVATE_KEY: whether hosts without a key of their own take it."""
    rows = list(SshHost.objects.filter(in_service=True, sealed_key=""))
    if not rows:
        return Finding(None, "No SSH host in service is without a key of its own.")
    found = zip(rows, try_logins(rows), strict=True)
    wrong = [f"{row}: {text}" for row, text in found if text]
    return Finding(not wrong, "; ".join(wrong)[:1000] or f"{len(rows)} SSH hosts let us in.")


def _try(seen: dict[int, str], number: int, way: Login | str) -> str:
    if isinstance(way, str):
        return way
    try:
        with shell.connect(_without_keeping(way), _LOGIN_SECONDS) as session:
            seen[number] = session.host_key
            ran = session.run("exit 0", timeout=_LOGIN_SECONDS)
    except FleetError as error:
        return str(error)
    return "" if ran.exit_status == 0 else f"a command ended with {ran.exit_status}"


def _without_keeping(way: Login) -> Login:
    return Login(way.host, way.port, way.user, way.private_key, host_key=way.host_key)
