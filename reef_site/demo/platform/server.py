"""A running emulator: its state folder, its two ports, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from reef_site.demo.platform import (
    account_routes,
    commit_routes,
    control_routes,
    exec_routes,
    keys,
    vm_routes,
)
from reef_site.demo.platform.faults import FaultInjector
from reef_site.demo.platform.gateway import Gateway
from reef_site.demo.platform.hosting_base import Hosting, HostingError
from reef_site.demo.platform.http_server import HttpApi
from reef_site.demo.platform.machines import Machines
from reef_site.demo.platform.namespaces import Namespaces
from reef_site.demo.platform.plain_hosting import Plain
from reef_site.demo.platform.relay import Relay
from reef_site.demo.platform.store import Account, Store

ROUTE_MODULES = (vm_routes, exec_routes, commit_routes, account_routes, control_routes)
LOOPBACK = "127.0.0.1"
ORG = "emulated"


class AlreadyRunning(Exception):
    """Another emulator uses the state folder."""


@dataclass(frozen=True)
class Options:
    """Options of an emulator. Port 0 is any free port; mode is `auto`, `namespaces` or `plain`."""

    state: Path
    port: int = 0
    gateway_port: int = 0
    domain: str = "vm.emulated.test"
    mode: str = "auto"
    port_file: Path | None = None
    check: bool = False
    end_with_parent: bool = False
    temporary: bool = False
    # Bridge address that clients already know; the start fails if it is taken. "" accepts any.
    address: str = ""
    relays: tuple[Relay, ...] = ()


class Emulation:
    """One run of the emulator."""

    def __init__(self, options: Options) -> None:
        self.options, self.state = options, options.state
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._lock_folder()
        self.tag = self._load_tag()
        self.store = Store.load(self.state / "platform.json")
        self.key = self._load_key()
        if not (self.state / "gateway.pem").exists():
            keys.make_certificates(self.state, options.domain)
        self.fault_injector = FaultInjector()
        self.machines: Machines
        self.gateway: Gateway
        self.api: HttpApi

    async def run(self) -> None:
        """Serve until a signal arrives, then remove everything that runs or was created."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        parent_watch = asyncio.create_task(_set_when_orphaned(stop, os.getppid()))
        if not self.options.end_with_parent:
            parent_watch.cancel()
        hosting = await self._open_hosting()
        if self.options.address not in ("", hosting.address):
            await hosting.close()
            raise HostingError(f"the address {self.options.address} is taken")
        self.machines = Machines(self.store, hosting, self.fault_injector)
        self.machines.remove_unused_layers()
        try:
            await self._serve(hosting, stop)
        finally:
            parent_watch.cancel()
            await self.machines.close()
            if self.options.port_file:
                self.options.port_file.unlink(missing_ok=True)
            if self.options.temporary:
                shutil.rmtree(self.state, ignore_errors=True)

    async def prepare(self) -> dict[str, Any]:
        """Check that VMs can run here and return the addresses of a later run.

        Nothing keeps running.
        """
        hosting = await self._open_hosting()
        address, mode, user = hosting.address, hosting.mode, hosting.user
        await hosting.close()
        ports = self.state / "ports"
        stored = [int(word) for word in ports.read_text().split()] if ports.exists() else [0, 0]
        chosen = [_free_port(port, (LOOPBACK,)) for port in stored]
        ports.write_text(f"{chosen[0]} {chosen[1]}")
        return self._connection_info(mode, user, address, *chosen)

    async def _serve(self, hosting: Hosting, stop: asyncio.Event) -> None:
        self.gateway = Gateway(self.machines, self.state, self.options.domain)
        self.machines.close_connections = self.gateway.cut_connections
        routes = [route for module in ROUTE_MODULES for route in module.routes.table]
        self.api = HttpApi(self.machines, routes, _checker() if self.options.check else None)
        hosts = list(dict.fromkeys((LOOPBACK, hosting.address)))
        gateway_port = await self.gateway.listen(hosts, self.options.gateway_port)
        sockets = _listen(hosts, self.options.port)
        server = _Server(uvicorn.Config(self.api, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=sockets))
        self._announce(hosting, sockets[0].getsockname()[1], gateway_port)
        for relay in self.options.relays:
            await relay.listen(hosting.address)
        await stop.wait()
        for relay in self.options.relays:
            relay.close()
        self.gateway.close()
        server.should_exit = server.force_exit = True
        await serving

    async def _open_hosting(self) -> Hosting:
        """Return the best hosting that this machine allows. Raises HostingError without one."""
        factories: dict[str, Callable[[], Hosting]] = {
            "namespaces": partial(Namespaces, self.state, self.tag),
            "plain": partial(Plain, self.state, self.tag),
        }
        wanted = list(factories) if self.options.mode == "auto" else [self.options.mode]
        problem = ""
        for name in wanted:
            hosting = factories[name]()
            await asyncio.to_thread(hosting.clear)
            try:
                await hosting.open()
            except HostingError as error:
                problem = str(error)
                print(f"no VMs by {name}: {error}", flush=True)
                await asyncio.to_thread(hosting.clear)
            else:
                return hosting
        raise HostingError(problem)

    def _announce(self, hosting: Hosting, port: int, gateway_port: int) -> None:
        """Print the address and write the connection info to the port file atomically."""
        facts = self._connection_info(
            hosting.mode, hosting.user, hosting.address, port, gateway_port
        )
        if file := self.options.port_file:
            draft = file.with_name(f"{file.name}.new")
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as out:
                json.dump(facts, out)
            draft.replace(file)
        print(f"emulator at {facts['url']}, VMs by {hosting.mode}", flush=True)

    def _connection_info(
        self, mode: str, user: str, address: str, port: int, gateway_port: int
    ) -> dict[str, Any]:
        """Return the addresses and credentials that a client needs."""
        return {
            "pid": os.getpid(),
            "url": f"http://{LOOPBACK}:{port}",
            "key": self.key,
            "gateway_host": LOOPBACK,
            "gateway_port": gateway_port,
            "ca_file": str(self.state / "ca.pem"),
            "domain": self.options.domain,
            "mode": mode,
            "user": user,
            "bridge_address": address,
        }

    # -- the state folder

    def _lock_folder(self) -> int:
        handle = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous emulator may just have removed its temporary folder.
            if (self.state / "lock").stat().st_ino != os.fstat(handle).st_ino:
                raise OSError
        except OSError:
            os.close(handle)
            raise AlreadyRunning(f"an emulator already runs on {self.state}") from None
        return handle

    def _load_tag(self) -> str:
        """Return six hexadecimal digits that mark our interfaces, rules and processes."""
        file = self.state / "tag"
        if not file.exists():
            file.write_text(secrets.token_hex(3))
        return file.read_text().strip()

    def _load_key(self) -> str:
        ours = [one.key for one in self.store.accounts.values() if one.org == ORG]
        if not ours:
            ours = [keys.api_key()]
            self.store.accounts[ours[0]] = Account(ours[0], ORG)
            self.store.save()
        return ours[0]


def _checker() -> Callable[..., str | None]:
    """Return the function that checks responses. Its package is installed for tests only."""
    check: Callable[..., str | None] = importlib.import_module(
        "reef_site.demo.platform.response_schema"
    ).check
    return check


async def _set_when_orphaned(stop: asyncio.Event, parent: int) -> None:
    """Set the event when the parent process dies, since it can no longer stop us."""
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    stop.set()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, because `Emulation.run` installs its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _free_port(wanted: int, hosts: tuple[str, ...]) -> int:
    """Return `wanted` if that port is free, otherwise another free port."""
    try:
        sockets = _listen(list(hosts), wanted)
    except OSError:
        sockets = _listen(list(hosts), 0)
    port: int = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return port


def _listen(hosts: list[str], port: int) -> list[socket.socket]:
    """Return one socket for each address, all on the same port."""
    sockets = []
    for host in hosts:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        # Clients that connect during the rest of the start wait instead of being refused.
        sock.listen(256)
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets
