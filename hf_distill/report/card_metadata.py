"""What the Hub reads of a card: base model, data set, licence, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from hf_distill.tasks import task_class

TAGS = ("distillation", "knowledge-distillation", "hf_distill")

HUB_METRICS = {"pearson": "pearsonr", "spearman": "spearmanr"}
"""What the Hub calls a metric, where it has another name for it."""

AVERAGES = ("_macro", "_micro", "_weighted")
"""How a metric over classes may be averaged."""


def card_metadata(results: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``ModelCardData``; what is not known is left out."""
    teacher, data = results["models"].get("teacher"), results["data"]
    scores = _eval_results(results)
    metadata: dict[str, Any] = {
        "model_name": results["name"],
        "library_name": task_class(results["task"]).library,
        "pipeline_tag": results["pipeline_tag"],
        "tags": ["hf_distill"],
        "metrics": list(dict.fromkeys(score.metric_type for score in scores)),
        "eval_results": scores,
        **_base_model(results["models"]),
    }
    metadata |= _license(results["models"])
    if data["dataset_id"]:
        metadata["datasets"] = [data["dataset_id"]]
    if teacher:
        metadata["tags"] = [*TAGS, *(f"teacher:{name}" for name in teachers_on_hub(teacher))]
        metadata["distillation"] = {
            "teacher": teacher["model"],
            **({"teacher_revision": teacher["revision"]} if teacher["revision"] else {}),
            "student": results["models"]["student"]["origin"],
            "objectives": [
                ({"stage": stage} if stage else {})
                | {"kind": each["kind"], "weight": each["weight"], **each["options"]}
                for stage, lessons in lessons_of(results).items()
                for each in lessons["objectives"]
            ],
        }
    return metadata


def lessons_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the student learned from (``objectives``, ``rollout``) by stage; the only one has no name."""
    return dict(results.get("stages") or {"": results})


def _base_model(models: Mapping[str, Any]) -> dict[str, Any]:
    """What the Hub hangs the student under: what its weights started from, else its teacher."""
    student, teacher = models["student"], models.get("teacher")
    if student["hub_id"]:
        kind = "adapter" if student.get("adapters") else "finetune"
        return {"base_model": student["hub_id"], "base_model_relation": kind}
    on_hub = teachers_on_hub(teacher) if teacher else []
    if not teacher or not on_hub:
        return {}
    relation = {"base_model_relation": "finetune"} if "of the teacher" in student["origin"] else {}
    return {"base_model": on_hub[0] if len(on_hub) == 1 else on_hub, **relation}


def teachers_on_hub(teacher: Mapping[str, Any]) -> list[str]:
    """The Hub ids of a teacher, or of the members of an ensemble, each once."""
    return list(dict.fromkeys(each["hub_id"] for each in members_of(teacher) if each["hub_id"]))


def members_of(teacher: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The members of an ensemble; a single teacher alone."""
    return list(teacher.get("members") or [teacher])


def licenses_of(models: Mapping[str, Any]) -> list[str]:
    """The known licences of the teacher, or of several, and of what the student started from, each once."""
    return sorted({model.get("license_name") or model["license"] for model in _licensed(models)})


def _licensed(models: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sources = [each for name in ("teacher", "student") if name in models for each in members_of(models[name])]
    return [model for model in sources if model.get("license")]


def _license(models: Mapping[str, Any]) -> dict[str, str]:
    """The only licence, with name and link where the Hub knows it as other; nothing where there are several."""
    if len(licenses_of(models)) != 1:
        return {}
    source = _licensed(models)[0]
    named = {key: source[key] for key in ("license", "license_name") if source.get(key)}
    link = source.get("license_link")
    if link and not link.startswith(("https://", "http://")):
        # A file beside the model that it was declared for.
        link = f"https://huggingface.co/{source['hub_id']}/blob/main/{link}" if source["hub_id"] else None
    return {**named, **({"license_link": link} if link else {})}


def _eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    data = results["data"]
    config, _, revision = data["source"].removeprefix(data["dataset_id"] or data["source"]).partition("@")
    entries = []
    for name, score in results["models"]["student"]["metrics"].items():
        kind, _, average = name.partition("_") if name.endswith(AVERAGES) else (name, "", "")
        entries.append(
            EvalResult(
                task_type=results["pipeline_tag"],
                dataset_type=data["dataset_id"] or data["source"],
                dataset_name=data["source"],
                dataset_config=config.removeprefix("/") or None,
                dataset_revision=revision or None,
                dataset_split=data["evaluated_split"],
                metric_type=HUB_METRICS.get(kind, kind),
                metric_name=name,
                metric_value=round(score["value"], 4),
                metric_args={"average": average} if average else None,
            )
        )
    return entries
