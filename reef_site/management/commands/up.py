"""`manage.py up`: run all of reef on this machine.

It prepares everything and then becomes `reef_site.launcher.supervisor`, which runs the processes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from bootloader.boot import npm_agent
from lieutenants.agents import DEFAULT, DIALECTS
from lieutenants.exceptions import NotTheFollower
from lieutenants.hosts import liveness, lock
from lieutenants.hosts import services as hosts
from lieutenants.isolation import modes
from lieutenants.supervision.keeper import program as keeper_program
from reef_site import env, static_files
from reef_site.accounts import signin_links
from reef_site.common import disk
from reef_site.common.log_lines import one_line
from reef_site.demo import model as demo_model
from reef_site.demo import vms
from reef_site.demo.vms import DemoVms, NoDemoVms
from reef_site.launcher import lockfile, redis_server
from reef_site.launcher.plan import Demo, Plan, Service
from versconfig import config
from vmtree import organs

# Wanted limit of open files: streams and connections to the database and Redis need one each.
OPEN_FILES = 4096
WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104


class Command(BaseCommand):
    help = "Run all of reef on this machine until Ctrl-C."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (%(default)s)"
        )
        parser.add_argument(
            "--port", type=int, default=settings.PORT, help="port to listen on (%(default)s)"
        )
        parser.add_argument(
            "--no-agent", action="store_true", help="do not install the agent where it is missing"
        )
        parser.add_argument(
            "--demo", action="store_true", help="offer a demo model, which needs no key"
        )
        parser.add_argument("--open", action="store_true", help="open a browser, signed in")

    def handle(self, *_: object, **options: Any) -> None:
        """Prepare everything and become the supervisor, or exit with one sentence and code 1."""
        try:
            self._start(options)
        except (OSError, DatabaseError) as error:
            if not (problem := disk.problem_of(error)):
                raise
            refuse(f"{problem} ({settings.DATA_DIR})")

    def _start(self, options: dict[str, Any]) -> None:
        for warning in env.warnings_for(os.environ):
            say(f"warning: {warning}")
        _check_disk()
        _check_open_files()
        if problems := config.problems_of_environment():
            refuse(problems[0])
        start = Start(options["host"], options["port"], demo=options["demo"])
        lock = start.lock_data_folder()
        start.prepare_database()
        static_files.collect()
        start.register_host()
        start.prepare_vms()
        start.prepare_keeper()
        start.prepare_agent()
        link = signin_links.make_signin_link(settings.PUBLIC_URL or start.page_url)
        plan = start.plan(link, no_agent=options["no_agent"], open_browser=options["open"])
        become_supervisor(plan, lock, start.environment())


def _check_disk() -> None:
    """Refuse to start on a full disk, since a partial start would be worse than none."""
    space = disk.space()
    if "nearly" in space.why:
        say(f"warning: {space.why}: {space.free_bytes >> 20} MB free at {settings.DATA_DIR}")
    elif space.why:
        refuse(f"{space.why} ({settings.DATA_DIR}); make room there, then start again")


def _check_open_files() -> None:
    """Raise the limit of open files, and warn if it stays low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < OPEN_FILES:
        say(
            f"warning: a process may open {limit} files only (ulimit -n); with more than about"
            f" {limit * 2 // 3} streams and connections, further ones are refused"
        )


class Start:
    """A start of reef at an address."""

    def __init__(self, host: str, port: int, *, demo: bool) -> None:
        self.host, self.port, self.demo = host, port, demo
        self.data: Path = settings.DATA_DIR
        self.vms: DemoVms | NoDemoVms | None = None
        # Variables to set for the agent, and the reason why no lieutenant can start.
        self.agent: dict[str, str] = {}
        self.agent_problem = ""
        self.embedded_redis = not os.environ.get("REDIS_URL", "").strip()

    @property
    def reachable(self) -> str:
        """An address of this machine at which reef can be reached."""
        return self.host if self.host not in WILDCARDS else "127.0.0.1"

    @property
    def url(self) -> str:
        """URL for agents and scripts."""
        host = f"[{self.reachable}]" if ":" in self.reachable else self.reachable
        return f"http://{host}:{self.port}"

    @property
    def page_url(self) -> str:
        """URL for browsers: on the loopback with reef's own host name."""
        return signin_links.page_url(self.url)

    def lock_data_folder(self) -> IO[str]:
        """Lock the data folder, end processes of a killed reef, and check the port."""
        if not 0 < self.port < 65536:
            refuse(f"{self.port} is not a port; use one between 1 and 65535")
        lock = lockfile.take_lock(self.data / "up.lock")
        if lock is None:
            refuse(already_running(self.data))
        if cleared := lockfile.clear(self.data):
            say(f"ended {cleared} processes that a killed reef had left running")
        if problem := lockfile.port_problem(self.host, self.port):
            refuse(problem)
        if self.demo:
            self._check_models()
        else:
            # The demo model of an earlier start must not pass for a real one.
            demo_model.remove_from_models(settings.AGENT_CONFIG_DIR / "models.json")
        here = {"pid": os.getpid(), "url": self.url, "started": time.time()}
        (self.data / "up.json").write_text(json.dumps(here) + "\n")
        return lock

    def _check_models(self) -> None:
        file = settings.AGENT_CONFIG_DIR / "models.json"
        try:
            demo_model.read_models(file)
        except (ValueError, OSError) as error:
            refuse(f"--demo would add a model to {file}, but cannot read that file: {error}")

    def prepare_database(self) -> None:
        """Apply pending migrations."""
        try:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                say("setting up the database")
                call_command("migrate", interactive=False, verbosity=0)
        except DatabaseError as error:
            refuse(f"the database cannot be used: {str(error).strip()} (see DATABASE_URL)")
        finally:
            connection.close()

    def register_host(self) -> None:
        """Register this host for the data folder, also under a new host name or path."""
        if "lieutenant" not in settings.ORGANS:
            return
        other = lock.lock_holder()
        if other.startswith("/") and other != str(self.data):
            refuse(lock.not_followed_text(other))
        try:
            hosts.register_folder()
            for host in liveness.list_hosts():
                if host.needs_attention and not host.is_here:
                    remedy = f"take over: manage.py adopt {host.name}"
                    say(f"warning: host {host.name}: {host.summary}; {remedy}")
        except NotTheFollower as other:
            say(f"warning: {other}")
        finally:
            connection.close()

    def prepare_vms(self) -> None:
        """Prepare the demo's VMs, if there can be any."""
        if self.demo:
            on_loopback = self.host not in WILDCARDS
            self.vms = vms.prepare(self.data, self.port, on_loopback=on_loopback, report=say)

    def prepare_keeper(self) -> None:
        """Build the program that agents are started with."""
        if "lieutenant" in settings.ORGANS:
            try:
                keeper_program.local_file()
            except OSError as error:
                refuse(f"the program beside agents cannot be written: {error}")

    def prepare_agent(self) -> None:
        """Check the agent that this host offers, and choose another one if it is none."""
        if "lieutenant" not in settings.ORGANS:
            return
        found = DIALECTS[DEFAULT].check_host()
        for note in found.notes:
            say(note)
        self.agent, self.agent_problem = dict(found.environment), found.problem

    def environment(self) -> dict[str, str]:
        """Return the environment of the processes: ours, with all resolved settings written out."""
        env = {
            **os.environ,
            lockfile.TAG: str(self.data),
            "DJANGO_SETTINGS_MODULE": "reef_site.settings",
            "PYTHONUNBUFFERED": "1",
            "REEF_DATA_DIR": str(self.data),
            # Each process reads address and password of the embedded Redis itself.
            "REDIS_URL": "" if self.embedded_redis else settings.REDIS_URL,
            "PORT": str(self.port),
            "VERS_INFRA_URL": os.environ.get("VERS_INFRA_URL", "").strip() or self.url,
            "REEF_DEMO": "1" if self.demo else "",
        }
        database = settings.DATABASES["default"]
        if "DATABASE_URL" in env and database["ENGINE"].endswith("sqlite3"):
            env["DATABASE_URL"] = f"sqlite:///{Path(database['NAME']).absolute()}"
        if self.host not in WILDCARDS:
            env["REEF_ALLOWED_HOSTS"] = f"{env.get('REEF_ALLOWED_HOSTS', '')} {self.host}".strip()
        if isinstance(self.vms, DemoVms):
            # An address that the operator has set for the fleet takes precedence.
            given = {"VERS_INFRA_URL"} if os.environ.get("VERS_INFRA_URL", "").strip() else set()
            env |= {key: self.vms.environment[key] for key in self.vms.environment.keys() - given}
            env["REEF_ALLOWED_HOSTS"] = f"{env.get('REEF_ALLOWED_HOSTS', '')} {self.vms.address}"
        elif self.vms:
            env |= self.vms.environment
        if "/" in settings.PI_PATH:
            env["PI_PATH"] = str(Path(settings.PI_PATH).expanduser().absolute())
        return env | self.agent

    def plan(self, link: str, *, no_agent: bool, open_browser: bool) -> Plan:
        """Return the plan: which processes to run, and what to print once they respond."""
        services = [*self._redis(), self._web(), self._edge()]
        if settings.HAS_WORK:
            services += [self._worker(), self._beat()]
        services += self._emulator()
        if not no_agent and "lieutenant" in settings.ORGANS:
            services += self._agent()
        return Plan(
            services=services,
            logs=str(self.data / "logs"),
            health=(self.reachable, self.port),
            ready=[
                *self._ready_lines(link),
                *self._agent_warning(no_agent=no_agent),
                *self._isolation_warning(),
            ],
            tag=lockfile.TAG,
            link=link,
            open_browser=open_browser,
            demo=self._demo_model() if self.demo else None,
            forget=[str(self.data / "up.json")],
        )

    def _redis(self) -> list[Service]:
        """Return the embedded Redis: on a private socket, without a port or files on disk."""
        if not self.embedded_redis:
            return []
        program = redis_server.program()
        if program is None:
            refuse("there is no Redis in this environment; set REDIS_URL to one")
        password = urlsplit(settings.REDIS_URL).password or ""
        # A process title would overwrite the environment, which identifies our processes.
        words = {"loglevel": "warning", "set-proc-title": "no"}
        config = redis_server.write_config(settings.RUN_DIR, password, **words)
        # It saves nothing, so its warnings about memory for saving are irrelevant.
        muted = ["Memory overcommit", "signal-handler", "ready to exit"]
        argv = [str(program), str(config)]
        stale = [str(settings.RUN_DIR / "redis.sock")]
        return [Service("redis", argv, stale, "first", muted=muted, full_environment=False)]

    def _web(self) -> Service:
        argv = [*hardened("granian"), "--interface", "wsgi", "--workers", "2"]
        argv += ["--blocking-threads", "1", "--no-ws", "--respawn-failed-workers"]
        argv += ["--workers-kill-timeout", "5", "--log-level", "warning"]
        argv += ["--uds", str(settings.WEB_SOCKET), "reef_site.wsgi:application"]
        return Service("web", argv, stale=[str(settings.WEB_SOCKET)])

    def _edge(self) -> Service:
        address = ["--host", self.host, "--port", str(self.port)]
        return Service("edge", [*module("reef_site.edge"), *address])

    def _worker(self) -> Service:
        argv = [*hardened("celery"), "-q", "-A", "reef_site", "worker", "-P", "threads", "-c", "8"]
        argv += ["-Q", "celery", "-l", settings.LOG_LEVEL]
        argv += ["--without-mingle", "--without-gossip"]
        return Service("worker", argv, start_phase="late")

    def _beat(self) -> Service:
        argv = [*hardened("celery"), "-q", "-A", "reef_site", "beat", "-l", "WARNING"]
        return Service("beat", argv, start_phase="late")

    def _agent(self) -> list[Service]:
        """Return the one-off process that installs the agent, if there is none."""
        own = "REEF_OWN_AGENT" in self.agent
        if settings.PI_PATH or (shutil.which("pi") and not own):
            return []
        target: Path = settings.AGENT_INSTALL_DIR
        if npm_agent.installed(npm_agent.PINNED, target):
            return []
        argv = [*module("bootloader.boot.npm_agent"), "--target", str(target)]
        return [Service("agent", argv, start_phase="late", once=True, umask=0o022)]

    def _emulator(self) -> list[Service]:
        """Return the emulator that runs the demo's VMs, which end with it."""
        if not isinstance(self.vms, DemoVms):
            return []
        # Request lines go to the log only.
        return [Service("vms", self.vms.argv, muted=["GET /api/v1/"], umask=0o022)]

    def _demo_model(self) -> Demo:
        folder = self.data / "demo"
        argv = [*hardened("reef_site.demo.model"), "--folder", str(folder)]
        argv += ["--models", str(settings.AGENT_CONFIG_DIR / "models.json")]
        argv += ["--while-locked", str(self.data / "up.lock")]
        argv += ["--agents", str(settings.LIEUTENANTS_DIR)]
        return Demo(argv, str(folder / "lock"))

    def _ready_lines(self, link: str) -> list[str]:
        given = bool(os.environ.get("VERS_AUTH_TOKEN", "").strip())
        token = "in VERS_AUTH_TOKEN" if given else f"in {settings.ROOT_TOKEN_FILE}"
        lines = [
            f"reef answers at {self.page_url}",
            f"sign in, once and within {settings.SIGNIN_MINUTES} minutes: {link}",
            f"the root token for the API is {token}",
        ]
        if self.page_url != self.url:
            lines.append(f"if your browser does not know that name, use {self.url} in its place")
        if here := organs.describe(settings.NAMED_ORGANS):
            lines.append(here)
        if self.demo:
            lines.append("demo model: lieutenants get the model reef-demo/demo, which needs no key")
        if isinstance(self.vms, DemoVms):
            lines.append("demo VMs: the emulator runs here; its VMs end when reef is stopped")
        elif self.vms:
            lines.append(f"no demo VMs: {self.vms.reason}")
        if self.host in WILDCARDS and not os.environ.get("REEF_ALLOWED_HOSTS"):
            name = socket.gethostname()
            lines.append(f"for other machines, set REEF_ALLOWED_HOSTS to its name there, as {name}")
        return lines

    def _isolation_warning(self) -> list[str]:
        """Return a warning if the isolation of agents is weak here."""
        warning = modes.warning() if "lieutenant" in settings.ORGANS else ""
        return [f"WARNING: {warning}"] if warning else []

    def _agent_warning(self, *, no_agent: bool) -> list[str]:
        """Return a warning if no lieutenant can start and no agent is about to be installed."""
        settings.OWN_AGENT = "REEF_OWN_AGENT" in self.agent
        missing = DIALECTS[DEFAULT].host_problem() if settings.PI_PATH or no_agent else ""
        problem = self.agent_problem or missing
        return [f"warning: no lieutenant can start. {problem}"] if problem else []


def module(name: str) -> list[str]:
    """Return the command that runs a Python module in our environment."""
    return [sys.executable, "-m", name]


def hardened(name: str) -> list[str]:
    """Return the command that runs a module that does not harden its process by itself."""
    return [*module("reef_site.hardening"), name]


def already_running(data: Path) -> str:
    """Return the error for a second `up`, which names the first."""
    try:
        facts = json.loads((data / "up.json").read_text())
        where = f" (process {facts['pid']}, {facts['url']})"
    except (OSError, ValueError, KeyError, TypeError):
        where = ""
    return f"reef is already up on {data}{where}. Stop it, or set REEF_DATA_DIR to another folder"


def say(line: str) -> None:
    """Print a line in the supervisor's format, before the supervisor takes over."""
    sys.stdout.write(f"reef   | {one_line(line)}\n")
    sys.stdout.flush()


def refuse(why: str) -> NoReturn:
    """Exit with one sentence."""
    raise SystemExit(f"reef: {why}")


def become_supervisor(plan: Plan, lock: IO[str], env: dict[str, str]) -> NoReturn:
    """Replace this process by the supervisor; it inherits the lock and the plan as descriptors."""
    plan_fd = os.memfd_create("plan", 0)
    os.write(plan_fd, plan.dump().encode())
    os.lseek(plan_fd, 0, os.SEEK_SET)
    os.set_inheritable(lock.fileno(), True)
    os.chdir(settings.BASE_DIR)
    argv = [*module("reef_site.launcher.supervisor"), str(plan_fd), str(lock.fileno())]
    os.execve(argv[0], argv, env)  # noqa: S606
