"""The operations on VMs by the platform's rules: create, restore, branch, commit, pause, delete."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shlex
from collections.abc import Callable, Coroutine
from typing import Any

from reef_site.demo.platform import guest, keys
from reef_site.demo.platform.faults import FaultInjector, Switches
from reef_site.demo.platform.hosting_base import Boot, Hosting, HostingError
from reef_site.demo.platform.request_log import RequestLog
from reef_site.demo.platform.responses import ASLEEP, ApiError, BranchError, node_error
from reef_site.demo.platform.runs import Runs
from reef_site.demo.platform.store import Account, Commit, Store, Vm, new_id, now

IMAGES = frozenset({"default"})


class Machines:
    """All VMs and commits, and the operations on them."""

    def __init__(self, store: Store, hosting: Hosting, fault_injector: FaultInjector) -> None:
        self.store, self.hosting, self.fault_injector = store, hosting, fault_injector
        self.request_log = RequestLog()
        # Closes the gateway's connections to one VM or to all, and returns their number.
        self.close_connections: Callable[[str | None], int] = lambda _: 0
        hosting.on_vm_ended = self._mark_dead
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, Runs] = {}

    @property
    def switches(self) -> Switches:
        return self.fault_injector.switches

    # -- lookup

    def vm(
        self, vm_id: str, account: Account, *, text: str = "not found", capitalized: bool = False
    ) -> Vm:
        """Return a VM of the caller's organisation. Raises ApiError."""
        vm = self.store.vms.get(vm_id)
        if vm is None:
            raise ApiError(404, text)
        if vm.org != account.org:
            raise ApiError(403, "Forbidden" if capitalized else "forbidden")
        return vm

    def commit_of(self, commit_id: str, account: Account) -> Commit:
        """Return a commit that the caller may restore: a public one or one of its organisation."""
        commit = self.store.commits.get(commit_id)
        if commit is None:
            raise ApiError(404, "commit not found")
        if commit.org != account.org and not commit.is_public:
            raise ApiError(403, "Forbidden")
        return commit

    async def wait_until_running(self, vm: Vm, *, skip_wait: bool) -> None:
        """Wait until the VM has booted. Raises ApiError if the boot failed or the VM sleeps."""
        if vm.state == "booting" and skip_wait:
            raise node_error(f"409: VM is still booting: {vm.vm_id}")
        await vm.boot_done.wait()
        if vm.vm_id not in self.store.vms:
            raise ApiError(404, "vm not found")
        if vm.state == "sleeping":
            raise ApiError(409, ASLEEP)

    # -- creation

    async def create(self, account: Account, config: dict[str, Any], *, wait: bool) -> Vm:
        """Create a VM from an image. It boots in the background unless `wait` is set."""
        image = config.get("image_name") or "default"
        if image not in IMAGES:
            raise ApiError(404, f"image not found: {image}")
        vm = Vm(
            new_id(),
            account.owner_id,
            account.org,
            number=0,
            labels=dict(config.get("labels") or {}),
            vcpus=config.get("vcpu_count") or 1,
            memory_mib=config.get("mem_size_mib") or 512,
            disk_mib=config.get("fs_size_mib") or 1024,
        )
        self._admit(vm)
        booting = self._run_in_background(self._boot(vm))
        if wait:
            await asyncio.shield(booting)
            if vm.vm_id not in self.store.vms:
                raise ApiError(500, "failed to provision VM on node: 500: the VM did not boot")
        return vm

    async def restore(self, account: Account, commit: Commit) -> Vm:
        """Create a VM from a commit and boot it."""
        vm = Vm(
            new_id(),
            account.owner_id,
            account.org,
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
        await asyncio.shield(self._run_in_background(self._boot(vm)))
        if vm.vm_id not in self.store.vms:
            raise ApiError(500, "failed to provision VM on node: 500: the VM did not boot")
        return vm

    async def branch(
        self, account: Account, commit: Commit, count: int, *, plain: bool
    ) -> list[Vm]:
        """Create VMs from a commit, one after another. An error lists those that were created."""
        made: list[Vm] = []
        limit = self.switches.branch_fail_after
        for number in range(count):
            try:
                if limit is not None and number >= limit:
                    raise ApiError(500, "failed to provision VM on node: 500: no capacity")
                made.append(await self.restore(account, commit))
            except ApiError as error:
                if plain and not made:
                    raise
                ids = [vm.vm_id for vm in made]
                raise BranchError(error.status, error.error, ids) from None
        return made

    def _admit(self, vm: Vm) -> None:
        """Give the VM a number. Raises ApiError if a quota is exceeded or no number is free."""
        same_org = [each for each in self.store.vms.values() if each.org == vm.org]
        counted = [each for each in same_org if each.state != "sleeping"]
        vcpus, memory = sum(each.vcpus for each in counted), sum(m.memory_mib for m in counted)
        limits = self.switches.quota_vcpus, self.switches.quota_mib
        tail = "Increase your limits at https://vers.sh/settings to continue"
        if vcpus + vm.vcpus > limits[0]:
            use = f"requires {vm.vcpus} vCPUs, but org is using {vcpus}/{limits[0]} vCPUs"
            raise ApiError(403, f"vCPU limit exceeded: this VM {use}. {tail}")
        if memory + vm.memory_mib > limits[1]:
            use = f"requires {vm.memory_mib} MiB, but org is using {memory}/{limits[1]} MiB"
            raise ApiError(403, f"Memory limit exceeded: this VM {use}. {tail}")
        try:
            vm.number = self.store.free_number()
        except LookupError:
            raise ApiError(500, "failed to provision VM on node: 503: node is full") from None
        self.store.vms[vm.vm_id] = vm

    async def _boot(self, vm: Vm) -> None:
        """Boot the VM. A VM that fails to boot disappears, as on the platform."""
        async with vm.lock:
            try:
                if not vm.restored:
                    await asyncio.sleep(self.switches.boot_delay_s)
                if self._boot_is_to_fail():
                    raise HostingError("the boot failed, as a switch demands")
                private, public = keys.ssh_pair(f"{guest.KEY_COMMENT} {vm.vm_id}")
                vm.private_key, vm.public_key = private, public
                await self.hosting.boot(self._boot_parameters(vm))
                vm.state, vm.running_since = "running", asyncio.get_running_loop().time()
            except (HostingError, OSError) as error:
                print(f"VM {vm.vm_id} did not boot: {error}", flush=True)
                self.store.vms.pop(vm.vm_id, None)
            finally:
                vm.boot_done.set()
        if vm.state == "running" and (variables := self.store.env_vars.get(vm.org)):
            self._run_in_background(self._write_environment(vm, variables))

    def _boot_is_to_fail(self) -> bool:
        if self.switches.fail_boots > 0:
            self.switches.fail_boots -= 1
            return True
        return random.random() < self.switches.fail_boot_rate

    def _boot_parameters(self, vm: Vm) -> Boot:
        info = json.dumps({"vm_id": vm.vm_id, "parent_commit_id": vm.parent_commit_id}) + "\n"
        files = guest.identity(vm.vm_id, vm.public_key, info=info)
        if not vm.restored:
            host_key = keys.ssh_pair(f"root@vm-{vm.vm_id[:8]}")
            return Boot(vm, [*guest.first_boot(vm.vm_id, host_key), *files], guest.HOST_FILES)
        if self.switches.break_dns_after_restore:
            files.append(guest.File("/etc/resolv.conf", guest.name_servers(dead=True)))
        return Boot(vm, files)

    async def _write_environment(self, vm: Vm, variables: dict[str, str]) -> None:
        """Replace the VM's /etc/environment after the boot, as the platform does."""
        text = guest.environment_file(variables)
        if not self.switches.wipe_env:
            text = self.hosting.environment_file(vm.vm_id) + text
        place = shlex.quote(self.hosting.path(vm.vm_id, "/etc/environment"))
        await self.run(vm, ["sh", "-c", f"cat > {place}"], text.encode())

    # -- changes

    async def change_state(self, vm: Vm, state: str) -> None:
        """Pause, resume or put to sleep: `state` is Paused, Running or Sleeping."""
        async with vm.lock:
            if state == "Running":
                await self._resume(vm)
            else:
                await self.hosting.freeze(vm.vm_id)
                vm.state = state.lower()

    async def commit(
        self, account: Account, vm: Vm, wanted: dict[str, Any], *, keep_paused: bool
    ) -> Commit:
        """Save the VM's disk while it is stopped. The VM continues even if it was paused before."""
        commit_id = wanted.get("commit_id") or new_id()
        earlier = [one for one in self.store.commits.values() if one.parent_vm_id == vm.vm_id]
        layer = new_id()[:8]
        name = (wanted.get("name") or "").strip()
        commit = Commit(
            commit_id,
            account.owner_id,
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
                    await self._resume(vm)
        self.store.commits[commit_id] = commit
        self.store.save()
        return commit

    async def _resume(self, vm: Vm) -> None:
        await self.hosting.thaw(vm.vm_id)
        self.runs_of(vm).resume()
        vm.state = "running"

    async def delete(self, vm: Vm) -> None:
        """Remove the VM with its disk and domains."""
        async with vm.lock:
            if vm.state == "paused" and not self.switches.delete_paused:
                raise node_error("409: a paused VM cannot be deleted")
            self.store.vms.pop(vm.vm_id, None)
            await self.hosting.kill(vm.vm_id)
            self._runs.pop(vm.vm_id, None)
        gone = [key for key, one in self.store.domains.items() if one.vm_id == vm.vm_id]
        for key in gone:
            del self.store.domains[key]
        self.remove_unused_layers()

    def remove_unused_layers(self) -> None:
        """Remove saved disks that no VM or commit uses, in the background."""
        if any(vm.lock.locked() for vm in self.store.vms.values()):
            return  # its layer may be about to be saved
        used = self.store.layers_in_use()
        folder = self.store.file.parent / "layers"
        for path in folder.iterdir() if folder.exists() else ():
            if path.name not in used:
                self._run_in_background(asyncio.to_thread(self.hosting.remove_layer, path.name))

    # -- commands inside

    def runs_of(self, vm: Vm) -> Runs:
        """Return the commands that the API ran in this VM."""
        return self._runs.setdefault(vm.vm_id, Runs())

    async def run(self, vm: Vm, argv: list[str], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command inside the VM. Return its exit code, output and errors."""
        process = await asyncio.create_subprocess_exec(
            *self.hosting.command_inside(vm.vm_id, argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": guest.ROOT_PATH, "HOME": self.hosting.path(vm.vm_id, "/root")},
        )
        output, errors = await process.communicate(stdin)
        return process.returncode or 0, output, errors

    # -- end

    def _mark_dead(self, vm_id: str) -> None:
        """Record that the first process of a VM ended unexpectedly."""
        if vm := self.store.vms.get(vm_id):
            vm.state = "dead"

    async def close(self) -> None:
        """End all VMs and background tasks."""
        for task in list(self._tasks):
            task.cancel()
        await self.hosting.close()

    async def reset(self) -> None:
        """Restore the initial state, except for the keys."""
        self.fault_injector.clear_faults()
        self.request_log.clear()
        for vm in list(self.store.vms.values()):
            await vm.boot_done.wait()
            with contextlib.suppress(ApiError):
                await self.delete(vm)
        self.store.commits.clear()
        self.store.tags.clear()
        self.store.repositories.clear()
        self.store.env_vars.clear()
        self.store.save()
        self.remove_unused_layers()

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
