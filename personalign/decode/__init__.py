"""Decoding: a frozen model, the steers that bend its next token, and the engine. Read ``reference.py`` first."""

from personalign.decode.engine import Engine, generate
from personalign.decode.experts import Expert, load_expert, load_experts
from personalign.decode.load import CausalModel, load_causal, render
from personalign.decode.models import Models
from personalign.decode.request import Piece, Request
from personalign.decode.reward_model import RewardModel, load_reward, load_reward_beside
from personalign.decode.seq import Ticket
from personalign.decode.steer import Steer, Step
from personalign.decode.successor import SuccessorHead
from personalign.decode.worker import Worker

__all__ = [
    "CausalModel",
    "Engine",
    "Expert",
    "Models",
    "Piece",
    "Request",
    "RewardModel",
    "Steer",
    "Step",
    "SuccessorHead",
    "Ticket",
    "Worker",
    "generate",
    "load_causal",
    "load_expert",
    "load_experts",
    "load_reward",
    "load_reward_beside",
    "render",
]
