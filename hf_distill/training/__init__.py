"""DistillationTrainer and its parts: set-up, loss, data loading, accumulators, saving and checkpoints.

May be imported: ``trainer.DistillationTrainer``, ``saving``, ``checkpoints``.
Never belongs here: mathematics (``losses``, ``objectives``) and the order of a recipe (``pipeline``).
"""
