"""The journals on one machine that are followed, and what its relay must be told about them."""

from __future__ import annotations

import itertools
from typing import Any

from lieutenants.supervision.transports.ssh.answers import text_of
from lieutenants.supervision.transports.ssh.follow import Follow
from lieutenants.supervision.transports.ssh.frames import Frame

Requests = list[dict[str, Any]]


class Follows:
    """Journals by folder, and by the number that the relay knows them by. Not thread-safe."""

    def __init__(self) -> None:
        self._by_folder: dict[str, Follow] = {}
        self._by_number: dict[int, Follow] = {}
        self._numbers = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._by_folder)

    def find(self, directory: str) -> Follow | None:
        """Return what is known of a journal that is followed."""
        return self._by_folder.get(directory)

    def get(self, directory: str, offset: int) -> tuple[Follow, Requests]:
        """Return what is known of a journal, and what to request to have it from `offset` on."""
        found = self._by_folder.get(directory)
        if found is None or found.read(offset, 0) is None:
            requests = self.remove(directory)
            found = Follow(next(self._numbers), directory, offset)
            self._by_folder[directory] = self._by_number[found.number] = found
            return found, [*requests, _follow_request(found)]
        at = found.due_ack()
        return found, [] if at is None else [{"op": "ack", "r": found.number, "at": at}]

    def remove(self, directory: str) -> Requests:
        """Forget a journal; return what to request."""
        follow = self._by_folder.pop(directory, None)
        if follow is None:
            return []
        self._by_number.pop(follow.number, None)
        return [{"op": "unfollow", "r": follow.number}]

    def requests(self) -> Requests:
        """Return what to request of a new relay."""
        return [_follow_request(follow) for follow in self._by_folder.values()]

    def clear(self) -> None:
        """Forget all."""
        self._by_folder.clear()
        self._by_number.clear()

    def take(self, frame: Frame) -> bool:
        """Take news of a journal; return whether there was more of it.

        Raises ValueError, TypeError, KeyError if they are damaged.
        """
        head = frame.head
        follow = self._by_number.get(head.get("r", 0))
        if follow is None:
            return False
        if "z" in head:
            return follow.add(head["o"], frame.data)
        if "gap" in head:
            follow.add_gap(head["o"], head["gap"])
        elif "out" in head:
            follow.out = text_of(head["out"])
        elif head.get("gone"):
            follow.mark_ended()
        return False


def _follow_request(follow: Follow) -> dict[str, Any]:
    return {"op": "follow", "r": follow.number, "dir": follow.directory, "at": follow.end}
