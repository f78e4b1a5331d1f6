"""Retention rules for the rows of the bootloader."""

from __future__ import annotations

from django.conf import settings

from bootloader.commands import services as commands
from bootloader.join import reports, tokens
from bootloader.models import JoinToken, LogLine, MachineCommand, Provisioning
from bootloader.models.joining import BootReport, JoinRefusal
from bootloader.provisioning import rendering
from reef_site.common.retention import FOREVER, Rule, days, retention_rules


def register() -> None:
    """Register the rules of the bootloader."""
    for key, rule in _rules().items():
        retention_rules.register(rule, key=key)


def _rules() -> dict[str, Rule]:
    return {
        "commands on machines": Rule(
            "commands on machines",
            lambda: days(settings.AUDIT_DAYS),
            ("REEF_AUDIT_DAYS",),
            (MachineCommand,),
            prune=commands.sweep,
        ),
        "boot reports": Rule(
            "boot reports",
            lambda: (
                f"the newest {reports.MAX_REPORTS} of each VM; {days(settings.BOOT_DAYS)} if it "
                "is not in the tree"
            ),
            ("REEF_BOOT_DAYS",),
            (BootReport,),
            prune=reports.sweep,
        ),
        "boot scripts": Rule(
            "provisionings and boot scripts",
            lambda: (
                f"{FOREVER}; boot scripts: {days(settings.BOOT_DAYS)}, and the newest of each "
                "profile"
            ),
            ("REEF_BOOT_DAYS",),
            (Provisioning,),
            prune=rendering.sweep,
        ),
        "provisioning logs": Rule(
            "logs of provisionings",
            lambda: f"{days(settings.PROVISIONING_LOG_DAYS)} after the end",
            ("REEF_PROVISIONING_LOG_DAYS",),
            (LogLine,),
            prune=rendering.delete_old_logs,
        ),
        "join tokens": Rule(
            "join tokens",
            lambda: f"{days(settings.BOOT_DAYS)} after they expired",
            ("REEF_BOOT_DAYS",),
            (JoinToken, JoinRefusal),
            prune=tokens.sweep,
        ),
    }
