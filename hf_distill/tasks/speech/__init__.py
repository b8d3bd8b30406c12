"""What is said in clips of sound.

May be imported: the tasks; ``frames`` and ``transcripts`` by those who score them.
Never belongs here: reading sound (``data.media``), and how transcripts are judged (``evaluation.transcripts``).
"""
