"""Numbers that limit what the keeper reads, keeps and waits for."""

from __future__ import annotations

KB, MB = 1 << 10, 1 << 20
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
JOURNAL_BURST, JOURNAL_STEADY = 64 * MB, MB  # bytes of the journal, at once and a second
RECORD_BYTES = 500  # a record counts as so many bytes more than it has, for the work that it makes
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
