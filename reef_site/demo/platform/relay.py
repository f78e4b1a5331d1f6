"""Ports on the VMs' bridge that are forwarded to the loopback, which VMs cannot reach."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from reef_site.demo.connections import kept_tasks

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16


@dataclass
class Relay:
    """Forwards `port` of the bridge to `target`: a port, or a file that contains one."""

    port: int
    target: int | Path
    _server: asyncio.Server | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `PORT=HERE`."""
        port, _, target = text.partition("=")
        if not port.isdecimal() or not target:
            raise argparse.ArgumentTypeError(f"{text}: it must be PORT=PORT or PORT=FILE")
        return cls(int(port), int(target) if target.isdecimal() else Path(target))

    async def listen(self, address: str) -> None:
        """Accept connections at this address."""
        self._server = await asyncio.start_server(kept_tasks(self._serve), address, self.port)

    def close(self) -> None:
        """Stop accepting connections."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            port = self.target if isinstance(self.target, int) else int(self.target.read_text())
            target_reader, target_writer = await asyncio.open_connection(LOOPBACK, port)
        except (OSError, ValueError):
            writer.transport.abort()
            return
        try:
            await asyncio.gather(
                _copy_stream(reader, target_writer), _copy_stream(target_reader, writer)
            )
        finally:
            for each in (writer, target_writer):
                each.transport.abort()


async def _copy_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes to the end, then close that direction only: a response may still arrive."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
