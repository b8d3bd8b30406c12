"""Causal language modelling: the task, the forms of its rows, and what becomes of them.

May be imported: ``CausalLanguageModeling``.
Never belongs here: templates (``tokenizers.chat``) and what masked language models share (``tasks.language``).
"""
