"""Choosing among students: plan one for a budget, sweep over a grid, tune.

May be imported: ``plan.plan`` and ``sweep.sweep``.
Never belongs here: a second way to run a recipe (``pipeline`` has the only one).
"""
