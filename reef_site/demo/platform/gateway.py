"""The public port shared by all VMs: TLS with the VM's name as SNI, and SSH or HTTP inside."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

from reef_site.demo.connections import kept_tasks
from reef_site.demo.platform.machines import Machines
from reef_site.demo.platform.store import Vm

SSH_PORT, WEB_PORT = 22, 80
CHUNK = 1 << 16
NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\nconnection: close\r\n\r\n404 Not Found"
)
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 23\r\nconnection: close\r\n\r\n"
    b"503 Service unavailable"
)


class Gateway:
    """Pipes each connection to the VM that its server name identifies."""

    def __init__(self, machines: Machines, state: Path, domain: str) -> None:
        self.machines, self.domain = machines, domain
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(state / "gateway.pem")
        self._context.sni_callback = _remember_name
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.StreamWriter, str] = {}

    async def listen(self, hosts: list[str], port: int) -> int:
        """Listen at all these addresses on one port, and return the port."""
        for host in hosts:
            server = await asyncio.start_server(
                kept_tasks(self._serve), host, port, ssl=self._context
            )
            port = port or server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return port

    def close(self) -> None:
        """Stop listening and close all connections."""
        for server in self._servers:
            server.close()
        self.cut_connections()

    def cut_connections(self, vm_id: str | None = None) -> int:
        """Abort all connections, or those of one VM, and return their number."""
        hit = [writer for writer, name in self._connections.items() if vm_id in (None, name)]
        for writer in hit:
            writer.transport.abort()
        return len(hit)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pipe(reader, writer)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.machines.switches.ssh_cut:
            return
        first = await reader.read(CHUNK)
        vm = self._find_vm(writer)
        is_ssh = first.startswith(b"SSH-")
        if vm is None or vm.state not in ("running", "paused") or self._is_ssh_delayed(vm, is_ssh):
            if not is_ssh:
                writer.write(NOT_FOUND)
                await writer.drain()
            return
        self._connections[writer] = vm.vm_id
        host, port = self.machines.hosting.endpoint(vm.vm_id, SSH_PORT if is_ssh else WEB_PORT)
        try:
            guest_reader, guest_writer = await asyncio.open_connection(host, port)
        except OSError:
            if not is_ssh:
                writer.write(UNAVAILABLE)
                await writer.drain()
            return
        guest_writer.write(first)
        try:
            await _pipe_both_ways(reader, writer, guest_reader, guest_writer)
        finally:
            guest_writer.transport.abort()

    def _is_ssh_delayed(self, vm: Vm, is_ssh: bool) -> bool:
        """Return whether the VM's SSH server must not accept connections yet."""
        since = asyncio.get_running_loop().time() - vm.running_since
        return is_ssh and since < self.machines.switches.ssh_delay_s

    def _find_vm(self, writer: asyncio.StreamWriter) -> Vm | None:
        name = getattr(writer.get_extra_info("ssl_object"), "server_name", None) or ""
        store = self.machines.store
        if name.endswith(f".{self.domain}"):
            return store.vms.get(name.removesuffix(f".{self.domain}"))
        own = (each.vm_id for each in store.domains.values() if each.domain == name)
        return store.vms.get(next(own, ""))


def _remember_name(
    connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
) -> None:
    connection.server_name = name  # type: ignore[union-attr]


async def _pipe_both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    guest_reader: asyncio.StreamReader,
    guest_writer: asyncio.StreamWriter,
) -> None:
    """Copy bytes in both directions until either side ends."""
    tasks = {
        asyncio.create_task(_copy_stream(reader, guest_writer)),
        asyncio.create_task(_copy_stream(guest_reader, writer)),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.drain()


async def _copy_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
