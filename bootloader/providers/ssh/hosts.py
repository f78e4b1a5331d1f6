"""Claim and release SSH hosts, check that their SSH answers, and try logins."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet

from bootloader.exceptions import NoHostFree, NoSuchMachine, ProviderRefused, ShellBusy
from bootloader.models import HostClaim, SshHost
from bootloader.models.hosts import USUAL_PORT, USUAL_USER
from bootloader.providers.base import Login, Spec
from bootloader.providers.ssh import address_limits, config_file, shell
from bootloader.providers.ssh.config_file import Alias
from bootloader.providers.ssh.this_machine import is_this_machine
from reef_site.common import clock
from reef_site.common.errors import ReefError
from versconfig import config
from versconfig.checks import Finding
from versconfig.screening import sources
from versconfig.screening.screen import Secret
from vmtree.models import Node

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 2.0
# Ends before the ten seconds that a test may take, also for a silent host.
_LOGIN_SECONDS = 8.0
MAX_CONCURRENT = 16
_BUSY_PAUSE = 0.3


def claim(spec: Spec) -> HostClaim:
    """Claim the smallest free host that satisfies the spec. Raise NoHostFree."""
    for host in _matching(spec):
        if spec.elsewhere and is_this_machine(host.address):
            continue
        # The constraint is the lock: the loser of a race tries the next host.
        with suppress(IntegrityError), transaction.atomic():
            return HostClaim.objects.create(host=host, name=spec.name, labels=dict(spec.labels))
    count = SshHost.objects.filter(in_service=True).count()
    free = SshHost.objects.free().count()
    if free:
        raise NoHostFree(f"None of the {free} free SSH hosts is what was asked for")
    raise NoHostFree(f"All {count} SSH hosts are in use" if count else "There are no SSH hosts")


def _matching(spec: Spec) -> QuerySet[SshHost]:
    hosts = SshHost.objects.free()
    for name in ("vcpus", "memory_mib", "disk_mib"):
        requested = getattr(spec, name)
        if requested:
            hosts = hosts.filter(Q(**{f"{name}__gte": requested}) | Q(**{f"{name}__isnull": True}))
    if spec.region:
        hosts = hosts.filter(region=spec.region)
    if spec.size:
        hosts = hosts.filter(size=spec.size)
    return hosts.order_by(
        F("vcpus").asc(nulls_last=True), F("memory_mib").asc(nulls_last=True), "name"
    )


def get(machine_id: str) -> HostClaim:
    """Return the active claim with this id. Raise NoSuchMachine."""
    try:
        return HostClaim.objects.active().select_related("host").get(pk=UUID(machine_id))
    except (HostClaim.DoesNotExist, ValueError):
        raise NoSuchMachine(f"No SSH host is in use as '{machine_id[:80]}'") from None


def release(machine_id: str) -> None:
    """Release the host, if it is still claimed. Its files stay on it."""
    with suppress(ValueError):
        claims = HostClaim.objects.active().filter(pk=UUID(machine_id))
        claims.update(released_at=clock.now())


def login(host: SshHost) -> Login:
    """Return SSH parameters of a host. Raise ProviderRefused without a readable key.

    Its address may be an alias in `~/.ssh/config`, which says what the host leaves as usual.
    """
    alias = config_file.find(host.address) or Alias(host.address)
    try:
        shared = config.secret("REEF_SSH_PRIVATE_KEY")
        key = host.key() or alias.key() or shared
    except ReefError as error:
        raise ProviderRefused(str(error)) from None
    if not key:
        text = f"{host} has no private key, and there is no REEF_SSH_PRIVATE_KEY for all hosts"
        raise ProviderRefused(text)
    if host.jump is not None and host.jump.line()[-1].jump is not None:
        raise ProviderRefused(f"{host}: its jump hosts are reached through each other")
    jump = login(host.jump) if host.jump else config_file.jump_logins(alias, shared or key)
    return Login(
        host=alias.host,
        port=_port(host, alias.port),
        user=alias.user if alias.user and host.user == USUAL_USER else host.user,
        private_key=key,
        host_key=host.host_key or None,
        keep=host.keep_host_key,
        jump=jump,
        keepalive_seconds=alias.keepalive_seconds,
    )


def _port(host: SshHost, said: int) -> int:
    """Return a host's own port; what its alias says, if the host has the usual one."""
    return said if said and host.port == USUAL_PORT else host.port


def _door(host: SshHost) -> tuple[str, int]:
    """Return address and port of what is reached first on the way to a host."""
    nearest = host.line()[-1]
    try:
        alias = config_file.find(nearest.address)
        if alias is not None:
            address, port = config_file.door(alias)
            return address, port if alias.jumps else _port(nearest, port)
    except ProviderRefused as error:
        logger.warning("%s: %s", nearest, error)
    return nearest.address, nearest.port


def reencrypt_keys() -> tuple[int, list[str]]:
    """Encrypt all private keys again with the vault's first key.

    Return how many were encrypted, and the names of unreadable ones.
    """
    count, lost = 0, []
    for host in SshHost.objects.exclude(sealed_key=""):
        try:
            host.set_key(host.key())
        except ReefError:
            lost.append(f"the private key of SSH host {host}")
            continue
        SshHost.objects.filter(pk=host.pk).update(sealed_key=host.sealed_key)
        count += 1
    return count, lost


def encrypted_keys() -> tuple[str, ...]:
    """Return the encrypted private keys of all hosts."""
    sealed = SshHost.objects.exclude(sealed_key="").order_by("pk")
    return tuple(sealed.values_list("sealed_key", flat=True))


def secrets() -> list[Secret]:
    """Return the readable private keys of all hosts, so that they can be masked in texts."""
    name = "SSH host key"
    rows = SshHost.objects.exclude(sealed_key="")
    return [Secret(name, sources.unseal(f"{name} of {row}", row.key)) for row in rows]


def probe_ssh(hosts: list[SshHost]) -> list[bool]:
    """Return for each host whether its SSH port answers; all are tried concurrently."""
    if not hosts:
        return []
    # Of a host behind a jump host, that one is all that can be probed from here.
    doors = [_door(row) for row in hosts]
    places = _address_limits(address for address, _ in doors)
    with ThreadPoolExecutor(min(MAX_CONCURRENT, len(hosts))) as pool:
        return list(pool.map(partial(_probe, places), doors))


def _address_limits(addresses: Iterable[str]) -> Mapping[str, threading.Semaphore]:
    """Return for each address a semaphore that limits concurrent connections to it."""
    return {address: threading.Semaphore(address_limits.AT_ONCE) for address in set(addresses)}


def _probe(places: Mapping[str, threading.Semaphore], where: tuple[str, int]) -> bool:
    with places[where[0]]:
        try:
            sock = socket.create_connection(where, _PROBE_SECONDS)
        except (OSError, UnicodeError):
            return False
        with sock:
            sock.settimeout(_PROBE_SECONDS)
            try:
                greeting = sock.recv(4)
            except TimeoutError:
                return False
            except OSError:
                # The server accepted and dropped the connection: busy, but reachable.
                return True
    # A busy server hangs up, or gives a reason: "Exceeded MaxStartups", "Not allowed at this time".
    return greeting in (b"SSH-", b"", b"Exce", b"Not ")


def try_logins(hosts: list[SshHost]) -> list[str]:
    """Try to log in on each host; return an error text for each, empty if it succeeded."""
    if not hosts:
        return []
    ways: list[Login | str] = []
    for host in hosts:
        try:
            ways.append(login(host))
        except ProviderRefused as error:
            ways.append(str(error))
    # Threads do not use the database, so the host keys they see are stored afterwards.
    seen: dict[int, str] = {}
    with ThreadPoolExecutor(min(MAX_CONCURRENT, len(hosts))) as pool:
        found = list(pool.map(partial(_try_login, seen), range(len(ways)), ways))
    for number, line in seen.items():
        hosts[number].keep_host_key(line)
    return found


def check_shared_key(_node: Node | None) -> Finding:
    """Test REEF_SSH_PRIVATE_KEY on the hosts in service without a key of their own."""
    rows = list(SshHost.objects.filter(in_service=True, sealed_key=""))
    if not rows:
        return Finding(None, "No SSH host in service is without a key of its own.")
    found = zip(rows, try_logins(rows), strict=True)
    wrong = [f"{row}: {text}" for row, text in found if text]
    return Finding(not wrong, "; ".join(wrong)[:1000] or f"{len(rows)} SSH hosts let us in.")


def _try_login(seen: dict[int, str], number: int, way: Login | str) -> str:
    if isinstance(way, str):
        return way
    end, pause = time.monotonic() + _LOGIN_SECONDS, _BUSY_PAUSE
    while True:
        try:
            return _log_in(seen, number, way, end - time.monotonic())
        except ShellBusy as error:
            # Random pauses spread the retries.
            pause = min(2.0, pause * random.uniform(1.0, 2.0))  # noqa: S311
            if time.monotonic() + pause >= end - 1.0:
                return str(error)
            time.sleep(pause)
        except ReefError as error:
            return str(error)


def _log_in(seen: dict[int, str], number: int, way: Login, seconds: float) -> str:
    with shell.connect(_without_key_store(way), seconds) as session:
        seen[number] = session.host_key
        ran = session.script("exit 0", timeout=_LOGIN_SECONDS)
    return "" if ran.exit_status == 0 else f"a command ended with {ran.exit_status}"


def _without_key_store(way: Login) -> Login:
    jump = _without_key_store(way.jump) if way.jump else None
    return replace(way, keep=None, jump=jump)
