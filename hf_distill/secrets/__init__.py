"""What is secret, and what leaves instead of it: in a file, in a line to a person, in a request.

May be imported: ``hidden`` and ``hidden_in`` for files, ``told`` for lines, ``Discreet`` for streams.
Never belongs here: anything that writes, prints, raises or sends; who does that asks here first.
"""

from hf_distill.secrets.redact import Discreet, hidden, hidden_in, speakable, told

__all__ = ["Discreet", "hidden", "hidden_in", "speakable", "told"]
