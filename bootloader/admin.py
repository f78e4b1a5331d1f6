"""The admin of the bootloader; each room has a module of its own."""

from __future__ import annotations

from bootloader.boot.admin import OwnProfileAdmin as OwnProfileAdmin
from bootloader.commands.admin import MachineCommandAdmin as MachineCommandAdmin
from bootloader.grants.admin import ProvisionGrantAdmin as ProvisionGrantAdmin
from bootloader.join.admin import BootReportAdmin as BootReportAdmin
from bootloader.join.admin import JoinRefusalAdmin as JoinRefusalAdmin
from bootloader.join.admin import JoinTokenAdmin as JoinTokenAdmin
from bootloader.providers.ssh.admin import HostClaimAdmin as HostClaimAdmin
from bootloader.providers.ssh.admin import SshHostAdmin as SshHostAdmin
from bootloader.provisioning.admin import FindingAdmin as FindingAdmin
from bootloader.provisioning.admin import LogLineAdmin as LogLineAdmin
from bootloader.provisioning.admin import MachineAdmin as MachineAdmin
from bootloader.provisioning.admin import ProvisioningAdmin as ProvisioningAdmin
from bootloader.provisioning.admin import StepAdmin as StepAdmin
