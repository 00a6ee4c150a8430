"""Decoding: a frozen model, the steers that bend its next token, and the loop. Read ``reference.py`` first."""

from personalign.decode.decoder import Decoder
from personalign.decode.experts import Expert, load_expert, load_experts
from personalign.decode.load import CausalModel, load_causal, render
from personalign.decode.request import Generated, Piece, Request
from personalign.decode.rewards import Guidance, SuccessorHead
from personalign.decode.steer import Steer, Step

__all__ = [
    "CausalModel",
    "Decoder",
    "Expert",
    "Generated",
    "Guidance",
    "Piece",
    "Request",
    "Steer",
    "Step",
    "SuccessorHead",
    "load_causal",
    "load_expert",
    "load_experts",
    "render",
]
