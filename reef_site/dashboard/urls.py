"""URLs of the fleet's pages and their fragments."""

from __future__ import annotations

from django.urls import path

from reef_site.dashboard import snapshots, tree_views, unplaced, vm_list

app_name = "fleet"

urlpatterns = [
    path("", tree_views.tree, name="tree"),
    path("_tree", tree_views.fragment, name="fragment"),
    path("_news", tree_views.updates, name="news"),
    path("_children/<int:key>", tree_views.children, name="children"),
    path("_children/registered", unplaced.children),
    path("vms/", vm_list.index, name="vms"),
    path("vms/_rows", vm_list.rows, name="vm-rows"),
    path("vm", tree_views.by_id, name="by-id"),
    path("registered/", unplaced.one, name="registered"),
    path("registered/_facts", unplaced.facts, name="registered-facts"),
    path("registered/place", unplaced.place, name="place"),
    path("picture/", tree_views.fleet_map, name="picture"),
    path("picture/_drawing", tree_views.map_fragment, name="drawing"),
    path("then/", tree_views.history, name="then"),
    path("then/_children/<int:key>", tree_views.history_children),
    path("snapshots/", snapshots.index, name="snapshots"),
    path("snapshots/take", snapshots.take, name="snapshot-take"),
    path("snapshots/compare", snapshots.compare, name="snapshot-compare"),
    path("snapshots/<int:key>/pin", snapshots.pin, name="snapshot-pin"),
    path("snapshots/<int:key>/verify", snapshots.verify, name="snapshot-verify"),
    path("snapshots/<int:key>/restore", snapshots.restore, name="snapshot-restore"),
    path("snapshots/<int:key>/download", snapshots.download, name="snapshot-download"),
    path("<int:key>/", tree_views.vm_page, name="one"),
    path("<int:key>/_facts", tree_views.vm_panel, name="facts"),
]
