"""Tokenizers: train one, prune one to the words of the data, and compare or align two.

May be imported: every module of this room, by its own name.
Never belongs here: model weights (``students.vocabulary`` changes those) and what a task encodes.
"""
