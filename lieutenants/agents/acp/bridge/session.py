"""The agent's session: begun or continued, with the model and the mode that reef wants."""

from __future__ import annotations

import contextlib
import json
import os

from . import files
from .output import count_of, dicts, dig, notice, text_of

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .options import Options
    from .peer import Peer, RpcError

PROTOCOL_VERSION = 1
AUTH_REQUIRED = -32000
TOKEN, ADDRESS = "VERS_AUTH_TOKEN", "VERS_INFRA_URL"
MAX_MODELS = 5000
MAX_STORED = 64 << 10


class Store:
    """The file that names the agent's session from start to start."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.session, self.is_used = "", False
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            facts = json.loads(file.read(MAX_STORED))
            self.session, self.is_used = text_of(facts, "sessionId"), dig(facts, "isUsed") is True

    def save(self, session: str, *, is_used: bool) -> None:
        """Remember a session, and whether the agent has got a message in it. Raises OSError."""
        if (self.session, self.is_used) == (session, is_used):
            return
        self.session, self.is_used = session, is_used
        draft = f"{self._path}.new"
        with open(draft, "wb") as file:
            facts = {"type": "acp", "sessionId": session, "isUsed": is_used}
            file.write(json.dumps(facts).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self._path)


class Session:
    """Knows what the agent offers and what it uses, from its replies and its updates."""

    def __init__(
        self,
        peer: Peer,
        options: Options,
        *,
        ready: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        """`ready` is called once the agent takes prompts, `fail` with a reason if it never will."""
        self._peer, self._options = peer, options
        self._ready, self._fail = ready, fail
        self._store = Store(options.session)
        self._agent: dict[str, Any] = {}
        self._selectors: list[dict[str, Any]] = []
        self._modes: list[dict[str, Any]] = []
        self._mode = ""
        self.ident = ""
        self.models: list[dict[str, str]] = []
        self.model = ""
        # Tokens in the context and its size; dollars since the last turn.
        self.context: dict[str, int] = {}
        self._cost, self._counted_cost = 0.0, 0.0

    @property
    def takes_images(self) -> bool:
        return dig(self._agent, "agentCapabilities", "promptCapabilities", "image") is True

    @property
    def is_new(self) -> bool:
        """Return whether the agent has not got a message in it yet."""
        return not self._store.is_used

    def mark_used(self) -> None:
        """Remember that the session is worth being continued. Raises OSError."""
        self._store.save(self.ident, is_used=True)

    def take_cost(self) -> float:
        """Return the dollars since the last call."""
        cost, self._counted_cost = max(0.0, self._cost - self._counted_cost), self._cost
        return cost

    def update(self, update: dict[str, Any]) -> None:
        """Take over what a `session/update` says about the session itself."""
        kind = text_of(update, "sessionUpdate")
        if kind == "usage_update":
            used, size = count_of(update, "used"), count_of(update, "size")
            self.context = {"tokens": used, "contextWindow": size} if size else {}
            amount = dig(update, "cost", "amount")
            if isinstance(amount, (int, float)) and dig(update, "cost", "currency") == "USD":
                self._cost = float(amount)
        elif kind == "config_option_update":
            self._take_configuration(update)
        elif kind == "current_model_update":
            self.model = text_of(update, "currentModelId") or self.model

    # -- the handshake --------------------------------------------------------------------

    def open(self) -> None:
        """Begin the handshake."""
        fs = files.capabilities(self._options.files)
        capabilities = {"fs": fs, "terminal": self._options.terminals}
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": capabilities,
            "clientInfo": {"name": "reef", "title": "reef", "version": "1"},
        }
        self._peer.request("initialize", params, self._on_initialized)

    def _on_initialized(self, result: Any, error: RpcError | None) -> None:
        if error or not isinstance(result, dict):
            self._fail(f"The agent refused to begin: {error.text if error else 'no object'}")
            return
        if result.get("protocolVersion") != PROTOCOL_VERSION:
            version = result.get("protocolVersion")
            self._fail(f"The agent speaks version {version} of the protocol, reef version 1.")
            return
        self._agent = result
        if self._store.session and self._store.is_used:
            self._continue()
        else:
            self._peer.request("session/new", self._place(), self._on_new)

    def _continue(self) -> None:
        """Continue the stored session; what the agent repeats of it is not printed."""
        capabilities = dig(self._agent, "agentCapabilities")
        params = {"sessionId": self._store.session, **self._place()}
        if dig(capabilities, "sessionCapabilities", "resume") is not None:
            self._peer.request("session/resume", params, self._on_continued)
        elif dig(capabilities, "loadSession") is True:
            self._peer.request("session/load", params, self._on_continued)
        else:
            notice("This agent cannot continue a session, so it remembers nothing of before.")
            self._peer.request("session/new", self._place(), self._on_new)

    def _place(self) -> dict[str, Any]:
        return {"cwd": os.getcwd(), "mcpServers": self._servers()}

    def _servers(self) -> list[dict[str, Any]]:
        """Return reef's MCP server, for an agent that speaks HTTP with such servers."""
        has_http = dig(self._agent, "agentCapabilities", "mcpCapabilities", "http") is True
        token, address = os.environ.get(TOKEN), os.environ.get(ADDRESS)
        if not (has_http and self._options.tools and token and address):
            return []
        headers = [{"name": "Authorization", "value": f"Bearer {token}"}]
        return [{"type": "http", "name": "reef", "url": f"{address}/mcp", "headers": headers}]

    def _on_new(self, result: Any, error: RpcError | None) -> None:
        ident = text_of(result, "sessionId")
        if error or not ident:
            self._fail(self._why_no_session(error))
            return
        try:
            self._store.save(ident, is_used=False)
        except OSError as trouble:
            self._fail(f"The id of the session cannot be stored: {trouble.strerror}")
            return
        self._begin(ident, result)

    def _why_no_session(self, error: RpcError | None) -> str:
        if error is None:
            return "The agent began a session without an id."
        if error.code != AUTH_REQUIRED:
            return f"The agent began no session: {error.text}"
        methods = dicts(self._agent.get("authMethods"))
        names = [text_of(each, "description") or text_of(each, "name") for each in methods]
        ways = "; ".join(filter(None, names))
        return (
            f"The agent needs a login or a key: {error.text}. Set the key of its model's provider "
            f"where reef is started or in the config. The agent names: {ways or 'nothing more'}."
        )

    def _on_continued(self, result: Any, error: RpcError | None) -> None:
        if error:
            self._fail(
                f"The agent cannot continue its session: {error.text}. Start it with a new session."
            )
            return
        self._begin(self._store.session, result)

    def _begin(self, ident: str, result: Any) -> None:
        self.ident = ident
        self._take_configuration(result if isinstance(result, dict) else {})
        self._choose_model()

    def _take_configuration(self, facts: dict[str, Any]) -> None:
        """Read models and modes, both from options and in the older form."""
        models = facts.get("models")
        if models is not None:
            self.models = _choices(dig(models, "availableModels"), "modelId")
            self.model = text_of(models, "currentModelId")
        modes = facts.get("modes")
        if modes is not None:
            self._modes = _choices(dig(modes, "availableModes"), "id")
            self._mode = text_of(modes, "currentModeId")
        if facts.get("configOptions") is not None:
            self._selectors = dicts(facts["configOptions"])
            if model := self._selector("model"):
                self.models, self.model = _choices(_flat(model), "value"), _current(model)
            if mode := self._selector("mode"):
                self._modes, self._mode = _choices(_flat(mode), "value"), _current(mode)

    def _selector(self, name: str) -> dict[str, Any] | None:
        found = (each for each in self._selectors if name in (each.get("category"), each.get("id")))
        return next(found, None)

    # -- model and mode -------------------------------------------------------------------

    def _choose_model(self) -> None:
        wanted = _match(self._options.model, self.models)
        if not wanted or wanted == self.model:
            self._choose_mode()
            return

        def done(result: Any, error: RpcError | None) -> None:
            if error:
                notice(f"The agent refused the model {wanted}: {error.text}")
            else:
                self.model = wanted
                self._take_configuration(result if isinstance(result, dict) else {})
            self._choose_mode()

        self._select("model", wanted, done)

    def _choose_mode(self) -> None:
        mode = self._options.mode
        wanted = _match(mode, self._modes)
        if mode and not wanted:
            names = ", ".join(each["id"] for each in self._modes) or "none"
            notice(f"The agent has no mode {mode}; these are there: {names}.")
        if not wanted or wanted == self._mode:
            self._ready()
            return

        def done(_result: Any, error: RpcError | None) -> None:
            if error:
                notice(f"The agent refused the mode {wanted}: {error.text}")
            self._ready()

        self._select("mode", wanted, done)

    def _select(self, name: str, value: str, done: Callable[[Any, RpcError | None], None]) -> None:
        selector = self._selector(name)
        if selector:
            params = {"sessionId": self.ident, "configId": selector.get("id"), "value": value}
            self._peer.request("session/set_config_option", params, done)
        else:
            params = {"sessionId": self.ident, f"{name}Id": value}
            self._peer.request(f"session/set_{name}", params, done)


def _choices(values: Any, key: str) -> list[dict[str, str]]:
    """Return ids and names of things to choose from."""
    found = [(text_of(each, key), text_of(each, "name")) for each in dicts(values)[:MAX_MODELS]]
    return [{"id": ident, "name": name or ident} for ident, name in found if ident]


def _flat(selector: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the options of a selector, which may be in groups."""
    found: list[dict[str, Any]] = []
    for each in dicts(selector.get("options")):
        found += dicts(each["options"]) if "options" in each else [each]
    return found


def _current(selector: dict[str, Any]) -> str:
    return text_of(selector, "currentValue")


def _match(wanted: str, choices: list[dict[str, str]]) -> str:
    """Return the id of the choice with this id or name, else the first that contains it."""
    low = wanted.strip().lower()
    if not low:
        return ""
    for each in choices:
        if low in (each["id"].lower(), each["name"].lower()):
            return each["id"]
    found = (each["id"] for each in choices if low in f"{each['id']}\n{each['name']}".lower())
    return next(found, "")
