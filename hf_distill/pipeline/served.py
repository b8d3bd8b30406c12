"""What a recipe cannot ask of a teacher behind an endpoint, refused before the server is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerBase

from hf_distill.errors import RecipeError
from hf_distill.evaluation.language_modeling import AGAINST_TEACHER
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.models.load import load_tokenizer
from hf_distill.objectives import Objective
from hf_distill.pipeline.compatibility import check_served
from hf_distill.recipe import Recipe, ServerConfig
from hf_distill.tasks import CausalLanguageModeling, Task
from hf_distill.teachers import same_tokenizer
from hf_distill.training.setup import check_tokens


def check_served_recipe(recipe: Recipe, task: Task, objectives: Mapping[str, Objective]) -> None:
    """Refuse what a served teacher cannot be asked for.

    Args:
        recipe: With ``teacher.server``.
        task: Made.
        objectives: Of the student.

    Raises:
        HfDistillError: With the way out.
    """
    assert recipe.teacher is not None
    assert recipe.teacher.server is not None
    if not isinstance(task, CausalLanguageModeling):
        raise RecipeError(
            f"recipe.teacher.server: a server tells what comes next in a text, which is asked for causal-lm alone, got "
            f"{task.name}; use a teacher that is loaded here (teacher.model), or let a served one write, with rows of "
            "prompt or messages (task: causal-lm, hf-distill label), and train on its texts"
        )
    if recipe.student.pretrained is None and recipe.student.config is None:
        raise RecipeError(
            "recipe.student: it is made of its teacher's layers, and those of a served teacher are not here; name "
            "student.pretrained, or student.config with a model_type and a tokenizer"
        )
    check_served(objectives)
    metric = primary_metric(task, recipe.evaluate)
    if metric in AGAINST_TEACHER:
        raise RecipeError(
            f"recipe.evaluate.metric: {metric} compares with all that a teacher says, and a server tells the likeliest "
            "tokens alone; set it to loss, or remove it"
        )


def check_asked(recipe: Recipe, objectives: Iterable[Objective]) -> None:
    """Refuse what does nothing where no objective asks a served teacher.

    Args:
        recipe: With ``teacher.server``.
        objectives: Of the student, in all stages.

    Raises:
        RecipeError: With the way out.
    """
    assert recipe.teacher is not None
    assert recipe.teacher.server is not None
    if any("logits" in objective.needs for objective in objectives):
        return
    if recipe.teacher.kind == "cached":
        raise RecipeError(
            "recipe.teacher.kind: no objective asks the teacher, so there is nothing to cache; add logits, or set it "
            "to live"
        )
    if recipe.teacher.server.top_k is not None:
        raise RecipeError(
            "recipe.teacher.server.top_k: no objective asks for the teacher's probabilities, so it does nothing; add "
            "logits, or remove it"
        )


def check_served_tokens(
    config: ServerConfig, tokenizer: PreTrainedTokenizerBase, objectives: Mapping[str, Objective], task: Task
) -> None:
    """Refuse to compare tokens with a served teacher that has others.

    Args:
        config: ``teacher.server``.
        tokenizer: The student's.
        objectives: Of the student.
        task: Made.

    Raises:
        ObjectiveError: With the way out.
    """
    asks = any("logits" in objective.needs for objective in objectives.values())
    if asks and not same_tokenizer(tokenizer, load_tokenizer(config.tokenizer_source)):
        check_tokens(objectives, task)


def refuse_served(recipe: Recipe, why: str) -> None:
    """Refuse a served teacher where one must be here.

    Raises:
        RecipeError: With why.
    """
    if recipe.teacher is not None and recipe.teacher.server is not None:
        raise RecipeError(f"recipe.teacher.server: {why}; use a teacher that is loaded here (teacher.model)")
