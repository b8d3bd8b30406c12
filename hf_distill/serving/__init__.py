"""Models behind an OpenAI-compatible endpoint: a client, what it asks, and how answers are read."""

from hf_distill.serving.client import Client
from hf_distill.serving.likelihoods import Position, prompt_likelihoods
from hf_distill.serving.texts import Answer, write

__all__ = ["Answer", "Client", "Position", "prompt_likelihoods", "write"]
