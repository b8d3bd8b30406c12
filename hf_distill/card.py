"""Facts write the card: what the student is, how good it is proven to be, where it is weak, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TAGS = ("distillation", "knowledge-distillation", "hf_distill")
ROWS = 8
"""How many rows a table shows at most: a card is read on a phone."""


def write_card(
    folder: Path, results: Mapping[str, Any], analysis: Mapping[str, Any], recipe: str, figures: Sequence[str]
) -> None:
    """Write ``README.md`` into a student's folder.

    Args:
        folder: The student's.
        results: The content of ``results.json``.
        analysis: The content of ``analysis.json``; empty where there is no teacher.
        recipe: The resolved recipe, as YAML.
        figures: Paths of PNG files, relative to the folder.
    """
    model_card(results, analysis, recipe, figures).save(folder / "README.md")


def model_card(
    results: Mapping[str, Any], analysis: Mapping[str, Any], recipe: str, figures: Sequence[str]
) -> ModelCard:
    """The card: metadata that the Hub reads, and a text of facts; see :func:`write_card`."""
    parts = [
        f"# {results['name']}",
        _opening(results),
        _usage(results),
        _table(results),
        *(f"![{Path(figure).stem.replace('_', ' ')}]({figure})" for figure in figures),
        _weaknesses(analysis),
        _making(results),
        f"<details><summary>The exact recipe</summary>\n\n```yaml\n{recipe.strip()}\n```\n\n</details>",
        _limits(results),
    ]
    metadata = ModelCardData(**_metadata(results)).to_yaml()
    return ModelCard(f"---\n{metadata}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n")


def verdict(comparison: Mapping[str, Any]) -> str:
    """One sentence on what the teacher was worth: the student against the same student without one."""
    difference = comparison["student_minus_control"]
    low, high = difference["low"], difference["high"]
    if comparison["lower_is_better"]:
        low, high = -high, -low
    shown = f"{difference['value']:+.4f} {comparison['primary_metric']} (95%: {difference['low']:+.4f} to {difference['high']:+.4f})"
    if low > 0:
        return f"Against the same student trained without a teacher: {shown}. The teacher helped."
    if high < 0:
        return f"Against the same student trained without a teacher: {shown}. The teacher did harm: prefer the control."
    return f"Against the same student trained without a teacher: {shown}. No gain from the teacher could be shown."


def _metadata(results: Mapping[str, Any]) -> dict[str, Any]:
    student, teacher = results["models"]["student"], results["models"].get("teacher")
    base = [name for name in (student.get("hub_id"), teacher and teacher.get("hub_id")) if name]
    metrics = {name: entry["value"] for name, entry in student["metrics"].items()}
    dataset = results["data"]["dataset_id"] or results["data"]["source"]
    data: dict[str, Any] = {
        "model_name": results["name"],
        "library_name": "transformers",
        "pipeline_tag": results["pipeline_tag"],
        "tags": [*TAGS, *([f"teacher:{teacher['hub_id']}"] if teacher and teacher.get("hub_id") else [])],
        "metrics": list(metrics),
        "eval_results": [
            EvalResult(
                task_type=results["pipeline_tag"],
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=results["data"]["evaluated_split"],
                metric_type=name,
                metric_value=round(value, 4),
            )
            for name, value in metrics.items()
        ],
    }
    if base:
        data["base_model"] = base[0]
        data["base_model_relation"] = "finetune"
    if teacher and teacher.get("license"):
        data["license"] = teacher["license"]
    if results["data"]["dataset_id"]:
        data["datasets"] = [results["data"]["dataset_id"]]
    if teacher:
        data["distillation"] = {
            "teacher": teacher["model"],
            "teacher_revision": teacher["revision"],
            "objectives": [objective["kind"] for objective in results["objectives"]],
        }
    return data


def _opening(results: Mapping[str, Any]) -> str:
    comparison, models = results.get("comparison"), results["models"]
    if comparison is None:
        score = models["student"]["metrics"][results["primary_metric"]]["value"]
        return f"A {results['task']} model ({models['student']['origin']}), trained on {results['data']['source']}: {results['primary_metric']} {score:.4f}."
    metric = comparison["primary_metric"]
    text = (
        f"A {results['task']} model distilled from **{models['teacher']['model']}**: "
        f"{_share(comparison['size_ratio'])} of its parameters, {comparison['speedup']:.1f} times its speed"
    )
    if comparison["retention"] is not None:
        text += f", {_share(comparison['retention'])} of its {metric}"
    lines = [text + "."]
    if comparison["student_minus_control"]:
        lines.append(verdict(comparison))
    return "\n\n".join(lines)


def _usage(results: Mapping[str, Any]) -> str:
    return (
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("{results["pipeline_tag"]}", "USER/{results["name"]}")\n'
        'classify("your text")\n```\n\nNothing but Transformers is needed.'
    )


def _table(results: Mapping[str, Any]) -> str:
    comparison, models, speed = results.get("comparison"), results["models"], results["speed"]
    metric = comparison["primary_metric"] if comparison else results["primary_metric"]
    lines = [
        "## Results",
        "",
        f"| | {metric} | 95% | M parameters | MB | ms | rows/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, model in models.items():
        score = model["metrics"][metric]
        lines.append(
            f"| {name} | {score['value']:.4f} | {score['low']:.4f} to {score['high']:.4f} | {model['parameters'] / 1e6:.1f} "
            f"| {model['disk_bytes'] / 1e6:.1f} | {model['latency_ms']:.2f} | {model['samples_per_second']:.0f} |"
        )
    if "floor" in results:
        lines.append(f"| bag of words | {results['floor']['accuracy']:.4f} | | | | | |")
    rows = results["data"]["rows"][results["data"]["evaluated_split"]]
    lines += [
        "",
        f"{rows:,} {results['data']['evaluated_split']} rows; intervals and differences by paired bootstrap. "
        f"Latency: one row; throughput: {speed['batch_size']} rows; {speed['dtype']} on {speed['device']}, {speed['threads']} "
        f"threads ({results['machine']['cpu']}), median of {speed['rounds']} rounds, models in turn.",
    ]
    if "control" in models:
        lines.append("The control is the same student on the same data for as many steps, without a teacher.")
    if comparison:
        gap = comparison["student_minus_teacher"]
        lines += ["", f"Student minus teacher: {gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f}); "
                  f"they agree on {_share(comparison['agreement'])} of the rows." if results["problem_type"] != "regression" else ""]
    return "\n".join(lines).rstrip()


def _weaknesses(analysis: Mapping[str, Any]) -> str:
    if not analysis:
        return ""
    lines = ["## Where it is weak", "", *(f"* {sentence}" for sentence in analysis["summary"])]
    if analysis.get("classes"):
        lines += ["", "| class | rows | teacher | student |", "|---|---|---|---|"]
        lines += [
            f"| {each['label']} | {each['support']} | {each['teacher']:.2f} | {each['student']:.2f} |"
            for each in analysis["classes"][:ROWS]
        ]
        lines += ["", f"The classes that lost most against the teacher ({analysis['measure']['classes']})."]
    if analysis.get("examples"):
        lines += ["", "Rows that the teacher has right and the student wrong:", ""]
        lines += [
            f"* \"{_plain(each['text'])}\": {each['label']}, taken for {each['student']}" for each in analysis["examples"][:4]
        ]
    return "\n".join(lines)


def _making(results: Mapping[str, Any]) -> str:
    student, data = results["models"]["student"], results["data"]
    lines = ["## How it was made", "", f"Student: {student['origin']}. Seed {results['seed']}.", ""]
    for objective in results["objectives"]:
        options = ", ".join(f"{key} {value}" for key, value in objective["options"].items())
        lines.append(f"* {objective['kind']}, weight {objective['weight']:g}{', ' + options if options else ''}: {objective['paper']}")
    counts = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    lines += ["", f"Data: {data['source']} ({counts}); fingerprint `{data['fingerprint'][:16]}`."]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines += ["", f"Made by `{results['command']}`, recipe `{results['recipe_sha256'][:16]}`, with {versions}."]
    return "\n".join(lines)


def _limits(results: Mapping[str, Any]) -> str:
    text = (
        "## Limits\n\nIt knows the labels and the kind of text of its training data, and shares its teacher's errors and "
        "biases. Scores hold for the split named above; other text may score lower. Measure it on your own before you rely on it."
    )
    teacher = results["models"].get("teacher")
    if teacher and teacher.get("license") is None:
        text += " No licence of the teacher is known: check it, and the data's, before you share the student."
    return text


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("`", "'").split())
