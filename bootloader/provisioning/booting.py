"""The boot script on its VM: brought there, started detached, followed by offset.

No connection and no worker has to live as long as the script does: it runs in a session of its
own, writes into a file, and leaves its exit status in another one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootloader.exceptions import ProviderError, ShellError, StepFailed
from bootloader.provisioning import lines
from bootloader.remote_script import printable
from bootloader.shell_protocol import Shell

if TYPE_CHECKING:
    from bootloader.models import Provisioning
    from bootloader.provisioning.steps import Context

COMMAND_SECONDS = 20.0
# How much of the output one look brings.
CHUNK = 1 << 16
_MARK = b"\n--- reef: output follows ---\n"


@dataclass(frozen=True)
class Look:
    """How the script is: `there` once it was asked for, `begun` once it has a process, `status`
    once it has ended.
    """

    there: bool
    begun: bool
    alive: bool
    status: int | None
    output: bytes
    # Of all the output that there is.
    size: int = 0


@dataclass(frozen=True)
class Found:
    """What a VM says of itself before anything is done to it."""

    user: str
    host: str
    machine: str
    tools: frozenset[str]
    was: str


def folder_of(row: Provisioning) -> str:
    """The folder of one provisioning on its VM, below the home of who logs in."""
    return f".reef-boot/{row.pk}"


def look_around(shell: Shell, row: Provisioning) -> Found:
    """Who answers there. Makes our folder, for its owner alone, and removes those of others.

    A VM restored from a saved one has the folders, and perhaps the identity, of that one.
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
    said: dict[str, list[str]] = {}
    for line in run(shell, script, "look around").decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        said.setdefault(name, []).append(value.strip()[:255])
    return Found(
        user=said.get("user", [""])[0],
        host=said.get("host", [""])[0],
        machine=said.get("machine", [""])[0],
        tools=frozenset(said.get("tool", [])),
        was=said.get("was", [""])[0],
    )


def bring(shell: Shell, row: Provisioning, script: str) -> None:
    """Put the script there, readable by its owner alone."""
    shell.put(f"{folder_of(row)}/boot.sh", script.encode(), 0o700)


def begin(shell: Shell, row: Provisioning, number: int) -> None:
    """Start the script unless this run of it was started already."""
    # Not by `bash -c`: below sshd that reads .bashrc, which may lead to another folder.
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
    run(shell, script, "start the boot script")


def look(shell: Shell, row: Provisioning, number: int, offset: int) -> Look:
    """How run `number` is, and what it said from this byte on."""
    script = f"""
    cd "$HOME/{folder_of(row)}/run-{number}" 2>/dev/null || exit 0
    echo there=yes
    echo "status=$(cat status 2>/dev/null)"
    echo "size=$(wc -c < out 2>/dev/null)"
    pid=$(cat pid 2>/dev/null)
    [ -n "$pid" ] && echo begun=yes
    [ -n "$pid" ] && grep -q reef-boot-{row.pk} "/proc/$pid/cmdline" 2>/dev/null && echo alive=yes
    printf '\\n--- reef: output follows ---\\n'
    tail -c +{offset + 1} out 2>/dev/null | head -c {CHUNK}
    true
    """
    head, _, output = run(shell, script, "look at the boot script").partition(_MARK)
    facts = dict(line.partition("=")[::2] for line in head.decode("utf-8", "replace").split("\n"))
    status, size = facts.get("status", ""), facts.get("size", "").strip()
    return Look(
        there="there" in facts,
        begun="begun" in facts,
        alive="alive" in facts,
        status=int(status) if status.isdecimal() else None,
        output=output,
        size=int(size) if size.isdecimal() else 0,
    )


def end(shell: Shell, row: Provisioning) -> None:
    """End whatever runs of the script, children and all."""
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
    run(shell, script, "end the boot script")


def clear(shell: Shell, row: Provisioning) -> None:
    """Remove what is not needed any more; the script held a token."""
    run(shell, f'rm -f -- "$HOME/{folder_of(row)}/boot.sh"', "clear up")


def leave(shell: Shell) -> None:
    """End what reef runs on a machine that goes on without us, and remove who it was to us:
    whatever holds a token or a key. Programs, logs and the profile's own files stay.
    """
    # The secrets go first: what has to be ended may take its time. And last: it may have written.
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
    # Agents of its own reef, and what keeps them, outlive its service.
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
    run(shell, script, "leave the machine")


def stop(context: Context) -> None:
    """Before a VM is left to itself: end the script. One that cannot be reached is left alone."""
    machine = context.row.machine
    if machine is None:
        return
    with contextlib.suppress(ShellError, ProviderError, StepFailed):
        with lines.to(machine) as shell:
            end(shell, context.row)
            clear(shell, context.row)
        lines.hang_up(machine)


def run(shell: Shell, script: str, what: str) -> bytes:
    """Run a script of sh, whatever the user's own shell is; its output. Raises StepFailed."""
    ran = shell.script(script, timeout=COMMAND_SECONDS)
    if ran.exit_status:
        said = printable(ran.errors) or printable(ran.output)
        raise StepFailed(f"could not {what}: {said or f'exit status {ran.exit_status}'}")
    return ran.output
