"""Run the boot script on its VM: upload it, start it detached, follow its output by offset.

The script runs in a session of its own, writes to a file, and stores its exit status in another
one, so that it survives the loss of connections and workers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootloader.exceptions import ProviderError, ShellError, StepFailed
from bootloader.providers.ssh import pool
from bootloader.providers.ssh.protocol import Shell
from bootloader.providers.ssh.remote_script import printable

if TYPE_CHECKING:
    from bootloader.models import Provisioning
    from bootloader.provisioning.steps import Context

COMMAND_SECONDS = 20.0
# Maximum output fetched at a time.
CHUNK_BYTES = 1 << 16
_OUTPUT_MARKER = b"\n--- reef: output follows ---\n"


@dataclass(frozen=True)
class ScriptState:
    """The script's state: `there` once it was requested, `begun` once it has a process, `status`
    once it has ended.
    """

    there: bool
    begun: bool
    alive: bool
    status: int | None
    output: bytes
    # Size of the complete output.
    size: int = 0


@dataclass(frozen=True)
class VMDescription:
    """A VM's description of itself before anything is changed on it."""

    user: str
    host: str
    machine: str
    tools: frozenset[str]
    was: str


def folder_of(row: Provisioning) -> str:
    """Return the provisioning's folder on its VM, relative to the user's home."""
    return f".reef-boot/{row.pk}"


def inspect_vm(shell: Shell, row: Provisioning) -> VMDescription:
    """Identify the VM, create our private folder, and remove folders of other provisionings.

    A VM restored from a saved one has that one's folders, and perhaps its identity.
    """
    script = f"""
    umask 077
    cd "$HOME" && mkdir -p {folder_of(row)} && chmod 700 .reef-boot {folder_of(row)} || exit 9
    for each in .reef-boot/*; do
      [ "$each" = {folder_of(row)} ] || rm -rf -- "$each"
    done
    echo "user=$(id -un)"
    echo "host=$(uname -n)"
    echo "machine=$(cat /etc/vm_id 2>/dev/null)"
    for tool in bash python3 curl setsid systemctl; do
      command -v $tool >/dev/null 2>&1 && echo "tool=$tool"
    done
    home=/opt/reef; [ "$(id -u)" = 0 ] || home=$HOME/.reef
    sed -n 's/.*"VERS_VM_ID": *"\\([^"]*\\)".*/was=\\1/p' "$home/identity.json" 2>/dev/null
    true
    """
    output_text: dict[str, list[str]] = {}
    for line in run_script(shell, script, "look around").decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        output_text.setdefault(name, []).append(value.strip()[:255])
    return VMDescription(
        user=output_text.get("user", [""])[0],
        host=output_text.get("host", [""])[0],
        machine=output_text.get("machine", [""])[0],
        tools=frozenset(output_text.get("tool", [])),
        was=output_text.get("was", [""])[0],
    )


def upload(shell: Shell, row: Provisioning, script: str) -> None:
    """Upload the script, readable by its owner only."""
    shell.put(f"{folder_of(row)}/boot.sh", script.encode(), 0o700)


def start_script(shell: Shell, row: Provisioning, number: int) -> None:
    """Start the script unless this run of it was started before."""
    # Not `bash -c`: under sshd it reads .bashrc, which may change the folder.
    script = f"""
    umask 077
    cd "$HOME/{folder_of(row)}" || exit 9
    mkdir run-{number} 2>/dev/null || exit 0
    cd run-{number}
    detach=setsid; command -v setsid >/dev/null 2>&1 || detach=
    $detach nohup sh -c '
      echo $$ > pid
      bash ../boot.sh > out 2>&1 < /dev/null
      echo $? > status.new && mv status.new status
    ' reef-boot-{row.pk} > /dev/null 2>&1 < /dev/null &
    """
    run_script(shell, script, "start the boot script")


def poll_script(shell: Shell, row: Provisioning, number: int, offset: int) -> ScriptState:
    """Return the state of run `number`, and its output from this byte on."""
    script = f"""
    cd "$HOME/{folder_of(row)}/run-{number}" 2>/dev/null || exit 0
    echo there=yes
    echo "status=$(cat status 2>/dev/null)"
    echo "size=$(wc -c < out 2>/dev/null)"
    pid=$(cat pid 2>/dev/null)
    [ -n "$pid" ] && echo begun=yes
    [ -n "$pid" ] && grep -q reef-boot-{row.pk} "/proc/$pid/cmdline" 2>/dev/null && echo alive=yes
    printf '\\n--- reef: output follows ---\\n'
    tail -c +{offset + 1} out 2>/dev/null | head -c {CHUNK_BYTES}
    true
    """
    head, _, output = run_script(shell, script, "look at the boot script").partition(_OUTPUT_MARKER)
    facts = dict(line.partition("=")[::2] for line in head.decode("utf-8", "replace").split("\n"))
    status, size = facts.get("status", ""), facts.get("size", "").strip()
    return ScriptState(
        there="there" in facts,
        begun="begun" in facts,
        alive="alive" in facts,
        status=int(status) if status.isdecimal() else None,
        output=output,
        size=int(size) if size.isdecimal() else 0,
    )


def kill_script(shell: Shell, row: Provisioning) -> None:
    """Kill the script with its child processes."""
    script = f"""
    cd "$HOME/{folder_of(row)}" 2>/dev/null || exit 0
    for each in run-*/pid; do
      pid=$(cat "$each" 2>/dev/null) || continue
      grep -q reef-boot-{row.pk} "/proc/$pid/cmdline" 2>/dev/null || continue
      kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null
      sleep 1
      kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
    done
    true
    """
    run_script(shell, script, "end the boot script")


def remove_script(shell: Shell, row: Provisioning) -> None:
    """Remove the script, which contains a token."""
    run_script(shell, f'rm -f -- "$HOME/{folder_of(row)}/boot.sh"', "clear up")


def clean_host(shell: Shell) -> None:
    """Stop reef's processes on a host that is released, and remove everything that holds a token
    or a key. Programs, logs and the profile's own files stay.
    """
    # Remove secrets first, since ending processes takes time, and again last, since those may
    # write.
    script = """
    home=/opt/reef; [ "$(id -u)" = 0 ] || home=$HOME/.reef
    forget() {
      rm -rf -- "$home/identity.json" "$home/identity.env" "$home/join-token" "$home/boot" \
        "$home/inherited" "$home/reef/reef.env" "$home/reef/data"
      rm -f -- "$HOME"/.reef-boot/*/boot.sh
    }
    ours() { grep -qF "$1" "/proc/$2/cmdline" 2>/dev/null; }
    forget
    for each in "$HOME"/.reef-boot/*/run-*/pid; do
      pid=$(cat -- "$each" 2>/dev/null) || continue
      if ours reef-boot- "$pid"; then kill -KILL -- "-$pid" 2>/dev/null; fi
    done
    for each in reef-fleet-agent reef-own; do
      if [ -e "/etc/systemd/system/$each.service" ]; then
        timeout 6 systemctl disable --now "$each.service" 2>/dev/null
        systemctl kill -s KILL "$each.service" 2>/dev/null
        rm -f -- "/etc/systemd/system/$each.service"
      fi
      pid=$(cat -- "$home/run/$each.pid" 2>/dev/null) || continue
      if ours "$home" "$pid"; then
        kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null
        for tries in 1 2 3; do if ours "$home" "$pid"; then sleep 1; fi; done
        kill -KILL -- "-$pid" 2>/dev/null
      fi
    done
    # Agents of the VM's own reef, and their keepers, outlive its service.
    for each in /proc/[0-9]*/cwd; do
      case $(readlink "$each" 2>/dev/null) in
        "$home"/reef/data/lieutenants/*) pid=${each#/proc/}; kill -KILL "${pid%/cwd}" 2>/dev/null ;;
      esac
    done
    if [ "$home" = /opt/reef ]; then rm -f /etc/profile.d/reef.sh; fi
    forget
    rm -rf -- "$HOME/.reef-boot" "$home/run"
    true
    """
    run_script(shell, script, "leave the machine")


def stop_script(context: Context) -> None:
    """End the script on a VM that is kept. A VM that cannot be reached is left unchanged."""
    machine = context.row.machine
    if machine is None:
        return
    with contextlib.suppress(ShellError, ProviderError, StepFailed):
        with pool.connection(machine) as shell:
            kill_script(shell, context.row)
            remove_script(shell, context.row)
        pool.disconnect(machine)


def run_script(shell: Shell, script: str, what: str) -> bytes:
    """Run an sh script, whatever the user's login shell is, and return its output.

    Raise StepFailed.
    """
    ran = shell.script(script, timeout=COMMAND_SECONDS)
    if ran.exit_status:
        output_text = printable(ran.errors) or printable(ran.output)
        raise StepFailed(f"could not {what}: {output_text or f'exit status {ran.exit_status}'}")
    return ran.output
