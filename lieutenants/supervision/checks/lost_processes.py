"""Processes whose keeper is gone, and starts whose worker died before the keeper replied."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import WriteBatch, check_still_ours, save_progress
from lieutenants.supervision import journal, journal_gaps, remote_work, runtime, starts
from lieutenants.supervision.checks.background import Background
from lieutenants.supervision.transports import transport_of
from reef_site.common import events

logger = logging.getLogger(__name__)

# A process whose keeper has not reported a handle in this time was lost during its start.
LOST_START_AFTER = timedelta(seconds=35)
# A started keeper can be found by its files much earlier.
FIND_AFTER = timedelta(seconds=3)
# A machine that did not answer is asked again after this time. Meanwhile others may have the
# lieutenant's lease, such as its deletion.
AGAIN_SECONDS = 15.0
# The end of a journal that is applied at once: at least one record, and a torn one.
LAST_BYTES, LAST_RECORDS = 32 << 20, 4000
# The end of a journal that cannot be read is given up after this time.
GIVE_UP_SECONDS = 30.0


class LostProcesses:
    """Finds out what became of processes, and ends their rows."""

    def __init__(self, background: Background) -> None:
        self._background = background
        # When a start on a machine may be looked at again.
        self._again_at: dict[str, float] = {}
        # Since when the end of a process' journal cannot be read.
        self._unreadable_since: dict[str, float] = {}

    def check_start(self, process: Process) -> None:
        """Find out what became of a process without a session, if its start was lost."""
        now = timezone.now()
        if process.handle or now - process.started_at < FIND_AFTER:
            return
        transport = transport_of(process)
        handle = None if transport.is_remote else transport.find(process.directory)
        if handle:
            Process.objects.filter(pk=process.pk, handle={}).update(handle=handle)
            return
        if now - process.started_at < LOST_START_AFTER or self._background.is_busy:
            return
        reason = process.end_reason
        if (now - process.started_at).total_seconds() > settings.START_SECONDS:
            reason = reason or f"Its supervisor did not come up for {settings.START_SECONDS} s."
            starts.fail(process.lieutenant, reason)
        if not transport.is_remote:
            self._background.run(partial(runtime.resolve_start, process, reason))
        elif time.monotonic() >= self._again_at.get(process.pk, 0.0):
            # Not by the lieutenant's key, which is that of its deletion, too.
            resolve = partial(self._resolve_remote, process, reason)
            remote_work.submit(f"start of {process.pk}", resolve)

    def _resolve_remote(self, process: Process, reason: str) -> None:
        try:
            runtime.resolve_start(process, reason)
        finally:
            now = time.monotonic()
            kept = {pk: at for pk, at in self._again_at.items() if at > now}
            self._again_at = {**kept, process.pk: now + AGAIN_SECONDS}

    def end(self, session: Session, *, while_away: bool) -> bool:
        """End the process of a dead keeper, after applying the rest of its journal.

        Return False if that would take long: then the follower goes on reading first. Also if the
        journal cannot be read; it is given up after a while.
        """
        process = session.process
        found = self._read_end(process)
        if found is None:
            return False
        gap, skipped, rest = found
        records, size = journal.split(rest, LAST_RECORDS)
        # Without a whole record in so many bytes, reading on would not help.
        is_cut = len(rest) == LAST_BYTES and size > 0
        if is_cut or b"\n" in rest[size:]:
            return False
        self._apply_end(session, gap + records, skipped + size, while_away=while_away)
        if not Lieutenant.objects.get(pk=session.lieutenant.pk).should_run:
            self._end_rest(process)
        return True

    def _read_end(self, process: Process) -> tuple[list[list[Any]], int, bytes] | None:
        """Return the rest of the journal behind a missing part; None to try again later.

        In front of it are the record about the missing part, if any, and that part's size.
        """
        found: tuple[list[list[Any]], int, bytes]
        try:
            found = _read_behind_gap(process)
        except TransportError as error:
            now = time.monotonic()
            since = self._unreadable_since.setdefault(process.pk, now)
            if now - since < GIVE_UP_SECONDS:
                logger.info("cannot read the end of %s yet: %s", process, error)
                return None
            logger.warning("cannot read the end of %s: %s", process, error)
            found = [], 0, b""
        self._unreadable_since.pop(process.pk, None)
        return found

    @staticmethod
    def _apply_end(
        session: Session, records: list[list[Any]], size: int, *, while_away: bool
    ) -> None:
        process = session.process
        batch = WriteBatch()
        with transaction.atomic():
            check_still_ours([process])
            session.apply(records, batch, session.state.last_record_at)
            process.offset += size
            if not session.state.is_ended:
                session.handle(inputs.ProcessLost(while_away))
            batch.write()
            session.store_state()
            save_progress([session])
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})

    def _end_rest(self, process: Process) -> None:
        """End the remaining processes. Before a restart the next keeper does that."""
        transport = transport_of(process)
        end_rest = partial(transport.stop, process.directory, process.handle, None)
        if transport.is_remote:
            remote_work.submit(f"rest of {process.pk}", end_rest)
        else:
            self._background.run(end_rest)


def _read_behind_gap(process: Process) -> tuple[list[list[Any]], int, bytes]:
    """Return the record about a missing part, its size, and the bytes behind it."""
    transport = transport_of(process)
    rest = transport.read(process.directory, process.offset, LAST_BYTES)
    if not journal_gaps.begins_with_gap(rest):
        return [], 0, rest
    gap, skipped = journal_gaps.skip_gap(process)
    return gap, skipped, transport.read(process.directory, process.offset + skipped, LAST_BYTES)
