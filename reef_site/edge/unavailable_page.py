"""The page that a browser gets while the web process is unavailable; it reloads itself.

Styles and scripts come from that process, so the page has none: the browser follows the `Refresh`
header.
"""

from __future__ import annotations

from html import escape

Headers = list[tuple[bytes, bytes]]

RELOAD_SECONDS = 2
# Request headers of our scripts, which show the sentence themselves.
SCRIPTS = frozenset({b"reef-script", b"hx-request"})
POLICY = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} · reef</title></head>
<body><main>
<h1>{title}</h1>
<p>{text}</p>
<p>{next}</p>
</main></body></html>
"""


def is_navigation(headers: Headers) -> bool:
    """Return whether a browser will show the response as a page."""
    names = dict(headers)
    return b"text/html" in names.get(b"accept", b"") and not SCRIPTS & names.keys()


def page(text: str, *, reloads: bool) -> tuple[Headers, bytes]:
    """Return headers and body of a page with this sentence."""
    following = (
        f"This page loads again every {RELOAD_SECONDS} seconds. Lieutenants keep working."
        if reloads
        else "Go back and send it again. Lieutenants keep working."
    )
    sentence = text[0].upper() + text[1:]
    body = _PAGE.format(title="reef is restarting", text=escape(sentence), next=following).encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"content-security-policy", POLICY),
        (b"cache-control", b"no-store"),
    ]
    if reloads:
        headers.append((b"refresh", str(RELOAD_SECONDS).encode()))
    return headers, body
