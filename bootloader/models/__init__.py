"""Rows of the bootloader, a file for each subject."""

from __future__ import annotations

from bootloader.models.machines import Finding as Finding
from bootloader.models.machines import Machine as Machine
from bootloader.models.profile import OwnProfile as OwnProfile
from bootloader.models.profile import ProfileFile as ProfileFile
from bootloader.models.provisioning import LogLine as LogLine
from bootloader.models.provisioning import Provisioning as Provisioning
from bootloader.models.provisioning import Step as Step
