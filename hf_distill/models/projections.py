"""Projects pooled states to vectors of another size: by principal components or least squares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import RecipeError
from hf_distill.models.forward import accepted_inputs, run_model
from hf_distill.models.pooling import Dense, VectorHead, attach_head, head_of, vector_size

SAMPLE = 2048  # Texts that a projection is fitted on before training.
BATCH = 64
RIDGE = 1e-3  # Regularises the least squares, as a share of the mean variance.

Texts = Callable[[], Iterable[str]]


def principal_components(vectors: Tensor, count: int) -> Tensor:
    """``[count, D]``: the orthonormal directions in which ``[N, D]`` vectors, not centred, vary most."""
    most = min(vectors.shape)
    if count > most:
        have = f"the teacher's vectors have {vectors.shape[1]} numbers, of {vectors.shape[0]} texts"
        raise RecipeError(f"task.dimensions: expected at most {most} ({have}), got {count}")
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    return directions[:count].contiguous()


def vectors_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Texts, length: int) -> Tensor:
    """The vectors ``[N, D]`` of the first texts, in float32 on the CPU."""
    model.eval()
    found = []
    listed, limit = list(islice(texts(), SAMPLE)), min(length, tokenizer.model_max_length)
    cut: dict[str, Any] = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
    with torch.inference_mode():
        for start in range(0, len(listed), BATCH):
            read = tokenizer(listed[start : start + BATCH], **cut).to(model.device)
            _, vectors = run_model(model, model, accepted_inputs(model, dict(read)), False, False)
            assert isinstance(vectors, Tensor)
            found.append(vectors.float().cpu())
    return torch.cat(found).clone()


def give_head(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    like: VectorHead,
    size: int,
    targets: Tensor | None,
    texts: Texts,
    length: int,
) -> None:
    """Give a student a head like its teacher's, with a projection where its vectors would not have ``size`` dimensions.

    The projection starts as the least squares from the student's vectors to the ``targets`` ``[N, size]``, the
    teacher's vectors of the first texts; without targets only sizes matter.
    """
    width = int(student.config.get_text_config().hidden_size)
    kept = [layer for layer in like.layers if isinstance(layer, Dense)]
    if like.dimensions(width) == size and (not kept or kept[0].linear.in_features == width):
        copied = [copy.deepcopy(layer).float().requires_grad_() for layer in kept]
        attach_head(student, VectorHead(like.pooling, like.normalize, copied))
        return
    attach_head(student, VectorHead(like.pooling, normalize=False))
    layer = Dense(width, size)
    if targets is not None:
        layer.linear.weight.data = _least_squares(vectors_of(student, tokenizer, texts, length), targets)
    attach_head(student, VectorHead(like.pooling, like.normalize, [layer]))


def teacher_vectors(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Texts, length: int
) -> tuple[VectorHead, int, Tensor]:
    """A teacher's head, the size of its vectors, and the vectors of the first texts."""
    head = head_of(teacher)
    assert head is not None
    return head, vector_size(teacher), vectors_of(teacher, tokenizer, texts, length)


def _least_squares(given: Tensor, wanted: Tensor) -> Tensor:
    """``[out, in]``: the linear map, without a bias, that brings ``[N, in]`` nearest to ``[N, out]``."""
    products = given.T @ given
    products += RIDGE * products.diagonal().mean() * torch.eye(len(products))
    return torch.linalg.solve(products, given.T @ wanted).T.contiguous()
