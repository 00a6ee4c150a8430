"""The learning core: answers to profiles, and which question to ask next; numpy, no model needed."""

from personalign.learn.ask import acquire
from personalign.learn.factorise import Factors, factorise
from personalign.learn.fit import fit, fit_many, predict
from personalign.types import Gaussian, Noise

__all__ = ["Factors", "Gaussian", "Noise", "acquire", "factorise", "fit", "fit_many", "predict"]
