"""Which families of models can be cut, narrowed and taught, and how: every cell is run on tiny models.

    python -m benchmarks.families [FAMILY ...]

Without names it writes ``docs/families.md``; with some it prints their rows. A model has four layers, 32 channels and
fresh weights, and learns for two steps. ``yes`` means that the losses were finite and what the cell's column asks for
was found (see the page); ``refused`` that a HfDistillError said why; ``fails`` that anything else went wrong.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

import benchmarks.common  # noqa: F401  # Before datasets: offline, without bars.
from benchmarks.family_models import DECODERS, ENCODER_DECODERS, ENCODERS, LAYERS, Family, rows, texts, tokenizer
from hf_distill import Attention, DistillationTrainer, Hidden, Labels, Logits, Relation
from hf_distill.errors import HfDistillError
from hf_distill.models.dropout import without_dropout
from hf_distill.models.loading import load_model
from hf_distill.models.precision import trouble
from hf_distill.objectives import Objective
from hf_distill.recipe import StudentConfig
from hf_distill.recipe.parse import read
from hf_distill.students import Student, build_student, has_adapters
from hf_distill.tasks import CausalLanguageModeling, Task

PAGE = Path(__file__).parents[1] / "docs" / "families.md"

OPENING = f"""# Families of models

Every cell was run, on a CPU: `python -m benchmarks.families` (PyTorch {{torch}}, Transformers {{transformers}}). A
model has {LAYERS} layers, 32 channels and fresh weights, and learns for two steps. `yes`: it ran, and all that the
column asks for was found. `refused`: it is refused, with the reason of that number at the end. `fails`: anything else.
"""

OF_TEXTS = """## Models that write

* `layers`: `student.layers` keeps two layers of four, of each side where there are two. Where it keeps all, the student
  has the logits of its teacher, to the last bit. A student of two layers learns, is saved, loads with the Auto class of
  Transformers with the same logits, and writes.
* `width`: `student.width: {target: 0.6}`; the student learns, is saved, loads and writes as above.
* `logits`, `hidden`: these objectives beside `labels`.
* `packed`: texts share rows (`task.packing`), and none sees another. Encoder-decoders are never packed.
"""

OF_CLASSES = """## Encoders

They classify texts.

* `layers`, `width`: as above.
* `logits`, `hidden`, `relation`, `attention`: these objectives beside `labels`.
* `other width`: `hidden`, where the student has half of the channels.
* `vocabulary`: `student.vocabulary: {keep: used}`.
* `LoRA`: `student.lora`. `frozen`: `student.freeze: [embeddings]`. `no dropout`: `student.disable_dropout`.
* `saved`: a trained student loads with the Auto class of Transformers, with the same logits. `bf16`: `training.bf16`.
"""

Cell = Callable[[Family, Path], None]


class Wrong(AssertionError):
    """What ran to its end, and did not do what it should."""


# --- what the cells share ---------------------------------------------------------------------------------------------


def built(family: Family, teacher: PreTrainedModel, **keys: Any) -> Student:
    """A student as a recipe asks for it."""
    names = {0: "bad", 1: "good"}
    labels = {"num_labels": 2, "id2label": names, "label2id": {name: i for i, name in names.items()}}
    torch.manual_seed(1)
    return build_student(
        read(StudentConfig, keys, "recipe.student"),
        auto_model=family.auto_model,
        teacher=teacher,
        teacher_tokenizer=tokenizer(),
        texts=lambda: texts(24),
        model_options=labels if family.classifies else {},
    )


def trained(
    family: Family,
    folder: Path,
    *objectives: Objective,
    student: PreTrainedModel | None = None,
    teacher: PreTrainedModel | None = None,
    task: Task | None = None,
    **options: Any,
) -> DistillationTrainer:
    """A trainer after two steps; student and teacher are of the family, and of one shape, unless they are given."""
    arguments = {
        "output_dir": str(folder / "checkpoints"),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    if task is None and not family.pairs and not family.classifies:
        task = CausalLanguageModeling(max_length=32, packing=False)
    trainer = DistillationTrainer(
        model=student or family.model(seed=1),
        teacher=teacher or family.model(),
        objectives=[Labels(), *objectives],
        args=TrainingArguments(**{**arguments, **options}),
        train_dataset=rows(family),
        processing_class=tokenizer(),
        task=task,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if len(losses) != 2 or not all(map(math.isfinite, losses)):
        raise Wrong(f"the losses are {losses}")
    return trainer


def logits(model: PreTrainedModel) -> Tensor:
    """Of the same tokens each time."""
    ids = torch.randint(5, 17, (2, 12), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids.flip(0)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
    return found


def same(first: PreTrainedModel, second: PreTrainedModel, what: str, tolerance: float = 0.0) -> None:
    if not torch.allclose(logits(first), logits(second), atol=tolerance, rtol=0.0):
        raise Wrong(f"{what}: the logits differ")


def saved(family: Family, folder: Path, model: PreTrainedModel) -> None:
    """It loads again with nothing of ours, is the same model, and writes where it can."""
    model.save_pretrained(folder / "student")
    loaded, info = family.auto_model.from_pretrained(folder / "student", output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise Wrong(f"saved and loaded: {info}")
    same(loaded, model, "saved and loaded")
    if not family.classifies:
        loaded.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)


def depth(family: Family, count: int) -> Any:
    """``student.layers``."""
    return {"encoder": count, "decoder": count} if family.pairs else count


# --- cells ------------------------------------------------------------------------------------------------------------


def layers(family: Family, folder: Path) -> None:
    teacher = family.model()
    same(built(family, teacher, layers=depth(family, LAYERS)).model, teacher, "all layers kept")
    student = built(family, teacher, layers=depth(family, 2)).model
    trained(family, folder, student=student, teacher=teacher)
    saved(family, folder, student)


def width(family: Family, folder: Path) -> None:
    teacher = family.model()
    student = built(family, teacher, width={"target": 0.6}).model
    if student.num_parameters() > 0.6 * teacher.num_parameters():
        raise Wrong("it is larger than was asked for")
    trained(family, folder, student=student, teacher=teacher)
    saved(family, folder, student)


def learning(*objectives: Callable[[], Objective]) -> Cell:
    def cell(family: Family, folder: Path) -> None:
        trained(family, folder, *(make() for make in objectives))

    return cell


def other_width(family: Family, folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2}
    student = built(family, family.model(), config=sizes).model
    trained(family, folder, Hidden(), student=student)


def packed(family: Family, folder: Path) -> None:
    trained(family, folder, Logits(), task=CausalLanguageModeling(max_length=32, packing=True))


def vocabulary(family: Family, folder: Path) -> None:
    teacher = family.model()
    made = built(family, teacher, vocabulary={"keep": "used"})
    if len(made.tokenizer) >= len(tokenizer()):
        raise Wrong("no token was dropped")
    made.model.save_pretrained(folder / "student")
    family.auto_model.from_pretrained(folder / "student")


def from_folder(family: Family, folder: Path, **keys: Any) -> PreTrainedModel:
    """A student that starts as a model on disk."""
    start = folder / "start"
    family.model().save_pretrained(start)
    tokenizer().save_pretrained(start)
    return built(family, family.model(), pretrained=str(start), **keys).model


def lora(family: Family, folder: Path) -> None:
    student = from_folder(family, folder, lora={"r": 2, "alpha": 4})
    trained(family, folder, student=student)
    student.save_pretrained(folder / "student")
    again = load_model(family.auto_model, str(folder / "student"))
    if not has_adapters(again):
        raise Wrong("the adapters were not loaded")
    same(again, student, "adapters saved and loaded", 1e-6)


def frozen(family: Family, folder: Path) -> None:
    student = from_folder(family, folder, freeze=["embeddings"])
    embeddings: Any = student.get_input_embeddings()
    before = embeddings.weight.clone()
    trained(family, folder, student=student)
    if not torch.equal(before, embeddings.weight):
        raise Wrong("the embeddings moved")


def no_dropout(family: Family, folder: Path) -> None:
    student = family.model(seed=1)
    ids = torch.arange(5, 13)[None]
    with without_dropout(student.train()):
        first, second = (student(input_ids=ids).logits.detach() for _ in range(2))
        trained(family, folder, student=student)
    if not torch.equal(first, second):
        raise Wrong("two passes differ")


def saves(family: Family, folder: Path) -> None:
    trainer = trained(family, folder)
    saved(family, folder, trainer.model)


def bf16(family: Family, folder: Path) -> None:
    if reason := trouble(family.auto_model.from_config, family.config(), torch.bfloat16, autocast=True):
        raise HfDistillError(f"it does not compute in bfloat16: {reason}")
    trained(family, folder, Logits(), bf16=True)


COLUMNS: dict[str, Cell] = {
    "layers": layers,
    "width": width,
    "logits": learning(Logits),
    "hidden": learning(Hidden),
    "packed": packed,
}
"""Of models that write."""

ENCODER_COLUMNS: dict[str, Cell] = {
    **{name: COLUMNS[name] for name in ("layers", "width", "logits", "hidden")},
    "other width": other_width,
    "relation": learning(Relation),
    "attention": learning(Attention),
    "vocabulary": vocabulary,
    "LoRA": lora,
    "frozen": frozen,
    "no dropout": no_dropout,
    "saved": saves,
    "bf16": bf16,
}

FAMILIES = {**DECODERS, **ENCODER_DECODERS, **ENCODERS}
"""All rows of both tables, by title."""


# --- tables -----------------------------------------------------------------------------------------------------------


def columns_of(family: Family) -> dict[str, Cell]:
    return ENCODER_COLUMNS if family.classifies else COLUMNS


def outcome(family: Family, cell: Cell) -> tuple[str, str]:
    """What a cell says, and the reason where it is not yes."""
    if cell is packed and family.pairs:
        return "-", ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            cell(family, Path(folder))
        except HfDistillError as error:
            return "refused", reason_of(str(error), family)
        except Exception as error:
            return "fails", reason_of(f"{type(error).__name__}: {error}", family)
    return "yes", ""


def reason_of(text: str, family: Family) -> str:
    """A message without what differs from family to family, and without its way out."""
    text = re.sub(r" \([^()]*\)", "", " ".join(text.split()))
    names = rf"\b(\w+For\w+|\w+Model|{re.escape(family.kind)}(_text)?)\b"
    return re.split(r"; (?!the)|, only ", re.sub(names, "the model", text))[0].replace("|", "\\|")


def row(family: Family) -> list[tuple[str, str]]:
    return [outcome(family, cell) for cell in columns_of(family).values()]


def table(families: Mapping[str, Family], notes: list[str]) -> str:
    """A table in Markdown; reasons are appended to the notes, and numbered by their place among these."""
    head = ["family", *columns_of(next(iter(families.values())))]
    lines = [head, ["---"] * len(head)]
    for title, family in families.items():
        cells = []
        for word, reason in row(family):
            if reason and reason not in notes:
                notes.append(reason)
            cells.append(f"{word} ({notes.index(reason) + 1})" if reason else word)
        lines.append([title, *cells])
        print(" | ".join(lines[-1]), flush=True)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """All of ``docs/families.md``."""
    notes: list[str] = []
    opening = OPENING.format(torch=torch.__version__.partition("+")[0], transformers=transformers.__version__)
    first = table({**DECODERS, **ENCODER_DECODERS}, notes)
    second = table(ENCODERS, notes)
    quoted = "".join(f"{number}. {note}\n" for number, note in enumerate(notes, 1))
    return f"{opening}\n{OF_TEXTS}\n{first}\n{OF_CLASSES}\n{second}\n## Reasons\n\n{quoted}"


def written() -> dict[str, dict[str, tuple[str, str]]]:
    """The cells of the page, by family and column: what they say, and the reason."""
    text = PAGE.read_text()
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    found: dict[str, dict[str, tuple[str, str]]] = {}
    head: list[str] = []
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        title, *cells = line.split(" | ")
        if title == "family":
            head = cells
        elif title != "---":
            parts = [re.fullmatch(r"(\S+)(?: \((\d+)\))?", cell) for cell in cells]
            found[title] = {
                column: (part[1], notes[part[2]] if part[2] else "")
                for column, part in zip(head, parts, strict=True)
                if part is not None
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="rows that are printed; all are written")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()
    if not options.families:
        PAGE.write_text(page())
        return
    for name in options.families:
        found = dict(zip(columns_of(FAMILIES[name]), row(FAMILIES[name]), strict=True))
        print(name, *(f"{column}: {word} {reason}".rstrip() for column, (word, reason) in found.items()), sep="\n  ")


if __name__ == "__main__":
    main()
