"""Structured pruning of pretrained students: which parts matter, the shape to keep, and cutting the weights to it.

May be imported: every module of this room, by its own name.
Never belongs here: whole layers (``students.layers``) and vocabularies (``students.vocabulary``).
"""
