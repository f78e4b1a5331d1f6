"""The page "Connect"."""

from __future__ import annotations

import html
import json
import re
import tomllib

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from reef_site.client import program
from reef_site.common.tools import declared_tools

pytestmark = pytest.mark.django_db


def page_of(client: Client) -> str:
    found = client.get("/connect")
    assert found.status_code == 200
    return html.unescape(found.content.decode())


def test_it_shows_tools_commands_and_settings(admin_client: Client) -> None:
    page = page_of(admin_client)
    for name in declared_tools():
        assert f"<code>{name}</code>" in page
    assert "<code>event.kind</code>" in page
    for name in program.GROUPS:
        assert f"<code>reef {name}</code>" in page
    blocks = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)
    address = f"{settings.INFRA_URL}/mcp"
    servers = [json.loads(each)["mcpServers"]["reef"] for each in blocks if each.startswith("{")]
    assert [each.get("url") or each["httpUrl"] for each in servers] == [address] * 4
    [codex] = [each for each in blocks if each.startswith("[mcp_servers")]
    assert tomllib.loads(codex)["mcp_servers"]["reef"]["url"] == address
    [python] = [each for each in blocks if each.startswith("import json")]
    compile(python, "example", "exec")


def test_it_has_no_secret(admin_client: Client) -> None:
    assert settings.ROOT_TOKEN not in page_of(admin_client)


def test_account_sees_the_tools_that_it_may_use(client: Client) -> None:
    assert client.get("/connect").status_code == 302
    client.force_login(User.objects.create_user("guest"))
    page = page_of(client)
    assert "<code>reef_lt_status</code>" in page
    assert "<code>reef_lt_destroy</code>" not in page
    assert "/access/tokens/" not in page
