"""One way to let a model write: ``generate``, the writers of labels, and rollouts for on-policy training.

May be imported: ``generate.generate``, ``writer.Writer`` and what implements it, ``rollout.Rollout``, the engines.
Never belongs here: what the texts are used for (``labelling``, ``evaluation``, ``training``).
"""
