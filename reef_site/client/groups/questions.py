"""`reef questions`"""

from __future__ import annotations

from typing import Any

from reef_site.client.commands import Group, Options, show, text_or_stdin, usage_error
from reef_site.client.completion import complete_lieutenants, complete_questions
from reef_site.client.http import Api, part

Json = dict[str, Any]
ROOT = "/lieutenant/questions"
STATES = ("open", "answered", "defaulted", "withdrawn", "expired", "all")
CONFIRM = "confirm"
WORDS = {"yes": True, "true": True, "no": False, "false": False}


def add(group: Group) -> None:
    """Add the commands."""
    parser = group.add("list", "list questions of agents, the most urgent first", list_all)
    parser.add_argument("--state", choices=STATES, default="open", help="(%(default)s)")
    action = parser.add_argument("--lieutenant", metavar="NAME", help="only of this one")
    action.completer = complete_lieutenants  # type: ignore[attr-defined]
    parser = group.add("answer", "answer a question", answer)
    parser.add_argument("id").completer = complete_questions  # type: ignore[attr-defined]
    parser.add_argument(
        "answer", nargs="?", help="an option, a text (- for stdin), or yes or no to confirm"
    )
    parser.add_argument("--dismiss", action="store_true", help="give no answer")


def list_all(api: Api, options: Options) -> None:
    state = None if options.state == "all" else options.state
    found = api.get(ROOT, {"state": state, "lieutenant": options.lieutenant})
    rows = found["questions"]
    text = "\n\n".join(map(_block, rows)) or "No questions."
    show({"details": found}, options, text)


def _block(facts: Json) -> str:
    lines = [f"{facts['id']} {facts['lieutenant'] or facts['vmId']} [{facts['state']}]"]
    lines += [f"  {line}" for line in facts["text"].splitlines()]
    # What a permission is asked for, such as a command.
    lines += [f"  | {line}" for line in (facts["details"] or "").splitlines()]
    lines += [f"  - {option['value']}" for option in facts["options"]]
    if facts["kind"] == CONFIRM:
        lines.append("  - yes\n  - no")
    if facts["answer"] is not None:
        lines.append(f"  Answer: {_word(facts['answer'])} by {facts['decidedBy']}")
    elif facts["deadline"]:
        lines.append(f"  Until {facts['deadline']}, then: {_word(facts['default'])}")
    return "\n".join(lines)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def answer(api: Api, options: Options) -> None:
    if options.dismiss == (options.answer is not None):
        raise usage_error("give an answer, or --dismiss")
    value: object = None
    path = f"{ROOT}/{part(options.id)}"
    if not options.dismiss:
        value = text_or_stdin(options.answer)
        if api.get(path)["kind"] == CONFIRM:
            value = WORDS.get(str(value).strip().lower(), value)
    facts = api.post(f"{path}/answer", {"answer": value})
    text = "Dismissed." if facts["answer"] is None else f"Answered: {_word(facts['answer'])}"
    show({"details": facts}, options, text)
