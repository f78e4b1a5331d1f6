"""Two real workers with data folders of their own, one PostgreSQL, and machines that they share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from bootloader.models import SshHost
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from reef_site.common import clock
from reef_site.common.ids import new_ulid
from tests.bootloader.ssh_servers import Sshd
from tests.conftest import Api
from tests.stack import ROOT
from tests.waiting import until
from versconfig import vault

WORKER = (
    "-m celery -q -A reef_site worker -P threads -c 4 -Q celery --without-mingle --without-gossip"
)

# Records rows of a process that another worker wrote than the one that followed it. The name of a
# worker's connection is the id of its data folder.
RECORD_STRANGERS = """
CREATE TABLE written_by_strangers (worker text, what text, follower text);
CREATE FUNCTION record_stranger() RETURNS trigger AS $$
DECLARE
    worker text := current_setting('application_name');
    follower text;
BEGIN
    IF worker NOT IN (SELECT id FROM lieutenants_datafolder) THEN
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME IN ('lieutenants_process', 'lieutenants_lieutenant') THEN
        follower := OLD.data_folder;
        IF NEW.data_folder = worker THEN
            RETURN NULL;
        END IF;
    ELSIF TG_TABLE_NAME = 'lieutenants_chunk' THEN
        SELECT process.data_folder INTO follower FROM lieutenants_process process
            JOIN lieutenants_entry entry ON entry.process_id = process.id
            WHERE entry.id = NEW.entry_id;
    ELSE
        SELECT data_folder INTO follower FROM lieutenants_process WHERE id = NEW.process_id;
    END IF;
    IF follower <> worker THEN
        INSERT INTO written_by_strangers VALUES (worker, TG_TABLE_NAME, follower);
    END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
"""
HOLDS_PROCESSES = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE relation = 'lieutenants_process'::regclass AND mode = 'RowExclusiveLock'
AND application_name = %s AND state = 'idle in transaction'
"""
ADDED = ("entry", "answer", "chunk")
CHANGED = ("entry", "answer", "process", "lieutenant")


class Worker:
    """A Celery worker with its follower, and a data folder."""

    def __init__(self, folder: Path, **env: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        identity = folder / "identity"
        if not identity.exists():
            identity.write_text(f"{new_ulid()}\n")
            identity.chmod(0o600)
        self.pk = identity.read_text().strip()
        database = connection.settings_dict
        self._log = folder / "worker.log"
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "REEF_DATA_DIR": str(folder),
            "DATABASE_URL": f"postgres://reef@/{database['NAME']}"
            f"?host={database['HOST'] or database['OPTIONS']['host']}&application_name={self.pk}",
            "REDIS_URL": settings.REDIS_URL,
            "REEF_CONFIG_KEYS": ",".join(vault.kept()),
            "DJANGO_SETTINGS_MODULE": "tests.stack_settings",
            "VERS_AUTH_TOKEN": settings.ROOT_TOKEN,
            "REEF_STARTS_AT_ONCE": "8",
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *WORKER.split()],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def signal(self, number: int) -> None:
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill it like a power failure, unless it has ended."""
        if self._process and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait(10)

    def is_following(self) -> bool:
        fresh = clock.database_now() - timedelta(seconds=15)
        return DataFolder.objects.filter(pk=self.pk, seen_at__gte=fresh).exists()

    def fall_silent(self) -> None:
        """Let its last sign of life be long ago, so that nobody need wait until it is."""
        long_ago = clock.database_now() - timedelta(minutes=5)
        DataFolder.objects.filter(pk=self.pk).update(seen_at=long_ago)

    def followed(self) -> int:
        """Return how many live processes it follows."""
        return Process.objects.live().filter(data_folder=self.pk).count()

    def freeze_in_transaction(self) -> None:
        """Stop it while a transaction of it has changed processes and is not committed."""

        def met() -> bool:
            self.signal(signal.SIGSTOP)
            with connection.cursor() as cursor:
                cursor.execute(HOLDS_PROCESSES, [self.pk])
                if cursor.fetchone()[0]:
                    return True
            self.signal(signal.SIGCONT)
            return False

        until(met, 60)


class Pair:
    """Two workers, and lieutenants on machines behind one sshd."""

    def __init__(
        self, api: Api, sshd: Sshd, home: Path, folder: Path, addresses: list[str]
    ) -> None:
        self.api = api
        self.home = home
        self.hosts = [
            SshHost(name=f"m{number}", address=address, port=sshd.port, user=sshd.login().user)
            for number, address in enumerate(addresses)
        ]
        for host in self.hosts:
            host.set_key(sshd.key)
            host.save()
        # The first one's data folder is that of the tests, which write what pages write.
        self.workers = (
            Worker(settings.DATA_DIR),
            Worker(folder / "second", REEF_HOST="second"),
        )
        self._record_strangers()

    @staticmethod
    def _record_strangers() -> None:
        with connection.cursor() as cursor:
            cursor.execute(RECORD_STRANGERS)
            for when, tables in (("INSERT", ADDED), ("UPDATE", CHANGED)):
                for table in tables:
                    cursor.execute(
                        f"CREATE TRIGGER strangers_{when} AFTER {when} ON lieutenants_{table}"
                        " FOR EACH ROW EXECUTE FUNCTION record_stranger()"
                    )

    def strangers(self) -> list[Any]:
        """Return what was written by a worker that did not follow."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM written_by_strangers")
            return list(cursor.fetchall())

    def start(self) -> None:
        for worker in self.workers:
            worker.start()
        until(lambda: all(worker.is_following() for worker in self.workers), 60)

    def create(self, name: str, machine: int, command: list[str]) -> None:
        body = {"name": name, "role": "tests", "local": False, "agent": "command"}
        body |= {"sshHost": self.hosts[machine].name, "command": command}
        answer = self.api.post("/lieutenant/lieutenants", body)
        assert answer.status_code == 201, answer.content

    def send(self, name: str, text: str) -> None:
        answer = self.api.post(f"/lieutenant/lieutenants/{name}/send", {"message": text})
        assert answer.status_code == 200, answer.content

    def workspace(self, name: str) -> Path:
        row = Lieutenant.objects.active().get(name=name)
        return self.home / ".reef-agents" / "lieutenants" / row.pk / "workspace"

    def close(self) -> None:
        """Destroy all lieutenants, and end both workers."""
        try:
            for worker in self.workers:
                worker.kill()
            self.workers[0].start()
            for row in Lieutenant.objects.active():
                self.api.delete(f"/lieutenant/lieutenants/{row.name}?wait=0")
            self.workers[1].fall_silent()
            until(lambda: not Lieutenant.objects.with_leftovers().exists(), 90)
        finally:
            for worker in self.workers:
                worker.kill()
