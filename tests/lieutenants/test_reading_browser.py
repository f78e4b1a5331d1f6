"""Texts and output of agents in a browser: readable, accessible, and inert."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, Route
from pytest_django.live_server_helper import LiveServer

from lieutenants.models import Lieutenant
from lieutenants.states import Outcome, Status
from reef_site.common import broker
from tests.browsers import SECONDS, launched
from tests.lieutenants.rows import Told, enlist
from tests.reef_site.test_accessibility_browser import axe_script, violations

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(300),
]

COLOURS = "".join(
    f"\x1b[{code}m{code} colour\x1b[0m "
    for code in (*range(30, 38), *range(90, 98), 1, 2, 4, 7, 41)
)
ANSWER = """
# Done

| file | tests | result | time | owner | what came out of it in the end |
|:-----|------:|:------:|------|-------|-------------------------------|
| `a.py` | 12 | ok | 3 s | ada | everything works as it did before, only faster |

- [x] see https://a.example/log?x=1&y=2
- [ ] later <b>bold</b>

```python
@decorator
def f(x: int) -> str:
    # comment
    return "text" + str(x + 1) + "a long line that goes on and on, far beyond the edge of the box"
```

```diff
@@ -1 +1 @@
-old
+new
```
"""
HOSTILE = (
    "<img src=x onerror=window.hacked=1> [x](javascript:window.hacked=1) "
    "```\n</code><script>window.hacked=1</script>\n```"
)


def rich_transcript() -> Lieutenant:
    now = timezone.now()
    row = enlist(
        status=Status.WORKING,
        waiting_for="tool bash (pytest -q tests)",
        waiting_since=now - timedelta(minutes=50),
        next_sign_at=now + timedelta(minutes=20),
        next_sign_late_at=now + timedelta(minutes=21),
        next_sign_reason="the tests run until then",
        next_sign_by="node ada",
    )
    told = Told(row)
    told.entry("user", "Make it work")
    edit = {"path": "src/a.py", "edits": [{"oldText": "one\ntwo\n", "newText": "one\n2\n"}]}
    for tool, arguments, output in (
        ("edit", edit, "Done."),
        ("write", {"path": "b.ts", "content": "const x: number = 1; // one"}, "Written."),
        ("bash", {"command": 'for x in a b; do echo "$x"; done'}, f"{COLOURS}\n10 %\r100 %\n" * 30),
        ("read", {"path": "c.py"}, "import os\n\nclass A:\n    x = None\n"),
        (
            "bash",
            {"command": "git diff"},
            "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
        ),
    ):
        call = told.entry("tool_call", tool=tool, call_id=output, data={"arguments": arguments})
        told.entry(
            "tool_result", output, tool=tool, call_id=call.call_id, data={"durationMs": 192_000}
        )
    told.open_answer()
    told.entry("text", ANSWER)
    told.entry("text", HOSTILE)
    entry = told.entry("text", "\n\n".join(f"{number} *word* {'w' * 80}" for number in range(900)))
    assert told.answer is not None
    told.answer.outcome, told.answer.ended_at = Outcome.COMPLETED, now + timedelta(seconds=192)
    told.answer.save()
    return Lieutenant.objects.get(pk=entry.lieutenant_id)


@pytest.fixture
def shown(admin_client: Client, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Yield the page of a lieutenant with a rich transcript."""
    monkeypatch.setattr(broker, "publish", lambda *_: None)
    rich_transcript()
    session = admin_client.cookies[settings.SESSION_COOKIE_NAME].value
    with launched() as browser:
        context = browser.new_context(bypass_csp=True, reduced_motion="reduce")
        context.set_default_timeout(SECONDS * 1000)
        cookie: Any = {
            "name": settings.SESSION_COOKIE_NAME,
            "value": session,
            "url": live_server.url,
        }
        context.add_cookies([cookie])
        yield context.new_page(), live_server.url


@pytest.mark.rotated
def test_rich_transcript_is_accessible_and_inert(shown: tuple[Page, str]) -> None:
    page, url = shown
    page.add_init_script(
        "addEventListener('load', () => document.querySelectorAll('details.tool')"
        ".forEach((each) => { each.open = true; }))"
    )
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert violations(page, f"{url}/lieutenants/ada/", axe_script()) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, f"{url}/lieutenants/", axe_script()) == []
    assert page.evaluate("window.hacked") is None


def test_rest_of_a_long_answer_comes_in_place(shown: tuple[Page, str]) -> None:
    page, url = shown
    page.goto(f"{url}/lieutenants/ada/")
    assert page.get_by_text("899 word").count() == 0
    for _ in range(2):
        page.get_by_role("link", name="Show the rest").click()
        page.wait_for_selector("[tabindex='-1']:focus")
    page.get_by_text("899 word").wait_for()
    assert page.get_by_role("link", name="Show the rest").count() == 0
    assert page.get_by_text("450 word").count() == 1


def test_field_that_is_cleared_during_a_search_stays_clear(shown: tuple[Page, str]) -> None:
    page, url = shown
    held: list[Route] = []
    page.route("**/_find?*", lambda route: held.append(route))
    page.goto(f"{url}/lieutenants/ada/")
    page.fill("#find", "Make it")
    with page.expect_request("**/_find?*"):
        page.press("#find", "Enter")
    page.get_by_text("Searching…").wait_for()
    page.fill("#find", "")
    with page.expect_response("**/_find?*"):
        held.pop().continue_()
    page.wait_for_function("document.getElementById('find-list').hidden")
    assert page.inner_text("#find-count") == ""
    page.unroute("**/_find?*")
    page.fill("#find", "Make it")
    page.press("#find", "Enter")
    page.get_by_text("1 of 1").wait_for()
