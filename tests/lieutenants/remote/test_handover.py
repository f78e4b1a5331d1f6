"""Two real workers, one of which is frozen, and the agents on a machine that it has followed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import F

from bootloader.models import SshHost
from lieutenants.exceptions import Overtaken
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Answer, Chunk, Entry, Lieutenant, LifeSign, Message, Move, Process
from lieutenants.supervision.transports import ssh_transport_of, transport_of
from lieutenants.supervision.transports.ssh.transport import links
from tests.bootloader.ssh_servers import Sshd
from tests.conftest import Api, real_agent
from tests.dispatching import drop_tasks
from tests.lieutenants.remote.lines import Line
from tests.lieutenants.remote.test_remote_command import PIECES, said
from tests.postgres import Cluster
from tests.stack import Stack
from tests.stub_llm import StubLLM
from tests.waiting import until
from versconfig import vault

pytestmark = [pytest.mark.postgres, pytest.mark.rotated, pytest.mark.timeout(240)]

AT = "/lieutenant/lieutenants"
COUNT = 1500


class Worker(Stack):
    """A worker of a host of its own; this test takes the place of everything else there."""

    def start_following(self) -> DataFolder:
        shutil.copy(vault.key_file(), self.data / vault.key_file().name)
        self._run("-c", "import reef_site.settings")
        self.start("redis")
        self.start("worker")
        folder: DataFolder = until(
            lambda: DataFolder.objects.filter(host=self.env["REEF_HOST"]).first(), 60
        )
        return folder

    def freeze(self) -> None:
        os.killpg(self.processes["worker"].pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.processes["worker"].pid, signal.SIGCONT)


@pytest.fixture
def two(
    transactional_db: None, postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Worker, Worker]]:
    drop_tasks(monkeypatch, "")
    name = connections.settings["default"]["NAME"]
    address = f"postgres://reef@/{name}?host={postgres.home}"
    vault.seal("anything", "makes the key that all of them share")
    workers = []
    for host in ("box1", "box2"):
        (tmp_path / host).mkdir()
        workers.append(Worker(tmp_path / host, REEF_HOST=host, DATABASE_URL=address))
    first, second = workers
    yield first, second
    for worker in workers:
        for part in ("worker", "redis"):
            if part in worker.processes:
                worker.kill(part)
    links.close_all()


@pytest.fixture
def host(two: object, far_sshd: tuple[Sshd, Path]) -> Iterator[tuple[SshHost, Path]]:
    sshd, home = far_sshd
    shutil.rmtree(home / ".reef-agents", ignore_errors=True)
    line = Line(sshd.port)
    row = SshHost(name="far", address="127.0.0.1", port=line.port, user=sshd.login().user)
    row.set_key(sshd.key)
    row.save()
    yield row, home
    for process in Process.objects.live():
        transport_of(process).end(process.directory, process.handle, keeper=True)
    links.close_all()
    line.close()


def stored() -> dict[str, list[dict[str, Any]]]:
    """Return all rows that a follower writes."""
    models: tuple[type[Any], ...] = (Lieutenant, Process, Message, Answer, Entry, Chunk, Move)
    return {model.__name__: list(model.objects.order_by("pk").values()) for model in models}


def freeze(worker: Worker, folder: DataFolder) -> None:
    """Freeze a worker, as if it had been frozen for a minute."""
    worker.freeze()
    DataFolder.objects.filter(pk=folder.pk).update(seen_at=F("seen_at") - timedelta(seconds=60))


def go_on(worker: Worker) -> None:
    """Let a worker go on, and wait until it has done all that it does in a pass, more than once."""
    sign = LifeSign.objects.get(who="follower@box1").at
    worker.thaw()
    until(lambda: LifeSign.objects.get(who="follower@box1").at > sign + timedelta(seconds=8), 60)


def create(api: Api, name: str, folder: DataFolder, **fields: Any) -> None:
    body = {"name": name, "role": "r", "local": False, "sshHost": "far", **fields}
    with transaction.atomic():
        made = api.post(AT, body)
        assert made.status_code == 201, made.content
        Lieutenant.objects.filter(name=name).update(data_folder=folder.pk)


def is_idle() -> bool:
    return set(Lieutenant.objects.values_list("status", flat=True)) == {"idle"}


def test_frozen_worker_hands_over_and_writes_nothing_when_it_goes_on(
    two: tuple[Worker, Worker], host: tuple[SshHost, Path], api: Api
) -> None:
    first, second = two
    one = first.start_following()
    create(api, "far", one, agent="command", command=["python3", "-c", PIECES])
    until(is_idle, 60)
    old = Process.objects.get()
    other = second.start_following()

    message = api.post(f"{AT}/far/send", {"message": str(COUNT)}).json()["messageId"]
    until(lambda: Chunk.objects.exists(), 30)
    freeze(first, one)
    until(lambda: Process.objects.get().data_folder == other.pk, 60)
    until(is_idle, 90)
    assert Answer.objects.get().text == said(COUNT)
    own = host[1] / ".reef-agents" / "lieutenants" / Lieutenant.objects.get().pk
    assert (own / "workspace" / "starts").read_text().split() == [message]

    before = stored()
    go_on(first)
    assert stored() == before
    ssh_transport_of(old.lieutenant).link.wait_until_open(force=True)
    with pytest.raises(Overtaken):
        transport_of(old).send(old.directory, [])
    assert api.post(f"{AT}/far/send", {"message": "3"}).status_code == 200
    until(lambda: Answer.objects.filter(text=said(3)).exists(), 30)
    assert Process.objects.get().data_folder == other.pk


@pytest.mark.thorough
def test_worker_that_is_frozen_in_a_start_leaves_one_agent(
    two: tuple[Worker, Worker], host: tuple[SshHost, Path], api: Api
) -> None:
    first, second = two
    one, other = first.start_following(), second.start_following()
    create(api, "far", one, agent="command", command=["cat"])
    until(lambda: Process.objects.exists(), 60)
    freeze(first, one)
    until(lambda: Lieutenant.objects.get().data_folder == other.pk, 60)
    assert Process.objects.get().data_folder == other.pk
    until(is_idle, 90)
    go_on(first)
    assert is_idle()
    process = Process.objects.live().get()
    assert process.data_folder == other.pk
    transport = ssh_transport_of(process.lieutenant)
    transport.link.wait_until_open(force=True)
    assert [each["run"] for each in transport.list_runs() if each["alive"]] == [process.pk]
    assert api.post(f"{AT}/far/send", {"message": "hello"}).status_code == 200
    until(lambda: Answer.objects.filter(text="hello").exists(), 30)


@pytest.mark.agent
@pytest.mark.thorough
def test_real_agent_goes_on_with_another_worker(
    two: tuple[Worker, Worker], host: tuple[SshHost, Path], api: Api, stub: StubLLM
) -> None:
    stub.reset()
    first, second = two
    for worker in two:
        (worker.data / "pi").mkdir()
        (worker.data / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    programs = host[1] / ".local" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "pi").unlink(missing_ok=True)
    (programs / "pi").symlink_to(real_agent("160"))
    one = first.start_following()
    create(api, "far", one, agent="pi", model="stub/echo")
    until(is_idle, 90)
    other = second.start_following()
    stub.script({"steps": [{"text": "one "}, {"gate": "rest"}, {"text": "two"}]})
    assert api.post(f"{AT}/far/send", {"message": "speak"}).status_code == 200
    until(lambda: Chunk.objects.exists(), 30)
    freeze(first, one)
    until(lambda: Process.objects.get().data_folder == other.pk, 60)
    stub.open_gate("rest")
    until(is_idle, 60)
    before = stored()
    go_on(first)
    assert stored() == before
    assert Answer.objects.get().text == "one two"
    assert Entry.objects.filter(kind=Entry.Kind.USER).count() == 1
    (programs / "pi").unlink()
