"""API of snapshots, `/vm-tree/snapshot…`. Not available to node tokens."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from vmtree import permissions, snapshot_downloads, snapshots
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files
from vmtree.snapshots.serializers import (
    NOW,
    CompareQuery,
    ComparisonResponse,
    PinBody,
    RestoreBody,
    RestoreQuery,
    RestoreResponse,
    SnapshotResponse,
    TakenResponse,
    snapshot_json,
)

FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not read snapshots of the fleet"}
NOT_FOUND = {404: "snapshot not found"}
NOT_WRITTEN = {409: "vms-20261122T062109.sqlite is being written, there is no file"}
DAMAGED = {409: "vms-20261122T062109.sqlite is damaged: its SHA-256 is another one"}
FAILED = {503: "no snapshot was made: No space left on device"}


class SnapshotView(APIView):
    """Base of the views below. `vmtree.snapshots` checks permissions for changes."""

    checks_permission = True

    def check_permissions(self, request: Request) -> None:
        """Refuse node tokens for reading, too: a snapshot holds the whole fleet.

        Raises Forbidden.
        """
        super().check_permissions(request)
        permissions.check(request.user, permissions.Action.READ_SNAPSHOTS, None)


class Take(SnapshotView):
    """`/vm-tree/snapshot`"""

    @endpoint(response=TakenResponse, errors=FAILED)
    def post(self, request: Request) -> Response:
        """Take a snapshot now."""
        taken = snapshots.take(by=request.user)
        path = files.shown_path(taken.snapshot.file)
        data = {"snapshot": path, "prunedOldSnapshots": taken.pruned, "id": taken.snapshot.pk}
        return Response(data)


class Snapshots(SnapshotView):
    """`/vm-tree/snapshots`"""

    @endpoint(response=list_of("snapshots", SnapshotResponse), errors=FORBIDDEN)
    def get(self, request: Request) -> Response:
        """List snapshots, newest first; missing, truncated or altered files are reported."""
        found = [snapshot_json(each) for each in snapshots.listing()]
        return Response({"snapshots": found, "count": len(found)})


class SnapshotDetail(SnapshotView):
    """`/vm-tree/snapshots/<id>`"""

    @endpoint(response=SnapshotResponse, errors=FORBIDDEN | NOT_FOUND)
    def get(self, request: Request, snapshot_id: str) -> Response:
        """Return one snapshot, after a quick check of its file."""
        return Response(snapshot_json(snapshots.quick_check(_find(snapshot_id))))


class Download(SnapshotView):
    """`/vm-tree/snapshots/<id>/download`"""

    @endpoint(response=snapshot_downloads.CONTENT_TYPE, errors=FORBIDDEN | NOT_FOUND | DAMAGED)
    def get(self, request: Request, snapshot_id: str) -> HttpResponseBase:
        """Send the file, after verifying it."""
        return snapshot_downloads.download(request._request, _find(snapshot_id))


class Verify(SnapshotView):
    """`/vm-tree/snapshots/<id>/verify`"""

    @endpoint(response=SnapshotResponse, errors=NOT_FOUND | NOT_WRITTEN)
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Read every byte; `state` and `trouble` report the result."""
        return Response(snapshot_json(snapshots.verify(_find(snapshot_id), by=request.user)))


class Pin(SnapshotView):
    """`/vm-tree/snapshots/<id>/pin`"""

    @endpoint(body=PinBody, response=SnapshotResponse, errors=NOT_FOUND)
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Keep it for ever, or with `{"pinned": false}` no longer."""
        return self._pin(request, snapshot_id, PinBody.parse(request)["pinned"])

    @endpoint(response=SnapshotResponse, errors=NOT_FOUND)
    def delete(self, request: Request, snapshot_id: str) -> Response:
        """Unpin it: keep it as long as others."""
        return self._pin(request, snapshot_id, False)

    def _pin(self, request: Request, snapshot_id: str, pinned: bool) -> Response:
        snapshot = snapshots.pin(_find(snapshot_id), pinned=pinned, by=request.user)
        return Response(snapshot_json(snapshot))


class Compare(SnapshotView):
    """`/vm-tree/snapshots/<id>/compare`"""

    @endpoint(
        query=CompareQuery, response=ComparisonResponse, errors=FORBIDDEN | NOT_FOUND | DAMAGED
    )
    def get(self, request: Request, snapshot_id: str) -> Response:
        """Compare with `?to=<id>` (or `?with=`), or with `now`. Lists the first `?limit=` of each
        kind.
        """
        query = CompareQuery.parse(request)
        other = query["to"]
        comparison = snapshots.compare(_find(snapshot_id), None if other == NOW else _find(other))
        named = {"from": int(snapshot_id), "to": other}
        return Response({**named, **comparison.as_json(query["limit"])})


class Restore(SnapshotView):
    """`/vm-tree/snapshots/<id>/restore`"""

    @endpoint(
        query=RestoreQuery,
        body=RestoreBody,
        response=RestoreResponse,
        errors={**NOT_FOUND, 409: "confirm: the tree has changed since", **FAILED},
    )
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Return a plan with its `confirm`; a second call with `{"confirm": …}` carries it out."""
        snapshot = _find(snapshot_id)
        limit, confirm = RestoreQuery.parse(request)["limit"], RestoreBody.parse(request)["confirm"]
        if confirm is None:
            plan = snapshots.plan(snapshot, by=request.user)
            data = plan.comparison.as_json(limit)
            others = {name: data.pop(name) for name in plan.comparison.beside}
            result = {"restored": False, "confirm": plan.confirm}
            return Response({**result, **data, "notRestored": others})
        restored = snapshots.restore(snapshot, confirm=confirm, by=request.user)
        before = {"restored": True, "before": snapshot_json(restored.before)}
        return Response({**before, **restored.comparison.as_json(limit)})


def _find(snapshot_id: int | str) -> Snapshot:
    """Return the snapshot with the id of a path or a query. Raises NotFound."""
    return snapshots.find(int(snapshot_id))


_ONE = r"^vm-tree/snapshots/(?P<snapshot_id>[0-9]{1,18})"

urlpatterns = [
    re_path(r"^vm-tree/snapshot/?$", Take.as_view()),
    re_path(r"^vm-tree/snapshots/?$", Snapshots.as_view()),
    re_path(rf"{_ONE}/?$", SnapshotDetail.as_view(), name="snapshot"),
    re_path(rf"{_ONE}/download/?$", Download.as_view(), name="snapshot-download"),
    re_path(rf"{_ONE}/verify/?$", Verify.as_view()),
    re_path(rf"{_ONE}/pin/?$", Pin.as_view()),
    re_path(rf"{_ONE}/compare/?$", Compare.as_view()),
    re_path(rf"{_ONE}/restore/?$", Restore.as_view()),
]
