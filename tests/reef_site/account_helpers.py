"""Accounts and signed-in clients for tests with real processes."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import httpx
from django.contrib.auth.hashers import make_password

from tests.stack import Stack

PASSWORD = "correct horse battery"


def change(stack: Stack, statement: str, *values: object) -> None:
    """Change rows in the stack's database, as another process would."""
    with closing(sqlite3.connect(stack.data / "db.sqlite3", timeout=20)) as database, database:
        assert database.execute(statement, values).rowcount > 0


def create_account(stack: Stack, name: str, *, operator: bool = True) -> None:
    change(
        stack,
        "INSERT INTO auth_user (username, password, is_active, is_superuser, is_staff, first_name,"
        " last_name, email, date_joined) VALUES (?, ?, 1, ?, ?, '', '', '', '2026-01-01')",
        *(name, make_password(PASSWORD), operator, operator),
    )


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found, page
    return found[1]


def browser(stack: Stack, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=stack.client.base_url, headers=headers, timeout=30)


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    form = {
        "csrfmiddlewaretoken": csrf_of(client.get("/signin/").text),
        "username": name,
        "password": password,
    }
    return client.post("/signin/", data=form)


def sign_out(client: httpx.Client) -> None:
    form = {"csrfmiddlewaretoken": csrf_of(client.get("/").text)}
    assert client.post("/signout/", data=form).status_code == 302
