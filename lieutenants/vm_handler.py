"""Handler of VMs that are lieutenants: stops and starts their agents, keeps their sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.conf import settings

from lieutenants import services
from lieutenants.exceptions import NotNow
from lieutenants.hosts import liveness
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.supervision.transports import transport_of
from reef_site.common.errors import IllegalMove, NotFound
from vmtree.operations.handlers import Effect, Handler
from vmtree.operations.models import Operation


def lieutenants_by_vm(vm_ids: Iterable[str]) -> dict[str, Lieutenant]:
    """Map VM ids to their lieutenants; VMs without one are left out."""
    return Lieutenant.objects.in_bulk(list(vm_ids))


class LieutenantHandler(Handler):
    """Run the operations through `lieutenants.services`."""

    name = "lieutenant"
    sets_status = True

    def effects(self, verb: Operation, vm_ids: Sequence[str]) -> dict[str, Effect]:
        """Return the effect on each VM that has a lieutenant."""
        return {vm_id: _effect(verb, row) for vm_id, row in lieutenants_by_vm(vm_ids).items()}

    def pause(self, vm_id: str, actor: str) -> None:
        """Stop the agent, even while it is working."""
        services.pause(_active_lieutenant(vm_id).name, actor=actor, force=True)

    def resume(self, vm_id: str, actor: str) -> None:
        """Start the agent with its session, unless it runs already."""
        lieutenant = _active_lieutenant(vm_id)
        if not lieutenant.should_run:
            services.resume(lieutenant.name, actor=actor)

    def destroy(self, vm_id: str, actor: str) -> None:
        """Destroy the lieutenant, unless it is destroyed already."""
        lieutenant = lieutenants_by_vm([vm_id]).get(vm_id)
        if lieutenant and lieutenant.status != Status.DESTROYED:
            services.destroy(lieutenant.name, actor=actor)

    def is_done(self, verb: Operation, vm_id: str) -> bool:
        """Return whether the agent has stopped or started as requested.

        Raises NotNow if it could not start or its host does not answer, IllegalMove if it was
        started again in the meantime.
        """
        lieutenant = lieutenants_by_vm([vm_id]).get(vm_id)
        if lieutenant is None:
            return True
        if verb == Operation.RESUME and not lieutenant.should_run:
            problem = lieutenant.error or f"lieutenant '{lieutenant.name}' is {lieutenant.status}"
            raise NotNow(problem)
        if verb == Operation.PAUSE and lieutenant.should_run:
            raise IllegalMove(f"lieutenant '{lieutenant.name}' was started again meanwhile")
        if note := liveness.pending_note(lieutenant):
            raise NotNow(f"lieutenant '{lieutenant.name}': {note}")
        return services.at_rest(lieutenant.pk)

    def evidence_of_death(self, vm_id: str) -> str | None:
        """Return what shows that its newest process has ended; None if nothing does."""
        lieutenant = lieutenants_by_vm([vm_id]).get(vm_id)
        if lieutenant is None or lieutenant.status in (Status.PAUSED, Status.STARTING):
            return None
        newest = lieutenant.processes.order_by("-started_at", "-id").first()
        if newest is None:
            return None
        if newest.ended_at:
            return f"its process ended at {newest.ended_at:%Y-%m-%d %H:%M:%S}: {newest.end_reason}"
        if newest.data_folder != settings.DATA_FOLDER_ID or not newest.handle:
            return None
        alive = transport_of(newest).alive(newest.handle, newest.directory)
        return None if alive else f"its supervisor (pid {newest.handle.get('keeper_pid')}) is gone"


def _active_lieutenant(vm_id: str) -> Lieutenant:
    lieutenant = lieutenants_by_vm([vm_id]).get(vm_id)
    if lieutenant is None or lieutenant.status == Status.DESTROYED:
        raise NotFound(f"the lieutenant of VM '{vm_id}' was destroyed")
    return lieutenant


def _effect(verb: Operation, row: Lieutenant) -> Effect:
    if row.status == Status.DESTROYED:
        problem = "" if verb == Operation.DESTROY else "its lieutenant was destroyed"
        return Effect("remove it from registry and tree", problem)
    if verb == Operation.DESTROY:
        working = ", which is working," if row.status == Status.WORKING else ""
        return Effect(f"destroy lieutenant '{row.name}'{working} and keep its transcript")
    if verb == Operation.RESUME:
        paused = row.status == Status.PAUSED
        return Effect(
            f"start the agent of lieutenant '{row.name}' on its session",
            "" if paused else f"is not paused but {row.status}",
        )
    return Effect(
        f"end the agent of lieutenant '{row.name}'{_while_working(row)}; its session stays",
        _why_not_running(row),
    )


def _while_working(row: Lieutenant) -> str:
    return " in the middle of its work" if row.status == Status.WORKING else ""


def _why_not_running(row: Lieutenant) -> str:
    """Return why there is nothing to pause; empty if the agent runs."""
    if row.status == Status.PAUSED:
        return "is paused already"
    at_rest = row.status == Status.ERROR and row.restart_at is None
    return "is in error: no agent runs" if at_rest else ""
