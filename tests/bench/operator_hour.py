"""An operator's hour: `python -m tests.bench.operator_hour [MINUTES [LIEUTENANTS]]`.

A real reef with 40 lieutenants (the stand-in agent) that work, fail, crash, stall, ask and finish,
silent VMs, findings, and a failed provisioning. The hour takes MINUTES (default 6). Six times, the
operator looks at the home page, as a person without script, and handles each row by the first
action that the row itself offers. The report says what was handled, what needed another page, and
what the page did not show although the API says that it needs somebody. Such an omission, a
refused action, or a row without one ends the run with exit code 1.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from tests.stack import Stack, pause

LOOKS = 6
# Beginnings of the labels of what a person presses at first.
USUAL = (
    *("Yes", "Answer", "Retry", "Restart", "Resume", "Abort", "Take up", "Give up"),
    *("Adopt", "Dismiss"),
)
# What the lieutenants are sent, and how often.
TASKS = {
    "SLOW 4 All tests are green again, release notes are written.": 8,
    "TOOL": 3,
    "HANG 20 pytest": 2,
    "ERROR 529 the provider is overloaded": 2,
    "DIE 3": 2,
    "SILENT": 1,
    "DIALOG": 3,
}
ROWS = """
from datetime import timedelta
from bootloader.models import Finding, Provisioning
from reef_site.common import clock
from registry.models import VM, Watch
Watch.objects.update_or_create(pk=1, defaults={"up_since": clock.now() - timedelta(hours=1)})
for number in range(2):
    about = {"text": "nobody knows it", "proposal": "adopt" if number else "delete"}
    Finding.objects.create(kind="unknown", provider="vers", machine_id=f"m-{number}", **about)
about = {"profile": "full", "provider": "vers", "actor": "bench", "state": "failed"}
Provisioning.objects.create(name="boot-1", reason="commit not found", **about)
for number in range(5):
    past = clock.now() - timedelta(minutes=5)
    vm = VM(id=f"box-{number}", name=f"box-{number}", role="worker", registered_by="bench")
    vm.seen(past, status="running")
    vm.late_after = vm.silent_after = past
    vm.save()
"""


# -- the page ------------------------------------------------------------------------------------


@dataclass
class Press:
    """A button, with the fields of its form; or a link that looks like one."""

    label: str
    url: str
    fields: dict[str, str] = field(default_factory=dict)
    is_link: bool = False


@dataclass
class Row:
    """A row of the home page."""

    key: str
    name: str = ""
    link: str = ""
    status: str = ""
    presses: list[Press] = field(default_factory=list)

    def press(self, *labels: str) -> Press | None:
        """Return the first action with one of these labels."""
        return next((each for each in self.presses if each.label.startswith(labels)), None)


class Page(HTMLParser):
    """The rows of the home page, and the forms of any other page (in the row with the key "")."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows = {"": Row("")}
        self._row = self.rows[""]
        self._form: dict[str, Any] | None = None
        self._into: tuple[str, Any] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in pairs}
        classes = given.get("class", "").split()
        if tag == "li" and "need" in classes:
            self._row = self.rows[given["id"]] = Row(given["id"])
        elif "need-name" in classes:
            self._row.link, self._into = given.get("href", ""), ("name", self._row)
        elif tag == "span" and "status" in classes and not self._row.status:
            self._into = ("status", self._row)
        elif tag == "form":
            self._form = {"url": given.get("action", ""), "fields": {}, "presses": []}
        elif tag == "input" and self._form and given.get("type") in ("hidden", "text"):
            self._form["fields"][given.get("name", "")] = given.get("value", "")
        elif tag == "textarea" and self._form:
            self._form["fields"][given["name"]] = "go on with the default"
        elif tag == "button" and self._form:
            sent = {given["name"]: given.get("value", "")} if "name" in given else {}
            press = Press("", given.get("formaction") or self._form["url"], sent)
            self._form["presses"].append(press)
            self._into = ("label", press)
        elif tag == "a" and "button" in classes:
            press = Press("", given.get("href", ""), is_link=True)
            self._row.presses.append(press)
            self._into = ("label", press)
        elif "away" in classes:
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into and (text := " ".join(data.split())):
            name, target = self._into
            setattr(target, name, f"{getattr(target, name)} {text}".strip())

    def handle_endtag(self, tag: str) -> None:
        if tag in ("a", "b", "button", "span"):
            self._into = None
        if tag == "form" and self._form:
            for press in self._form["presses"]:
                press.fields = {**self._form["fields"], **press.fields}
            self._row.presses += self._form["presses"]
            self._form = None
        if tag == "li":
            self._row = self.rows[""]


class Operator:
    """A person with a session, who works through the home page."""

    def __init__(self, stack: Stack) -> None:
        self.client = httpx.Client(base_url=stack.client.base_url, timeout=60)
        self.client.headers["referer"] = str(stack.client.base_url)
        secret = stack.manage("signin").split()[-1].rpartition("/")[2]
        self.client.get(f"/signin/{secret}", follow_redirects=True).raise_for_status()
        self.handled: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stuck: dict[str, str] = {}
        self._tried: Counter[str] = Counter()

    def page(self, url: str = "/") -> Page:
        answer = self.client.get(url, follow_redirects=True)
        answer.raise_for_status()
        return Page(answer.text)

    def look(self) -> int:
        """Handle all that the page shows, as long as it shows something else; return how much."""
        count = 0
        for _ in range(8):
            rows = [row for key, row in self.page().rows.items() if key.startswith("need-")]
            done = sum(self._handle(row) for row in rows)
            count += done
            if not done:
                break
        page = self.page()
        for key, row in page.rows.items():
            if key.startswith("finished-"):
                self._finished(row)
        return count

    def names(self) -> set[str]:
        """Return the names in all rows, those of groups included."""
        found = set()
        for url in ("/?all", "/?all&seen"):
            for row in self.page(url).rows.values():
                found.add(row.name)
                if row.link.startswith("/?"):
                    found |= {each.name for each in self.page(row.link).rows.values()}
        return found

    def _handle(self, row: Row) -> int:
        if row.link.startswith("/?"):
            inner = [each for key, each in self.page(row.link).rows.items() if key != ""]
            inner = [each for each in inner if each.key.startswith("need-")]
            return sum(self._handle(each) for each in inner)
        name = f"{row.name} {row.status}"
        self._tried[name] += 1
        press = self._choice(row, is_repeated=self._tried[name] > 1)
        if press is None:
            self.stuck[name] = ", ".join(each.label for each in row.presses)
            return 0
        self._do(row, press)
        return 1

    def _choice(self, row: Row, *, is_repeated: bool) -> Press | None:
        """Return what a person would press: at a second time, that it has been seen."""
        found = None if is_repeated else row.press(*USUAL)
        return found or row.press("Seen", "1 hour")

    def _do(self, row: Row, press: Press) -> None:
        word = f"{row.status}: {press.label}"
        if press.is_link:
            self.elsewhere[word] += 1
            forms = self.page(press.url).rows[""].presses
            main = [
                each for each in forms if "signout" not in each.url and "csrf" not in each.label
            ]
            press = next(
                (each for each in main if each.fields.get("sure") or "cancel" in each.url), main[-1]
            )
        answer = self.client.post(urljoin("/", press.url), data=press.fields)
        if answer.status_code >= 400 and row.key not in self.page("/?all").rows:
            # Its cause was over before the press.
            self.handled[f"{word} (over by then)"] += 1
        elif answer.status_code >= 400:
            text = re.sub(r"<[^>]+>|\s+", " ", answer.text.partition("<main")[2])
            self.failures.append(f"{row.name} {word}: {answer.status_code} {text[:300]}")
        else:
            self.handled[word] += 1

    def _finished(self, row: Row) -> None:
        press = row.press("Read")
        assert press, row
        self._do(row, press)


# -- the fleet -----------------------------------------------------------------------------------


class Fleet(threading.Thread):
    """Sends tasks to idle lieutenants until it is ended."""

    def __init__(self, stack: Stack, names: list[str], every: float) -> None:
        super().__init__(daemon=True)
        self.stack, self.names, self.every = stack, names, every
        self.is_over = threading.Event()
        self.sent: Counter[str] = Counter()
        self._random = random.Random(7)

    def run(self) -> None:
        client = httpx.Client(
            base_url=self.stack.client.base_url, headers=self.stack.client.headers
        )
        tasks, weights = list(TASKS), list(TASKS.values())
        while not self.is_over.wait(self.every):
            rows = client.get("/lieutenant/lieutenants", timeout=60).json()["lieutenants"]
            idle = [row["name"] for row in rows if row["status"] == "idle"]
            if not idle:
                continue
            task = self._random.choices(tasks, weights)[0]
            path = f"/lieutenant/lieutenants/{self._random.choice(idle)}/send"
            client.post(path, json={"message": task}, timeout=60)
            self.sent[task.split()[0]] += 1


def in_need(stack: Stack) -> set[str]:
    """Return the lieutenants that need somebody, by the API."""
    rows = stack.client.get("/lieutenant/lieutenants").json()["lieutenants"]
    found = {row["name"] for row in rows if row["status"] == "error" or row["stalled"]}
    questions = stack.client.get("/lieutenant/questions?state=open").json()["questions"]
    return found | {each["lieutenant"] for each in questions if each.get("lieutenant")}


def main(minutes: float = 6.0, count: int = 40) -> bool:
    """Run the hour and print the report; return whether all could be handled."""
    with (
        tempfile.TemporaryDirectory(prefix="hour-") as folder,
        Stack(Path(folder), REEF_STALL_NOTICE_SECONDS="10", REEF_OWN_HOST="no") as stack,
    ):
        names = [f"agent-{number}" for number in range(count)]
        for name in names:
            stack.create(name, stallLimitSeconds=60)
        stack.manage("shell", "-c", ROWS)
        operator = Operator(stack)
        fleet = Fleet(stack, names, minutes * 60 / (3 * count))
        fleet.start()
        missing: dict[str, int] = {}
        for number in range(1, LOOKS + 1):
            pause(minutes * 60 / LOOKS)
            before = in_need(stack)
            shown = operator.names()
            # What needed somebody before and after the look at the page must be on it.
            for name in (before & in_need(stack)) - shown:
                missing[name] = number
            began = time.monotonic()
            handled = operator.look()
            spent = time.monotonic() - began
            needed = f"{len(before)} lieutenants in need"
            print(f"look {number}: {needed}, {handled} rows handled in {spent:.1f} s", flush=True)
        fleet.is_over.set()
        fleet.join(60)
    return report(operator, fleet, missing)


def report(operator: Operator, fleet: Fleet, missing: dict[str, int]) -> bool:
    """Print what was done and what was not possible; return whether nothing was missing."""
    print(f"sent: {dict(fleet.sent)}")
    for word, count in sorted(operator.handled.items()):
        page = f" ({operator.elsewhere[word]} on another page)" if operator.elsewhere[word] else ""
        print(f"{count:5} × {word}{page}")
    for failure in operator.failures:
        print(f"refused: {failure}")
    for name, number in missing.items():
        print(f"not on the page: {name} at look {number}")
    for name, labels in operator.stuck.items():
        print(f"no action for it: {name} (has {labels or 'none'})")
    return not (operator.failures or missing or operator.stuck)


if __name__ == "__main__":
    words = sys.argv[1:]
    given = (float(words[0]) if words else 6.0, int(words[1]) if words[1:] else 40)
    sys.exit(0 if main(*given) else 1)
