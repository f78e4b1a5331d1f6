"""Routes of the registry's API. Ids may contain slashes, written as %2F."""

from __future__ import annotations

from django.urls import re_path

from registry import api

_ID = "vms/(?P<vm_id>.+?)"

urlpatterns = [
    re_path(r"^vms/?$", api.VMs.as_view(), name="registry-vms"),
    re_path(r"^heartbeats/?$", api.Heartbeats.as_view()),
    re_path(r"^place/?$", api.Place.as_view()),
    re_path(r"^discover/(?P<role>[^/]+)/?$", api.Discover.as_view()),
    re_path(r"^_panel/?$", api.Panel.as_view(), name="registry-panel"),
    re_path(rf"^{_ID}/heartbeat/?$", api.Heartbeat.as_view()),
    re_path(rf"^{_ID}/children/?$", api.Children.as_view()),
    re_path(rf"^{_ID}/ancestors/?$", api.Ancestors.as_view()),
    re_path(rf"^{_ID}/subtree/?$", api.Subtree.as_view()),
    re_path(rf"^{_ID}/gaps/?$", api.Gaps.as_view()),
    re_path(rf"^{_ID}/diff/(?P<other>.+?)/?$", api.Diff.as_view()),
    re_path(rf"^{_ID}/?$", api.VMDetail.as_view(), name="registry-vm"),
    re_path(r"^.*$", api.UnknownPath.as_view()),
]
