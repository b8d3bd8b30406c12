"""A floor under all results: what a linear model reaches that only counts words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline


def bag_of_words_floor(
    train_texts: Sequence[str], train_labels: Sequence[Any], test_texts: Sequence[str], test_labels: Sequence[Any]
) -> dict[str, Any]:
    """Train TF-IDF of single words with logistic regression, both as scikit-learn sets them up, and score it."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit(train_texts, train_labels)
    decided = model.predict(test_texts)
    return {
        "name": "bag of words (TF-IDF, logistic regression)",
        "accuracy": float(accuracy_score(test_labels, decided)),
        "f1_macro": float(f1_score(test_labels, decided, average="macro", zero_division=0)),
    }
