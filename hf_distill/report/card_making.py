"""The part of a card that tells how the student was made, so that it can be followed and done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.data.labels import told
from hf_distill.objectives import readable_option
from hf_distill.report.card_metadata import lessons_of
from hf_distill.report.markdown import code, escaped, table


def primary_metric(results: Mapping[str, Any]) -> str:
    """The metric that decides, with or without a teacher."""
    metric: str = (results.get("comparison") or results)["primary_metric"]
    return metric


def making(results: Mapping[str, Any]) -> Iterator[str]:
    """How the student was made: objectives, teachers, stages, texts, steps, data and versions."""
    models, data = results["models"], results["data"]
    yield "## How it was made"
    if models.get("teacher", {}).get("served"):
        yield f"Teacher: {escaped(models['teacher']['origin'])}."
    yield f"Student: {escaped(models['student']['origin'])}. Seed {results['seed']}. It learned from:"
    yield "\n".join(
        f"* {_objective(stage, each)}: {escaped(each['paper'])}"
        for stage, lessons in lessons_of(results).items()
        for each in lessons["objectives"]
    )
    yield from _teachers(models)
    if stages := results.get("stages"):
        yield from _stages(stages, results["training"], primary_metric(results))
    if labels := results.get("labels"):
        beside = ", beside the rows as the data have them" if labels["rows"]["original"] else ""
        yield (
            f"The texts that it learned to write are its teacher's: {labels['rows']['kept']:,} of "
            f"{labels['rows']['asked']:,} rows{beside}: Kim and Rush 2016, Sequence-Level Knowledge Distillation, "
            "arXiv:1606.07947. The control learned from the data's."
        )
    for stage, rollout in ((name, each["rollout"]) for name, each in lessons_of(results).items() if "rollout" in each):
        where = f" of {escaped(stage)}" if stage else ""
        yield (
            f"In {rollout['share']:.0%} of the steps{where}, drawn by the seed, it learned from texts of up to "
            f"{rollout['max_new_tokens']:,} tokens that it had just written itself, at temperature "
            f"{rollout['temperature']:g}: Agarwal et al. 2024, On-Policy Distillation of Language Models, "
            "arXiv:2306.13649."
        )
    yield " ".join(_trained(name, each) for name, each in results["training"].items())
    counts = ", ".join(f"{count:,} {escaped(name)}" for name, count in data["rows"].items())
    yield f"Data: {escaped(data['source'])} ({counts}); fingerprint {code(data['fingerprint'][:16])}."
    if labelled := data.get("labelled_rows"):
        yield f"Labels: {escaped(told(labelled))}."
    for warning in data.get("warnings", ()):
        yield f"Warning: {escaped(warning)}."
    versions = ", ".join(f"{name} {escaped(version)}" for name, version in results["versions"].items())
    yield f"Command: {code(results['command'])}, recipe {code(results['recipe_sha256'][:16])}. With {versions}."


def _objective(stage: str, facts: Mapping[str, Any]) -> str:
    options = "".join(f", {key} {readable_option(value)}" for key, value in facts["options"].items())
    where = f"{stage}: " if stage else ""
    return escaped(f"{where}{facts['kind']}, weight {readable_option(facts['weight'], 'g')}{options}")


def _teachers(models: Mapping[str, Any]) -> Iterator[str]:
    members = models.get("teacher", {}).get("members", ())
    if not members:
        return
    mixed = any("weight" in each for each in members)
    how = "the weighted mean of their probabilities, Fukuda et al. 2017" if mixed else "each row is taught by one"
    yield f"Its teacher is {len(members)} models: {how}."
    yield "\n".join(
        f"* {escaped(each['name'])}"
        + (f", weight {each['weight']:g}" if "weight" in each else "")
        + f": {escaped(each['model'])}"
        + (f" at {escaped(each['revision'])}" if each["revision"] else "")
        + f", {escaped(each['origin'])}"
        for each in members
    )


def _stages(stages: Mapping[str, Any], training: Mapping[str, Mapping[str, Any]], metric: str) -> Iterator[str]:
    models = {name: facts["stages"] for name, facts in training.items()}
    yield (
        f"That was in {len(stages)} stages: each went on with the student that the one before left, with an optimiser "
        "and a schedule of its own."
        + (" So did the control, on labels alone, for as many steps in each." if "control" in models else "")
    )
    lines = []
    for stage in stages:
        lines.append([stage, f"{models['student'][stage]['steps']:,}"])
        for facts in models.values():
            seconds, score = facts[stage]["seconds"], facts[stage][metric]
            lines[-1] += [f"{seconds:,.0f}" if seconds else "", f"{score:.4f}"]
    yield table(["stage", "steps", *(f"{name}: {what}" for name in models for what in ("seconds", metric))], lines)


def _trained(name: str, facts: Mapping[str, Any]) -> str:
    seconds = f" in {facts['seconds']:,.0f} s" if facts["seconds"] else ""
    part = f", {facts['trainable_parameters']:,} of its parameters learned" if facts.get("some_are_frozen") else ""
    saved = f", saved in {facts['dtype']}" if facts.get("dtype", "float32") != "float32" else ""
    undropped = ", without dropout" if facts.get("without_dropout") else ""
    return f"{name.capitalize()}: {facts['steps']:,} steps{seconds}{undropped}{part}{saved}."
