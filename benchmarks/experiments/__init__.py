"""What was run for model cards and for the defaults that ``init`` writes: no times, but what students are worth."""
