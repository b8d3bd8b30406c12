"""How well a model writes down what is said: errors of words and characters, and which they are.

May be imported: ``transcript_scores``, whose scores any model's transcripts make.
Never belongs here: how a model comes to its transcript (``tasks.speech``).
"""
