"""The agent's first answers: it is ready, with a model, and has a list of models."""

from __future__ import annotations

from lieutenants.agents import events
from lieutenants.agents.model_lists import MAX_STORED, summary
from lieutenants.sessions import effects
from lieutenants.sessions.effects import AddEntry, Effect, Send, Verb
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Step
from lieutenants.sessions.rules.endings import stop_useless
from lieutenants.sessions.state import State, replace
from lieutenants.states import MessageState, Status

MODELS_QUERY = "~models"
NO_MODEL_TEXT = (
    "The agent has no model to work with. Give it one: set ANTHROPIC_API_KEY (or another "
    "provider's key) where reef is started, or put a provider into models.json in the agent's "
    "folder; `up --demo` brings a small local one."
)
_UNDECIDED = frozenset({MessageState.QUEUED, MessageState.DELIVERED})
_STARTING = frozenset({Status.STARTING})


def ready(state: State, reply: events.AgentState, facts: Facts) -> Step:
    """Handle the agent's first reply about its state."""
    found: list[Effect] = [effects.MarkReady(facts.at)]
    if reply.model is not None and not reply.model.is_known:
        found += stop_useless(NO_MODEL_TEXT, facts)
        return replace(state, is_ready=True), found
    if reply.model is not None:
        found += _model_in_use(reply.model, facts)
        found.append(Send(Verb.LIST_MODELS, MODELS_QUERY))
    found += [AddEntry(facts.at, note, is_error=note not in facts.infos) for note in state.notes]
    is_working = facts.pending & _UNDECIDED or reply.is_working
    to = Status.WORKING if is_working else Status.IDLE
    found.append(effects.MoveStatus(to, "the agent is ready", _STARTING))
    return replace(state, is_ready=True, notes=()), found


def _model_in_use(model: events.Model, facts: Facts) -> list[Effect]:
    """Return the effects that store the model in use and report a difference."""
    name, wanted, before = model.name[:200], facts.wanted_model, facts.previous_model
    problem, found = "", list[Effect]()
    if wanted and not facts.has_wanted_model:
        problem = f"Its model {wanted} is not there; the agent goes on with {name}."
        found.append(AddEntry(facts.at, problem, is_error=True))
    elif facts.is_change_announced:
        pass
    elif not wanted and before and before != name:
        # Until now it used the session's model. Report the change once: the new one may be the
        # default.
        text = f"The agent's model was {before}; it goes on with {name}."
        found.append(AddEntry(facts.at, text))
    return [*found, effects.StoreModelInUse(name, problem)]


def models_listed(state: State, reply: events.Reply, facts: Facts) -> Step:
    """Store the list of models, and report if the model in use is not among them."""
    listed = reply.content.models if isinstance(reply.content, events.ModelList) else ()
    models = listed[:MAX_STORED]
    if not reply.success or not models:
        return state, []
    found: list[Effect] = [effects.StoreModels(models)]
    used, names = facts.model_in_use, [each.name for each in models]
    if used and used not in names:
        problem = (
            f"Its model {used} is not among the agent's models, so the figures of its cost may be "
            f"another model's. These are there: {summary(names)}."
        )
        found += [
            AddEntry(facts.at, problem, is_error=True),
            effects.StoreModelProblem(problem),
        ]
    return state, found
