"""`import_config`, and the questions that model providers are asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from tests.versconfig.conftest import write
from versconfig import model_keys
from versconfig.checks import run
from versconfig.models import Setting, Version
from versconfig.services import build_change, config, put

SECRET = "sk-test-0123456789-abcdefghij"


def run_import(*words: str) -> str:
    out = StringIO()
    call_command("import_config", *words, stdout=out, stderr=out)
    return out.getvalue()


def test_import_shows_a_preview(db: None, home: Path) -> None:
    write(home, "keys.json", {"keys": {"VERS_API_KEY": SECRET}})
    write(home, "config.json", {"baseUrl": "http://one", "versApiKey": "sk-another-one-0123"})
    put(build_change("VERS_BASE_URL", "http://two"), by="tests")

    output = run_import()

    assert output.splitlines() == [
        "VERS_API_KEY = sk-test...  (~/.vers/keys.json, keys.VERS_API_KEY)  set",
        "VERS_BASE_URL = http://one  (~/.vers/config.json, baseUrl)  replace",
        "Nothing was changed; --apply does it.",
    ]
    assert Setting.objects.get().clear == "http://two"

    assert "2 settings were stored." in run_import("--apply")
    write(home, "keys.json", {})
    write(home, "config.json", {})
    assert config.secret("VERS_API_KEY") == SECRET
    assert config.text("VERS_BASE_URL") == "http://one"
    newest = Version.objects.latest("id")
    assert (newest.what, newest.actor) == ("imported", "import_config")
    assert "The files hold nothing that reef knows." in run_import()


def test_repeated_import_changes_nothing(db: None, home: Path) -> None:
    write(home, "agent-services.json", {"infraUrl": "http://roof", "authToken": SECRET})
    run_import("--apply")

    output = run_import("--apply")

    assert output.count("stored already") == 2
    assert "0 settings were stored." in output
    assert Version.objects.count() == 2


def test_broken_values_are_reported_and_the_rest_is_imported(db: None, home: Path) -> None:
    write(home, "keys.json", '{"keys": {"VERS_API_KEY": "sk-sec')
    write(home, "config.json", {"baseUrl": "no url"})
    write(home, "agent-services.json", {"infraUrl": "http://roof", "authToken": 5})
    out = StringIO()

    words = "Refused: VERS_BASE_URL, and not everything could be read; see above."
    with pytest.raises(CommandError, match=words):
        call_command("import_config", "--apply", stdout=out, stderr=out)

    output = out.getvalue()
    assert "keys.json: is not JSON" in output
    assert "refused: must be a URL" in output
    assert "authToken: must be a text" in output
    assert "sk-sec" not in output
    assert config.text("VERS_INFRA_URL") == "http://roof"


@pytest.mark.parametrize("apply", [[], ["--apply"]])
def test_wrong_shape_of_a_file_is_reported(db: None, home: Path, apply: list[str]) -> None:
    write(home, "keys.json", {"keys": []})
    out = StringIO()

    with pytest.raises(CommandError, match=r"^Not everything could be read; see above\.$"):
        call_command("import_config", *apply, stdout=out, stderr=out)

    assert "~/.vers/keys.json, keys: must be an object" in out.getvalue()
    assert "keys: must be an object" in config.explain("VERS_API_KEY").problems[0]


def test_invalid_value_fails_the_import(db: None, home: Path) -> None:
    write(home, "config.json", {"baseUrl": "no url"})

    with pytest.raises(CommandError, match=r"^Refused: VERS_BASE_URL; see above\.$"):
        run_import()


def test_unknown_names_are_listed(db: None, home: Path) -> None:
    held = {"VERS_API_KEY": SECRET, "NO_SUCH_KEY": "sk-unknown", "A\nB": "x"}
    write(home, "keys.json", {"keys": held, "LAID_BESIDE": "x"})

    output = run_import("--apply")

    assert "NO_SUCH_KEY  (~/.vers/keys.json)  left out: reef takes none there" in output
    assert "A\\nB  (~/.vers" in output
    assert "LAID_BESIDE  (~/.vers" in output
    assert "sk-unknown" not in output
    assert "1 settings were stored." in output


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a provider that accepts one key and responds with 500 to another."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"Bearer sk-good-0123456789": 200, "Bearer sk-away-0123456789": 500}
            self.send_response(known.get(self.headers["Authorization"], 401))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/models"
    monkeypatch.setitem(model_keys.KEY_TESTS, "OPENAI_API_KEY", model_keys.KeyTest(url))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("key", "good", "output"),
    [
        ("sk-good-0123456789", True, "127.0.0.1 takes this key."),
        ("sk-else-0123456789", False, "127.0.0.1 refuses this key (HTTP 401)."),
        ("sk-away-0123456789", None, "127.0.0.1 answered HTTP 500; try again later."),
    ],
)
def test_key_is_checked_at_the_model_provider(
    db: None, provider: Any, key: str, good: bool | None, output: str
) -> None:
    put(build_change("OPENAI_API_KEY", key), by="tests")

    found = run("OPENAI_API_KEY")

    assert (found.good, found.text) == (good, output)


def test_unreachable_model_provider_is_reported(db: None, provider: Any) -> None:
    provider.shutdown()
    provider.server_close()
    put(build_change("OPENAI_API_KEY", "sk-good-0123456789"), by="tests")

    found = run("OPENAI_API_KEY")

    assert (found.good, found.text) == (None, "127.0.0.1 could not be asked (ConnectError).")
