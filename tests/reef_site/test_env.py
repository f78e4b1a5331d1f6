"""Settings: invalid values stop the start with one sentence, secrets are private."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reef_site import env

ROOT = Path(env.__file__).parent.parent


def load(data: Path | str, code: str = "", /, **variables: str) -> subprocess.CompletedProcess[str]:
    """Load the settings in a separate process with only these variables."""
    passed = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-c", f"from reef_site import settings; {code}"],
        cwd=ROOT,
        env={**passed, "REEF_DATA_DIR": str(data), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


NONSENSE = [
    ("PORT", "eighty", "'eighty' is not a whole number"),
    ("PORT", "0", "0 is not between 1 and 65535"),
    ("PORT", "65536", "65536 is not between 1 and 65535"),
    ("PORT", "3e3", "'3e3' is not a whole number"),
    ("REEF_DEMO", "maybe", "'maybe' is neither yes nor no"),
    ("DATABASE_URL", "mysql://somewhere/x", "must start with one of sqlite://, postgres://"),
    ("DATABASE_URL", "db.sqlite3", "must start with one of sqlite://, postgres://"),
    ("DATABASE_URL", "postgres://host:port/x", "is not a URL"),
    ("REDIS_URL", "localhost:6379", "must start with one of redis://, rediss://, unix://"),
    ("REDIS_URL", "redis://localhost:99999", "is not a URL"),
    ("REEF_TRUSTED_PROXIES", "proxy", "'proxy' is neither an IP address nor a network"),
    ("REEF_TRUSTED_PROXIES", "10.0.0.1/8", "'10.0.0.1/8' is neither an IP address nor a network"),
    ("VERS_AUTH_TOKEN", "short", "must be 8 or more printable characters, no blanks"),
    ("VERS_AUTH_TOKEN", "with a blank", "must be 8 or more printable characters, no blanks"),
    ("VERS_AUTH_TOKEN", "with\nanother", "must be 8 or more printable characters, no blanks"),
    ("REEF_LOG_LEVEL", "loud", "'LOUD' must be one of DEBUG, INFO, WARNING, ERROR"),
    ("REEF_TIME_ZONE", "Mars/Olympus", "'Mars/Olympus' is not a time zone"),
    ("REEF_STALL_SECONDS", "-1", "-1 is not between 0 and"),
    ("REEF_STALL_NOTICE_SECONDS", "0", "0 is not between 1 and"),
    ("REEF_START_SECONDS", "x", "'x' is not a whole number"),
    ("REEF_STARTS_AT_ONCE", "0", "0 is not between 1 and 256"),
    ("REEF_MAX_MESSAGE_BYTES", "999999999", "999999999 is not between 1000 and"),
    ("REEF_DATA_DIR", "/proc/reef", "cannot make /proc/reef"),
    ("REEF_DATA_DIR", "/dev/null/reef", "cannot make /dev/null/reef"),
]


@pytest.mark.parametrize(("name", "value", "words"), NONSENSE)
def test_invalid_setting_stops_start_with_one_sentence(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    done = load(tmp_path, **{name: value})

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"reef: {name}: "), done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    # An error in a log must not contain a secret.
    assert name != "VERS_AUTH_TOKEN" or value not in done.stderr


def test_password_in_url_is_not_printed(tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        done = load(tmp_path, **{name: "http://user:s3cret@host:port/x"})
        assert done.returncode == 1
        assert "s3cret" not in done.stderr


def test_data_folder_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()

    done = load(taken)

    assert done.returncode == 1
    assert done.stderr.startswith("reef: REEF_DATA_DIR: ")
    assert done.stderr.count("\n") == 1


def test_empty_secret_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root-token").touch(mode=0o600)

    done = load(tmp_path)

    assert done.returncode == 1
    assert f"{tmp_path / 'root-token'} is empty" in done.stderr
    assert done.stderr.count("\n") == 1


def test_empty_setting_counts_as_unset(tmp_path: Path) -> None:
    names = sorted({name for name, _, _ in NONSENSE} - {"REEF_DATA_DIR"})

    done = load(tmp_path, "print(settings.PORT)", **dict.fromkeys(names, " "))

    assert (done.returncode, done.stdout) == (0, "3000\n"), done.stderr


def test_valid_values_are_accepted(tmp_path: Path) -> None:
    done = load(
        tmp_path,
        "print(settings.PORT, settings.ROOT_TOKEN, settings.DEMO, settings.DEFAULT_MODEL,"
        " settings.DATABASES['default']['ENGINE'], settings.REDIS_URL,"
        " settings.ALLOWED_HOSTS[:2], 'MY_KEY' in settings.AGENT_ENV)",
        PORT="8080",
        VERS_AUTH_TOKEN="a-good-token",
        REEF_DEMO="yes",
        DATABASE_URL="postgres://user:pass@db.example/reef",
        REDIS_URL="rediss://cache.example:6380/1",
        REEF_ALLOWED_HOSTS="reef.example, other.example",
        REEF_AGENT_ENV="MY_KEY",
    )

    assert done.stdout.split("\n")[0] == (
        "8080 a-good-token True reef-demo/demo django.db.backends.postgresql "
        "rediss://cache.example:6380/1 ['reef.example', 'other.example'] True"
    ), done.stderr
    # A token from the environment is not stored in a file.
    assert not (tmp_path / "root-token").exists()


def test_connections_bear_the_identity_of_the_data_folder(tmp_path: Path) -> None:
    code = (
        "print(settings.DATABASES['default']['OPTIONS']['application_name'])\n"
        "print(settings.DATA_FOLDER_ID)"
    )

    done = load(tmp_path, code, DATABASE_URL="postgres://db.example/reef?application_name=mine")

    name, identity = done.stdout.split()
    assert name == identity


def test_relative_data_folder_is_below_the_working_directory(tmp_path: Path) -> None:
    done = load(os.path.relpath(tmp_path / "here", ROOT), "print(settings.DATA_DIR)")

    assert Path(done.stdout.strip()).resolve() == tmp_path / "here"


# -- secrets -----------------------------------------------------------------------------------


SECRETS = ("edge-key", "redis-password", "root-token", "secret-key")
# Created at the first start, readable only by the owner.
MADE = ("identity", *SECRETS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_created_files_are_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = os.umask(0)
    try:
        assert load(data).returncode == 0
    finally:
        os.umask(before)

    assert mode(data) == 0o700
    assert mode(data / "run") == 0o700
    assert {mode(data / name) for name in MADE} == {0o600}
    assert sorted(path.name for path in data.iterdir()) == sorted(["run", *MADE])


def test_only_empty_folder_is_made_private(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    for folder in (empty, full):
        folder.mkdir(mode=0o755)
    (full / "somebody's").touch()

    assert [load(folder).returncode for folder in (empty, full)] == [0, 0]

    assert (mode(empty), mode(full)) == (0o700, 0o755)


def test_secrets_are_kept_between_starts(tmp_path: Path) -> None:
    say = "print(settings.ROOT_TOKEN, settings.SECRET_KEY)"

    first, second = load(tmp_path, say), load(tmp_path, say)

    assert first.stdout == second.stdout
    token, key = first.stdout.split()
    assert token == (tmp_path / "root-token").read_text()
    assert key == (tmp_path / "secret-key").read_text()
    assert len(token) >= 40
    assert token != key


def test_concurrent_first_starts_create_one_secret(tmp_path: Path) -> None:
    data = tmp_path / "data"

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: load(data, "print(settings.ROOT_TOKEN)"), range(8)))

    assert [each.returncode for each in done] == [0] * 8, [each.stderr for each in done]
    assert len({each.stdout for each in done}) == 1
    assert sorted(path.name for path in data.iterdir()) == sorted(["run", *MADE])


def test_long_path_uses_other_socket_folder(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30)

    done = load(data, "print(settings.RUN_DIR)")
    again = load(data, "print(settings.RUN_DIR)")

    assert done.stdout == again.stdout
    run = Path(done.stdout.strip())
    assert len(bytes(run / "control.sock")) < 108
    assert mode(run) == 0o700
    run.rmdir()


# -- readers -----------------------------------------------------------------------------------


def test_list_of_names_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDS", " a, b c,,d ")

    assert env.names("WORDS") == ["a", "b", "c", "d"]
    assert env.names("NO_WORDS") == []
    with pytest.raises(SystemExit, match="'b' is not valid here"):
        env.names("WORDS", each="a")


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_true_values_are_recognized(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("SWITCH", word)
    assert env.boolean("SWITCH") is True


@pytest.mark.parametrize("word", ["0", "false", "No", "off"])
def test_false_values_are_recognized(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("SWITCH", word)
    assert env.boolean("SWITCH", default=True) is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("REEF_STAL_SECONDS", "did you mean REEF_STALL_SECONDS?"),
        ("REEF_DATADIR", "did you mean REEF_DATA_DIR?"),
        ("VERS_AUTH_TOEKN", "did you mean VERS_AUTH_TOKEN?"),
        ("REEF_ZZZZ", "operations.md lists them"),
        ("REEF_DATA_DIR", ""),
        ("VERS_API_KEY", ""),
        ("VERS_VM_ID", ""),
        ("VERS_AGENT_ROLE", ""),
        ("REEF_TEST_CHROMIUM", ""),
        ("REEFER", ""),
    ],
)
def test_misspelt_settings_cause_a_warning(name: str, said: str) -> None:
    warnings_for = env.warnings_for([name, "PATH", "PORT"])
    assert len(warnings_for) == bool(said)
    assert "".join(warnings_for).startswith(name if said else "")
    assert said in "".join(warnings_for)


def test_warnings_do_not_stop_the_start(tmp_path: Path) -> None:
    """`check` and `migrate` print the warnings, too."""
    passed = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**passed, "REEF_DATA_DIR": str(tmp_path), "REEF_STAL_SECONDS": "7"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0
    assert "did you mean REEF_STALL_SECONDS?" in done.stderr
