"""Models behind an OpenAI-compatible endpoint: a client, what it asks, and how answers are read."""

from hf_distill.teachers.endpoint.client import Client
from hf_distill.teachers.endpoint.completions import Answer, write
from hf_distill.teachers.endpoint.prompts import Position, prompt_likelihoods

__all__ = ["Answer", "Client", "Position", "prompt_likelihoods", "write"]
