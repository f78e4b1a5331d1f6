"""Confirmed actions are carried out by a worker of a reef that runs."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.stack import Stack
from tests.waiting import until

pytestmark = [pytest.mark.rotated, pytest.mark.timeout(240)]


def sign_in(stack: Stack) -> httpx.Client:
    client = httpx.Client(base_url=stack.client.base_url, follow_redirects=True, timeout=30)
    secret = stack.manage("signin").split()[-1].rpartition("/")[2]
    page = client.get(f"/signin/{secret}")
    if token := re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text):
        client.post(f"/signin/{secret}", data={"csrfmiddlewaretoken": token[1]})
    return client


def token_of(html: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', html)
    assert found
    return found[1]


def test_worker_pauses_the_chosen_lieutenants(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        for name in ("ada", "bob"):
            stack.create(name)
        client = sign_in(stack)
        html = client.get("/lieutenants/").text
        ids = re.findall(r'name="id" value="([^"]+)"', html)
        assert len(ids) == 2
        form = {"csrfmiddlewaretoken": token_of(html), "action": "pause", "id": ids}
        plan = client.post("/lists/plan/lieutenants/", data=form)
        url = re.search(r'action="(/lists/runs/pause/[^"]+/start)"', plan.text)
        assert url, plan.text
        run = client.post(url[1], data={"csrfmiddlewaretoken": token_of(plan.text)}).url

        until(lambda: "<b>2</b> done" in client.get(run).text, 60)

        listed = stack.client.get("/lieutenant/lieutenants").json()["lieutenants"]
        assert {each["status"] for each in listed} == {"paused"}


MANY = 100
PLANT = f"""
from django.conf import settings
from lieutenants.models import Lieutenant
Lieutenant.objects.bulk_create(
    Lieutenant(name=f"l{{number}}", role="tests", host=settings.HOST, status="idle")
    for number in range({MANY})
)
"""


def counts(stack: Stack, column: str, table: str) -> Counter[str]:
    with contextlib.closing(sqlite3.connect(stack.data / "db.sqlite3")) as database:
        return Counter(value for (value,) in database.execute(f"SELECT {column} FROM {table}"))


def test_killed_worker_changes_each_row_once(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        stack.manage("shell", "-c", PLANT)
        client = sign_in(stack)
        html = client.get("/lieutenants/").text
        form = {"csrfmiddlewaretoken": token_of(html), "action": "destroy", "all": "1"}
        plan = client.post("/lists/plan/lieutenants/", data=form)
        url = re.search(r'action="(/lists/runs/destroy/[^"]+/start)"', plan.text)
        assert url, plan.text
        words = {"csrfmiddlewaretoken": token_of(plan.text), "count": str(MANY)}
        started = client.post(url[1], data=words)
        assert started.status_code == 200, started.text

        def has_done(least: int) -> bool:
            return counts(stack, "state", "lists_bulkitem")["done"] >= least

        until(partial(has_done, 30), 60)
        stack.kill("worker")
        stack.start("worker")
        until(partial(has_done, MANY), 120)
        assert counts(stack, "status", "lieutenants_lieutenant") == {"destroyed": MANY}
        changes = counts(stack, "subject", "eventlog_event WHERE kind = 'lieutenant.destroyed'")
        assert set(changes.values()) == {1}
        assert len(changes) == MANY
