"""Sentences from the docstrings of installed libraries, to be told apart by library.

Real text that every machine with hf_distill already has: no Hub, no download. The source files are parsed, never
imported or run. A recipe asks for it with `data: {path: "hf_distill.data.docstrings:load"}`.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import math
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
GIVE_AWAY = re.compile(
    "|".join(
        name if len(name) >= 4 else rf"(?<![a-z0-9]){name}(?![a-z0-9])"
        for name in sorted({name for names in LIBRARIES.values() for name in names})
    )
)
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
    unlabelled_per_class: int = 0,
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
        unlabelled_per_class: At most so many further sentences of each library, without their label.
        seed: Chooses the source files and the splits; the same seed and installed versions give the same rows.

    Returns:
        Splits `train`, `validation`, `test` with columns `text` and `label`, and, where asked for, `unlabelled`.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    chosen = _checked(list(LIBRARIES) if libraries is None else libraries, rows_per_class, unlabelled_per_class)
    sizes = _split_sizes(rows_per_class, validation_share, test_share)
    most = rows_per_class + unlabelled_per_class
    openings, wanted = int(rows_per_class * SPARE), int(most * SPARE)
    candidates = {library: _candidates(library, openings, wanted, seed) for library in chosen}
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in sizes}
    unlabelled: list[str] = []
    for library, texts in _without_near_duplicates(candidates, rows_per_class, most).items():
        random.Random(f"{seed} {library}").shuffle(texts)
        for split, size in sizes.items():
            rows[split] += [(texts.pop(), library) for _ in range(size)]
        unlabelled += texts
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(chosen))})
    splits = {
        split: Dataset.from_dict({"text": [t for t, _ in pairs], "label": [c for _, c in pairs]}, features=features)
        for split, pairs in rows.items()
    }
    if unlabelled_per_class:
        splits["unlabelled"] = Dataset.from_dict({"text": unlabelled})
    return DatasetDict(splits)


def _checked(libraries: Sequence[str], rows_per_class: int, unlabelled_per_class: int) -> Sequence[str]:
    if unknown := [name for name in libraries if name not in LIBRARIES]:
        raise DataError(f"docstrings: {unknown[0]!r} is none of the libraries; choose from {', '.join(LIBRARIES)}")
    if len(set(libraries)) < 2 or len(set(libraries)) < len(libraries):
        raise DataError(f"docstrings: expected at least two different libraries, got {', '.join(libraries)}")
    for name, rows, least in (("rows", rows_per_class, 10), ("unlabelled", unlabelled_per_class, 0)):
        if rows < least:
            raise DataError(f"docstrings: {name}_per_class must be at least {least}, got {rows}")
    return libraries


def _split_sizes(rows: int, validation_share: float, test_share: float) -> dict[str, int]:
    sizes = {"validation": round(rows * validation_share), "test": round(rows * test_share)}
    if min(sizes.values()) < 1 or sum(sizes.values()) >= rows:
        raise DataError(
            f"docstrings: validation_share {validation_share} and test_share {test_share} of {rows} rows leave a split "
            "empty; choose shares above 0 that leave something to train on"
        )
    return {"train": rows - sum(sizes.values()), **sizes}


def _candidates(library: str, openings: int, wanted: int, seed: int) -> list[str]:
    """Sentences of a library, those that open a docstring first, each once, enough to choose from."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"docstrings: {library} is not installed; install it, or leave it out of data.arguments")
    root = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts))
    random.Random(f"{seed} {library}").shuffle(files)
    first: dict[str, None] = {}
    later: dict[str, None] = {}
    for path in files:
        for docstring in _docstrings(path):
            sentences = [sentence for sentence in _sentences(docstring) if not GIVE_AWAY.search(sentence.lower())]
            first.update(dict.fromkeys(sentences[:1]))
            later.update(dict.fromkeys(sentences[1:]))
        if len(first) >= openings and len(first) + len(later) >= wanted:
            break
    return [*first, *(sentence for sentence in later if sentence not in first)]


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Old escapes in the sources of others.
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if docstring := ast.get_docstring(node):
                yield docstring
            nodes += reversed(node.body)


def _sentences(docstring: str) -> list[str]:
    """The sentences of its prose, up to the first section, list or example."""
    prose = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        if SECTION.search(paragraph):
            break
        prose += SENTENCE_END.split(" ".join(paragraph.split()))
    return [sentence for sentence in prose if WORDS[0] <= len(sentence.split()) <= WORDS[1] and sentence.isascii()]


def _without_near_duplicates(candidates: Mapping[str, Sequence[str]], least: int, most: int) -> dict[str, list[str]]:
    """The first sentences of each library that share less than 60% of their words with any kept before.

    The libraries take turns, so that none of them has the first choice.
    """
    kept: dict[str, list[str]] = {library: [] for library in candidates}
    seen = _Seen(Counter(word for texts in candidates.values() for text in texts for word in _words(text)))
    for turn in itertools.zip_longest(*candidates.values()):
        for library, text in zip(candidates, turn, strict=True):
            if text is not None and len(kept[library]) < most and seen.is_new(_words(text)):
                kept[library].append(text)
    for library, texts in kept.items():
        if len(texts) < least:
            raise DataError(
                f"docstrings: {library} has {len(texts)} usable sentences, {least} were asked for; lower "
                "data.arguments.rows_per_class, or leave the library out"
            )
    return kept


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


class _Seen:
    """Sets of words, searched for near-duplicates by their rarest words.

    Two sets whose Jaccard similarity reaches t share one of the ``n - ceil(t n) + 1`` rarest words of each (prefix
    filtering: Chaudhuri et al. 2006), so that few sets need to be compared.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._holders: defaultdict[str, list[frozenset[str]]] = defaultdict(list)

    def is_new(self, words: frozenset[str]) -> bool:
        """Whether no set before was nearly the same; if so, it is remembered."""
        if not words:
            return False
        rarest = sorted(words, key=lambda word: (self._counts[word], word))
        prefix = rarest[: len(words) - math.ceil(NEAR_DUPLICATE * len(words)) + 1]
        alike = (other for word in prefix for other in self._holders[word])
        if any(len(words & other) >= NEAR_DUPLICATE * len(words | other) for other in alike):
            return False
        for word in prefix:
            self._holders[word].append(words)
        return True
