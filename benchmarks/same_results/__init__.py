"""Two checkouts compared to the last digit; see ``__main__``."""
