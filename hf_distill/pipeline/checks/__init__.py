"""What is tried, counted and told before anything is trained.

May be imported: ``try_training``, ``report_rows``, ``report_costs`` and their like, by ``preflight`` alone.
Never belongs here: rules over the keys of a recipe (``pipeline.compatibility``).
"""
