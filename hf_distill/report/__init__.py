"""What a person reads of a run: the card, its figures, tables and sentences, made of facts alone.

May be imported: ``write.write_report`` and the tables.
Never belongs here: anything that measures, trains or loads a model.
"""
