"""Where targets come from."""

from hf_distill.teachers.model import ModelTeacher, best_dtype, chosen_dtype, same_tokenizer

__all__ = ["ModelTeacher", "best_dtype", "chosen_dtype", "same_tokenizer"]
