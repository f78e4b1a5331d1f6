"""The queries of a page do not grow with its rows: three of each kind, then thirty."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from django.db import connection
from django.http.response import HttpResponseBase
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.common import broker
from reef_site.dashboard import root_row
from tests.pages import admin_addresses, page_addresses
from tests.populations import Population

FEW, MANY = 3, 30
# Queries about what only some of many rows have. A query for each row would be 27 more.
FOR_SOME = 2


def open_page(client: Client, address: str) -> HttpResponseBase:
    # It is cached for a moment.
    root_row.forget()
    response = client.get(address)
    if response.streaming:
        b"".join(response)
    return response


def open_all(client: Client, addresses: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return the status and the number of queries of each page."""
    found = {}
    for name, address in addresses.items():
        with CaptureQueriesContext(connection) as queries:
            status = open_page(client, address).status_code
        # Now and then a request also writes when this session was last used.
        reads = [each for each in queries if each["sql"].startswith("SELECT")]
        found[name] = status, len(reads)
    return found


def test_no_page_takes_a_query_for_each_row(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for a Redis that is not there.
    monkeypatch.setattr(broker, "publish", lambda *_: None)
    population = Population()
    population.grow(lambda _: FEW)
    addresses = page_addresses() | admin_addresses()
    few = open_all(admin_client, addresses)
    # The others are actions.
    shown = {at for at, (status, _) in few.items() if status != HTTPStatus.METHOD_NOT_ALLOWED}
    assert {at: few[at][0] for at in shown} == dict.fromkeys(shown, HTTPStatus.OK)

    population.grow(lambda _: MANY)
    many = open_all(admin_client, {at: addresses[at] for at in shown})

    # The first page of a kind may fill a cache of this process.
    grown = {at: (few[at][1], many[at][1]) for at in shown if many[at][1] > few[at][1] + FOR_SOME}
    assert grown == {}
