"""Where targets come from."""

from hf_distill.teachers.model import ModelTeacher, accepted_inputs, best_dtype, chosen_dtype, same_tokenizer

__all__ = ["ModelTeacher", "accepted_inputs", "best_dtype", "chosen_dtype", "same_tokenizer"]
