"""Responses of the API of storage, in the wire format."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import Choice, Flag, ListOf, Text, Timestamp, WholeNumber
from reef_site.common.api.serializers import ResponseBody
from reef_site.common.models import CallState
from reef_site.storage.reports import (
    DatabaseReport,
    FolderReport,
    Item,
    LieutenantSize,
    StorageReport,
)

Json = dict[str, Any]


class _ItemResponse(ResponseBody):
    name = Text()
    title = Text()
    bytes = WholeNumber()
    kept = Text(help_text="How long its rows or files are kept, in words.")
    settings = ListOf(Text(), most=10, help_text="The environment variables that change that.")


class TableResponse(_ItemResponse):
    """A table of the database, with its indexes."""

    rows = WholeNumber(help_text="About how many.")


class PartResponse(_ItemResponse):
    """A part of a data folder."""

    files = WholeNumber()


class LieutenantSizeResponse(ResponseBody):
    """The folder of a lieutenant."""

    id = Text()
    name = Text(help_text="Empty if there is no such lieutenant.")
    bytes = WholeNumber()
    workspaceBytes = WholeNumber()
    sessionBytes = WholeNumber()
    journalBytes = WholeNumber()


class FolderResponse(ResponseBody):
    """A data folder with its largest lieutenants."""

    id = Text()
    host = Text()
    measuredAt = Timestamp()
    complete = Flag(help_text="False if something took too long or could not be read.")
    bytes = WholeNumber()
    parts = PartResponse(many=True)
    lieutenants = LieutenantSizeResponse(many=True)


class DatabaseResponse(ResponseBody):
    """The database, the largest table first."""

    measuredAt = Timestamp()
    bytes = WholeNumber()
    freeBytes = WholeNumber(help_text="Free for new rows.")
    logBytes = WholeNumber(allow_null=True, help_text="Of SQLite's write-ahead log.")
    problem = Text(help_text="Empty, or why the sizes of tables are unknown.")
    tables = TableResponse(many=True)


class StorageResponse(ResponseBody):
    """Sizes of all parts of the database and of data folders, as measured last."""

    database = DatabaseResponse(allow_null=True)
    folders = FolderResponse(many=True)
    logProblem = Text(help_text="Why the write-ahead log is too long now; else empty.")

    example = {
        "database": {
            "measuredAt": "2026-11-22T06:21:09.098Z",
            "bytes": 52_428_800,
            "freeBytes": 4096,
            "logBytes": 4_194_304,
            "problem": "",
            "tables": [
                {
                    "name": "audit_record",
                    "title": "records",
                    "bytes": 4_194_304,
                    "kept": "90 days, at most 1,000,000 rows",
                    "settings": ["REEF_AUDIT_DAYS", "REEF_AUDIT_ROWS"],
                    "rows": 12_000,
                }
            ],
        },
        "folders": [],
        "logProblem": "",
    }


class MeasurementCallResponse(StorageResponse):
    """The state of a measurement, with the result when it is done."""

    id = Text()
    state = Choice(["running", CallState.DONE, CallState.FAILED])
    error = Text(required=False)

    example = {**StorageResponse.example, "id": "5f3a", "state": "done"}

    def get_fields(self) -> Json:
        """Return the fields; those of the result are there only when it is done."""
        fields = super().get_fields()
        for name in ("database", "folders", "logProblem"):
            fields[name].required = False
        return fields


def storage_json(report: StorageReport) -> Json:
    """Return the report as JSON."""
    return {
        "database": _database(report.database) if report.database else None,
        "folders": [_folder(each) for each in report.folders],
        "logProblem": report.log_problem,
    }


def _database(found: DatabaseReport) -> Json:
    return {
        "measuredAt": found.at,
        "bytes": found.size_bytes,
        "freeBytes": found.free_bytes,
        "logBytes": found.log_bytes,
        "problem": found.problem,
        "tables": [{**_item(table), "rows": table.count} for table in found.tables],
    }


def _folder(found: FolderReport) -> Json:
    return {
        "id": found.id,
        "host": found.host,
        "measuredAt": found.at,
        "complete": found.is_complete,
        "bytes": found.size_bytes,
        "parts": [{**_item(part), "files": part.count} for part in found.parts],
        "lieutenants": [_lieutenant(each) for each in found.lieutenants],
    }


def _item(item: Item) -> Json:
    return {
        "name": item.name,
        "title": item.title,
        "bytes": item.size_bytes,
        "kept": item.kept,
        "settings": list(item.settings),
    }


def _lieutenant(found: LieutenantSize) -> Json:
    return {
        "id": found.id,
        "name": found.name,
        "bytes": found.size_bytes,
        "workspaceBytes": found.workspace_bytes,
        "sessionBytes": found.session_bytes,
        "journalBytes": found.journal_bytes,
    }
