"""Models of the bootloader, one module for each subject."""

from __future__ import annotations

from bootloader.models.commands import MachineCommand as MachineCommand
from bootloader.models.grants import ProvisionGrant as ProvisionGrant
from bootloader.models.hosts import HostClaim as HostClaim
from bootloader.models.hosts import SshHost as SshHost
from bootloader.models.joining import BootReport as BootReport
from bootloader.models.joining import JoinRefusal as JoinRefusal
from bootloader.models.joining import JoinToken as JoinToken
from bootloader.models.joining import RefusalReason as RefusalReason
from bootloader.models.joining import ReportStatus as ReportStatus
from bootloader.models.machines import Finding as Finding
from bootloader.models.machines import Machine as Machine
from bootloader.models.profile import OwnProfile as OwnProfile
from bootloader.models.profile import ProfileFile as ProfileFile
from bootloader.models.provisioning import BootStep as BootStep
from bootloader.models.provisioning import LogLine as LogLine
from bootloader.models.provisioning import Provisioning as Provisioning
