"""The VM operations, by the platform's rules: create, restore, branch, commit, pause, delete."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shlex
from collections.abc import Callable, Coroutine
from typing import Any

from reef_site.demo.platform import guest, keys
from reef_site.demo.platform.faults import Switches, Trouble
from reef_site.demo.platform.hosting_base import Boot, Hosting, HostingError
from reef_site.demo.platform.journal import Journal
from reef_site.demo.platform.responses import ASLEEP, BranchRefusal, Refusal, node_error
from reef_site.demo.platform.runs import Runs
from reef_site.demo.platform.store import Account, Commit, Store, Vm, new_id, now

IMAGES = frozenset({"default"})


class Machines:
    """All VMs and commits, and what may be done to them."""

    def __init__(self, store: Store, hosting: Hosting, trouble: Trouble) -> None:
        self.store, self.hosting, self.trouble = store, hosting, trouble
        self.journal = Journal()
        # The gateway's way to break connections, of one VM or of all; how many.
        self.hang_up: Callable[[str | None], int] = lambda _: 0
        hosting.ended = self._died
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, Runs] = {}

    @property
    def switches(self) -> Switches:
        return self.trouble.switches

    # -- finding

    def vm(self, vm_id: str, who: Account, *, text: str = "not found", shout: bool = False) -> Vm:
        """A VM of the caller's organisation."""
        vm = self.store.vms.get(vm_id)
        if vm is None:
            raise Refusal(404, text)
        if vm.org != who.org:
            raise Refusal(403, "Forbidden" if shout else "forbidden")
        return vm

    def commit_of(self, commit_id: str, who: Account) -> Commit:
        """A commit that the caller may restore: of its organisation, or a public one."""
        commit = self.store.commits.get(commit_id)
        if commit is None:
            raise Refusal(404, "commit not found")
        if commit.org != who.org and not commit.is_public:
            raise Refusal(403, "Forbidden")
        return commit

    async def awake(self, vm: Vm, *, skip_wait: bool) -> None:
        """Wait until it has booted; raises if it never does, or sleeps."""
        if vm.state == "booting" and skip_wait:
            raise node_error(f"409: VM is still booting: {vm.vm_id}")
        await vm.settled.wait()
        if vm.vm_id not in self.store.vms:
            raise Refusal(404, "vm not found")
        if vm.state == "sleeping":
            raise Refusal(409, ASLEEP)

    # -- making

    async def create(self, who: Account, config: dict[str, Any], *, wait: bool) -> Vm:
        """A VM from an image; it boots after this unless `wait`."""
        image = config.get("image_name") or "default"
        if image not in IMAGES:
            raise Refusal(404, f"image not found: {image}")
        vm = Vm(
            new_id(),
            who.owner_id,
            who.org,
            number=0,
            labels=dict(config.get("labels") or {}),
            vcpus=config.get("vcpu_count") or 1,
            memory_mib=config.get("mem_size_mib") or 512,
            disk_mib=config.get("fs_size_mib") or 1024,
        )
        self._admit(vm)
        booting = self._soon(self._boot(vm))
        if wait:
            await asyncio.shield(booting)
            if vm.vm_id not in self.store.vms:
                raise Refusal(500, "failed to provision VM on node: 500: the VM did not boot")
        return vm

    async def restore(self, who: Account, commit: Commit) -> Vm:
        """A VM from a commit; it runs when this returns."""
        vm = Vm(
            new_id(),
            who.owner_id,
            who.org,
            number=0,
            vcpus=commit.vcpus,
            memory_mib=commit.memory_mib,
            disk_mib=commit.disk_mib,
            layers=list(commit.layers),
            parent_commit_id=commit.commit_id,
            grandparent_vm_id=commit.parent_vm_id,
            restored=True,
        )
        self._admit(vm)
        await asyncio.shield(self._soon(self._boot(vm)))
        if vm.vm_id not in self.store.vms:
            raise Refusal(500, "failed to provision VM on node: 500: the VM did not boot")
        return vm

    async def branch(self, who: Account, commit: Commit, count: int, *, plain: bool) -> list[Vm]:
        """Some VMs from a commit, one after another; the error names those that were made."""
        made: list[Vm] = []
        limit = self.switches.branch_fail_after
        for number in range(count):
            try:
                if limit is not None and number >= limit:
                    raise Refusal(500, "failed to provision VM on node: 500: no capacity")
                made.append(await self.restore(who, commit))
            except Refusal as error:
                if plain and not made:
                    raise
                ids = [vm.vm_id for vm in made]
                raise BranchRefusal(error.status, error.error, ids) from None
        return made

    def _admit(self, vm: Vm) -> None:
        """Give it a number if the organisation's limits allow it."""
        mates = [each for each in self.store.vms.values() if each.org == vm.org]
        counted = [each for each in mates if each.state != "sleeping"]
        vcpus, memory = sum(each.vcpus for each in counted), sum(m.memory_mib for m in counted)
        limits = self.switches.quota_vcpus, self.switches.quota_mib
        tail = "Increase your limits at https://vers.sh/settings to continue"
        if vcpus + vm.vcpus > limits[0]:
            use = f"requires {vm.vcpus} vCPUs, but org is using {vcpus}/{limits[0]} vCPUs"
            raise Refusal(403, f"vCPU limit exceeded: this VM {use}. {tail}")
        if memory + vm.memory_mib > limits[1]:
            use = f"requires {vm.memory_mib} MiB, but org is using {memory}/{limits[1]} MiB"
            raise Refusal(403, f"Memory limit exceeded: this VM {use}. {tail}")
        try:
            vm.number = self.store.free_number()
        except LookupError:
            raise Refusal(500, "failed to provision VM on node: 503: node is full") from None
        self.store.vms[vm.vm_id] = vm

    async def _boot(self, vm: Vm) -> None:
        """Bring it up, or let it vanish as the platform does."""
        async with vm.lock:
            try:
                if not vm.restored:
                    await asyncio.sleep(self.switches.boot_delay_s)
                if self._unlucky():
                    raise HostingError("the boot failed, as it was told to")
                private, public = keys.ssh_pair(f"{guest.MARK} {vm.vm_id}")
                vm.private_key, vm.public_key = private, public
                await self.hosting.boot(self._boot_order(vm))
                vm.state, vm.running_since = "running", asyncio.get_running_loop().time()
            except (HostingError, OSError) as error:
                print(f"VM {vm.vm_id} did not boot: {error}", flush=True)
                self.store.vms.pop(vm.vm_id, None)
            finally:
                vm.settled.set()
        if vm.state == "running" and (variables := self.store.env_vars.get(vm.org)):
            self._soon(self._write_environment(vm, variables))

    def _unlucky(self) -> bool:
        if self.switches.fail_boots > 0:
            self.switches.fail_boots -= 1
            return True
        return random.random() < self.switches.fail_boot_rate

    def _boot_order(self, vm: Vm) -> Boot:
        info = json.dumps({"vm_id": vm.vm_id, "parent_commit_id": vm.parent_commit_id}) + "\n"
        files = guest.identity(vm.vm_id, vm.public_key, info=info)
        if not vm.restored:
            host_key = keys.ssh_pair(f"root@vm-{vm.vm_id[:8]}")
            return Boot(vm, [*guest.first_boot(vm.vm_id, host_key), *files], guest.OURS)
        if self.switches.break_dns_after_restore:
            files.append(guest.File("/etc/resolv.conf", guest.name_servers(dead=True)))
        return Boot(vm, files)

    async def _write_environment(self, vm: Vm, variables: dict[str, str]) -> None:
        """The account's variables, late and all over what was there."""
        text = guest.environment_file(variables)
        if not self.switches.wipe_env:
            text = self.hosting.environment_file(vm.vm_id) + text
        place = shlex.quote(self.hosting.path(vm.vm_id, "/etc/environment"))
        await self.run(vm, ["sh", "-c", f"cat > {place}"], text.encode())

    # -- changing

    async def change_state(self, vm: Vm, state: str) -> None:
        """Paused, Running or Sleeping."""
        async with vm.lock:
            if state == "Running":
                await self._go_on(vm)
            else:
                await self.hosting.freeze(vm.vm_id)
                vm.state = state.lower()

    async def commit(
        self, who: Account, vm: Vm, wanted: dict[str, Any], *, keep_paused: bool
    ) -> Commit:
        """Save its disk while it is stopped; it goes on afterwards, even if it was paused."""
        commit_id = wanted.get("commit_id") or new_id()
        earlier = [one for one in self.store.commits.values() if one.parent_vm_id == vm.vm_id]
        layer = new_id()[:8]
        name = (wanted.get("name") or "").strip()
        commit = Commit(
            commit_id,
            who.owner_id,
            vm.org,
            name or f"commit: of_vm={vm.vm_id} timestamp={now()}",
            [layer, *vm.layers],
            parent_vm_id=vm.vm_id,
            grandparent_commit_id=earlier[-1].commit_id if earlier else vm.parent_commit_id,
            description=(wanted.get("description") or "").strip() or None,
            vcpus=vm.vcpus,
            memory_mib=vm.memory_mib,
            disk_mib=vm.disk_mib,
        )
        async with vm.lock:
            await self.hosting.freeze(vm.vm_id)
            try:
                if self.switches.commit_fail:
                    raise HostingError("500: could not upload the snapshot to S3")
                lose = self.switches.zero_unsynced_files
                await self.hosting.save(vm.vm_id, layer, lose_unsynced=lose)
            except HostingError as error:
                raise node_error(str(error)) from None
            finally:
                if keep_paused:
                    vm.state = "paused"
                else:
                    await self._go_on(vm)
        self.store.commits[commit_id] = commit
        self.store.save()
        return commit

    async def _go_on(self, vm: Vm) -> None:
        await self.hosting.thaw(vm.vm_id)
        self.runs_of(vm).wake()
        vm.state = "running"

    async def delete(self, vm: Vm) -> None:
        """All of it is gone when this returns."""
        async with vm.lock:
            if vm.state == "paused" and not self.switches.delete_paused:
                raise node_error("409: a paused VM cannot be deleted")
            self.store.vms.pop(vm.vm_id, None)
            await self.hosting.kill(vm.vm_id)
            self._runs.pop(vm.vm_id, None)
        gone = [key for key, one in self.store.domains.items() if one.vm_id == vm.vm_id]
        for key in gone:
            del self.store.domains[key]
        self.sweep()

    def sweep(self) -> None:
        """Remove saved disks on which nothing stands any longer, in the background."""
        if any(vm.lock.locked() for vm in self.store.vms.values()):
            return  # one may be in the making
        used = self.store.layers_in_use()
        folder = self.store.file.parent / "layers"
        for path in folder.iterdir() if folder.exists() else ():
            if path.name not in used:
                self._soon(asyncio.to_thread(self.hosting.drop, path.name))

    # -- running something inside

    def runs_of(self, vm: Vm) -> Runs:
        """The commands that the API ran in this VM."""
        return self._runs.setdefault(vm.vm_id, Runs())

    async def run(self, vm: Vm, argv: list[str], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Exit code, output and errors of a command inside the VM."""
        process = await asyncio.create_subprocess_exec(
            *self.hosting.inside(vm.vm_id, argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": guest.ROOT_PATH, "HOME": self.hosting.path(vm.vm_id, "/root")},
        )
        output, errors = await process.communicate(stdin)
        return process.returncode or 0, output, errors

    # -- ends

    def _died(self, vm_id: str) -> None:
        """Its first process ended without our doing."""
        if vm := self.store.vms.get(vm_id):
            vm.state = "dead"

    async def close(self) -> None:
        """Leave nothing."""
        for task in list(self._tasks):
            task.cancel()
        await self.hosting.close()

    async def reset(self) -> None:
        """No VMs, no commits, no names: as on the first day, but for the keys."""
        self.trouble.heal()
        self.journal.clear()
        for vm in list(self.store.vms.values()):
            await vm.settled.wait()
            with contextlib.suppress(Refusal):
                await self.delete(vm)
        self.store.commits.clear()
        self.store.tags.clear()
        self.store.repositories.clear()
        self.store.env_vars.clear()
        self.store.save()
        self.sweep()

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
