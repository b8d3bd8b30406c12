"""The forms that rows of texts and chats have elsewhere, and how they are read.

May be imported: ``recognised`` and ``read_chats``.
Never belongs here: templates and tokens, which are the tokenizer's.
"""
