"""API of snapshots, `/vm-tree/snapshot…`. Not available to node tokens."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.errors import BadInput
from reef_site.common.request_names import takes
from reef_site.common.request_values import body_of, flag_of, query_number
from reef_site.common.text import parse_number
from vmtree import permissions, snapshot_downloads, snapshots
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files

Json = dict[str, Any]
MAX_ITEMS = 100_000
DEFAULT_ITEMS = 1000


def snapshot_json(snapshot: Snapshot) -> Json:
    """Return a snapshot as JSON; `at` is the time of its data, `trouble` what is wrong with it."""
    return {
        "id": snapshot.pk,
        "file": snapshot.file,
        "snapshot": files.shown_path(snapshot.file),
        "why": snapshot.why,
        "madeBy": snapshot.made_by,
        "state": snapshot.state,
        "trouble": snapshot.trouble or None,
        "at": snapshot.at,
        "beganAt": snapshot.began_at,
        "size": snapshot.size,
        "sha256": snapshot.sha256 or None,
        "counts": snapshot.counts,
        "pinned": snapshot.pinned,
        "checkedAt": snapshot.checked_at,
        "host": snapshot.host,
    }


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

    def post(self, request: Request) -> Response:
        """Take a snapshot now."""
        taken = snapshots.take(by=request.user)
        path = files.shown_path(taken.snapshot.file)
        data = {"snapshot": path, "prunedOldSnapshots": taken.pruned, "id": taken.snapshot.pk}
        return Response(data)


class Snapshots(SnapshotView):
    """`/vm-tree/snapshots`"""

    def get(self, request: Request) -> Response:
        """List snapshots, newest first; missing, truncated or altered files are reported."""
        found = [snapshot_json(each) for each in snapshots.listing()]
        return Response({"snapshots": found, "count": len(found)})


class SnapshotDetail(SnapshotView):
    """`/vm-tree/snapshots/<id>`"""

    def get(self, request: Request, snapshot_id: str) -> Response:
        return Response(snapshot_json(snapshots.quick_check(_find(snapshot_id))))


class Download(SnapshotView):
    """`/vm-tree/snapshots/<id>/download`"""

    def get(self, request: Request, snapshot_id: str) -> HttpResponseBase:
        """Send the file, after verifying it."""
        return snapshot_downloads.download(request._request, _find(snapshot_id))


class Verify(SnapshotView):
    """`/vm-tree/snapshots/<id>/verify`"""

    def post(self, request: Request, snapshot_id: str) -> Response:
        """Read every byte; `state` and `trouble` report the result."""
        return Response(snapshot_json(snapshots.verify(_find(snapshot_id), by=request.user)))


class Pin(SnapshotView):
    """`/vm-tree/snapshots/<id>/pin`"""

    @takes(body=("pinned",))
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Keep it for ever, or with `{"pinned": false}` no longer."""
        pinned = flag_of(body_of(request).get("pinned", True), "pinned")
        return self._pin(request, snapshot_id, pinned)

    def delete(self, request: Request, snapshot_id: str) -> Response:
        """Unpin it: keep it as long as others."""
        return self._pin(request, snapshot_id, False)

    def _pin(self, request: Request, snapshot_id: str, pinned: bool) -> Response:
        snapshot = snapshots.pin(_find(snapshot_id), pinned=pinned, by=request.user)
        return Response(snapshot_json(snapshot))


class Compare(SnapshotView):
    """`/vm-tree/snapshots/<id>/compare`"""

    @takes(query=("to", "with", "limit"))
    def get(self, request: Request, snapshot_id: str) -> Response:
        """Compare with `?to=<id>` (or `?with=`), or with `now`. Lists the first `?limit=` of each
        kind.
        """
        params = request.query_params
        other = params.get("to") or params.get("with") or "now"
        if other != (params.get("with") or other):
            raise BadInput("to: is another one than with", "to")
        field = "to" if params.get("to") else "with"
        comparison = snapshots.compare(
            _find(snapshot_id), None if other == "now" else _find(other, field)
        )
        named = {"from": int(snapshot_id), "to": other if other == "now" else int(other)}
        return Response({**named, **comparison.as_json(_limit(request))})


class Restore(SnapshotView):
    """`/vm-tree/snapshots/<id>/restore`"""

    @takes(query=("limit",), body=("confirm",))
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Return a plan with its `confirm`; a second call with `{"confirm": …}` carries it out."""
        snapshot, limit = _find(snapshot_id), _limit(request)
        confirm = body_of(request).get("confirm")
        if confirm is None:
            plan = snapshots.plan(snapshot, by=request.user)
            data = plan.comparison.as_json(limit)
            others = {name: data.pop(name) for name in plan.comparison.beside}
            result = {"restored": False, "confirm": plan.confirm}
            return Response({**result, **data, "notRestored": others})
        if not isinstance(confirm, str):
            raise BadInput("confirm: must be the text that the comparison came with", "confirm")
        restored = snapshots.restore(snapshot, confirm=confirm, by=request.user)
        before = {"restored": True, "before": snapshot_json(restored.before)}
        return Response({**before, **restored.comparison.as_json(limit)})


def _find(snapshot_id: str, field: str = "id") -> Snapshot:
    key = parse_number(snapshot_id)
    if key is None:
        raise BadInput(f"{field}: must be the id of a snapshot, or 'now'", field)
    return snapshots.find(key)


def _limit(request: Request) -> int:
    """Return how many items of each kind to list; 0 lists none, only counts."""
    limit = query_number(request, "limit", most=MAX_ITEMS)
    return DEFAULT_ITEMS if limit is None else limit


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
