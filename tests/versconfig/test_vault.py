"""Keys of the vault: made once, rotated by a command, at any moment of which it may be killed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from reef_site import env
from versconfig import rotation, vault
from versconfig.exceptions import Unreadable
from versconfig.models import Setting, Version
from versconfig.services import build_change, config, put, undo

SECRET = "sk-test-0123456789-abcdefghij"


def store(text: str, name: str = "VERS_API_KEY") -> None:
    put(build_change(name, text), by="tests")


def rotate() -> str:
    out = StringIO()
    call_command("rotate_config_key", stdout=out, stderr=out)
    return out.getvalue()


def test_rotation_encrypts_all_values_with_a_new_key(database: str) -> None:
    store(SECRET + "-older")
    store(SECRET)
    before, sealed = vault.keys(), Setting.objects.get().sealed

    message = rotate()

    assert "3 values were sealed anew" in message
    assert len(vault.keys()) == 1
    assert vault.keys() != before
    assert before[0] not in message
    assert vault.keys()[0] not in message
    assert Setting.objects.get().sealed != sealed
    assert settings.CONFIG_KEYS_FILE.stat().st_mode & 0o777 == 0o600
    assert config.secret("VERS_API_KEY") == SECRET
    assert [version.text() for version in Version.objects.order_by("id")] == [
        SECRET + "-older",
        SECRET,
    ]
    undo(Version.objects.latest("id").pk, by="tests")
    assert config.secret("VERS_API_KEY") == SECRET + "-older"


def test_rotation_that_fails_before_the_commit_loses_nothing(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(SECRET)
    with monkeypatch.context() as broken:
        broken.setattr(rotation, "_reencrypt", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rotate()
    assert len(vault.keys()) == 2
    assert config.secret("VERS_API_KEY") == SECRET
    store(SECRET + "2")

    rotate()

    assert len(vault.keys()) == 1
    assert config.secret("VERS_API_KEY") == SECRET + "2"


def test_keys_of_the_environment_take_precedence(db: None, settings: Any) -> None:
    store(SECRET)
    settings.CONFIG_KEYS = [Fernet.generate_key().decode()]
    assert config.secret("VERS_API_KEY") == SECRET

    assert "may be removed" in rotate()

    assert vault.kept() == []
    assert config.secret("VERS_API_KEY") == SECRET
    settings.CONFIG_KEYS = [Fernet.generate_key().decode(), *settings.CONFIG_KEYS]
    rotate()
    settings.CONFIG_KEYS = settings.CONFIG_KEYS[:1]
    assert config.secret("VERS_API_KEY") == SECRET


def test_undecryptable_values_are_reported(db: None) -> None:
    store(SECRET)
    settings.CONFIG_KEYS_FILE.unlink()
    # The key may be on another host, so no second one is created silently.
    with pytest.raises(Unreadable, match="sealed with a key that is not here"):
        store("sk-another-0123456789", "OPENAI_API_KEY")
    assert vault.kept() == []
    out = StringIO()

    with pytest.raises(CommandError, match="set these values anew"):
        call_command("rotate_config_key", stdout=out, stderr=out)

    assert "VERS_API_KEY for the fleet" in out.getvalue()
    store("sk-another-0123456789", "OPENAI_API_KEY")
    assert config.secret("OPENAI_API_KEY") == "sk-another-0123456789"
    store(SECRET)
    assert config.secret("VERS_API_KEY") == SECRET


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("pg", marks=pytest.mark.postgres)])
def test_concurrent_puts_of_a_key_leave_one_setting(
    backend: str, transactional_db: None, request: pytest.FixtureRequest
) -> None:
    if backend == "pg":
        request.getfixturevalue("postgres")
    store(SECRET, "OPENAI_API_KEY")
    ready = threading.Barrier(4)

    def write(text: str) -> None:
        try:
            ready.wait(10)
            store(text)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(write, f"{SECRET}-{number}") for number in range(4)]:
            each.result()

    row = Setting.objects.get(key="VERS_API_KEY")
    versions = list(Version.objects.filter(key="VERS_API_KEY").order_by("id"))
    assert [each.previous for each in versions] == [None, *versions[:-1]]
    assert (row.version, row.text()) == (versions[-1], versions[-1].text())


def test_encrypted_value_is_bound_to_its_key(db: None) -> None:
    sealed = vault.seal("OPENAI_API_KEY", SECRET)

    with pytest.raises(Unreadable):
        vault.unseal("VERS_API_KEY", sealed)
    assert vault.unseal("OPENAI_API_KEY", sealed) == SECRET


def test_permissions_of_a_readable_key_file_are_fixed(db: None) -> None:
    store(SECRET)
    settings.CONFIG_KEYS_FILE.chmod(0o644)

    assert config.secret("VERS_API_KEY") == SECRET

    assert settings.CONFIG_KEYS_FILE.stat().st_mode & 0o777 == 0o600


def test_damaged_key_file_is_reported(db: None) -> None:
    settings.CONFIG_KEYS_FILE.write_text("no key at all\n")

    with pytest.raises(Unreadable, match="has a line that is no key") as caught:
        vault.keys()
    assert "no key at all" not in str(caught.value).replace("has a line that is no key", "")


@pytest.mark.parametrize("bad", ["short", "x" * 44, "é" * 44, "QUJD" * 12])
def test_invalid_key_in_the_environment_stops_the_start_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    good = Fernet.generate_key().decode()
    monkeypatch.setenv("REEF_CONFIG_KEYS", f"{good}, {bad}")

    with pytest.raises(env.SettingError) as caught:
        env.fernet_keys("REEF_CONFIG_KEYS")

    message = "reef: REEF_CONFIG_KEYS: its key number 2 is not 32 bytes in base64"
    assert str(caught.value) == message
    monkeypatch.setenv("REEF_CONFIG_KEYS", f" {good} ")
    assert env.fernet_keys("REEF_CONFIG_KEYS") == [good]


def test_concurrent_first_uses_create_one_key(db: None) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(vault.seal("A", "text"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(vault.kept()) == 1
    assert {vault.unseal("A", sealed) for sealed in found} == {"text"}


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("pg", marks=pytest.mark.postgres)])
def test_rotations_during_writes_lose_nothing(
    backend: str, transactional_db: None, request: pytest.FixtureRequest
) -> None:
    """Two threads write and read while keys are rotated repeatedly."""
    if backend == "pg":
        request.getfixturevalue("postgres")
    store(SECRET)
    over = threading.Event()

    def write(name: str) -> int:
        number = 0
        try:
            while not over.is_set():
                number += 1
                store(f"{SECRET}-{number}", name)
                assert config.secret(name) == f"{SECRET}-{number}"
        finally:
            connections.close_all()
        return number

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, name) for name in ("OPENAI_API_KEY", "XAI_API_KEY")]
        try:
            for _ in range(8):
                assert not rotation.rotate().unreadable
        finally:
            over.set()

    assert all(writer.result() for writer in writers)
    assert len(vault.keys()) == 1
    assert all(version.text() for version in Version.objects.all())
