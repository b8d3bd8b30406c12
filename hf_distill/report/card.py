"""Facts write the card: what the student is, how good it is proven to be, where it is weak, how to make it again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_distill.objectives import readable_option
from hf_distill.report.card_metadata import card_metadata, lessons_of, licenses_of, members_of, portable
from hf_distill.report.card_usage import usage
from hf_distill.report.markdown import escaped, table
from hf_distill.tasks import task_class

ROWS = 6
"""How many rows a table about weaknesses shows at most: a card is read on a phone."""


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
        *_opening(results),
        usage(results),
        *_quality(results),
        *_speed(results),
        *(f"![{Path(figure).stem.replace('_', ' ')}]({figure})" for figure in figures),
        *_weaknesses(analysis),
        *_making(results),
        f"<details><summary>The exact recipe</summary>\n\n```yaml\n{portable(recipe).strip()}\n```\n\n</details>",
        *_limits(results),
    ]
    metadata = ModelCardData(**card_metadata(results)).to_yaml()
    return ModelCard(f"---\n{metadata}\n---\n\n" + "\n\n".join(parts) + "\n")


def address(card: str, model_id: str) -> str:
    """The card's text with the example naming the repository ``user/name`` that the card will lie in."""
    return re.sub(r'"USER/[\w.-]+"', lambda _: f'"{model_id}"', card)


def verdict(comparison: Mapping[str, Any]) -> str:
    """One sentence on what the teacher was worth: the student against its control, the same student without one."""
    value, low, high = (comparison["student_minus_control"][key] for key in ("value", "low", "high"))
    metric = comparison["primary_metric"]
    shown = f"Against its control, the same student without a teacher: {value:+.4f} {metric}"
    better, worse = (high < 0, low > 0) if comparison["lower_is_better"] else (low > 0, high < 0)
    ahead = value < 0 if comparison["lower_is_better"] else value > 0
    if better:
        judged = "The teacher helped."
    elif worse:
        judged = "The teacher did harm: the control is the better model."
    elif ahead:
        judged = "That may be chance: no gain from the teacher is shown."
    else:
        judged = "The student does not beat its control: no gain from the teacher is shown."
    return f"{shown} (95%: {low:+.4f} to {high:+.4f}). {judged}"


def shown_share(share: float) -> str:
    """A share in percent; nearly all is not shown as all."""
    return f"{share:.2%}" if 0.999 <= share < 1 else f"{share:.1%}"


def _article(noun: str) -> str:
    return "An" if noun[0] in "aeiou" else "A"


def _opening(results: Mapping[str, Any]) -> Iterator[str]:
    comparison, models = results.get("comparison"), results["models"]
    metric = _primary_metric(results)
    score = models["student"]["metrics"][metric]["value"]
    if comparison is None:
        yield (
            f"{_article(results['task'])} {results['task']} model ({portable(models['student']['origin'])}), "
            f"trained on {portable(results['data']['source'])}: {metric} {score:.4f}."
        )
        return
    teacher_score = models["teacher"]["metrics"][metric]["value"]
    retention = comparison["retention"]
    kept = f"its {metric} is" if retention is None else f"it keeps {shown_share(retention)} of its {metric},"
    served = comparison["size_ratio"] is None
    smaller = (
        "served, so that its size and speed are not known:"
        if served
        else f"with {comparison['size_ratio']:.1%} of its parameters and at {comparison['speedup']:.1f} times its speed"
    )
    yield (
        f"{_article(results['task'])} {results['task']} student of **{portable(models['teacher']['model'])}**"
        f"{', ' if served else ': '}{smaller} {kept} {score:.4f} where the teacher has {teacher_score:.4f}."
    )
    if comparison["student_minus_control"]:
        yield verdict(comparison)
    else:
        yield "No control was trained: what the teacher was worth is not known."


def _quality(results: Mapping[str, Any]) -> Iterator[str]:
    comparison, models, data = results.get("comparison"), results["models"], results["data"]
    metric = _primary_metric(results)
    yield "## How good it is"
    scores = {name: model["metrics"][metric] for name, model in models.items()}
    yield table(
        ["", metric, "95% interval"],
        [[name, f"{s['value']:.4f}", f"{s['low']:.4f} to {s['high']:.4f}"] for name, s in scores.items()],
    )
    same = "labelled rows" if "unlabelled" in data["rows"] else "data"
    control = f" The control: same student, {same} and steps, no teacher." if "control" in models else ""
    rows = data["rows"][data["evaluated_split"]]
    yield f"On {rows:,} {data['evaluated_split']} rows; intervals and differences by paired bootstrap.{control}"
    if comparison:
        gap = comparison["student_minus_teacher"]
        shown = f"{gap['value']:+.4f} (95%: {gap['low']:+.4f} to {gap['high']:+.4f})"
        alike = comparison["agreement"]
        regression = results["problem_type"] in ("regression", "similarity")
        agree = (
            _not_compared(models)
            if alike is None
            else f"They correlate at {alike:.4f}"
            if regression
            else f"They agree on {alike:.1%} of the {task_class(results['task']).counted}"
        )
        yield f"Student minus teacher: {shown}. {agree}."
    if outside := data.get("out_of_scope"):
        yield (
            f"Beside them, {outside['rows']:,} rows labelled {escaped(outside['label'])} are of no class. How well "
            "confidence (the largest probability) tells them from all others: auroc_out_of_scope, the chance that a "
            "row of a class is the surer one; fpr95_out_of_scope, the share of them that pass where 95% of others do."
        )
    if start := results.get("start"):
        yield f"The student before it was trained: {metric} {start[metric]:.4f}.{_harmed(results, start[metric])}"
    if floor := results.get("floor"):
        yield f"What words alone give: {floor['name']}, accuracy {floor['accuracy']:.4f}."
    others = [name for name in models["student"]["metrics"] if name != metric]
    values = [[name, *(_value(model["metrics"].get(name)) for model in models.values())] for name in others]
    if others:
        yield f"<details><summary>Other metrics</summary>\n\n{table(['', *models], values)}\n\n</details>"


def _value(score: Mapping[str, float] | None) -> str:
    return "" if score is None else f"{score['value']:.4f}"


def _harmed(results: Mapping[str, Any], start: float) -> str:
    """Tells of a control that training made worse: a student is no better for beating it."""
    control, comparison = results["models"].get("control"), results.get("comparison")
    if control is None or comparison is None:
        return ""
    metric = comparison["primary_metric"]
    end = control["metrics"][metric]["value"]
    if end <= start if comparison["lower_is_better"] else end >= start:
        return ""
    gain = results["models"]["student"]["metrics"][metric]["value"] - start
    return (
        " The control ended worse than that: what it learned from did harm, so the start is the mark to "
        f"beat. Student minus start: {gain:+.4f}."
    )


def _speed(results: Mapping[str, Any]) -> Iterator[str]:
    speed, machine = results["speed"], results["machine"]
    yield "## Size and speed"
    yield table(
        ["", "parameters", "disk", "one row", "rows/s"],
        [
            [
                name,
                f"{model['parameters'] / 1e6:.1f} M",
                f"{model['disk_bytes'] / 1e6:.1f} MB",
                f"{model['latency_ms']:.1f} ms",
                f"{model['samples_per_second']:.0f}",
            ]
            for name, model in results["models"].items()
            if "parameters" in model
        ],
    )
    on_cpu = f"{machine['cpu']}, threads: {speed['threads']}"
    written = f", {speed['written_tokens']} tokens written a row, greedily" if "written_tokens" in speed else ""
    where = on_cpu if speed["device"] == "cpu" else machine.get("accelerator") or speed["device"]
    yield (
        f"{speed['dtype']} on {speed['device']} ({where}). rows/s: in batches of {speed['batch_size']}{written}. "
        f"Medians of {speed['rounds']} rounds, the models in turn."
    )


def _not_compared(models: Mapping[str, Any]) -> str:
    """Why nothing is told of how often student and teacher agree."""
    if models["teacher"].get("served"):
        return "What divides their whole distributions is not known: the server told the likeliest tokens alone"
    return (
        "They have different tokens, of which bits_per_byte alone compares; the other metrics are of each model's own"
    )


def _weaknesses(analysis: Mapping[str, Any]) -> Iterator[str]:
    if not analysis:
        return
    yield "## Where it is weak"
    yield "\n".join(f"* {sentence}" for sentence in analysis.get("summary", ()))
    lost = [each for each in analysis.get("classes", ()) if each["difference"] < 0][:ROWS]
    if lost:
        yield f"Classes that lose most against the teacher ({analysis['measure']['classes']}):"
        yield table(
            ["class", "rows", "teacher", "student"],
            [[each["label"], each["support"], f"{each['teacher']:.2f}", f"{each['student']:.2f}"] for each in lost],
        )
    if confusions := analysis.get("confusions", ())[:ROWS]:
        yield "What it mixes up most, and how often the teacher does:"
        yield table(
            ["is", "taken for", "times", "teacher"],
            [[each[key] for key in ("label", "predicted", "count", "teacher_count")] for each in confusions],
        )
    if rows := analysis.get("rows", ())[:4]:
        yield f"Rows that lose most against the teacher ({analysis['measure']['rows']}):"
        columns = ("text", "teacher", "student")
        yield table(columns, [[each[column] for column in columns] for each in rows])
    if written := analysis.get("written", ())[:4]:
        yield "What was written on these rows:"
        shown = ("text", "reference", "teacher", "student")
        yield table(shown, [[each[column] for column in shown] for each in written])
    if examples := analysis.get("examples", ())[:4]:
        yield "Rows where it errs and the teacher does not, or less:"
        yield "\n".join(
            f"* {escaped(each['text'])} (is {escaped(each['label'])}, taken for {escaped(each['student'])})"
            for each in examples
        )


def _making(results: Mapping[str, Any]) -> Iterator[str]:
    models, data = results["models"], results["data"]
    yield "## How it was made"
    if models.get("teacher", {}).get("served"):
        yield f"Teacher: {portable(models['teacher']['origin'])}."
    yield f"Student: {portable(models['student']['origin'])}. Seed {results['seed']}. It learned from:"
    yield "\n".join(
        f"* {f'{stage}: ' if stage else ''}{each['kind']}, weight {readable_option(each['weight'], 'g')}"
        f"{''.join(f', {key} {readable_option(value)}' for key, value in each['options'].items())}: {each['paper']}"
        for stage, lessons in lessons_of(results).items()
        for each in lessons["objectives"]
    )
    yield from _teachers(models)
    if stages := results.get("stages"):
        yield from _stages(stages, results["training"], _primary_metric(results))
    if labels := results.get("labels"):
        beside = ", beside the rows as the data have them" if labels["rows"]["original"] else ""
        yield (
            f"The texts that it learned to write are its teacher's: {labels['rows']['kept']:,} of "
            f"{labels['rows']['asked']:,} rows{beside}: Kim and Rush 2016, Sequence-Level Knowledge Distillation, "
            "arXiv:1606.07947. The control learned from the data's."
        )
    for stage, lessons in lessons_of(results).items():
        if "rollout" not in lessons:
            continue
        rollout = lessons["rollout"]
        yield (
            f"In {rollout['share']:.0%} of the steps{f' of {stage}' if stage else ''}, drawn by the seed, it learned "
            f"from texts of up to {rollout['max_new_tokens']:,} tokens that it had just written itself, at temperature "
            f"{rollout['temperature']:g}: Agarwal et al. 2024, On-Policy Distillation of Language Models, "
            "arXiv:2306.13649."
        )
    yield " ".join(_trained(name, each) for name, each in results["training"].items())
    counts = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    yield f"Data: {portable(data['source'])} ({counts}); fingerprint `{data['fingerprint'][:16]}`."
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield f"Command: `{portable(results['command'])}`, recipe `{results['recipe_sha256'][:16]}`. With {versions}."


def _teachers(models: Mapping[str, Any]) -> Iterator[str]:
    """Of several teachers, who they are."""
    members = models.get("teacher", {}).get("members", ())
    if not members:
        return
    mixed = any("weight" in each for each in members)
    how = "the weighted mean of their probabilities, Fukuda et al. 2017" if mixed else "each row is taught by one"
    yield f"Its teacher is {len(members)} models: {how}."
    yield "\n".join(map(_teacher, members))


def _teacher(facts: Mapping[str, Any]) -> str:
    weight = f", weight {facts['weight']:g}" if "weight" in facts else ""
    revision = f" at {facts['revision']}" if facts["revision"] else ""
    return f"* {escaped(facts['name'])}{weight}: {portable(facts['model'])}{revision}, {facts['origin']}"


def _stages(stages: Mapping[str, Any], training: Mapping[str, Mapping[str, Any]], metric: str) -> Iterator[str]:
    models = {name: facts["stages"] for name, facts in training.items()}
    yield (
        f"That was in {len(stages)} stages: each went on with the student that the one before left, with an optimiser "
        "and a schedule of its own."
        + (" So did the control, on labels alone, for as many steps in each." if "control" in models else "")
    )
    yield table(
        ["stage", "steps", *(f"{name}: {what}" for name in models for what in ("seconds", metric))],
        [
            [stage, f"{models['student'][stage]['steps']:,}"]
            + [cell for each in models.values() for cell in _after(each[stage], metric)]
            for stage in stages
        ],
    )


def _after(facts: Mapping[str, Any], metric: str) -> list[str]:
    return [f"{facts['seconds']:,.0f}" if facts["seconds"] else "", f"{facts[metric]:.4f}"]


def _trained(name: str, facts: Mapping[str, Any]) -> str:
    seconds = f" in {facts['seconds']:,.0f} s" if facts["seconds"] else ""
    part = f", {facts['trainable_parameters']:,} of its parameters learned" if facts.get("some_are_frozen") else ""
    undropped = ", without dropout" if facts.get("without_dropout") else ""
    return f"{name.capitalize()}: {facts['steps']:,} steps{seconds}{undropped}{part}."


def _is_foreign(teacher: Mapping[str, Any]) -> bool:
    """Whether somebody else's model taught: one of the Hub, or behind a server."""
    return bool(teacher["hub_id"] or teacher.get("served"))


def _limits(results: Mapping[str, Any]) -> Iterator[str]:
    teacher, licenses = results["models"].get("teacher"), licenses_of(results["models"])
    shared = ", and shares the errors and biases of its teacher" if teacher else ""
    labels = "the labels and " if results["data"]["labels"] else ""
    yield "## Limits"
    yield (
        f"It knows {labels}the kind of text of its training data{shared}. "
        "The scores hold for the split named above; measure it on your own text before you rely on it."
    )
    if len(licenses) > 1:
        yield f"It was made from models under {' and '.join(licenses)}: see what both ask before you share it."
    elif teacher and any(_is_foreign(each) and not each["license"] for each in members_of(teacher)):
        yield "No licence of the teacher is known: look for it, and the data's, before you share the student."


def _primary_metric(results: Mapping[str, Any]) -> str:
    metric: str = (results.get("comparison") or results)["primary_metric"]
    return metric
