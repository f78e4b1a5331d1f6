"""Queries and responses of the API of changes; add new keys at the end."""

from __future__ import annotations

from lieutenants.changes.answers import KINDS, STATUSES
from lieutenants.changes.questions import FIRST_LINES, MAX_LINES, MAX_REV, Against
from lieutenants.supervision.keeper.changes.names import MAX_BYTES
from reef_site.common.api.fields import Choice, Flag, ListOf, Text, Timestamp, WholeNumber
from reef_site.common.api.serializers import Query, ResponseBody
from reef_site.common.models import CallState

MAX_PATH = 4 * MAX_BYTES + 2
QUOTED = 'Odd names are as git quotes them, such as `"tab\\\\there"`.'


class ChangesQuery(Query):
    against = Choice(
        Against.values,
        default=Against.START,
        help_text="What is compared with: the start of the lieutenant, its last message, the last "
        "commit, or the `commit` that is named.",
    )
    commit = Text(
        length=MAX_REV, default="", help_text="A branch, tag or commit, with `against=commit`."
    )
    repository = Text(
        length=MAX_PATH,
        strip=False,
        default="",
        help_text=f"A folder below the working folder with a repository of its own. {QUOTED}",
    )


class FileChangesQuery(ChangesQuery):
    path = Text(length=MAX_PATH, strip=False, default="", help_text=f"Of the file. {QUOTED}")
    oldPath = Text(
        length=MAX_PATH,
        strip=False,
        default="",
        source="old_path",
        help_text="Of a renamed file, as in the list.",
    )
    lines = WholeNumber(
        least=1, most=MAX_LINES, default=FIRST_LINES, help_text="How many lines are returned."
    )


class HeadResponse(ResponseBody):
    """The commit and branch that are checked out."""

    commit = Text(help_text="Empty before the first commit.")
    branch = Text(help_text="Empty if no branch is checked out.")

    example = {"commit": "9f5340e9d044ae1011ee1459238adcd22e9bfdb1", "branch": "main"}


class BaseResponse(ResponseBody):
    """The state that is compared with."""

    against = Choice(Against.values)
    name = Text(help_text="The `commit` of the request.")
    commit = Text(help_text="Empty: nothing, so that all files are new.")
    at = Timestamp(allow_null=True, help_text="The time of the start, or of the last message.")
    note = Text(help_text="If another commit than the expected one is compared with.")

    example = {
        "against": "start",
        "name": "",
        "commit": "1f5340e9d044ae1011ee1459238adcd22e9bfdb2",
        "at": "2026-11-30T20:10:00.000Z",
        "note": "",
    }


class ChangedFileResponse(ResponseBody):
    """A file that differs."""

    path = Text(help_text=QUOTED)
    oldPath = Text(help_text="Where a renamed or copied file was.")
    status = Choice(STATUSES)
    kind = Choice(KINDS)
    added = WholeNumber(allow_null=True, help_text="Lines; null if they were not counted.")
    deleted = WholeNumber(allow_null=True)
    isBinary = Flag()
    isCommitted = Flag(help_text="All of the difference is in commits.")
    modes = Text(help_text="Old and new file mode, if they differ.")
    mark = Text(help_text="Differs when the file has been written again.")

    example = {
        "path": "src/cart.py",
        "oldPath": "",
        "status": "modified",
        "kind": "file",
        "added": 12,
        "deleted": 3,
        "isBinary": False,
        "isCommitted": False,
        "modes": "",
        "mark": "17dcb0a1f3e00000-2f1",
    }


class CommitResponse(ResponseBody):
    commit = Text()
    at = WholeNumber(help_text="Its author's time, in seconds since 1970.")
    author = Text()
    subject = Text()

    example = {
        "commit": "9f5340e9d044ae1011ee1459238adcd22e9bfdb1",
        "at": 1_796_069_400,
        "author": "ada",
        "subject": "Round prices half up",
    }


class ChangesResponse(ResponseBody):
    """The files that differ, sorted by path, and the commits since."""

    head = HeadResponse()
    base = BaseResponse()
    repository = Text()
    files = ChangedFileResponse(many=True)
    count = WholeNumber(help_text="How many files differ; `files` has at most 1,000.")
    isCut = Flag(help_text="There are more files than `files` has.")
    leftOut = WholeNumber(help_text="Files that differ, but were not written since `base.at`.")
    isCounted = Flag(help_text="False if counting lines took too long.")
    added = WholeNumber()
    deleted = WholeNumber()
    commits = CommitResponse(many=True)
    hasMoreCommits = Flag()
    readAt = Timestamp()

    example = {
        "head": HeadResponse.example,
        "base": BaseResponse.example,
        "repository": "",
        "files": [ChangedFileResponse.example],
        "count": 1,
        "isCut": False,
        "leftOut": 0,
        "isCounted": True,
        "added": 12,
        "deleted": 3,
        "commits": [CommitResponse.example],
        "hasMoreCommits": False,
        "readAt": "2026-11-30T20:30:00.000Z",
    }


class FileChangesResponse(ResponseBody):
    """The differences of one file."""

    head = HeadResponse()
    base = BaseResponse()
    repository = Text()
    file = ChangedFileResponse()
    lines = ListOf(
        Text(), most=MAX_LINES + 1, help_text="Of a unified diff, from its first `@@` on."
    )
    hasMore = Flag(help_text="There are more lines, which a larger `lines` returns.")
    isCut = Flag(help_text="There are lines that are never returned, since they are too many.")
    readAt = Timestamp()

    example = {
        "head": HeadResponse.example,
        "base": BaseResponse.example,
        "repository": "",
        "file": {**ChangedFileResponse.example, "added": None, "deleted": None},
        "lines": ["@@ -1,2 +1,2 @@", "-price = 1", "+price = 2", " print(price)"],
        "hasMore": False,
        "isCut": False,
        "readAt": "2026-11-30T20:30:00.000Z",
    }


class ChangesCallResponse(ResponseBody):
    """A reading that was answered with 202: with `done`, also what it would have returned."""

    id = Text()
    state = Choice([CallState.RUNNING, CallState.DONE, CallState.FAILED])
    error = Text(required=False)
    head = HeadResponse(required=False)
    base = BaseResponse(required=False)
    repository = Text(required=False)
    files = ChangedFileResponse(many=True, required=False)
    count = WholeNumber(required=False)
    isCut = Flag(required=False)
    leftOut = WholeNumber(required=False)
    isCounted = Flag(required=False)
    added = WholeNumber(required=False)
    deleted = WholeNumber(required=False)
    commits = CommitResponse(many=True, required=False)
    hasMoreCommits = Flag(required=False)
    file = ChangedFileResponse(required=False)
    lines = ListOf(Text(), most=MAX_LINES + 1, required=False)
    hasMore = Flag(required=False)
    readAt = Timestamp(required=False)

    example = {"id": "5f3a", "state": "running"}
