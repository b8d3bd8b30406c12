"""What holds for any model: load it, run it, read its attention or pooled vector, place it, and check that it is sane.

May be imported: every module of this room, by its own name.
Never belongs here: who the model is (teacher or student), what its rows mean, and how it is trained.
"""
