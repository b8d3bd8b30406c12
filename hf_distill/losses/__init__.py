"""Divergences between distributions as plain functions, their gradients, and the fused loss over a vocabulary.

May be imported: ``divergences``, ``fused.fused_loss``, ``cross_vocabulary``.
Never belongs here: weights, schedules and what an objective needs (``objectives``), teachers and tasks.
"""
