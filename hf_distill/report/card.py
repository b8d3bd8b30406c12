"""Facts write the card: what the student is, how good it is proven to be, where it is weak, how to make it again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_distill.names import in_texts, one_line, portable
from hf_distill.report.card_contents import QUOTED, portable_facts
from hf_distill.report.card_making import making, primary_metric
from hf_distill.report.card_metadata import card_metadata, licenses_of, members_of
from hf_distill.report.card_usage import usage
from hf_distill.report.markdown import escaped, fenced, table
from hf_distill.tasks import task_class

ROWS = 6
"""How many rows a table about weaknesses shows at most: a card is read on a phone."""


def model_card(
    results: Mapping[str, Any], analysis: Mapping[str, Any], recipe: str, figures: Sequence[str]
) -> ModelCard:
    """The card of a student's folder: metadata that the Hub reads, and a text of facts.

    What is not ours, of models, data, files and commands, has no meaning in it but its own.
    """
    results, analysis = in_texts(portable_facts(results), one_line), in_texts(analysis, one_line)
    parts = [
        f"# {escaped(results['name'])}",
        *_opening(results),
        usage(results),
        *_quality(results),
        *_speed(results),
        *(f"![{escaped(Path(figure).stem.replace('_', ' '))}]({figure})" for figure in figures),
        *_weaknesses(analysis),
        *making(results),
        f"<details><summary>The exact recipe</summary>\n\n{fenced(portable(recipe).strip(), 'yaml')}\n\n</details>",
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
    shown = f"Against its control, the same student without a teacher: {value:+.4f} {comparison['primary_metric']}"
    gain, least, most = (-value, -high, -low) if comparison["lower_is_better"] else (value, low, high)
    if least > 0:
        judged = "The teacher helped."
    elif most < 0:
        judged = "The teacher did harm: the control is the better model."
    elif gain > 0:
        judged = "That may be chance: no gain from the teacher is shown."
    else:
        judged = "The student does not beat its control: no gain from the teacher is shown."
    return f"{shown} (95%: {low:+.4f} to {high:+.4f}). {judged}"


def shown_share(share: float) -> str:
    """A share in percent; nearly all is not shown as all."""
    return f"{share:.2%}" if 0.999 <= share < 1 else f"{share:.1%}"


def _opening(results: Mapping[str, Any]) -> Iterator[str]:
    comparison, models = results.get("comparison"), results["models"]
    metric, task = primary_metric(results), escaped(results["task"])
    article = "An" if task[0] in "aeiou" else "A"
    score = models["student"]["metrics"][metric]["value"]
    metric_name = escaped(metric)
    if comparison is None:
        yield (
            f"{article} {task} model ({escaped(models['student']['origin'])}), "
            f"trained on {escaped(results['data']['source'])}: {metric_name} {score:.4f}."
        )
        return
    teacher_score = models["teacher"]["metrics"][metric]["value"]
    # A share of an error or a loss says nothing that people understand.
    share_kept = None if comparison["lower_is_better"] else comparison["retention"]
    kept = (
        f"its {metric_name} is" if share_kept is None else f"it keeps {shown_share(share_kept)} of its {metric_name},"
    )
    smaller = ", served, so that its size and speed are not known:"
    if (share := comparison["size_ratio"]) is not None:
        smaller = f": with {share:.1%} of its parameters and at {comparison['speedup']:.1f} times its speed"
    yield (
        f"{article} {task} student of **{escaped(models['teacher']['model'])}**{smaller} {kept} {score:.4f} where the "
        f"teacher has {teacher_score:.4f}."
    )
    unknown = "No control was trained: what the teacher was worth is not known."
    yield escaped(verdict(comparison)) if comparison["student_minus_control"] else unknown


def _quality(results: Mapping[str, Any]) -> Iterator[str]:
    comparison, models, data = results.get("comparison"), results["models"], results["data"]
    metric = primary_metric(results)
    yield "## How good it is"
    scores = {name: model["metrics"][metric] for name, model in models.items()}
    yield table(
        ["", metric, "95% interval"],
        [[name, f"{s['value']:.4f}", f"{s['low']:.4f} to {s['high']:.4f}"] for name, s in scores.items()],
    )
    same = "labelled rows" if "unlabelled" in data["rows"] else "data"
    control = f" The control: same student, {same} and steps, no teacher." if "control" in models else ""
    split = data["evaluated_split"]
    yield f"On {data['rows'][split]:,} {escaped(split)} rows; intervals and differences by paired bootstrap.{control}"
    if comparison:
        yield _beside_teacher(results)
    if outside := data.get("out_of_scope"):
        yield (
            f"Beside them, {outside['rows']:,} rows labelled {escaped(outside['label'])} are of no class. How well "
            "confidence (the largest probability) tells them from all others: auroc_out_of_scope, the chance that a "
            "row of a class is the surer one; fpr95_out_of_scope, the share of them that pass where 95% of others do."
        )
    if start := results.get("start"):
        told = f"The student before it was trained: {escaped(metric)} {start[metric]:.4f}."
        yield told + _harmed(results, start[metric])
    if floor := results.get("floor"):
        yield f"What words alone give: {escaped(floor['name'])}, accuracy {floor['accuracy']:.4f}."
    others = [
        [name, *(f"{m['metrics'][name]['value']:.4f}" if name in m["metrics"] else "" for m in models.values())]
        for name in models["student"]["metrics"]
        if name != metric
    ]
    if others:
        yield f"<details><summary>Other metrics</summary>\n\n{table(['', *models], others)}\n\n</details>"


def _harmed(results: Mapping[str, Any], start: float) -> str:
    """Tells of a control that training made worse: a student is no better for beating it."""
    comparison, models = results.get("comparison"), results["models"]
    if comparison is None or "control" not in models:
        return ""
    end, student = (models[name]["metrics"][comparison["primary_metric"]]["value"] for name in ("control", "student"))
    if end <= start if comparison["lower_is_better"] else end >= start:
        return ""
    return (
        " The control ended worse than that: what it learned from did harm, so the start is the mark to "
        f"beat. Student minus start: {student - start:+.4f}."
    )


def _speed(results: Mapping[str, Any]) -> Iterator[str]:
    speed, machine = results["speed"], results["machine"]
    yield "## Size and speed"
    heard = "seconds_of_sound" in speed
    yield table(
        ["", "parameters", "disk", "one row", "rows/s", *(["real-time factor"] if heard else [])],
        [
            [
                name,
                *(f"{model[key] / 1e6:.1f} {unit}" for key, unit in (("parameters", "M"), ("disk_bytes", "MB"))),
                f"{model['latency_ms']:.1f} ms",
                f"{model['samples_per_second']:.0f}",
                *([f"{model['real_time_factor']:.4f}"] if heard else []),
            ]
            for name, model in results["models"].items()
            if "parameters" in model
        ],
    )
    written = f", {speed['written_tokens']} tokens written a row, greedily" if "written_tokens" in speed else ""
    if heard:
        written += f", {speed['seconds_of_sound'] / speed['rows']:.1f} s of sound a row"
    where = escaped(machine.get("accelerator") or speed["device"])
    if speed["device"] == "cpu":
        where = f"{escaped(machine['cpu'])}, threads: {speed['threads']}"
    stored = {name: m["disk_dtype"] for name, m in results["models"].items() if m.get("disk_dtype")}
    if stored:
        alike = len({*stored.values()}) == 1
        told = [f"{name} {dtype}" for name, dtype in stored.items()]
        yield f"Weights on disk: {stored['student'] if alike and 'student' in stored else ', '.join(told)}."
    yield (
        f"{speed['dtype']} on {speed['device']} ({where}). rows/s: in batches of {speed['batch_size']}{written}. "
        f"Medians of {speed['rounds']} rounds, the models in turn."
    )


def _beside_teacher(results: Mapping[str, Any]) -> str:
    gap, alike = results["comparison"]["student_minus_teacher"], results["comparison"]["agreement"]
    if alike is not None and results["problem_type"] in ("regression", "similarity"):
        agree = f"They correlate at {alike:.4f}"
    elif alike is not None:
        agree = f"They agree on {alike:.1%} of the {task_class(results['task']).counted}"
    elif results["models"]["teacher"].get("served"):
        agree = "What divides their whole distributions is not known: the server told the likeliest tokens alone"
    else:
        agree = (
            "They have different tokens, of which bits_per_byte alone compares; the other metrics are of each model's "
            "own"
        )
    return f"Student minus teacher: {gap['value']:+.4f} (95%: {gap['low']:+.4f} to {gap['high']:+.4f}). {agree}."


def _weaknesses(analysis: Mapping[str, Any]) -> Iterator[str]:
    if not analysis:
        return
    yield "## Where it is weak"
    yield "\n".join(f"* {escaped(sentence)}" for sentence in analysis.get("summary", ()))
    if lost := [each for each in analysis.get("classes", ()) if each["difference"] < 0][:ROWS]:
        yield f"Classes that lose most against the teacher ({escaped(analysis['measure']['classes'])}):"
        yield table(
            ["class", "rows", "teacher", "student"],
            [[each["label"], each["support"], f"{each['teacher']:.2f}", f"{each['student']:.2f}"] for each in lost],
        )
    if confusions := analysis.get("confusions", ())[:ROWS]:
        yield "What it mixes up most, and how often the teacher does:"
        columns: tuple[str, ...] = ("label", "predicted", "count", "teacher_count")
        yield table(["is", "taken for", "times", "teacher"], [[each[key] for key in columns] for each in confusions])
    for key, head, columns in (
        ("rows", "Rows that lose most against the teacher ({rows}):", ("text", "teacher", "student")),
        ("written", "What was written on these rows:", ("text", "reference", "teacher", "student")),
    ):
        if rows := analysis.get(key, ())[:QUOTED]:
            yield head.format_map({name: escaped(measure) for name, measure in analysis["measure"].items()})
            yield table(columns, [[each[column] for column in columns] for each in rows])
    if examples := analysis.get("examples", ())[:QUOTED]:
        yield "Rows where it errs and the teacher does not, or less:"
        yield "\n".join(
            f"* {escaped(each['text'])} (is {escaped(each['label'])}, taken for {escaped(each['student'])})"
            for each in examples
        )


def _limits(results: Mapping[str, Any]) -> Iterator[str]:
    teacher, licenses = results["models"].get("teacher"), licenses_of(results["models"])
    shared = ", and shares the errors and biases of its teacher" if teacher else ""
    labels = "the labels and " if results["data"]["labels"] else ""
    material = task_class(results["task"]).material
    own = "your own text" if material == "text" else f"{material}s of your own"
    yield "## Limits"
    yield (
        f"It knows {labels}the kind of {material} of its training data{shared}. The scores hold for the split named "
        f"above; measure it on {own} before you rely on it."
    )
    if len(licenses) > 1:
        named = " and ".join(map(escaped, licenses))
        yield f"It was made from models under {named}: see what both ask before you share it."
    elif teacher and any(
        (each["hub_id"] or each.get("served")) and not each["license"] for each in members_of(teacher)
    ):
        yield "No licence of the teacher is known: look for it, and the data's, before you share the student."
