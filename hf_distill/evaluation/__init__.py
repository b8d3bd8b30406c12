"""How good a model is: scores with their intervals, speed, and where it is weak.

May be imported: ``metrics``, ``scores``, ``bootstrap``, ``speed`` and the scores of each kind of task.
Never belongs here: the card, its tables and figures (``report``).
"""
