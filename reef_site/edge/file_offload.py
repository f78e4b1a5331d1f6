"""File offload: the edge sends files for web, whose few threads must not wait for slow clients.

The edge announces this in a header of each request; web then responds with the name of a snapshot
file in place of its bytes.
"""

from __future__ import annotations

import asyncio
import os
from urllib.parse import unquote

from reef_site.edge.request_bodies import Send

# Same names as in `vmtree.snapshot_downloads`, which can be imported only when Django is ready.
TAKES, FILE = "reef-takes-files", "reef-file"
AT_ONCE = 1 << 18


async def send_file(name: str, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    """Send a snapshot file. Raises FileNotFoundError before anything is sent."""
    from vmtree.snapshots import files

    path = files.path_of(os.path.basename(unquote(name)))
    with await asyncio.to_thread(path.open, "rb", 0) as file:
        size = os.fstat(file.fileno()).st_size
        kept = [(key, value) for key, value in headers if key != b"content-length"]
        kept.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": kept})
        while chunk := await asyncio.to_thread(file.read, AT_ONCE):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
