"""Supervisor shim of one agent: starts it, holds its pipes, writes its journal, records its end.

Standalone (standard library, Python 3.8 or newer), so that it can be copied to any machine:

    python3 keeper.py start       spec (JSON) on stdin; starts keeper and agent, prints one line
    python3 keeper.py call DIR    request (JSON line) on stdin; prints the keeper's reply

A run directory belongs to one run. It contains keeper.json (pids and start times), journal.jsonl
(the agent's output, slimmed), stderr.log (its tail), keeper.log (our own problems), control.sock
(requests) and control.key, which each request must carry: the agent may be able to connect, but
not to read the key. Environment and arguments of the agent are never written to disk. The keeper
has one thread, which sleeps in poll(). The spec's `isolation` has the rules for `sandbox.py`,
which must be in the same folder.
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

KB, MB = 1 << 10, 1 << 20
F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ exists from Python 3.10 on

JOIN_SECONDS = 0.04  # deltas of one block are joined within this time
JOIN_CHARS = 64 * KB
UPDATE_SECONDS = 0.5  # at most one tool_execution_update per call in this time
UPDATE_CHARS = 4000
MAX_CALLS = 1000  # with open updates at a time
ROWS_PER_MINUTE = 50  # events of one kind that each become a transcript row
OTHERS_PER_MINUTE = 2000  # events of one kind that become no rows
MAX_KINDS = 32  # kinds with a counter of their own
FIRST_SUMMARY_SECONDS, MAX_SUMMARY_SECONDS = 1.0, 60.0
BURST, STEADY_PER_SECOND = 6000, 100  # of events that must not be left out
HEAD_CHARS = 500
SHORT_LINE_BYTES = KB  # up to here, parsing the whole line is faster than looking for its parts
HEAD_BYTES = 64 * KB  # kept of a line that is not kept as a whole
TAIL_BYTES = 4 * KB
OUTLINE_CHARS = 2000  # of each text in the outline of such a line
OUTLINE_DEPTH = 8
MAX_LINE_BYTES = 8 * MB
READ_BYTES = 64 * KB
READS_PER_ROUND = 16
MAX_PENDING_BYTES = 64 * MB
MAX_CLIENTS = 256  # beyond it the oldest connection is closed
CONNECT_BACKLOG = 1024  # once it is full, a connect() with a time-out fails at once
MAX_REMEMBERED_IDS = 10_000
MAX_STDERR_BYTES = 256 * KB
STDERR_LINES, STDERR_CHARS = 20, 500
# Texts in lines of stderr that readers of the transcript must see: ["w", time, line].
WARNINGS = (b"Could not restore model",)
MAX_WARNINGS = 20
MAX_DELTA_BACKLOG, MAX_BACKLOG = 8 * MB, 64 * MB  # kept in memory while the disk is full
RETRY_SECONDS = 1.0
LAST_WRITE_SECONDS = 60.0
STDOUT_CLOSED_SECONDS = 10.0  # after which an agent that closed its stdout is stopped
SWEEP_SECONDS = 1.0
FILE_CHECK_SECONDS = 5.0  # how often our files are checked where the kernel does not notify
KILL_COUNT_SECONDS = 10.0  # how often the kernel's kills are counted while the agent prints
LOCK_SECONDS = 1.0  # a keeper that has written its end record releases the session at once
DRAIN_SECONDS = 0.3
CALL_SECONDS = 15.0

UPDATE_LINE = b'{"type":"message_update"'
SUMMARY_LINES = {"agent_end": b'{"type":"agent_end"', "turn_end": b'{"type":"turn_end"'}
START_LINE = b'{"type":"message_start"'
IMAGES = (b'"type":"image"', b'"type": "image"')
# Each of these changes the known state of the agent: they are never left out.
ESSENTIAL = frozenset(
    (
        *("agent_start", "agent_end", "agent_settled", "turn_start", "turn_end"),
        *("message_start", "message_update", "message_end", "queue_update", "response"),
        *("tool_execution_start", "tool_execution_update", "tool_execution_end"),
        *("auto_retry_start", "auto_retry_end", "compaction_start", "compaction_end"),
    )
)
# Each of these becomes rows, in unlimited number.
THROTTLED = frozenset(
    (
        *("agent_start", "message_end", "tool_execution_start", "extension_ui_request"),
        *("auto_retry_start", "auto_retry_end", "compaction_start", "compaction_end"),
    )
)
DIALOGS = frozenset({"select", "confirm", "input", "editor"})  # dialogs that wait for a reply
ROW_KINDS = frozenset({"extension_error", "notify", "garbage", "line"})
# As an import, the file is compiled once and not at each start: saves 15 ms and 2 MB.
IMPORTED = "import sys; sys.path.insert(0, sys.argv[1]); __import__(sys.argv[2]).run_keeper()"
DELTAS = {"text_delta": "t", "thinking_delta": "k", "toolcall_delta": "c"}


class KeeperError(Exception):
    """The agent could not be started; the text says why."""


def sandbox() -> Any:
    """Return the module `sandbox`, imported only when an agent is started."""
    name = (
        "lieutenants.supervision.keeper.sandbox"
        if __name__.startswith("lieutenants.")
        else "sandbox"
    )
    return __import__(name, fromlist=["enter"])


# --- JSON ---------------------------------------------------------------------------------------


def _finite(text: str) -> float | None:
    """Parse a JSON number; None if it is too big, since the journal holds no Infinity."""
    value = float(text)
    return value if value - value == 0 else None


DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
ASCII_ENCODER = json.JSONEncoder(separators=(",", ":"))


def pack(value: Any) -> bytes:
    """Return a compact JSON line; lone surrogates (not UTF-8) are escaped."""
    try:
        return ENCODER.encode(value).encode() + b"\n"
    except UnicodeEncodeError:
        return ASCII_ENCODER.encode(value).encode() + b"\n"


def parse_object(data: bytes) -> dict[str, Any] | None:
    """Parse the JSON object in a line; None if there is none."""
    try:
        value = DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def dig(value: Any, *keys: str) -> Any:
    """Return the value under nested keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def inner_event(text: str) -> dict[str, Any] | None:
    """Read a message_update's assistantMessageEvent, no further than needed.

    Older agents repeat the whole message under "partial" and "message", which are skipped. Returns
    None if the text ends early or has another shape.
    """
    fields: dict[str, Any] = {}
    inside, at = False, 1
    try:
        while True:
            key, at = DECODER.raw_decode(text, at)
            if text[at] != ":":
                return None
            at += 1
            if inside and key in ("partial", "message"):
                return fields if "delta" in fields or fields.get("type") not in DELTAS else None
            if key == "assistantMessageEvent" and text[at] == "{":
                inside, at = True, at + 1
                continue
            value, at = DECODER.raw_decode(text, at)
            if inside:
                fields[key] = value
            if text[at] != ",":
                return fields if inside and text[at] == "}" else None
            at += 1
    except (ValueError, IndexError, RecursionError):
        return None


def read_update(data: bytes) -> dict[str, Any] | None:
    """Return the inner event of a message_update line, even of an incomplete line."""
    if len(data) <= SHORT_LINE_BYTES:
        inner = dig(parse_object(data), "assistantMessageEvent")
        if isinstance(inner, dict):
            return inner
    for size in (4 * KB, len(data)):
        inner = inner_event(data[:size].decode("utf-8", "replace"))
        if inner is not None or len(data) <= size:
            return inner
    return None


# --- outlines of lines that are not kept whole ----------------------------------------------------


def outline(head: bytes, tail: bytes) -> dict[str, Any] | None:
    """Return the members of a JSON object found in its first and last bytes;

    None for other values.
    """
    text = head.decode("utf-8", "replace")
    found, end = partial_value(text, 0, OUTLINE_DEPTH)
    if not isinstance(found, dict):
        return None
    if end is None:
        top, nested = last_members(tail.decode("utf-8", "replace"))
        cut = next(reversed(found.values()), None)  # the member in which the head ends
        if isinstance(cut, dict):
            cut.update({name: nested[name] for name in nested.keys() - cut.keys()})
        found.update({name: top[name] for name in top.keys() - found.keys()})
    trimmed = trim(found)
    return trimmed if isinstance(trimmed, dict) else None


def partial_value(text: str, at: int, depth: int) -> tuple[Any, int | None]:
    """Parse the JSON value at `at` of a text that may be cut off.

    Return the value and its end; None as the end if it is cut. Everything complete before the cut
    is kept, and the beginning of a cut string.
    """
    try:
        return DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        pass
    kind = text[at : at + 1]
    if not depth or not kind:
        return None, None
    if kind == '"':
        return partial_text(text[at:]), None
    if kind == "{":
        return partial_object(text, at, depth), None
    return (partial_list(text, at, depth), None) if kind == "[" else (None, None)


def partial_object(text: str, at: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while True:
        try:
            key, at = DECODER.raw_decode(text, skip_space(text, at + 1))
        except (ValueError, RecursionError):
            return found
        at = skip_space(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            return found
        value, end = partial_value(text, skip_space(text, at + 1), depth - 1)
        if value is not None or end is not None:
            found[key] = value
        if end is None:
            return found
        at = skip_space(text, end)
        if text[at : at + 1] != ",":
            return found


def partial_list(text: str, at: int, depth: int) -> list[Any]:
    found: list[Any] = []
    while True:
        value, end = partial_value(text, skip_space(text, at + 1), depth - 1)
        if value is not None or end is not None:
            found.append(value)
        if end is None:
            return found
        at = skip_space(text, end)
        if text[at : at + 1] != ",":
            return found


def partial_text(text: str) -> str | None:
    """Return the beginning of a JSON string that is cut off, perhaps in an escape."""
    for cut in range(13):
        try:
            value = DECODER.raw_decode(text[: len(text) - cut] + '"')[0]
        except ValueError:
            continue
        return value if isinstance(value, str) else None
    return None


def skip_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def last_members(tail: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last members of an object from its end, and those of the last object inside it."""
    top: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    at = len(tail)
    for _ in range(200):
        at = tail.rfind(",", 0, at)
        if at < 0:
            break
        top = decoded('{"":0' + tail[at:]) or top
        nested = dig(decoded('{"":{"":0' + tail[at:]), "") or nested
    top.pop("", None)
    nested.pop("", None)
    return top, nested


def decoded(text: str) -> dict[str, Any] | None:
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def trim(value: Any) -> Any:
    """Return the value with long texts shortened and images without their data."""
    if isinstance(value, str):
        return value[:OUTLINE_CHARS]
    if isinstance(value, list):
        return [trim(each) for each in value]
    if isinstance(value, dict):
        image = value.get("type") == "image"
        return {key: trim(each) for key, each in value.items() if not (image and key == "data")}
    return value


# --- lines --------------------------------------------------------------------------------------


class Line:
    """One line of the agent.

    `data` is the whole line, or its head if `size` is larger. Of such a line `tail` is its end and
    `images` the number of images in it.
    """

    __slots__ = ("data", "images", "size", "tail")

    def __init__(self, data: bytes, size: int, tail: bytes = b"", images: int = 0) -> None:
        self.data, self.size, self.tail, self.images = data, size, tail, images

    @property
    def cut(self) -> bool:
        return self.size > len(self.data)

    def head(self) -> str:
        return self.data[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS]


def can_skip_rest(head: bytes) -> bool:
    """Return whether the rest of a long line with this beginning can be skipped."""
    if head.startswith(UPDATE_LINE):
        return read_update(head) is not None
    return head.startswith((START_LINE, *SUMMARY_LINES.values()))


def count_images(data: bytes | bytearray) -> int:
    return sum(data.count(mark) for mark in IMAGES)


class LineSplitter:
    """Splits bytes into lines; never holds more than MAX_LINE_BYTES and one chunk."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._held = bytearray()
        self._size = self._images = 0
        self._tail = b""
        self._head_checked = self._skipping = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk."""
        start = 0
        while True:
            end = chunk.find(b"\n", start)
            if end < 0:
                break
            if self._size:
                self._hold(chunk[start:end])
                yield self._finish()
            else:
                yield Line(chunk[start:end], end - start)
            start = end + 1
        if start < len(chunk):
            self._hold(chunk[start:])

    def rest(self) -> Line | None:
        """Return the unfinished last line, if any."""
        return self._finish() if self._size else None

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._skipping:
            edge = self._tail[1 - len(IMAGES[-1]) :]
            self._images += count_images(edge + piece) - count_images(edge)
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            return
        self._held += piece
        if not self._head_checked and self._size >= HEAD_BYTES:
            self._head_checked = True
            if can_skip_rest(bytes(self._held)):
                self._skip(len(self._held))
        if not self._skipping and self._size > MAX_LINE_BYTES:
            self._skip(HEAD_BYTES)

    def _skip(self, keep: int) -> None:
        self._skipping = True
        self._images = count_images(self._held)
        self._tail = bytes(self._held[-TAIL_BYTES:])
        self._held = self._held[:keep]

    def _finish(self) -> Line:
        line = Line(bytes(self._held), self._size, self._tail, self._images)
        self._start()
        return line


# --- journal ------------------------------------------------------------------------------------


def now_ms() -> int:
    return int(time.time() * 1000)


def log_problem(text: str) -> None:
    """Log a problem of our own: descriptor 2 is keeper.log."""
    try:
        if os.fstat(2).st_size < MB:
            os.write(2, "{} {}\n".format(now_ms(), text).encode("utf-8", "replace"))
    except OSError:
        pass


class Journal:
    """The append-only journal. Never raises: records that cannot be written wait, up to a limit."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[bytes] = []
        self._bytes = self._lost = self._lost_bytes = 0
        self.size = os.fstat(self._file).st_size
        self.due: float | None = None

    def add(self, record: list[Any]) -> None:
        line = pack(record)
        limit = MAX_DELTA_BACKLOG if record[0] in "tkc" else MAX_BACKLOG
        if record[0] == "x":
            self._report_loss()  # nothing may come after the end
        elif self._bytes + len(line) > limit:
            self._lost += 1
            self._lost_bytes += len(line)
            return
        self._append(line)

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._bytes += len(line)

    def tick(self, now: float) -> None:
        """Write waiting records, unless the last write failed less than a second ago."""
        if not self._waiting or (self.due is not None and now < self.due):
            return
        data = b"".join(self._waiting)
        try:
            done = os.write(self._file, data)
        except OSError as trouble:
            done = 0
            if self.due is None:
                log_problem("journal: {}; trying again".format(trouble.strerror))
        self.size += done
        self._bytes = len(data) - done
        self._waiting = [data[done:]] if self._bytes else []
        self.due = now + RETRY_SECONDS if self._bytes else None
        if not self._bytes:
            self._report_loss()

    def _report_loss(self) -> None:
        """Add a record of how much was dropped while the disk was full, if any."""
        if self._lost:
            text = "… {} records lost: the disk was full".format(self._lost)
            self._append(pack(["g", now_ms(), text, self._lost_bytes]))
        self._lost = self._lost_bytes = 0

    def finish(self) -> None:
        """Write all waiting records, for a minute at most."""
        until = time.monotonic() + LAST_WRITE_SECONDS
        while self._waiting and time.monotonic() < until:
            self.tick(time.monotonic())
            if self._waiting:
                time.sleep(RETRY_SECONDS / 2)


class Coalescer:
    """Joins deltas of one block that arrive within JOIN_SECONDS of the first."""

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self._write = write
        self._block = ("", 0)
        self._parts: list[str] = []
        self._chars = 0
        self.due: float | None = None

    def add(self, kind: str, index: int, text: str, now: float) -> None:
        full = self._chars > JOIN_CHARS
        if (kind, index) != self._block or full or (self.due is not None and now >= self.due):
            self.flush()
        if self.due is None:
            self._block, self.due = (kind, index), now + JOIN_SECONDS
        self._parts.append(text)
        self._chars += len(text)

    def flush(self) -> None:
        if self._parts:
            self._write([*self._block, "".join(self._parts)])
        self._parts, self._chars, self.due = [], 0, None

    def tick(self, now: float) -> None:
        if self.due is not None and now >= self.due:
            self.flush()


class ToolUpdates:
    """Passes one update per tool call and UPDATE_SECONDS; of the others it keeps the newest."""

    def __init__(
        self, write: Callable[[dict[str, Any]], None], admit: Callable[[str, int, float], bool]
    ) -> None:
        self._write = write
        self._admit = admit
        self._next: dict[str, float] = {}
        self._held: dict[str, dict[str, Any]] = {}
        self.due: float | None = None

    def add(self, event: dict[str, Any], now: float) -> None:
        call = str(event.get("toolCallId"))
        if call not in self._next:
            # Calls whose end is never reported must not fill the memory.
            if len(self._next) >= MAX_CALLS or not self._admit("tool_execution_update", 0, now):
                self.tick(now)
                return
            self._next[call] = now
        self._held[call] = event
        self.tick(now)

    def forget(self, call: str) -> None:
        """Drop the pending update of a call that has ended."""
        self._held.pop(call, None)
        self._next.pop(call, None)
        self._plan()

    def tick(self, now: float) -> None:
        for call in [call for call in self._held if self._next[call] <= now]:
            self._next[call] = now + UPDATE_SECONDS
            self._write(self._held.pop(call))
        self._plan()

    def _plan(self) -> None:
        self.due = min(self._next[call] for call in self._held) if self._held else None


class Bucket:
    """Rate limiter: admits a number of events per minute and counts the others exactly.

    Times are seconds of any clock that the caller chooses.
    """

    __slots__ = ("at", "bytes", "count", "due", "left", "limit", "pause")

    def __init__(self, limit: int) -> None:
        self.limit, self.left, self.at = limit, float(limit), 0.0
        self.count = self.bytes = 0
        self.pause = FIRST_SUMMARY_SECONDS
        self.due: float | None = None  # when to report how many were left out

    def admits(self, size: int, now: float) -> bool:
        refill = max(0.0, now - self.at) * self.limit / 60 if self.at else 0.0
        self.left, self.at = min(float(self.limit), self.left + refill), now
        if self.left >= 1:
            self.left -= 1
            return True
        self.count += 1
        self.bytes += size
        if self.due is None:
            self.due = now + self.pause
        return False

    def is_due(self, now: float) -> bool:
        """Return whether a report is due; also after the clock was set back."""
        return self.due is not None and not self.due - MAX_SUMMARY_SECONDS <= now < self.due

    def take(self, now: float) -> tuple[int, int]:
        """Return how many events were left out since the last call, and their bytes.

        The next report is due after a pause that grows each time. If none were left out, the flood
        is over.
        """
        taken = self.count, self.bytes
        if self.count:
            self.pause = min(2 * self.pause, MAX_SUMMARY_SECONDS)
            self.due = now + self.pause
        else:
            self.pause, self.due = FIRST_SUMMARY_SECONDS, None
        self.count = self.bytes = 0
        return taken


class Floods:
    """Limits the records of each kind of event: ["m", time, kind, number left out, bytes].

    ["q", time, kind] marks the end of a flood.
    """

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self._write = write
        self._buckets: dict[str, Bucket] = {}

    @property
    def due(self) -> float | None:
        dues = [each.due for each in self._buckets.values() if each.due is not None]
        return min(dues) if dues else None

    def admit(self, kind: str, size: int, now: float) -> bool:
        """Return whether one more event of this kind may be recorded."""
        if kind not in self._buckets and len(self._buckets) >= MAX_KINDS:
            kind = "other"
        if kind not in self._buckets:
            limit = ROWS_PER_MINUTE if kind in ROW_KINDS else OTHERS_PER_MINUTE
            self._buckets[kind] = Bucket(limit)
        return self._buckets[kind].admits(size, now)

    def tick(self, now: float) -> None:
        for kind, bucket in self._buckets.items():
            if bucket.is_due(now):
                self._report(kind, bucket, now)

    def _report(self, kind: str, bucket: Bucket, now: float) -> None:
        count, size = bucket.take(now)
        if count:
            self._write(["m", now_ms(), kind, count, size])
        else:
            self._write(["q", now_ms(), kind])

    def flush(self, now: float) -> None:
        for kind, bucket in self._buckets.items():
            if bucket.count:
                self._report(kind, bucket, now)


def flood_kind(event: dict[str, Any]) -> str | None:
    """Return the kind under which an event is counted; None if it is never left out."""
    kind = str(event.get("type"))
    if kind == "extension_ui_request":
        method = str(event.get("method"))
        return None if method in DIALOGS else method[:60]
    return None if kind in ESSENTIAL else kind[:60]


class Throttle:
    """Throttles reading when there are too many events that must be recorded."""

    def __init__(self) -> None:
        self._left, self._at = float(BURST), 0.0

    def count(self, now: float) -> None:
        refill = (now - self._at) * STEADY_PER_SECOND
        self._left, self._at = min(float(BURST), self._left + refill) - 1, now

    def wait(self, now: float) -> float:
        """Return for how many seconds reading should pause."""
        return max(0.0, -self._left / STEADY_PER_SECOND - (now - self._at))


def was_killed(event: dict[str, Any]) -> bool:
    """Return whether a tool's result shows an end by SIGKILL, which shells report as 137."""
    content = dig(event, "result", "content")
    parts = content if isinstance(content, list) else []
    texts = [str(dig(part, "text") or "")[-HEAD_CHARS:] for part in parts]
    return any("137" in text or "SIGKILL" in text or "Killed" in text for text in texts)


# --- slimming -----------------------------------------------------------------------------------


def stop_fields(message: Any) -> dict[str, Any]:
    """Return how an assistant message ended: {"stopReason"?, "errorMessage"?}."""
    names = ("stopReason", "errorMessage")
    return {name: message[name] for name in names if dig(message, name) is not None}


def slim_message_start(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message_start", "message": {"role": dig(event, "message", "role")}}


def slim_turn_end(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "turn_end", "stopReason": dig(event, "message", "stopReason")}


def slim_agent_end(event: dict[str, Any]) -> dict[str, Any]:
    messages = event.get("messages")
    slim: dict[str, Any] = {"type": "agent_end"}
    if "willRetry" in event:
        slim["willRetry"] = event["willRetry"]
    for message in reversed(messages if isinstance(messages, list) else []):
        if dig(message, "role") == "assistant":
            slim.update(stop_fields(message))
            break
    return slim


def slim_tool_end(event: dict[str, Any]) -> dict[str, Any]:
    details = dig(event, "result", "details")
    if isinstance(details, dict):
        details.pop("truncation", None)
    drop_images(dig(event, "result", "content"))
    return event


def slim_message_end(event: dict[str, Any]) -> dict[str, Any]:
    drop_images(dig(event, "message", "content"))
    return event


def drop_images(content: Any) -> None:
    """Remove the data of images, which are only counted."""
    for block in content if isinstance(content, list) else []:
        if dig(block, "type") == "image":
            block.pop("data", None)


def slim_tool_update(event: dict[str, Any]) -> dict[str, Any]:
    """Keep the newest UPDATE_CHARS of the text; start and end have arguments and details."""
    content = dig(event, "partialResult", "content")
    texts = [dig(block, "text") for block in content] if isinstance(content, list) else []
    text = "".join(part for part in texts if isinstance(part, str))[-UPDATE_CHARS:]
    slim = {name: event.get(name) for name in ("type", "toolCallId", "toolName")}
    return {**slim, "partialResult": {"content": [{"type": "text", "text": text}]}}


SLIM: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "message_start": slim_message_start,
    "message_end": slim_message_end,
    "turn_end": slim_turn_end,
    "agent_end": slim_agent_end,
    "tool_execution_end": slim_tool_end,
}


class Recorder:
    """Turns the agent's lines into journal records, in order."""

    def __init__(
        self,
        journal: Journal,
        on_response: Callable[[str], None],
        killed_for_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self._journal = journal
        self._killed_for_memory = killed_for_memory
        self._on_response = on_response
        self._coalescer = Coalescer(journal.add)
        self._floods = Floods(self._record)
        self._updates = ToolUpdates(self._write_event, self._floods.admit)
        self._last_stop: dict[str, Any] = {}  # of the last assistant message
        self.throttle = Throttle()
        self.timers: list[Coalescer | ToolUpdates | Floods] = [
            self._coalescer,
            self._updates,
            self._floods,
        ]

    def take(self, line: Line, now: float) -> None:
        """Record one line."""
        if line.data.startswith(UPDATE_LINE):
            inner = read_update(line.data)
            if inner is not None:
                self._record_update(inner, now)
                return
        event = None if line.cut else parse_object(line.data)
        if event is not None:
            kind = flood_kind(event)
            if kind is None or self._floods.admit(kind, line.size, now):
                self._record_event(event, now)
        elif line.cut:
            self._record_cut(line, now)
        elif self._floods.admit("garbage", line.size, now):
            self._record(["g", now_ms(), line.head(), line.size])

    def sent(self, ident: str) -> None:
        self._record(["s", now_ms(), ident])

    def finish(self) -> None:
        self._coalescer.flush()
        self._updates.tick(float("inf"))
        self._floods.flush(time.monotonic())

    def _record(self, record: list[Any]) -> None:
        self._coalescer.flush()
        self._journal.add(record)

    def _write_event(self, event: dict[str, Any]) -> None:
        self._record(["e", now_ms(), event])

    def _record_update(self, inner: Any, now: float) -> None:
        if not isinstance(inner, dict):
            return
        kind, index, text = inner.get("type"), inner.get("contentIndex"), inner.get("delta")
        index = index if type(index) is int else 0
        if kind in DELTAS and isinstance(text, str):
            self._coalescer.add(DELTAS[kind], index, text, now)
        elif kind == "toolcall_start" and self._floods.admit(kind, 0, now):
            names = {name: inner[name] for name in ("id", "toolName") if name in inner}
            self._write_event({"type": kind, "contentIndex": index, **names})

    def _record_cut(self, line: Line, now: float) -> None:
        """Record a line that was not kept as a whole: its outline, or only its length.

        The event gets `cut`, the size of the line, and `images`, their number.
        """
        event = outline(line.data, line.tail) or {}
        kind = str(event.get("type"))
        if kind in SUMMARY_LINES:
            retry = {"willRetry": True} if event.get("willRetry") is True else {}
            self._write_event({"type": kind, **retry, **self._last_stop})
        elif kind == "message_start":
            self._record_event(event, now)
        elif kind != "message_update" and flood_kind(event) is None:
            if kind == "message_end" and dig(event, "message", "role") == "assistant":
                # The text is known from its deltas.
                event["message"].pop("content", None)
            images = {"images": line.images} if line.images else {}
            self._record_event({**event, "cut": line.size, **images}, now)
        elif self._floods.admit("line", line.size, now):
            if kind == "message_update":
                self._record_update(event.get("assistantMessageEvent"), now)
            self._record(["l", now_ms(), line.head(), line.size])

    def _record_event(self, event: dict[str, Any], now: float) -> None:
        kind = event.get("type")
        if isinstance(kind, str) and kind in THROTTLED:
            self.throttle.count(now)
        if kind == "message_update":
            self._record_update(event.get("assistantMessageEvent"), now)
            return
        if kind == "tool_execution_update":
            self._updates.add(slim_tool_update(event), now)
            return
        if kind == "tool_execution_end":
            self._updates.forget(str(event.get("toolCallId")))
            if event.get("isError") and was_killed(event) and self._killed_for_memory():
                event = {**event, "killedForMemory": True}
        if kind == "message_end" and dig(event, "message", "role") == "assistant":
            self._last_stop = stop_fields(event["message"])
        self._write_event(SLIM[kind](event) if isinstance(kind, str) and kind in SLIM else event)
        if kind == "response" and isinstance(event.get("id"), str):
            self._on_response(event["id"])


class StderrLog:
    """The agent's stderr: a short file, its last lines for the end record, some warnings."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        """`warn` gets each line with one of WARNINGS, up to MAX_WARNINGS."""
        self._path = path
        self._warn = warn
        self._warnings_left, self._line = MAX_WARNINGS, b""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._tail = b""

    def add(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-4 * STDERR_LINES * STDERR_CHARS :]
        if self._warnings_left:
            self._find_warnings(chunk)
        try:
            if os.fstat(self._file).st_size + len(chunk) > MAX_STDERR_BYTES:
                self._shorten()
            os.write(self._file, chunk)
        except OSError as trouble:
            log_problem("stderr.log: {}".format(trouble.strerror))

    def _find_warnings(self, chunk: bytes) -> None:
        *lines, rest = (self._line + chunk).split(b"\n")
        self._line = rest[: 4 * STDERR_CHARS]
        for line in lines:
            if self._warnings_left and any(text in line for text in WARNINGS):
                self._warnings_left -= 1
                self._warn(line.decode("utf-8", "replace").strip()[:STDERR_CHARS])

    def _shorten(self) -> None:
        size = os.fstat(self._file).st_size
        kept = os.pread(self._file, MAX_STDERR_BYTES // 2, max(0, size - MAX_STDERR_BYTES // 2))
        os.ftruncate(self._file, 0)
        os.write(self._file, kept[kept.find(b"\n") + 1 :])

    def last_lines(self) -> list[str]:
        lines = self._tail.decode("utf-8", "replace").rstrip("\n").split("\n")
        return [line[:STDERR_CHARS] for line in lines[-STDERR_LINES:] if line]


# --- processes ----------------------------------------------------------------------------------


class Process:
    """A process, identified by its pid and start time (in clock ticks)."""

    __slots__ = ("pid", "session", "started", "state")

    def __init__(self, pid: int) -> None:
        """Raises OSError if there is no such process."""
        with open("/proc/{}/stat".format(pid), "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.pid = pid
        self.state = fields[0]
        self.session = int(fields[3])
        self.started = int(fields[19])

    def signal(self, number: int) -> None:
        try:
            if Process(self.pid).started == self.started:
                os.kill(self.pid, number)
        except OSError:
            pass

    def gone(self) -> bool:
        try:
            now = Process(self.pid)
        except OSError:
            return True
        return now.started != self.started or now.state in (b"Z", b"X")


def started(pid: int) -> int:
    return Process(pid).started


def has_variable(pid: int, entry: bytes) -> bool:
    """Return whether a process has this entry (NAME=value) in its environment."""
    with open("/proc/{}/environ".format(pid), "rb") as file:
        return b"\0" + entry + b"\0" in b"\0" + file.read() + b"\0"


def parent_of(pid: int) -> int:
    with open("/proc/{}/stat".format(pid), "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    """Return the current descendants of this process."""
    children: dict[int, list[int]] = {}
    for each in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(parent_of(each), []).append(each)
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def user_of(pid: int) -> int:
    """Return the real user of a process, even if its files in /proc belong to root."""
    with open("/proc/{}/status".format(pid), "rb") as file:
        return int(file.read().partition(b"\nUid:")[2].split(None, 1)[0])


def agents_sharing_user(user: int, lieutenants: str) -> dict[int, bytes]:
    """Map sessions of other running agents with the same user to their tags.

    `lieutenants` is the folder that holds all lieutenants' folders.
    """
    found = {}
    for owner in os.listdir(lieutenants):
        for facts in read_shims(os.path.join(lieutenants, owner, "runs")):
            agent = facts.get("agent_pid")
            shares = facts.get("uid") == user and not facts.get("own_user")
            with contextlib.suppress(OSError):
                if not (shares and isinstance(agent, int)):
                    continue
                if started(agent) == facts.get("agent_started"):
                    found[agent] = os.fsencode("REEF_LIEUTENANT=" + owner)
    return found


def read_shims(runs: str) -> Iterator[dict[str, Any]]:
    """Yield the contents of keeper.json of each run in this folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for run in os.listdir(runs):
            path = os.path.join(runs, run, "keeper.json")
            with contextlib.suppress(OSError), open(path, "rb") as file:
                yield parse_object(file.read()) or {}


def find_remaining(
    tag: str, session: int, user: int, below: int, spared: dict[int, bytes]
) -> list[Process]:
    """Return the processes of a run.

    These have the tag in their environment, or belong to the session or the user, or descend from
    `below`. Zeros and an empty tag match nothing. Our own process, the one that waits for our
    start, and agents in `spared`, which share the user, are excluded.
    """
    wanted, mine = os.fsencode(tag), (os.getpid(), os.getppid())
    owners = {os.geteuid(), user} if user else {os.geteuid()}
    inside = set(descendants(below)) if below else set()
    found = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            owner = user_of(pid)
            if pid in mine or owner not in owners:
                continue
            process = Process(pid)
            ours = pid in inside or (session and process.session == session)
            if not ours and user and owner == user:
                other = spared and any(has_variable(pid, each) for each in spared.values())
                ours = process.session not in spared and not other
            if process.state != b"Z" and (ours or (wanted and has_variable(pid, wanted))):
                found.append(process)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found


def kill_all_of(user: int) -> None:
    """Kill all processes of a user at once, however quickly they fork."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def sweep(tag: str, session: int = 0, user: int = 0, below: int = 0, lieutenants: str = "") -> None:
    """End processes of `find_remaining`: SIGTERM, a second later SIGKILL, until all are gone."""
    begun = time.monotonic()
    while True:
        spared = agents_sharing_user(user, lieutenants) if user and lieutenants else {}
        found = find_remaining(tag, session, user, below, spared)
        if not found:
            return
        late = time.monotonic() - begun
        if late > 3 * SWEEP_SECONDS:
            log_problem("sweep: {} processes do not end".format(len(found)))
            return
        if user and not spared and late >= SWEEP_SECONDS:
            kill_all_of(user)
        for process in found:
            process.signal(signal.SIGKILL if late >= SWEEP_SECONDS else signal.SIGTERM)
            process.signal(signal.SIGCONT)
        _await_gone(found, max(begun + SWEEP_SECONDS, time.monotonic() + 0.1))


def _await_gone(processes: list[Process], until: float) -> None:
    while time.monotonic() < until and not all(process.gone() for process in processes):
        time.sleep(0.01)


class Agent:
    """The agent's process and our ends of its three pipes."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.started = started(pid)

    def signal(self, number: int) -> None:
        """Signal its whole group. It is reaped last, so its pid cannot be reused before."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)

    def ended(self) -> bool:
        """Return whether it has ended; it stays a zombie until `reap`."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def reap(self) -> tuple[int | None, int | None]:
        """Return (exit code, None) or (None, signal)."""
        status = os.waitpid(self.pid, 0)[1]
        if os.WIFSIGNALED(status):
            return None, os.WTERMSIG(status)
        return os.WEXITSTATUS(status), None


def become_agent(spec: Spec, stdin: int, stdout: int, stderr: int) -> None:
    """Become the agent, in the child process, or raise."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.umask(0o077)
    for target, source in enumerate((stdin, stdout, stderr)):
        os.dup2(source, target)
    sandbox().enter(spec.isolation)
    # Only after the sandbox: these files belong to the agent, and may be links to others.
    for path in spec.heal:
        truncate_torn_line(path)
    os.chdir(spec.cwd)
    os.execvpe(spec.argv[0], spec.argv, spec.env)  # noqa: S606 - argv is what we are for


def spawn(spec: Spec) -> Agent:
    """Start the agent in a session of its own. Raises KeeperError if it cannot be run."""
    stdin, our_stdin = os.pipe()
    our_stdout, stdout = os.pipe()
    our_stderr, stderr = os.pipe()
    report, reporter = os.pipe()
    with contextlib.suppress(OSError):  # the user's quota for pipes may be used up
        fcntl.fcntl(our_stdout, F_SETPIPE_SZ, MB)
    pid = os.fork()
    if pid == 0:
        try:
            become_agent(spec, stdin, stdout, stderr)
        except BaseException as trouble:  # noqa: BLE001 - the child must not go on as a keeper
            os.write(reporter, describe(trouble).encode("utf-8", "replace"))
        os._exit(127)
    for theirs in (stdin, stdout, stderr, reporter):
        os.close(theirs)
    failure = os.read(report, 4 * KB)  # empty if the program runs: exec closes the descriptor
    os.close(report)
    if failure:
        os.waitpid(pid, 0)
        raise KeeperError("the agent cannot be run: {}".format(failure.decode()))
    for ours in (our_stdin, our_stdout, our_stderr):
        os.set_blocking(ours, False)
    return Agent(pid, our_stdin, our_stdout, our_stderr)


# --- towards the agent --------------------------------------------------------------------------


class Outbox:
    """Pending lines for the agent's stdin, and the ids of the last accepted commands."""

    def __init__(self, stdin: int, on_sent: Callable[[str], None]) -> None:
        self._stdin = stdin
        self._on_sent = on_sent
        self._lines: deque[tuple[str, bytes]] = deque()
        self._done = 0  # bytes of the first line that are written
        self._seen: dict[str, None] = {}
        self.open = True
        self.bytes = 0

    def push(self, ident: str, line: dict[str, Any]) -> dict[str, Any]:
        """Accept a command once; return the reply for the client."""
        if ident in self._seen:
            return {"ok": True, "repeated": True}
        data = pack(line)
        if not self.open:
            return refusal("the agent has closed its input")
        if self.bytes + len(data) > MAX_PENDING_BYTES:
            return refusal("the agent does not read: {} bytes wait".format(self.bytes))
        if ident:
            self._remember(ident)
        self._lines.append((ident, data))
        self.bytes += len(data)
        return {"ok": True}

    def _remember(self, ident: str) -> None:
        self._seen[ident] = None
        if len(self._seen) > MAX_REMEMBERED_IDS:
            del self._seen[next(iter(self._seen))]

    def write(self) -> None:
        """Write as much as the agent accepts now."""
        while self._lines:
            ident, data = self._lines[0]
            try:
                done = os.write(self._stdin, memoryview(data)[self._done :])
            except BlockingIOError:
                return
            except OSError as trouble:
                self._close(trouble)
                return
            self.bytes -= done
            self._done += done
            if self._done == len(data):
                self._lines.popleft()
                self._done = 0
                if ident:
                    self._on_sent(ident)

    def _close(self, trouble: OSError) -> None:
        log_problem("stdin of the agent: {}".format(trouble.strerror))
        self._lines.clear()
        self.open, self.bytes = False, 0


class StopSequence:
    """The steps of a stop: a final command, SIGTERM, SIGKILL."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._grace = 0.0
        self._final_command = ""
        self._steps: list[int] = []
        self.begun = False
        self.due: float | None = None

    def begin(self, grace: float, final_command: str = "", wait: float = 0.0) -> None:
        """Start the steps. The response to `final_command` (an id) is awaited first."""
        self.begun = True
        self._grace, self._final_command = grace, final_command
        self._steps = [signal.SIGKILL, signal.SIGTERM]
        self.due = time.monotonic() + (wait if final_command else 0.0)

    def on_response(self, ident: str) -> None:
        """Continue with the steps when the agent has responded to the final command."""
        if self.begun and ident == self._final_command and len(self._steps) == 2:
            self.due = time.monotonic()

    def tick(self, now: float) -> None:
        if self.due is None or now < self.due:
            return
        self._agent.signal(self._steps.pop())
        self._agent.signal(signal.SIGCONT)  # a suspended agent must wake up to end
        self.due = now + self._grace if self._steps else None


# --- requests -----------------------------------------------------------------------------------


def refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


def seconds(value: Any, default: float) -> float:
    """Return a time from a request, if it is reasonable."""
    usable = type(value) in (int, float) and 0 <= value <= 3600
    return float(value) if usable else default


class Client:
    """A connection to the control socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.inbox = bytearray()
        self._searched = 0
        self.outbox = b""

    def receive(self) -> bool:
        """Read once; return False when the client is gone or its request is too large."""
        try:
            chunk = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.inbox += chunk
        return bool(chunk) and len(self.inbox) <= MAX_PENDING_BYTES + MB

    def next_request(self) -> bytes | None:
        end = self.inbox.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self.inbox)
            return None
        line = bytes(self.inbox[:end])
        del self.inbox[: end + 1]
        self._searched = 0
        return line

    def send(self, data: bytes = b"") -> None:
        self.outbox += data
        try:
            self.outbox = self.outbox[self.connection.send(self.outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outbox = b""


# --- what may happen around us -------------------------------------------------------------------


class RunFiles:
    """Restores our socket, its key and keeper.json when they are removed.

    The kernel sends SIGIO when something is deleted from our directory, so an idle keeper can
    sleep. (dnotify needs none of the few inotify instances that the agents' own programs want.)
    """

    def __init__(self, key: str, listener: socket.socket) -> None:
        self.listener = listener
        self._key = key
        self._facts = b""
        self._identity = _identity("control.sock")
        self.due: float | None = None
        try:
            directory = os.open(".", os.O_RDONLY)
            fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)
        except OSError:
            self.due = time.monotonic() + FILE_CHECK_SECONDS

    def remember_facts(self, facts: bytes) -> None:
        """Remember the contents of keeper.json, once it is written."""
        self._facts = facts

    def restore(self) -> socket.socket | None:
        """Restore missing files; return the previous socket if it was bound again."""
        if _identity("control.key") is None:
            log_problem("control.key was removed; writing it again")
            write_key(self._key)
        if self._facts and _identity("keeper.json") is None:
            write_file("keeper.json", self._facts)
        if _identity("control.sock") == self._identity:
            return None
        log_problem("control.sock was removed; binding it again")
        old, self.listener = self.listener, listen()
        self._identity = _identity("control.sock")
        return old


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class MemoryKills:
    """Counts processes killed by the kernel for memory: in our cgroup, else on the machine."""

    def __init__(self) -> None:
        self._path = self._find()
        self._count = self._read()
        self._counted_at = time.monotonic()
        self._last_kill_at: float | None = None

    def refresh(self, now: float) -> None:
        """Count now and then, so that an old kill does not appear as a recent one."""
        if now - self._counted_at >= KILL_COUNT_SECONDS:
            self._recount(now)

    def are_new(self) -> bool:
        """Return whether there was a recent kill; the kernel counts before it kills."""
        now = time.monotonic()
        self._recount(now)
        return self._last_kill_at is not None and now - self._last_kill_at <= 2 * KILL_COUNT_SECONDS

    def _recount(self, now: float) -> None:
        count = self._read()
        if count > self._count:
            self._last_kill_at = now
        self._count, self._counted_at = count, now

    @staticmethod
    def _find() -> str:
        with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
            for line in file:
                number, controllers, path = line.rstrip("\n").split(":", 2)
                if number == "0":
                    found = "/sys/fs/cgroup{}/memory.events".format(path.rstrip("/"))
                elif "memory" in controllers.split(","):
                    found = "/sys/fs/cgroup/memory{}/memory.oom_control".format(path.rstrip("/"))
                else:
                    continue
                if os.path.exists(found):
                    return found
        return "/proc/vmstat"

    def _read(self) -> int:
        with contextlib.suppress(OSError, ValueError), open(self._path) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0


# --- the keeper ---------------------------------------------------------------------------------


class Keeper:
    """One loop over the agent's pipes, the control socket, our signals and a few timers."""

    def __init__(
        self, spec: Spec, agent: Agent, listener: socket.socket, wakeup: int, key: str
    ) -> None:
        self._spec = spec
        self._key = key
        self._agent = agent
        self._files = RunFiles(key, listener)
        self._kills = MemoryKills()
        self._wakeup = wakeup
        self._journal = Journal("journal.jsonl")
        self._stderr = StderrLog("stderr.log", self._record_warning)
        self._stopping = StopSequence(agent)
        self._recorder = Recorder(self._journal, self._stopping.on_response, self._kills.are_new)
        self._outbox = Outbox(agent.stdin, self._recorder.sent)
        self._splitter = LineSplitter()
        self._clients: dict[int, Client] = {}
        self._stdout_closed_due: float | None = None
        self._read_due: float | None = None  # set while the agent's output is not read
        self._error: str | None = None
        self._ended = False
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def begin(self) -> None:
        """Write the first record and queue the agent's first commands."""
        agent = {"agent_pid": self._agent.pid, "agent_started": self._agent.started}
        self._journal.add(["b", now_ms(), {"run": self._spec.run, **agent}])
        self._journal.tick(time.monotonic())
        for line in self._spec.hello:
            ident = line.get("id")
            self._outbox.push(ident if isinstance(ident, str) else "", line)

    def remember_facts(self, facts: bytes) -> None:
        """Remember the contents of keeper.json."""
        self._files.remember_facts(facts)

    def run(self) -> None:
        """Run until the agent has ended and its end is recorded."""
        self._watch(self._wakeup, self._read_signals)
        self._watch(self._agent.stdout, self._read_stdout)
        self._watch(self._agent.stderr, self._read_stderr)
        self._watch(self._files.listener.fileno(), self._accept)
        self._guard(self._read_signals)
        while not self._ended:
            self._guard(self._write_stdin)
            self._guard(self._tick)
            for descriptor, _ in self._poll.poll(self._timeout()):
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    self._guard(handler)
        self._finish()

    def _guard(self, work: Callable[..., object], *arguments: object) -> None:
        """Log any error, so that the agent never loses its keeper."""
        try:
            work(*arguments)
        except Exception:  # noqa: BLE001 - the top of the loop; the trace goes to keeper.log
            sys.excepthook(*sys.exc_info())
            time.sleep(0.05)

    def _watch(self, descriptor: int, handler: Callable[[], None], events: int = 0) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events or select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    # time

    def _tick(self) -> None:
        now = time.monotonic()
        for timer in (*self._recorder.timers, self._stopping):
            timer.tick(now)
        if self._files.due is not None and now >= self._files.due:
            self._files.due = now + FILE_CHECK_SECONDS
            self._restore_files()
        if self._stdout_closed_due is not None and now >= self._stdout_closed_due:
            self._stop_without_stdout()
        if self._read_due is not None and now >= self._read_due:
            self._resume_reading()
        self._journal.tick(now)

    def _timeout(self) -> int | None:
        """Return milliseconds until the next timer; None if there is none."""
        timers = (*self._recorder.timers, self._stopping, self._journal, self._files)
        dues = [timer.due for timer in timers if timer.due is not None]
        dues += [due for due in (self._stdout_closed_due, self._read_due) if due is not None]
        return max(0, int((min(dues) - time.monotonic()) * 1000) + 1) if dues else None

    def _stop_without_stdout(self) -> None:
        self._stdout_closed_due = None
        if not self._stopping.begun:
            self._error = "the agent closed its output and went on"
            log_problem(self._error)
            self._stopping.begin(self._spec.stop_seconds)

    # signals and the agent's pipes

    def _read_signals(self) -> None:
        try:
            numbers = os.read(self._wakeup, 4 * KB)
        except BlockingIOError:
            numbers = b""
        if (signal.SIGTERM in numbers or signal.SIGINT in numbers) and not self._stopping.begun:
            self._stopping.begin(self._spec.stop_seconds)
        if signal.SIGIO in numbers:
            self._restore_files()
        self._ended = self._agent.ended()
        self._reap_orphans()

    def _restore_files(self) -> None:
        old = self._files.restore()
        if old is not None:
            self._unwatch(old.fileno())
            old.close()
            self._watch(self._files.listener.fileno(), self._accept)

    def _reap_orphans(self) -> None:
        """Reap processes that the agent's children left to us."""
        path = "/proc/self/task/{}/children".format(os.getpid())
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            for child in map(int, file.read().split()):
                if child != self._agent.pid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child, os.WNOHANG)

    def _read_stdout(self) -> None:
        for _ in range(READS_PER_ROUND):
            chunk = read_some(self._agent.stdout)
            if chunk is None:
                return
            if not chunk:
                self._unwatch(self._agent.stdout)
                self._stdout_closed_due = time.monotonic() + STDOUT_CLOSED_SECONDS
                return
            self._take(chunk)
            wait = self._recorder.throttle.wait(time.monotonic())
            if wait:
                self._unwatch(self._agent.stdout)
                self._read_due = time.monotonic() + wait
                return
            if len(chunk) < READ_BYTES:
                return  # the pipe is empty

    def _resume_reading(self) -> None:
        self._read_due = None
        self._watch(self._agent.stdout, self._read_stdout)

    def _take(self, chunk: bytes) -> None:
        now = time.monotonic()
        self._kills.refresh(now)
        for line in self._splitter.feed(chunk):
            self._guard(self._recorder.take, line, now)

    def _read_stderr(self) -> None:
        chunk = read_some(self._agent.stderr)
        if chunk:
            self._stderr.add(chunk)
        elif chunk is not None:
            self._unwatch(self._agent.stderr)

    def _record_warning(self, line: str) -> None:
        self._journal.add(["w", now_ms(), line])

    def _write_stdin(self) -> None:
        self._outbox.write()
        if self._outbox.bytes:
            self._watch(self._agent.stdin, self._write_stdin, select.POLLOUT)
        else:
            self._unwatch(self._agent.stdin)

    # requests

    def _accept(self) -> None:
        """Accept all waiting connections."""
        while True:
            try:
                client = Client(self._files.listener.accept()[0])
            except BlockingIOError:
                return
            if len(self._clients) >= MAX_CLIENTS:
                self._drop(next(iter(self._clients)))
            self._add_client(client)

    def _add_client(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        self._clients[descriptor] = client
        self._watch(descriptor, lambda: self._serve(descriptor))

    def _drop(self, descriptor: int) -> None:
        self._unwatch(descriptor)
        self._clients.pop(descriptor).connection.close()

    def _serve(self, descriptor: int) -> None:
        """Read requests or send replies. A client that does not read its replies gets no more."""
        client = self._clients[descriptor]
        if client.outbox:
            client.send()
        elif not client.receive():
            self._drop(descriptor)
            return
        while not client.outbox:
            request = client.next_request()
            if request is None:
                break
            client.send(pack(self._reply(request)))
        events = select.POLLOUT if client.outbox else select.POLLIN
        self._poll.modify(descriptor, events)

    def _reply(self, data: bytes) -> dict[str, Any]:
        request = parse_object(data)
        if request is None:
            return refusal("the request is not a JSON object")
        if not is_same(str(request.get("key")), self._key):
            return refusal("the request does not carry the key of this run")
        if request.get("op") == "send":
            return self._send(request)
        if request.get("op") == "state":
            return self._state()
        if request.get("op") == "stop":
            return self._stop(request)
        return refusal("unknown op: {!r}".format(request.get("op")))

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        ident, line = request.get("id"), request.get("line")
        if not isinstance(ident, str) or not ident:
            return refusal("id must be a text that is not empty")
        if not isinstance(line, dict):
            return refusal("line must be a JSON object")
        if self._stopping.begun:
            return refusal("the agent is being stopped")
        return self._outbox.push(ident, line)

    def _state(self) -> dict[str, Any]:
        return {
            "ok": True,
            "keeper_pid": os.getpid(),
            "agent_pid": self._agent.pid,
            "agent_started": self._agent.started,
            "journal": self._journal.size,
            "buffered": self._outbox.bytes,
            "stopping": self._stopping.begun,
        }

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._stopping.begun:
            return {"ok": True, "repeated": True}
        final_command, ident = request.get("farewell"), dig(request, "farewell", "id")
        if not isinstance(final_command, dict) or not isinstance(ident, str):
            ident = ""
        else:
            self._outbox.push(ident, final_command)
        wait = seconds(request.get("farewell_wait"), 3.0)
        self._stopping.begin(seconds(request.get("grace"), self._spec.stop_seconds), ident, wait)
        return {"ok": True}

    # the end

    def _finish(self) -> None:
        """Read the agent's last output, end its remaining processes, write the end record."""
        self._guard(self._drain)
        self._journal.tick(time.monotonic())
        spec = self._spec
        self._guard(
            *(sweep, spec.tag, self._agent.pid, spec.own_user, os.getpid(), spec.lieutenants)
        )
        code, number = self._agent.reap()
        end: dict[str, Any] = {"code": code, "signal": number}
        end["stderr"] = self._stderr.last_lines()
        if (number == signal.SIGKILL or code == 128 + signal.SIGKILL) and self._kills.are_new():
            end["killed_for_memory"] = True
        end["stopped"] = self._stopping.begun and self._error is None
        if self._error is not None:
            end["error"] = self._error
        self._journal.add(["x", now_ms(), end])
        self._journal.finish()
        remove("control.sock")

    def _drain(self) -> None:
        """Read what the pipes hold now.

        A grandchild may keep them open, so their end is not awaited.
        """
        until = time.monotonic() + DRAIN_SECONDS
        for descriptor, take in (
            (self._agent.stdout, self._take),
            (self._agent.stderr, self._stderr.add),
        ):
            chunk = read_some(descriptor)
            while chunk:
                take(chunk)
                chunk = read_some(descriptor) if time.monotonic() < until else None
        rest = self._splitter.rest()
        if rest is not None:
            self._recorder.take(rest, time.monotonic())
        self._recorder.finish()


def describe(trouble: BaseException) -> str:
    """Describe a problem, with the file that it concerns."""
    if isinstance(trouble, OSError) and trouble.strerror:
        return ": ".join(str(part) for part in (trouble.strerror, trouble.filename) if part)
    return str(trouble)


def read_some(descriptor: int) -> bytes | None:
    """Return available bytes: None if there are none yet, empty at the end."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None


# --- starting -----------------------------------------------------------------------------------


class Spec:
    """The launch parameters, see `Launch` in `lieutenants.supervision.transports`."""

    def __init__(self, given: dict[str, Any]) -> None:
        """Raises KeeperError that names the invalid field."""
        self.run = _text(given, "run")
        self.dir = _text(given, "dir", absolute=True)
        self.cwd = _text(given, "cwd", absolute=True)
        self.lock = _text(given, "lock", absolute=True, optional=True)
        self.tag = _text(given, "tag", optional=True)
        self.argv = _texts(given, "argv")
        self.heal = _texts(given, "heal", optional=True)
        self.env: dict[str, str] = given.get("env", {})
        self.isolation: dict[str, Any] = given.get("isolation", {"mode": "none"})
        self.hello: list[dict[str, Any]] = given.get("hello", [])
        self.stop_seconds = seconds(given.get("stop_seconds"), 3.0)
        if not self.argv:
            raise KeeperError("spec: argv is empty")
        if not isinstance(self.env, dict) or not all(
            isinstance(value, str) for value in self.env.values()
        ):
            raise KeeperError("spec: env must map names to texts")
        if not isinstance(self.isolation, dict):
            raise KeeperError("spec: isolation must be an object")
        if not isinstance(self.hello, list) or not all(
            isinstance(line, dict) for line in self.hello
        ):
            raise KeeperError("spec: hello must be a list of objects")

    @property
    def lieutenants(self) -> str:
        """Return the folder with the folders of all lieutenants: <it>/<id>/runs/<run>."""
        return os.path.dirname(os.path.dirname(os.path.dirname(self.dir)))

    @property
    def own_user(self) -> int:
        """Return the user that only this agent's processes have; 0 if it has none."""
        uid = self.isolation.get("uid")
        return uid if self.isolation.get("own_user") and type(uid) is int else 0


def _text(given: dict[str, Any], name: str, absolute: bool = False, optional: bool = False) -> str:
    value = given.get(name, "" if optional else None)
    if not isinstance(value, str) or not (value or optional):
        raise KeeperError("spec: {} must be a text".format(name))
    if absolute and value and not os.path.isabs(value):
        raise KeeperError("spec: {} must be an absolute path".format(name))
    return value


def _texts(given: dict[str, Any], name: str, optional: bool = False) -> list[str]:
    value = given.get(name, [] if optional else None)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise KeeperError("spec: {} must be a list of texts".format(name))
    return value


class AlreadyRunningError(Exception):
    """Another keeper runs in this directory; the argument is its own reply."""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keeper_json() -> dict[str, Any] | None:
    try:
        with open("keeper.json", "rb") as file:
            return parse_object(file.read())
    except FileNotFoundError:
        return None


def claim_directory(path: str) -> None:
    """Enter the run directory and lock it for our lifetime.

    Raises AlreadyRunningError, or KeeperError if the run is over or its keeper does not get ready.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chdir(path)
    directory = os.open(".", os.O_RDONLY)
    until = time.monotonic() + CALL_SECONDS
    while not _try_lock(directory):
        known = _keeper_json()
        if known is not None:
            raise AlreadyRunningError({**known, "already": True})
        if time.monotonic() > until:
            raise KeeperError("another supervisor is starting in this run directory, for too long")
        time.sleep(0.02)
    if _keeper_json() is not None:
        raise KeeperError("this run has been started before and is over")


def lock_session(path: str) -> None:
    """Lock the session's file for our lifetime, or raise KeeperError."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        session = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # Only a file that is still at its path excludes a keeper that opens it after us.
        if _try_lock(session) and _is_at(session, path):
            return
        os.close(session)
        if time.monotonic() > until:
            raise KeeperError("another supervisor holds this session")
        time.sleep(0.02)


def _is_at(opened: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except FileNotFoundError:
        return False


def truncate_torn_line(path: str) -> None:
    """Truncate a file to the end of its last complete line."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        end = size = os.fstat(file).st_size
        while end:
            start = max(0, end - READ_BYTES)
            found = os.pread(file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(file, end)
    finally:
        os.close(file)


def listen() -> socket.socket:
    """Return the control socket in the current directory: a relative path is never too long."""
    remove("control.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("control.sock")
    listener.listen(CONNECT_BACKLOG)
    listener.setblocking(False)
    return listener


def make_key() -> str:
    """Return a secret that only processes that may read our directory can send."""
    key = binascii.hexlify(os.urandom(24)).decode()
    write_key(key)
    return key


def write_key(key: str) -> None:
    """Write the key to a file, for the senders of requests."""
    remove("control.key")
    with open(os.open("control.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)


def read_key(directory: int) -> str:
    """Return the key of the run directory behind this descriptor; empty for a run without one."""
    try:
        with open(os.open("control.key", os.O_RDONLY, dir_fd=directory)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def is_same(given: str, key: str) -> bool:
    """Compare in constant time. (The hmac module would cost megabytes.)"""
    differs = len(given) != len(key)
    for one, other in zip(given, key):  # noqa: B905 - strict= needs Python 3.10
        differs |= one != other
    return not differs


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_file(path: str, data: bytes) -> None:
    """Write a file atomically."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def catch_signals() -> int:
    """Return a descriptor that becomes readable with the numbers of received signals."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGIO):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reader


def detach(descriptor: int) -> None:
    """Point an inherited descriptor to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def close_inherited() -> None:
    """Close all descriptors except the standard three."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # one of them listed the directory
                os.close(int(name))


def read_all(descriptor: int) -> bytes:
    """Read until the end."""
    data = bytearray()
    while True:
        chunk = os.read(descriptor, READ_BYTES)
        if not chunk:
            return bytes(data)
        data += chunk


def prepare(spec: Spec) -> tuple[Keeper, dict[str, Any]]:
    """Start the agent; return the keeper and its reply.

    Raises KeeperError, AlreadyRunningError, OSError.
    """
    claim_directory(spec.dir)
    log = os.open("keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if spec.lock:
        lock_session(spec.lock)
    if spec.tag:
        sweep(spec.tag, user=spec.own_user, lieutenants=spec.lieutenants)
    wakeup, listener, key = catch_signals(), listen(), make_key()
    try:
        agent = spawn(spec)
    except KeeperError:
        remove("control.sock")
        raise
    os.dup2(log, 2)
    os.close(log)
    try:
        keeper = Keeper(spec, agent, listener, wakeup, key)
        keeper.begin()
        answer = start_reply(spec, agent)
        write_file("keeper.json", pack(answer))
        keeper.remember_facts(pack(answer))
    except OSError:
        agent.signal(signal.SIGKILL)
        agent.reap()
        raise
    spec.env.clear()  # may hold secrets, and is not needed any more
    spec.argv.clear()
    return keeper, answer


def boot_id() -> str:
    """Return the kernel's id of this boot, in which pids and start times are valid.

    Empty where it is unknown.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_reply(spec: Spec, agent: Agent) -> dict[str, Any]:
    """Return the reply to `start`: pids and start times of keeper and agent."""
    return {
        "ok": True,
        "run": spec.run,
        "keeper_pid": os.getpid(),
        "keeper_started": started(os.getpid()),
        "agent_pid": agent.pid,
        "agent_started": agent.started,
        "boot_id": boot_id(),
        "isolation": spec.isolation.get("mode"),
        "own_user": spec.own_user,
        "uid": spec.isolation.get("uid", 0),
    }


def run_keeper() -> None:
    """Run the keeper's own process until the agent ends.

    Reads the spec from stdin and writes the reply to stdout.
    """
    close_inherited()
    os.setsid()
    os.umask(0o077)
    keeper = None
    try:
        sandbox().set_dumpable(False)
        sandbox().adopt_orphans()
        given = parse_object(read_all(0))
        detach(0)
        if given is None:
            raise KeeperError("the spec is not a JSON object")
        keeper, answer = prepare(Spec(given))
    except AlreadyRunningError as held:
        answer = held.args[0]
    except KeeperError as trouble:
        answer = refusal(str(trouble))
    except OSError as trouble:
        answer = refusal(describe(trouble))
    print_json(answer)
    detach(1)
    if keeper is not None:
        keeper.run()


def print_json(answer: dict[str, Any]) -> None:
    try:
        os.write(1, pack(answer))
    except OSError as trouble:
        log_problem("nobody waits for the answer: {}".format(trouble.strerror))


def start(place: str) -> int:
    """Start a keeper in a clean process of its own and pass its reply on.

    It imports this module from `place`, a folder or an archive.
    """
    ours, theirs = os.pipe()
    name = os.path.splitext(os.path.basename(__file__))[0]
    flags = ["-I", "-S", "-X", "utf8"]
    os.posix_spawn(
        sys.executable,
        [sys.executable, *flags, "-c", IMPORTED, place, name],
        clean_environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)],
    )
    os.close(theirs)
    answer = read_all(ours)
    if not answer:
        answer = pack(refusal("the supervisor died before the agent ran"))
    os.write(1, answer)
    return 0 if dig(parse_object(answer), "ok") is True else 1


def clean_environment() -> dict[str, str]:
    """Return an empty environment, except that large freed lines return to the system (glibc)."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", **kept}


def call(path: str) -> int:
    """Pass one request line from stdin to the keeper of a run directory; print its reply."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CALL_SECONDS)
            connection.connect("/proc/self/fd/{}/control.sock".format(directory))
            request = parse_object(read_all(0).split(b"\n", 1)[0]) or {}
            connection.sendall(pack({**request, "key": read_key(directory)}))
            with connection.makefile("rb") as stream:
                answer = stream.readline()
    except OSError as trouble:
        answer = pack(refusal("no supervisor answers: {}".format(trouble)))
    if not answer:
        answer = pack(refusal("the supervisor has gone"))
    os.write(1, answer)
    return 0 if dig(parse_object(answer), "ok") is True else 1


def main(arguments: list[str], archive: str = "") -> int:
    if arguments == ["start"]:
        return start(os.path.abspath(archive or os.path.dirname(__file__)))
    if len(arguments) == 2 and arguments[0] == "call":
        return call(arguments[1])
    sys.stderr.write(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
