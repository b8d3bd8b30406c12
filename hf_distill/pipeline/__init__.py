"""A recipe from its data to the push. Read ``flow.py`` first.

May be imported: ``run`` and its verbs, ``preflight.check``, the parts of a run for ``search``.
Never belongs here: mathematics, and what a single task, teacher or student knows of itself.
"""
