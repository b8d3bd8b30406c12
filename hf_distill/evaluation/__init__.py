"""How good, how fast and how large the models are, and where the student is weak."""
