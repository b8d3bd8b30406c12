"""The teacher's own text: it writes for every training row, and what it wrote becomes a data set.

May be imported: ``check_label``, ``label_rows`` and its ``TeacherTexts``.
Never belongs here: how a model writes (``generation``) and what the student learns from the texts.
"""

from hf_distill.labelling.checks import check_label
from hf_distill.labelling.dataset import TeacherTexts, label_rows

__all__ = ["TeacherTexts", "check_label", "label_rows"]
