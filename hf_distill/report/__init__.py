"""What a person reads of a run: the card, its figures and tables, made of facts alone; and the push to the Hub.

May be imported: ``write.write_report`` and the tables.
Never belongs here: anything that measures, trains or loads a model.
"""
