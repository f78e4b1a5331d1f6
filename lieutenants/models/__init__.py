"""Lieutenants and their processes, messages, transcripts, usage and status transitions."""

from lieutenants.hosts.models import this_folder
from lieutenants.models.agent_models import AgentModels
from lieutenants.models.lieutenant_queries import LieutenantQuerySet
from lieutenants.models.lieutenants import Lieutenant
from lieutenants.models.life_signs import LifeSign
from lieutenants.models.made_vms import MadeVM
from lieutenants.models.messages import Message, MessageImage
from lieutenants.models.moves import Move
from lieutenants.models.processes import Process, ProcessQuerySet
from lieutenants.models.transcript import Answer, Chunk, Entry
from lieutenants.models.usage import Usage, UsageQuerySet
from lieutenants.questions.models import Question
from lieutenants.unknown_agents.models import UnknownAgent
from lieutenants.unread.models import ReadMark
from lieutenants.usage.models import UsageSlot

__all__ = [
    "AgentModels",
    "Answer",
    "Chunk",
    "Entry",
    "Lieutenant",
    "LieutenantQuerySet",
    "LifeSign",
    "MadeVM",
    "Message",
    "MessageImage",
    "Move",
    "Process",
    "ProcessQuerySet",
    "Question",
    "ReadMark",
    "UnknownAgent",
    "Usage",
    "UsageQuerySet",
    "UsageSlot",
    "this_folder",
]
