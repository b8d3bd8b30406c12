"""Rows: where they come from, which columns they have, and how a recipe's data are loaded.

May be imported: ``rows.Data`` and ``rows.load_data``, the readers of ``sources``, the renaming of ``columns``.
Never belongs here: anything that needs a tokenizer, a model or a task.
"""
