"""Dialogs in an agent's journal become questions, and their answers commands for the agent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.agents.base import Outgoing
from lieutenants.models import Lieutenant, Process, Question
from lieutenants.questions import deadlines, services
from lieutenants.questions.delivery import RESEND_SECONDS, ReplyDesk
from lieutenants.questions.exceptions import AlreadyDecided
from lieutenants.questions.states import MAX_OPEN, MAX_TEXT_LENGTH, QuestionState
from lieutenants.sessions import inputs
from tests.lieutenants.test_session import AT, Played, event
from versconfig.screening import sources
from versconfig.screening.screen import Screen, Secret

pytestmark = pytest.mark.django_db

# Each kind: fields of the request, the answer, and the field of the reply that has it.
KINDS: dict[str, tuple[dict[str, Any], str | bool, dict[str, Any]]] = {
    "select": ({"title": "Which?", "options": ["a", "b", "a", 7]}, "b", {"value": "b"}),
    "confirm": ({"title": "Sure?", "message": "rm -r"}, False, {"confirmed": False}),
    "input": ({"title": "Name?", "placeholder": "a name"}, "", {"value": ""}),
    "editor": ({"title": "Edit", "prefill": "one\ntwo"}, "one\n2", {"value": "one\n2"}),
}


def dialog(request_id: str, method: str = "confirm", **fields: Any) -> list[Any]:
    return event("extension_ui_request", id=request_id, method=method, **fields)


@pytest.fixture
def played() -> Played:
    return Played()


def deliver(played: Played, desk: ReplyDesk | None = None, clock: float = 0.0) -> list[Outgoing]:
    """Return the commands that one refresh of the follower sends."""
    (desk or ReplyDesk()).refresh(
        {played.process_id: played.session},
        clock,
        collect=lambda _session: None,
        commit=lambda session, given: session.commit(given),
    )
    return played.session.take_commands()


def lines(commands: list[Outgoing]) -> list[dict[str, Any]]:
    return [each.line for each in commands]


def reply(request_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "extension_ui_response", "id": request_id, **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_asked_answered_and_reported(played: Played, kind: str) -> None:
    fields, answer, expected = KINDS[kind]
    played.play(event("agent_start"), dialog("d1", kind, **fields))
    question = Question.objects.get()
    assert (question.kind, question.state, question.text) == (kind, "open", fields["title"])
    assert question.details == fields.get("message", "")
    assert question.prefill == fields.get("prefill", "")
    assert question.placeholder == fields.get("placeholder", "")
    offered = [each["value"] for each in question.options]
    assert offered == (["a", "b"] if kind == "select" else [])
    assert played.row().waiting_for.startswith("a person to answer “")
    assert fields["title"] in played.row().waiting_for
    assert deliver(played) == []

    services.answer(question.pk, answer, actor="bea")
    # Another follower takes over in between, and finds everything in the rows.
    played.session = played.reopened()
    (command,) = deliver(played)
    assert (command.id, command.line) == ("~ui-d1", reply("d1", **expected))
    question.refresh_from_db()
    assert question.delivered_at is None
    played.play(["s", AT, "~ui-d1"])
    question.refresh_from_db()
    assert question.delivered_at is not None
    assert not question.is_awaited
    assert played.row().waiting_for == "the model"
    assert deliver(played) == []
    asked, decided = [text for kind, text in played.kinds() if kind == "notice"]
    assert fields["title"] in asked
    assert f"“{fields['title']}”: bea answered: " in decided


def test_reply_is_repeated_until_the_journal_confirms_it(played: Played) -> None:
    desk = ReplyDesk()
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    services.answer(Question.objects.get().pk, True, actor="bea")
    expected = [reply("d1", confirmed=True)]
    assert lines(deliver(played, desk, 1.0)) == expected
    assert deliver(played, desk, RESEND_SECONDS) == []
    # The keeper passes on only one command of this id.
    assert lines(deliver(played, desk, 1.0 + RESEND_SECONDS)) == expected
    played.play(["s", AT, "~ui-d1"])
    assert deliver(played, desk, 100.0) == []


def test_first_answer_counts(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    pk = Question.objects.get().pk
    services.answer(pk, True, actor="bea")
    with pytest.raises(AlreadyDecided, match="was answered by bea already"):
        services.answer(pk, False, actor="cyd")
    assert lines(deliver(played)) == [reply("d1", confirmed=True)]


def test_person_can_dismiss_a_dialog(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", "select", title="Which?", options=["a"]))
    services.answer(Question.objects.get().pk, None, actor="bea")
    assert lines(deliver(played)) == [reply("d1", cancelled=True)]
    played.play(["s", AT, "~ui-d1"])
    assert "“Which?”: dismissed by bea." in [text for _, text in played.kinds()]


def test_dialog_that_nobody_answers_in_time_is_dismissed(played: Played) -> None:
    Lieutenant.objects.update(dialog_limit_seconds=120)
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    question = Question.objects.get()
    assert question.deadline is not None
    left = question.deadline - timezone.now()
    assert timedelta(seconds=100) < left <= timedelta(seconds=120)
    assert deadlines.decide_overdue() == 0
    Question.objects.update(deadline=timezone.now())
    assert deadlines.decide_overdue() == 1
    assert lines(deliver(played)) == [reply("d1", cancelled=True)]
    with pytest.raises(AlreadyDecided, match="question: is expired already"):
        services.answer(question.pk, True, actor="bea")
    played.play(["s", AT, "~ui-d1"])
    assert "nobody answered in time, so it was dismissed." in played.kinds()[-1][1]


def test_agents_own_time_limit_counts_if_it_is_shorter(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?", timeout=5000))
    deadline = Question.objects.get().deadline
    assert deadline is not None
    assert deadline.timestamp() == AT / 1000 + 5


def test_limit_of_zero_dismisses_dialogs_at_once(played: Played) -> None:
    Lieutenant.objects.update(dialog_limit_seconds=0)
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    assert lines(played.session.take_commands()) == [reply("d1", cancelled=True)]
    played.play(["s", AT, "~ui-d1"])
    assert not Question.objects.exists()
    assert played.row().waiting_for == "the model"


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "x" * (MAX_TEXT_LENGTH + 1)},
        {"method": "editor", "title": "Edit", "prefill": "x" * (MAX_TEXT_LENGTH + 1)},
        {"method": "select", "title": "Which?", "options": [f"{n}" for n in range(101)]},
        {"method": "select", "title": "Which?", "options": []},
        {"title": "Sure?", "cut": 1_000_000},
        {"request_id": "i" * 201, "title": "Sure?"},
    ],
    ids=["long text", "long prefill", "many options", "no options", "cut", "long id"],
)
def test_dialog_that_cannot_be_shown_is_dismissed(played: Played, fields: dict[str, Any]) -> None:
    request = fields.get("request_id", "d1")
    more = {name: value for name, value in fields.items() if name != "request_id"}
    played.play(event("agent_start"), dialog(request, **more))
    assert lines(played.session.take_commands()) == [reply(request, cancelled=True)]
    assert not Question.objects.exists()


def test_agent_has_a_limited_number_of_open_dialogs(played: Played) -> None:
    played.play(event("agent_start"), *(dialog(f"d{n}", title="?") for n in range(MAX_OPEN + 2)))
    assert Question.objects.count() == MAX_OPEN
    dismissed = [each.line["id"] for each in played.session.take_commands()]
    assert dismissed == [f"d{MAX_OPEN}", f"d{MAX_OPEN + 1}"]


def test_id_of_an_earlier_dialog_asks_nobody_again(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"), dialog("d1", title="Again?"))
    assert [each.text for each in Question.objects.all()] == ["Sure?"]


@pytest.mark.parametrize("given", [inputs.AbortAsked("7"), inputs.Stalled("7", "too long")])
def test_abort_withdraws_and_dismisses_open_dialogs(played: Played, given: Any) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    played.session.commit(given)
    played.session.take_commands()
    question = Question.objects.get()
    assert (question.state, question.note) == (QuestionState.WITHDRAWN, "the answer was aborted")
    # Else the agent would not even abort.
    assert lines(deliver(played)) == [reply("d1", cancelled=True)]


def test_end_of_the_agent_withdraws_its_dialogs(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"), dialog("d2", title="Really?"))
    first, second = Question.objects.order_by("request_id")
    services.answer(first.pk, True, actor="bea")
    played.play(["x", AT, {"code": None, "signal": 9, "stderr": [], "stopped": False}])
    first.refresh_from_db()
    second.refresh_from_db()
    assert (second.state, second.note) == (QuestionState.WITHDRAWN, "its agent ended")
    # The answer was a decision, which nobody got.
    assert (first.state, first.delivered_at) == (QuestionState.ANSWERED, None)
    assert not Question.objects.filter(is_awaited=True).exists()
    assert deliver(played) == []
    with pytest.raises(AlreadyDecided):
        services.answer(second.pk, True, actor="bea")
    assert played.row().waiting_for == ""


def test_dialog_of_a_process_that_ended_unseen_is_withdrawn_later(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    frozen = {"ended_at": timezone.now(), "is_frozen": True}
    Process.objects.update(**frozen)
    deadlines.withdraw_orphaned()
    # It waits in a paused VM.
    assert Question.objects.get().is_open
    Process.objects.update(is_frozen=False)
    deadlines.withdraw_orphaned()
    question = Question.objects.get()
    assert (question.state, question.is_awaited) == (QuestionState.WITHDRAWN, False)


def test_waiting_for_a_person_is_no_stall(played: Played) -> None:
    played.play(event("agent_start"), dialog("d1", title="Sure?"))
    past = timezone.now() - timedelta(hours=1)
    Lieutenant.objects.update(last_activity_at=past, status_since=past, status="working")
    assert not played.row().stalled
    Lieutenant.objects.update(waiting_for="the model")
    assert played.row().stalled


def test_command_below_a_dialog_waits_for_the_person(played: Played) -> None:
    pk = played.message("/ask")
    played.play(["s", AT, pk], dialog("d1", title="Sure?"))
    assert played.row().waiting_for == "a person to answer “Sure?”"
    services.answer(Question.objects.get().pk, True, actor="bea")
    played.play(["s", AT, "~ui-d1"])
    assert played.row().waiting_for == "the agent to accept a message"


def test_answer_with_a_secret_is_covered(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen([Secret("KEY", "jihgfedcba-3210")])
    monkeypatch.setattr(sources, "for_node", lambda *_, **__: screen)
    played.play(event("agent_start"), dialog("d1", "input", title="Key?"))
    services.answer(Question.objects.get().pk, "it is jihgfedcba-3210", actor="bea")
    assert lines(deliver(played)) == [reply("d1", value="it is [KEY]")]
