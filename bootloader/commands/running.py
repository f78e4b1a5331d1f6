"""Run one command on its machine, in a worker, and keep what it prints as it comes."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from bootloader import providers
from bootloader.commands.output import KeptOutput
from bootloader.exceptions import NoSuchMachine
from bootloader.models import MachineCommand
from bootloader.providers.ssh import hosts as ssh_hosts
from bootloader.providers.ssh import shell
from bootloader.providers.ssh.command import END_SECONDS, START_SECONDS
from bootloader.providers.ssh.connect import connect_machine
from bootloader.providers.ssh.protocol import CommandEnd, EndReason, Shell
from bootloader.states import CommandState
from reef_site.common import clock
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from reef_site.common.outside import Line, Result
from reef_site.common.text import clip_words
from versconfig import vault
from versconfig.screening import sources

logger = logging.getLogger(__name__)

RUN = "bootloader.run-command"
SEALED_AS = "command on a machine"
CONNECT_SECONDS = 15.0
# Beside its own limit: two tries to connect, its start, and its end.
MORE_SECONDS = 2 * CONNECT_SECONDS + START_SECONDS + END_SECONDS + 5.0
SAVE_SECONDS = 1.0
_STATES = {
    EndReason.ENDED: CommandState.DONE,
    EndReason.TIMED_OUT: CommandState.TIMED_OUT,
    EndReason.CANCELLED: CommandState.CANCELLED,
}


def run(command_id: str) -> Result:
    """Run the command unless somebody has begun, or it was cancelled."""
    row = MachineCommand.objects.select_related("machine", "ssh_host").get(pk=command_id)
    with contextlib.suppress(LostRace, IllegalMove):
        sealed = row.sealed
        row.move(CommandState.RUNNING, began_at=clock.now(), sealed="")
        _Run(row).run(sealed)
    return {"id": row.pk}


def lines(result: Result) -> list[Line]:
    """Return how a page shows the end of the call."""
    row = MachineCommand.objects.filter(pk=result["id"]).first()
    return [(row.is_good, f"{row}: {row.note}")] if row else []


class _Run:
    """One command: its output so far, and its row."""

    def __init__(self, row: MachineCommand) -> None:
        screen = sources.for_node(row.vm_id, recheck=True)
        self._row = row
        self._output, self._errors = KeptOutput(screen), KeptOutput(screen)
        self._saved_at = time.monotonic()
        self._saved_size = 0

    def run(self, sealed: str) -> None:
        """Connect, run it, and keep how it ended."""
        try:
            text = vault.unseal(SEALED_AS, sealed)
            with self._connect() as connected:
                self._row.began_at = clock.now()
                end = connected.run_text(
                    text,
                    limit=self._row.limit_seconds,
                    output=self._output,
                    errors=self._errors,
                    is_cancelled=self._is_cancelled,
                )
        except (ReefError, OSError) as error:
            self._fail(str(error) or type(error).__name__)
        except Exception:
            self._fail("an error of reef's own; its log tells more")
            raise
        else:
            self._end(end)

    def _connect(self) -> Shell:
        row = self._row
        if row.ssh_host:
            return shell.connect(ssh_hosts.login(row.ssh_host), CONNECT_SECONDS)
        if row.machine is None or row.machine.is_gone:
            raise NoSuchMachine("The machine is gone")
        provider = providers.get(row.machine.provider)
        return connect_machine(provider, row.machine.machine_id, CONNECT_SECONDS)

    def _is_cancelled(self) -> bool:
        """Save the output from time to time, and return whether somebody has cancelled."""
        mine = MachineCommand.objects.filter(pk=self._row.pk)
        size = self._output.size + self._errors.size
        if size != self._saved_size and time.monotonic() - self._saved_at >= SAVE_SECONDS:
            mine.open().update(**self._kept())
            self._saved_at, self._saved_size = time.monotonic(), size
        facts = mine.values_list("state", "cancelled_by").first()
        # One that somebody else has ended need not go on either.
        return facts is None or facts[0] != CommandState.RUNNING or bool(facts[1])

    def _kept(self) -> dict[str, Any]:
        return {
            "output": self._output.text(),
            "errors": self._errors.text(),
            "output_size": self._output.size,
            "errors_size": self._errors.size,
        }

    def _end(self, end: CommandEnd) -> None:
        self._row.refresh_from_db(fields=["cancelled_by"])
        fields = {**self._kept(), "exit_status": end.exit_status, "began_at": self._row.began_at}
        self._row.move(_STATES[end.reason], note=self._note(end), **fields)

    def _note(self, end: CommandEnd) -> str:
        row, status = self._row, end.exit_status
        if end.reason is EndReason.ENDED:
            return f"ended with status {status}"
        unsure = " The machine did not confirm it: it may go on." if status is None else ""
        if end.reason is EndReason.TIMED_OUT:
            return f"ended because it took longer than {row.limit_seconds} s.{unsure}"
        return f"cancelled by {row.cancelled_by or 'reef'}.{unsure}"

    def _fail(self, why: str) -> None:
        self._output.finish()
        self._errors.finish()
        note = clip_words(sources.current().cover(why), 1000)
        self._row.move(CommandState.FAILED, note=note, **self._kept())
