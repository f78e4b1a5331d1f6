"""VMs that are lieutenants: their agents are ended and started, their sessions stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.conf import settings

from lieutenants import services
from lieutenants.exceptions import NotNow
from lieutenants.hosts import silence
from lieutenants.models import Lieutenant
from lieutenants.operations.handlers import Handler, Outlook
from lieutenants.operations.models import Verb
from lieutenants.states import Status
from lieutenants.transports import get_transport
from reef_site.common.errors import IllegalMove, NotFound


def lieutenants_at(vm_ids: Iterable[str]) -> dict[str, Lieutenant]:
    """The lieutenant of each of these VMs that is one's: its id is the VM's."""
    return Lieutenant.objects.in_bulk(list(vm_ids))


class AgentVM(Handler):
    """Asks `lieutenants.services`, as everybody does."""

    name = "lieutenant"

    def outlooks(self, verb: Verb, vm_ids: Sequence[str]) -> dict[str, Outlook]:
        """What becomes of each lieutenant's agent."""
        return {vm_id: _outlook(verb, row) for vm_id, row in lieutenants_at(vm_ids).items()}

    def pause(self, vm_id: str, actor: str) -> None:
        """End its agent, also in the middle of its work."""
        services.pause(_living(vm_id).name, actor=actor, force=True)

    def resume(self, vm_id: str, actor: str) -> None:
        """Start its agent on its session."""
        lieutenant = _living(vm_id)
        if not lieutenant.should_run:
            services.resume(lieutenant.name, actor=actor)

    def destroy(self, vm_id: str, actor: str) -> None:
        """End it for good."""
        lieutenant = lieutenants_at([vm_id]).get(vm_id)
        if lieutenant and lieutenant.status != Status.DESTROYED:
            services.destroy(lieutenant.name, actor=actor)

    def is_done(self, verb: Verb, vm_id: str) -> bool:
        """Whether its agent has ended, or is there."""
        lieutenant = lieutenants_at([vm_id]).get(vm_id)
        if lieutenant is None:
            return True
        if verb == Verb.RESUME and not lieutenant.should_run:
            said = lieutenant.error or f"lieutenant '{lieutenant.name}' is {lieutenant.status}"
            raise NotNow(said)
        if verb == Verb.PAUSE and lieutenant.should_run:
            raise IllegalMove(f"lieutenant '{lieutenant.name}' was started again meanwhile")
        if note := silence.note_on(lieutenant):
            raise NotNow(f"lieutenant '{lieutenant.name}': {note}")
        return services.at_rest(lieutenant.pk)

    def proof_of_death(self, vm_id: str) -> str | None:
        """Its agent's process: ended, as its row tells, or not there, as the host tells."""
        lieutenant = lieutenants_at([vm_id]).get(vm_id)
        if lieutenant is None or lieutenant.status in (Status.PAUSED, Status.STARTING):
            return None
        newest = lieutenant.processes.order_by("-started_at", "-id").first()
        if newest is None:
            return None
        if newest.ended_at:
            return f"its process ended at {newest.ended_at:%Y-%m-%d %H:%M:%S}: {newest.end_reason}"
        if newest.data_folder != settings.DATA_FOLDER_ID or not newest.handle:
            return None
        alive = get_transport(newest.transport).alive(newest.handle, newest.directory)
        return None if alive else f"its supervisor (pid {newest.handle.get('keeper_pid')}) is gone"


def _living(vm_id: str) -> Lieutenant:
    lieutenant = lieutenants_at([vm_id]).get(vm_id)
    if lieutenant is None or lieutenant.status == Status.DESTROYED:
        raise NotFound(f"the lieutenant of VM '{vm_id}' was destroyed")
    return lieutenant


def _outlook(verb: Verb, row: Lieutenant) -> Outlook:
    if row.status == Status.DESTROYED:
        gone = "" if verb == Verb.DESTROY else "its lieutenant was destroyed"
        return Outlook("remove it from registry and tree", gone)
    if verb == Verb.DESTROY:
        working = ", which is working," if row.status == Status.WORKING else ""
        return Outlook(f"destroy lieutenant '{row.name}'{working} and keep its transcript")
    if verb == Verb.RESUME:
        paused = row.status == Status.PAUSED
        return Outlook(
            f"start the agent of lieutenant '{row.name}' on its session",
            "" if paused else f"is not paused but {row.status}",
        )
    return Outlook(
        f"end the agent of lieutenant '{row.name}'{_in_work(row)}; its session stays",
        _runs_not(row),
    )


def _in_work(row: Lieutenant) -> str:
    return " in the middle of its work" if row.status == Status.WORKING else ""


def _runs_not(row: Lieutenant) -> str:
    """Why there is nothing to pause."""
    if row.status == Status.PAUSED:
        return "is paused already"
    at_rest = row.status == Status.ERROR and row.restart_at is None
    return "is in error: no agent runs" if at_rest else ""
