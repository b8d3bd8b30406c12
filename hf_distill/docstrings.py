"""Sentences from the docstrings of installed libraries, to be told apart by library.

Real text that every machine with hf_distill already has: no Hub, no download. The source files are parsed, never
imported or run. A recipe asks for it with `data: {path: "hf_distill.docstrings:load"}`.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

from hf_distill.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

# Library -> the names that would give it away. Lower case; a name of four letters or more counts inside longer words
# too (torchscript, is_numpy_array), a shorter one only on its own (np.array, hf_hub).
LIBRARIES: dict[str, tuple[str, ...]] = {
    "matplotlib": ("matplotlib", "mpl", "plt", "pyplot", "pylab", "rcparam"),
    "networkx": ("networkx", "nx"),
    "numpy": ("numpy", "np", "ndarray", "ufunc", "f2py"),
    "pandas": ("pandas", "pd", "dataframe", "ndframe"),
    "scipy": ("scipy", "sp"),
    "sklearn": ("sklearn", "scikit", "skl"),
    "sympy": ("sympy", "sym"),
    "torch": ("torch", "aten", "dynamo", "inductor", "autograd", "nn"),
    "transformers": ("transformers", "hugging", "hf", "pretrained"),
}
SKIPPED_FOLDERS = {"tests", "testing", "_vendor", "externals", "__pycache__"}
WORDS = (4, 40)
NEAR_DUPLICATE = 0.6
SPARE = 1.6
SECTION = re.compile(r"(?m)^[-=~^]{3,}\s*$|\A\s*(?:[A-Z]\w+:\s*$|>>>|\.\. |[-*] |:param)")
SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]`'\"*][.!?])\s+(?=[A-Z`*])")


def load(
    libraries: Sequence[str] | None = None,
    rows_per_class: int = 2000,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 42,
) -> DatasetDict:
    """Gather docstring sentences and return them with the library that each one comes from.

    First sentences of docstrings are taken first; the sentences that follow them fill a class that would be too
    small. Sentences that name any of the libraries are left out, and so are near-duplicates, within a class and
    across classes, so that no sentence of one split is in another.

    Args:
        libraries: Names out of `LIBRARIES`, at least two; all of them by default.
        rows_per_class: Sentences of each library, the same number for all.
        validation_share: Share of each class for the validation split.
        test_share: Share of each class for the test split.
        seed: Chooses the source files and the splits; the same seed and installed versions give the same rows.

    Returns:
        Splits `train`, `validation`, `test` with columns `text` (string) and `label` (ClassLabel, library names).

    Raises:
        DataError: If a library is unknown, not installed, or has too few sentences, or a share is out of range.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    chosen = _checked(list(LIBRARIES) if libraries is None else libraries, rows_per_class)
    sizes = _split_sizes(rows_per_class, validation_share, test_share)
    sentences = _without_near_duplicates(
        {library: _candidates(library, int(rows_per_class * SPARE), seed) for library in chosen}, rows_per_class
    )
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(chosen))})
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in sizes}
    for library, texts in sentences.items():
        random.Random(f"{seed} {library}").shuffle(texts)
        for split, size in sizes.items():
            rows[split] += [(texts.pop(), library) for _ in range(size)]
    return DatasetDict(
        {split: Dataset.from_dict({"text": [t for t, _ in pairs], "label": [l for _, l in pairs]}, features=features)
         for split, pairs in rows.items()}
    )
