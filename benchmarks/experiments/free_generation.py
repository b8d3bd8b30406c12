"""How good is what students write freely? The teacher's own log-likelihood of it, a token, and how much repeats.

Each student of some runs, and the control where there is one, goes on after the prompts of a file, drawn at temperature
1; so does the teacher, whose own texts are the mark. Rows with a prompt each; runs of one teacher and one task.

    python -m benchmarks.experiments.free_generation --runs runs/a runs/b --prompts prompts.jsonl --tokens 240
        --out on_policy.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import interval
from hf_distill.generation.rollout import Rollout
from hf_distill.generation.writer import repeated_share
from hf_distill.objectives import Logits
from hf_distill.pipeline.experiment import with_defaults
from hf_distill.recipe import Recipe, RolloutConfig
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.tasks.rollout_batches import WRITTEN
from hf_distill.teachers import ModelTeacher

BATCH = 50
METRICS = ("loss", "kl_to_teacher", "agreement")
RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders that hf-distill run made")
    parser.add_argument("--prompts", required=True, help="jsonl with prompt and completion")
    parser.add_argument("--tokens", type=int, default=240, help="that are written at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    prompts = Dataset.from_json(options.prompts)
    rows = list(measured(options.runs, prompts, options.tokens, options.seed))
    options.out.write_text(json.dumps(rows, indent=2) + "\n")


def measured(runs: list[Path], prompts: Dataset, tokens: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row for the teacher, and for every student and control."""
    recipe = with_defaults(load_recipe(runs[0] / "recipe.yaml"))
    assert recipe.teacher is not None
    teacher = ModelTeacher(AutoModelForCausalLM.from_pretrained(recipe.teacher.model).eval())
    results = {run: json.loads((run / "results.json").read_text()) for run in runs}
    folders = [(runs[0], "teacher", Path(str(recipe.teacher.model)))]
    folders += [(run, name, run / name) for run in runs for name in ("student", "control") if (run / name).is_dir()]
    for run, name, folder in folders:
        told, metrics = results[run], results[run]["models"][name]["metrics"]
        yield {
            "run": told["name"],
            "model": name,
            "learned_from": [] if name == "teacher" else list(learned_from(told, name)),
            "command": told["command"],
            **({} if name == "teacher" else {"steps": told["training"][name]["steps"], "tokens": taught(run, name)}),
            **{metric: metrics[metric] for metric in METRICS},
            "written": judged(folder, teacher, prompts, recipe, tokens, seed),
        }


def judged(
    folder: Path, teacher: ModelTeacher, prompts: Dataset, recipe: Recipe, tokens: int, seed: int
) -> dict[str, Any]:
    """What one model writes after each prompt, as the teacher finds it: nats a token, the end token among them."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = CausalLanguageModeling(**recipe.task.options)
    rollout = Rollout(RolloutConfig(share=1.0, max_new_tokens=tokens))
    rows, _ = rollout.prepare(task.encode(prompts, tokenizer), task, tokenizer, model, teacher, {"logits": Logits()})
    collate, found = task.collator(tokenizer), []
    for number, start in enumerate(range(0, len(rows), BATCH)):
        batch = collate(list(rows.select(range(start, min(start + BATCH, len(rows))))))
        (written,) = rollout.write([batch], model, seed, number, 0)
        with torch.inference_mode():
            inputs = {name: written[name] for name in ("input_ids", "attention_mask")}
            logs = teacher.model(**inputs).logits[:, :-1].float().log_softmax(-1)
        own, ids = written[WRITTEN][:, 1:], written["input_ids"][:, 1:]
        sums = (logs.gather(-1, ids[..., None]).squeeze(-1) * own).sum(1)
        repeated = [repeated_share(row[mask].tolist()) for row, mask in zip(ids, own, strict=True)]
        found += list(zip(sums.tolist(), own.sum(1).tolist(), repeated, strict=True))
    sums, counts, repeated = np.array(found).T
    draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    return {
        "teacher_log_likelihood": interval(sums.sum() / counts.sum(), sums[draws].sum(1) / counts[draws].sum(1)),
        "repetition": repeated.mean(),
        "tokens": counts.mean(),
        "texts": len(counts),
    }


def learned_from(results: Mapping[str, Any], model: str) -> Iterator[dict[str, Any]]:
    """Steps, divergence and share of texts of its own, by stage."""
    stages = results.get("stages") or {"": results}
    for name, stage in stages.items():
        training = results["training"][model]
        steps = training["stages"][name]["steps"] if name else training["steps"]
        if model == "control":
            yield {"steps": steps, "divergence": None, "share": 0.0}
            continue
        (objective,) = stage["objectives"]
        share = stage.get("rollout", {}).get("share", 0.0)
        yield {"steps": steps, "divergence": objective["options"].get("divergence", "forward_kl"), "share": share}


def taught(run: Path, model: str) -> int:
    """About how many tokens the loss was taken of: those of the data, or as many as were written, as the logs tell."""
    recipe = with_defaults(load_recipe(run / "recipe.yaml"))
    tokenizer = AutoTokenizer.from_pretrained(run / model)
    assert recipe.data.files is not None
    rows = CausalLanguageModeling(**recipe.task.options).encode(
        Dataset.from_json(recipe.data.files["train"]), tokenizer
    )
    of_data = float(np.mean([sum(label != -100 for label in labels) for labels in rows["labels"]]))
    history = json.loads((run / "checkpoints" / f"{model}.json").read_text())["log_history"]
    lengths = [entry["rollout_length"] for entry in history if "rollout_length" in entry]
    total = 0.0
    for stage in recipe.by_stage().values():
        steps, batch = stage.training["max_steps"], stage.training["per_device_train_batch_size"]
        rollout = Rollout(stage.rollout) if stage.rollout is not None and model == "student" else None
        own = sum(rollout.writes(recipe.seed, step) for step in range(steps)) if rollout else 0
        total += batch * (own * (np.mean(lengths) if own else 0.0) + (steps - own) * of_data)
    return round(total)


if __name__ == "__main__":
    main()
