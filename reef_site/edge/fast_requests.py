"""Requests that the edge answers by the fast path: without a task if their body is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from reef_site.audit.edge_refusals import EdgeRefusals
from reef_site.common.asgi import JSONResponse
from reef_site.edge.repeated_requests import (
    BEHIND_HEAD,
    MAX_BODY_LENGTH,
    PASSED_ON,
    Begin,
    Client,
    KnownRequest,
    Reply,
    remember,
)
from reef_site.edge.request_bodies import BodyBudget, Scope, TryLater, client_of, declared, header
from reef_site.edge.request_heads import BLANKS
from registry.fast_path import FastPath, Read, Route, Write, parse

Headers = Mapping[bytes, bytes]
REFUSALS = (401, 403)


class FastRequests:
    """Begins and answers requests of fast routes; refusals of theirs are audited."""

    def __init__(self, fast_path: FastPath, refusals: EdgeRefusals, budget: BodyBudget) -> None:
        self._fast_path, self._refusals, self._budget = fast_path, refusals, budget
        self.route = fast_path.route

    async def close(self) -> None:
        """Let waiting writes commit."""
        await self._fast_path.close()

    def begin(self, scope: Scope, callback: Reply) -> bool:
        """Begin to respond without a task, see `http_protocol.AtOnce`; return whether it does."""
        route = self.route(scope)
        if not route or PASSED_ON in scope:
            return False
        headers = {key: value.strip(BLANKS) for key, value in scope["headers"]}
        has_duplicates = len(headers) < len(scope["headers"])
        if has_duplicates or b"transfer-encoding" in headers:
            return False
        body = b""
        if headers.get(b"content-length", b"0") != b"0":
            body = scope.get(BEHIND_HEAD, b"")
            if len(body) != declared(scope) or len(body) > MAX_BODY_LENGTH:
                return False
        begin = self._repeatable(route, headers, body)

        def note_and_call_back(answer: JSONResponse | None) -> None:
            if answer is not None:
                self._note(scope, answer, begin)
            else:
                scope[PASSED_ON] = True
            callback(answer)

        return begin is not None and begin(scope.get("client"), body, note_and_call_back)

    def _repeatable(self, route: Route, headers: Headers, body: bytes) -> Begin | None:
        """Return how to begin this request, now and whenever its head comes again."""
        if body:
            return partial(self._begin_with_body, route, headers)
        request = parse(route, headers, body)
        if request is None or isinstance(request, JSONResponse):
            return None
        return partial(self._begin_without_body, request)

    async def answer(self, route: Route, scope: Scope, body: bytes | None) -> JSONResponse | None:
        """Return the response; None to call web instead. Without a body, it was not authorized."""
        headers = dict(scope["headers"])
        if body is None:
            answer = self._fast_path.rejection(headers)
        elif PASSED_ON in scope:
            # Tried once: as a repeated request, or without a task.
            answer = None
        else:
            address = str((scope.get("client") or ("",))[0])
            answer = await self._fast_path.answer(route, headers, body, address)
        if answer is not None:
            self._note(scope, answer, partial(self._begin_with_body, route, headers))
        return answer

    def _note(self, scope: Scope, answer: JSONResponse, begin: Begin | None) -> None:
        """Record a refusal in the audit log; remember what was answered well."""
        method, path, length = scope["method"], scope["path"], declared(scope)
        if answer.status in REFUSALS:
            self._note_refusal(method, path, scope.get("client"), answer)
        elif (
            begin is not None
            and answer.status < 400
            and length <= MAX_BODY_LENGTH
            and not header(scope, b"transfer-encoding")
        ):
            refused = partial(self._note_refusal, method, path)
            remember(scope, KnownRequest(begin, refused, length))

    def _note_refusal(
        self, method: str, path: str, client: Client | None, answer: JSONResponse
    ) -> None:
        reason = str(json.loads(answer.body).get("error", ""))
        where = (client_of({"client": client}), method, path)
        self._refusals.note(*where, answer.status, reason)

    def _begin_without_body(
        self, request: Read | Write, _client: Client | None, _body: bytes, reply: Reply
    ) -> bool:
        return self._fast_path.put(request, reply)

    def _begin_with_body(
        self, route: Route, headers: Headers, client: Client | None, body: bytes, reply: Reply
    ) -> bool:
        address, size = client[0] if client else "", len(body)
        request = parse(route, headers, body, address)
        if request is None or isinstance(request, JSONResponse):
            return False
        key = client_of({"client": client})
        try:
            self._budget.reserve(key, size, small=True)
        except TryLater:
            # Handled like all others, it is told so.
            return False

        def release_and_reply(answer: JSONResponse | None) -> None:
            self._budget.release(key, size)
            reply(answer)

        begun = self._fast_path.put(request, release_and_reply)
        if not begun:
            self._budget.release(key, size)
        return begun
