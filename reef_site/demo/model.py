"""Demo model: a real agent can answer, stream and call a tool without any API key.

It runs beside reef, outlives it while requests are in flight, and ends by itself. It is stateless:
the agent sends the conversation with each request. Standard library only.

    python -m reef_site.demo.model --folder DATA/demo --while-locked DATA/up.lock \\
        --agents DATA/lieutenants
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from pathlib import Path

from reef_site.common import locks
from reef_site.common.text import clip, one_line
from reef_site.demo.model_server import (
    Body,
    Call,
    ModelServer,
    Reply,
    Text,
    after_tool,
    last_user,
    messages_of,
    models_json,
    text_of,
    user_turns,
)

KEY = "demo"
PROVIDER, MODEL = "reef-demo", "demo"
WORDS_PER_SECOND = 30.0
# An unused endpoint outlives the reef that started it for this long.
LINGER_SECONDS = 30.0
POLL_SECONDS = 1.0

ASKS_FOR_CONTEXT = re.compile(r"what (did|have) i (say|said|ask|tell|told)|remember", re.IGNORECASE)
ASKS_FOR_TOOL = re.compile(r"\b(ls|run|execute|list|look|tool|bash|shell|files?)\b", re.IGNORECASE)
# The only commands that a message can quote, so that the demo is not a remote shell.
ALLOWED_COMMAND = re.compile(r"`((?:ls|pwd|date|whoami|uname|echo|df|uptime)(?: [\w./ +%:,=-]*)?)`")
DEFAULT_COMMAND = "pwd && ls -la | head -20"

HELLO = """\
Hello! I am reef's **demo model**: no real intelligence, just a small program on this machine that \
shows how a lieutenant works. The agent around me is real.

Try one of these:

- *list the files here*: I call the agent's `bash` tool and comment on what came back
- *what did I say?*: I quote your earlier messages, which the agent sends along each time
- send a `steer` or a `followUp` while I am still talking

For real work, give reef a key such as `ANTHROPIC_API_KEY` and start it without `--demo`.
"""

ECHO = """\
You said: "{said}"

This is the **demo model** speaking, so that is as deep as I go. A real model would now plan, \
read files and use tools, and you would watch it here, word by word, just as you see these words \
arrive. This was message {count} of our conversation. Ask me to *list the files* and I will use a \
tool, or ask *what did I say?* and I will show what I was told before.
"""


class DemoModel(ModelServer):
    """Short, helpful replies at reading speed."""

    models = (MODEL,)
    owner = PROVIDER

    def reply(self, body: Body, key: str) -> Reply:
        """Return one tool call if the message asks for one, else text."""
        del key
        if after_tool(body):
            return text_reply(describe_result(text_of(messages_of(body)[-1])))
        turns = user_turns(body)
        message = last_user(body).strip()
        if ASKS_FOR_CONTEXT.search(message):
            return text_reply(quote_messages(turns[:-1]))
        if has_bash(body) and (wanted := command_for(message)):
            command = json.dumps({"command": wanted})
            words = split_words("I'll have a look with the `bash` tool.\n")
            return Reply([Text(words, WORDS_PER_SECOND), Call("bash", command)])
        if len(turns) < 2 and len(message) < 40:
            return text_reply(HELLO)
        return text_reply(ECHO.format(said=clip(one_line(message), 200), count=len(turns)))


def text_reply(text: str) -> Reply:
    """Return a reply of text only."""
    return Reply([Text(split_words(text), WORDS_PER_SECOND)])


def split_words(text: str) -> list[str]:
    """Split the text after each run of white space; joined, it is the same text."""
    return re.findall(r"\s*\S+\s*", text)


def has_bash(body: Body) -> bool:
    """Return whether the agent offers the tool `bash`."""
    tools = body.get("tools")
    offered = [tool.get("function", {}) for tool in tools] if isinstance(tools, list) else []
    return any(one.get("name") == "bash" for one in offered)


def command_for(message: str) -> str:
    """Return the command that answers this message; empty if it asks for none."""
    if quoted := ALLOWED_COMMAND.search(message):
        return quoted[1]
    return DEFAULT_COMMAND if ASKS_FOR_TOOL.search(message) else ""


def describe_result(output: str) -> str:
    """Return a comment on the output of a tool."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        return "The tool ran and printed nothing. *(demo model)*\n"
    shown, noun = "\n".join(lines[:12]), "line" if len(lines) == 1 else "lines"
    more = f"\n… and {len(lines) - 12} more" if len(lines) > 12 else ""
    return (
        f"The tool gave back **{len(lines)} {noun}**:\n\n"
        f"```\n{shown}{more}\n```\n\n"
        "That was a real command on this machine, run by the agent; only my comment is from the "
        "demo model.\n"
    )


def quote_messages(earlier: list[str]) -> str:
    """Return the earlier messages, quoted."""
    if not earlier:
        return "This is the first message that I was sent, so you said nothing before it.\n"
    quoted = "\n".join(
        f"{n}. {clip(one_line(turn), 160)}" for n, turn in enumerate(earlier[-20:], 1)
    )
    return f"I keep nothing myself, but the agent sent me your earlier messages:\n\n{quoted}\n"


# -- life cycle


def is_locked(lock: Path) -> bool:
    """Return whether a process holds this lock file, which shows that reef is up."""
    return locks.is_held(lock)


def any_agent_alive(agents: Path | None) -> bool:
    """Return whether an agent is alive that may call again: its keeper holds the session lock."""
    return agents is None or any(map(is_locked, agents.glob("*/session.lock")))


def stored_port(folder: Path) -> int:
    """Return the port of the last run; 0 if there is none."""
    try:
        port = int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 65536 else 0


async def end_when_unused(model: ModelServer, reef: Path, agents: Path | None) -> None:
    """Stop the model when reef and its last agent are gone, or when it is unused for a while.

    Requests in flight keep it alive without limit.
    """
    used = time.monotonic()
    while time.monotonic() - used < LINGER_SECONDS:
        await asyncio.sleep(POLL_SECONDS)
        if model.in_flight or is_locked(reef):
            used = time.monotonic()
        elif not any_agent_alive(agents):
            break
    model.stop()


async def end_when_replaced(model: ModelServer, lock: locks.FileLock) -> None:
    """Stop the model when its lock file was removed and another process has locked a new one."""
    while lock.keep():
        await asyncio.sleep(locks.KEEP_SECONDS)
    model.stop()


def read_models(file: Path) -> Body:
    """Return an agent's `models.json`; {} if there is none. Raises ValueError if it is invalid."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("providers", {}), dict):
        raise ValueError("it has no object 'providers'")
    return found


def add_to_models(file: Path, base_url: str) -> None:
    """Add the demo model to an agent's `models.json`, without changing anything else."""
    models = read_models(file)
    addition = models_json(base_url, [MODEL], provider=PROVIDER, key=KEY)
    models["providers"] = {**models.get("providers", {}), **addition["providers"]}
    replace_text(file, json.dumps(models, indent=2, ensure_ascii=False) + "\n")


def remove_from_models(file: Path) -> None:
    """Remove the demo model from an agent's `models.json`.

    An entry of the same name with another key stays: it belongs to the demo of another reef, whose
    boot script wrote it.
    """
    try:
        models = read_models(file)
    except (ValueError, OSError):
        return  # another program's file
    entry = models.get("providers", {}).get(PROVIDER)
    if isinstance(entry, dict) and entry.get("apiKey") == KEY:
        del models["providers"][PROVIDER]
        replace_text(file, json.dumps(models, indent=2, ensure_ascii=False) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Write a private file atomically."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)


async def run(
    folder: Path,
    reef: Path | None,
    models: Path | None,
    agents: Path | None = None,
    lock: locks.FileLock | None = None,
) -> None:
    """Serve on the port that is stored in `folder`, or on a new one if that is taken."""
    model = DemoModel(port=stored_port(folder))
    try:
        await model.open()
    except OSError:
        model.port = 0
        await model.open()
    if models:
        add_to_models(models, model.base_url)
    replace_text(folder / "port", f"{model.port}\n")
    print(f"demo model at {model.base_url}", flush=True)  # noqa: T201
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, model.stop)
    loop.add_signal_handler(signal.SIGINT, model.stop)
    unused_task = asyncio.create_task(end_when_unused(model, reef, agents)) if reef else None
    replaced_task = asyncio.create_task(end_when_replaced(model, lock)) if lock else None
    await model.serve()
    if replaced_task:
        replaced_task.cancel()
    if unused_task:
        unused_task.cancel()


def main(argv: list[str] | None = None) -> int:
    """Serve until stopped or unused. A second process for the same folder ends at once."""
    parser = argparse.ArgumentParser(description="a small model endpoint that needs no key")
    parser.add_argument("--folder", type=Path, required=True, help="keeps the port and a lock")
    parser.add_argument("--models", type=Path, help="the agents' models.json, to be entered there")
    parser.add_argument("--while-locked", type=Path, help="end some time after nobody holds this")
    parser.add_argument("--agents", type=Path, help="end sooner when no agent below lives either")
    options = parser.parse_args(argv)
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = locks.FileLock(options.folder / "lock")
    if lock.try_take():
        asyncio.run(run(options.folder, options.while_locked, options.models, options.agents, lock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
