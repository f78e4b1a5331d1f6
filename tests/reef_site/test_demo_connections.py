"""Connections of the demo's servers are served to their end."""

from __future__ import annotations

import asyncio
import gc
import weakref

from reef_site.demo.connections import kept_tasks


def test_task_that_waits_for_another_connection_is_kept() -> None:
    waiting: list[weakref.ref[asyncio.Future[None]]] = []
    ended: list[bool] = []

    async def serve(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        # Nothing but this task refers to it, as to the other connection of a relay.
        answer = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(answer))
        await answer
        ended.append(True)

    async def play() -> None:
        server = await asyncio.start_server(kept_tasks(serve), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        while not waiting:
            await asyncio.sleep(0.01)
        server.close()
        writer.transport.abort()
        await asyncio.sleep(0.01)
        gc.collect()
        answer = waiting[0]()
        assert answer is not None
        answer.set_result(None)
        await asyncio.sleep(0)

    asyncio.run(play())
    assert ended == [True]
