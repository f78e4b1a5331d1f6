"""Retention rules for the site's own rows and files."""

from __future__ import annotations

from django.conf import settings
from django.contrib.sessions.models import Session

from lieutenants.models import LifeSign
from reef_site.accounts.models import AttemptCount, RequestCount
from reef_site.activity.models import Delivery
from reef_site.activity.subscribers import distribution
from reef_site.audit import retention as audit
from reef_site.audit.models import Record
from reef_site.common.eventlog import retention as event_log
from reef_site.common.eventlog.models import Event
from reef_site.common.models import OutsideCall
from reef_site.common.retention import Rule, days, retention_rules


def register() -> None:
    """Register the rules of the site."""
    for key, rule in _rules().items():
        retention_rules.register(rule, key=key)


def _rules() -> dict[str, Rule]:
    return {
        "audit log": Rule(
            "audit log",
            lambda: _days_and_rows(settings.AUDIT_DAYS, settings.AUDIT_ROWS),
            ("REEF_AUDIT_DAYS", "REEF_AUDIT_ROWS"),
            (Record,),
            prune=audit.prune,
        ),
        "event log": Rule(
            "event log",
            lambda: _days_and_rows(settings.EVENT_DAYS, settings.EVENT_ROWS),
            ("REEF_EVENT_DAYS", "REEF_EVENT_ROWS"),
            (Event,),
            prune=event_log.prune,
        ),
        "deliveries": Rule(
            "deliveries of events",
            lambda: f"{days(settings.DELIVERY_DAYS)} after they ended",
            ("REEF_DELIVERY_DAYS",),
            (Delivery,),
            prune=distribution.prune,
        ),
        "sessions": Rule(
            "sessions of browsers",
            lambda: days(settings.SESSION_ABSOLUTE_AGE // 86400),
            ("REEF_SESSION_DAYS", "REEF_SESSION_HOURS"),
            (Session,),
        ),
        "outside calls": Rule("calls of workers", lambda: days(1), tables=(OutsideCall,)),
        "counts": Rule(
            "counts of requests", lambda: "at most 1 hour", tables=(RequestCount, AttemptCount)
        ),
        "process heartbeats": Rule("process heartbeats", lambda: days(7), tables=(LifeSign,)),
        "logs": Rule(
            "logs of reef", lambda: "10 MB of each process, and 10 MB before", folders=("logs",)
        ),
        "programs": Rule("programs", lambda: "the versions in use", folders=("programs",)),
    }


def _days_and_rows(count: int, rows: int) -> str:
    return f"{days(count)}, at most {rows:,} rows"
