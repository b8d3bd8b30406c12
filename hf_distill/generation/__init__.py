"""One way to let a model write: engines, hypotheses with their probabilities, and rollouts for on-policy training.

May be imported: ``rollout.Rollout``, the engines, ``hypotheses`` and ``logprobs``.
Never belongs here: what the texts are used for (``labelling``, ``evaluation``, ``training``).
"""
