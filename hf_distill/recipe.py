"""The recipe: one YAML file, read strictly into frozen dataclasses, its keys in the order of the flow."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.strict import refuse_unless

UNLABELLED = ("unlabelled_split", "unlabelled_files")
"""Keys of ``data`` that only a teacher can use."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What the rows mean."""

    name: str
    """As in ``TASKS``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task."""


@dataclass(frozen=True, kw_only=True)
class TestDataConfig:
    """Where the rows come from that all models are scored on, where that is another source."""

    __test__ = False  # Its name is no call to pytest.

    path: str
    """As of ``data``."""
    name: str | None = None
    """As of ``data``."""
    revision: str | None = None
    """As of ``data``."""
    split: str = "test"
    """The split that is taken."""
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    """As of ``data``, whose own are not used here."""

    def source(self) -> DataConfig:
        """The same as a source of splits."""
        return DataConfig(path=self.path, name=self.name, revision=self.revision)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows come from."""

    path: str | None = None
    """A Hub data set, a folder, or ``package.module:function`` that returns a DatasetDict."""
    name: str | None = None
    """The configuration, as ``datasets.load_dataset`` names it."""
    revision: str | None = None
    """A branch, tag or commit of the Hub's repository."""
    files: dict[str, str | list[str]] | None = None
    """Local files by split: csv, tsv, json, jsonl, parquet or txt."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the callable."""
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    """The task's column -> the data's, where the names differ: a name, ``outer.inner``, or several that are joined
    (``candidates``: that are listed)."""
    train_split: str = "train"
    """The split to learn from."""
    validation_split: str | None = None
    """The split that is watched while training; ``validation`` where there is one that is not the test split."""
    test_split: str | None = None
    """The split that all models are scored on; ``test`` where there is one."""
    validation_size: int | float = 0.1
    """A share or number of training rows, drawn by the seed, where there is no validation split."""
    test_size: int | float | None = None
    """A share or number of training rows, drawn by the seed, where there is no test split."""
    test: TestDataConfig | None = None
    """Another source of the test split."""
    train_limit: int | None = None
    """At most so many rows, drawn by the seed."""
    validation_limit: int | None = None
    """At most so many rows, drawn by the seed."""
    test_limit: int | None = None
    """At most so many rows, drawn by the seed."""
    unlabelled_split: str | None = None
    """A split whose rows the teacher alone labels."""
    unlabelled_files: str | list[str] | None = None
    """Local files whose rows the teacher alone labels."""
    streaming: bool = False
    """Read the training rows as they come, for data larger than memory."""

    def __post_init__(self) -> None:
        where = "recipe.data"
        refuse_unless((self.path is None) != (self.files is None), f"{where}: expected exactly one of path and files")
        refuse_unless(
            not self.arguments or (self.path is not None and ":" in self.path),
            f"{where}.arguments: only a callable (path: package.module:function) takes arguments; remove them",
        )
        for name in ("validation_size", "test_size"):
            size = getattr(self, name)
            refuse_unless(
                size is None or (size >= 1 if isinstance(size, int) else 0.0 < size < 1.0),
                f"{where}.{name}: expected a fraction between 0 and 1 or a number of rows, got {size!r}",
            )
        refuse_unless(
            sum(each is not None for each in (self.test_size, self.test_split, self.test)) <= 1,
            f"{where}: expected at most one of test, test_split and test_size",
        )
        for name in ("train_limit", "validation_limit", "test_limit"):
            limit = getattr(self, name)
            refuse_unless(limit is None or limit >= 1, f"{where}.{name}: expected at least 1 row, got {limit!r}")
        refuse_unless(
            self.unlabelled_split is None or self.unlabelled_files is None,
            f"{where}: expected at most one of unlabelled_split and unlabelled_files",
        )

    def labelled(self) -> DataConfig:
        """The same without the unlabelled rows."""
        return dataclasses.replace(self, unlabelled_split=None, unlabelled_files=None)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is kept of a teacher that is cached."""

    scheme: Literal["auto", "sampled", "top_k", "naive_top_k", "dense"] = "auto"
    """``auto``: dense for classes, sampled for a vocabulary."""
    draws: int | None = None
    """Of ``sampled``: tokens drawn a position; 50 unless given."""
    k: int | None = None
    """Of ``top_k`` and ``naive_top_k``: how many tokens are kept; 64 unless given."""
    path: str | None = None
    """A folder to use, refused where it holds a cache of something else; found by itself unless given."""
    verify: int = 0
    """How many rows are compared with the live teacher before it is used."""

    def __post_init__(self) -> None:
        where = "recipe.teacher.cache"
        refuse_unless(
            self.draws is None or self.scheme in ("auto", "sampled"),
            f"{where}.draws: does nothing for {self.scheme}; remove it",
        )
        refuse_unless(
            self.k is None or self.scheme in ("top_k", "naive_top_k"),
            f"{where}.k: does nothing for {self.scheme}; remove it, or set scheme: top_k",
        )
        refuse_unless(self.verify >= 0, f"{where}.verify: expected at least 0 rows, got {self.verify}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Where targets come from."""

    model: str | None = None
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the device computes it in hardware, else float32."""
    labels: list[str] | None = None
    """The names of its outputs in its own order, where its config does not tell them."""
    kind: Literal["live", "cached"] = "live"
    """``cached``: it looks at every row once, and what it says is read from disk in every epoch."""
    cache: CacheConfig | None = None
    """What a cached teacher keeps."""
    device_map: str | None = None
    """How to spread it over devices, as ``from_pretrained`` takes it."""
    recipe: Any = None
    """How to make it: another recipe's path, or a mapping that inherits version, seed, task and data."""

    def __post_init__(self) -> None:
        refuse_unless(
            (self.model is None) != (self.recipe is None), "recipe.teacher: expected exactly one of model and recipe"
        )
        for name in ("revision", "labels"):
            refuse_unless(
                self.model is not None or getattr(self, name) is None,
                f"recipe.teacher.{name}: does nothing for a teacher made by a recipe; remove it",
            )
        refuse_unless(
            not isinstance(self.recipe, Recipe) or self.recipe.teacher is None,
            "recipe.teacher.recipe.teacher: a teacher's recipe trains on labels alone; remove it",
        )
        refuse_unless(
            self.kind == "cached" or self.cache is None,
            "recipe.teacher.cache: does nothing for a live teacher; set kind: cached, or remove it",
        )


@dataclass(frozen=True, kw_only=True)
class LabelFilters:
    """What drops a text that the teacher wrote, and its row with it."""

    length_ratio: list[float] | None = None
    """The least and the most tokens of the text for a token of what it was written after."""
    repetition: float | None = None
    """The share of its runs of four tokens that stood in it before, at most."""
    compression_ratio: float | None = None
    """How many times shorter zlib makes it, at most: texts that go in circles pack well."""
    mean_log_probability: float | None = None
    """Of a token, as the teacher says, at least."""
    reference_score: float | None = None
    """By ``label.scorer`` against what the data say, at least."""

    def __post_init__(self) -> None:
        where = "recipe.label.filters"
        ratio = self.length_ratio
        refuse_unless(
            ratio is None or (len(ratio) == 2 and 0.0 <= ratio[0] < ratio[1]),
            f"{where}.length_ratio: expected [low, high] with 0 <= low < high, got {ratio}",
        )
        refuse_unless(
            self.repetition is None or 0.0 <= self.repetition < 1.0,
            f"{where}.repetition: expected a share from 0 to below 1, got {self.repetition}",
        )
        refuse_unless(
            self.compression_ratio is None or self.compression_ratio > 0.0,
            f"{where}.compression_ratio: expected more than 0, got {self.compression_ratio}",
        )
        refuse_unless(
            self.mean_log_probability is None or self.mean_log_probability < 0.0,
            f"{where}.mean_log_probability: expected less than 0, got {self.mean_log_probability}; no token is "
            "likelier than 1, whose logarithm is 0",
        )


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """The teacher's own text in place of what the data say: sequence-level distillation (Kim and Rush 2016)."""

    hypotheses: int = 1
    """How many texts the teacher writes for each row, of which one is chosen."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How it writes: settings of ``transformers.GenerationConfig``; 5 beams unless they draw (``do_sample``)."""
    choose: Literal["likeliest", "best"] = "likeliest"
    """Of several: what the teacher finds likeliest, or what ``scorer`` finds best against what the data say."""
    scorer: str | None = None
    """As of ``evaluate.scorers``; the task's own (of causal-lm ``rouge``) where one is needed, else none is asked."""
    filters: LabelFilters = LabelFilters()
    """What drops a text, and its row with it."""
    keep_original: bool = False
    """Whether the rows as they are in the data stand beside those that the teacher wrote for."""
    batch_size: int = 32
    """Rows that are written for at once, which are of about the same length."""

    def __post_init__(self) -> None:
        where = "recipe.label"
        several = self.hypotheses > 1
        refuse_unless(self.hypotheses >= 1, f"{where}.hypotheses: expected at least 1, got {self.hypotheses}")
        refuse_unless(self.batch_size >= 1, f"{where}.batch_size: expected at least 1, got {self.batch_size}")
        beams = self.generation.get("num_beams", 1)
        refuse_unless(
            type(beams) is int and beams >= 1, f"{where}.generation.num_beams: expected at least 1, got {beams!r}"
        )
        refuse_unless(
            not self.draws or beams == 1,
            f"{where}.generation: expected texts that are drawn (do_sample) or searched for (num_beams), got both; "
            "remove one of them",
        )
        refuse_unless(
            self.draws or self.beams >= self.hypotheses,
            f"{where}.hypotheses: {self.beams} beams give {self.beams} texts at most, got {self.hypotheses}; raise "
            "generation.num_beams, or set generation.do_sample: true",
        )
        refuse_unless(
            several or self.choose == "likeliest",
            f"{where}.choose: of one text there is nothing to choose; set hypotheses to 2 or more, or remove it",
        )
        refuse_unless(
            not several or self.draws or self.choose == "best",
            f"{where}.hypotheses: the likeliest of {self.hypotheses} is the one that beams give anyway; set choose: "
            "best, or generation.do_sample: true, or remove it",
        )

    @property
    def draws(self) -> bool:
        """Whether texts are drawn, not searched for."""
        return self.generation.get("do_sample") is True

    @property
    def beams(self) -> int:
        """How many texts are searched for at once; 1 where they are drawn."""
        return 1 if self.draws else int(self.generation.get("num_beams", 5))

    @property
    def scores(self) -> bool:
        """Whether texts are judged against what the data say."""
        return self.scorer is not None or self.choose == "best" or self.filters.reference_score is not None


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters that learn in place of the student's own weights, through peft."""

    r: int = 16
    """The rank of each adapter."""
    alpha: int = 32
    """Adapters are scaled by alpha / r."""
    dropout: float = 0.0
    """Of what enters an adapter."""
    target_modules: str | list[str] = "all-linear"
    """Which modules get an adapter: all linear ones but the head, names, or a regular expression."""
    quantize: Literal["4bit"] | None = None
    """``4bit``: while it trains, the weights beside the adapters are held in 4 bits (QLoRA); the student is measured
    beside them as they are. Needs bitsandbytes and a CUDA device."""
    merge: bool = False
    """Whether the adapters are added to the weights when training is done: an ordinary checkpoint is saved then."""

    def __post_init__(self) -> None:
        where = "recipe.student.lora"
        refuse_unless(self.r >= 1, f"{where}.r: expected at least 1, got {self.r}")
        refuse_unless(self.alpha >= 1, f"{where}.alpha: expected at least 1, got {self.alpha}")
        refuse_unless(0.0 <= self.dropout < 1.0, f"{where}.dropout: expected 0 to below 1, got {self.dropout}")
        refuse_unless(len(self.target_modules) > 0, f"{where}.target_modules: expected at least one name, got none")
        refuse_unless(
            self.quantize is None or not self.merge,
            f"{where}.merge: weights of 4 bits would round the adapters away; set it to false, or remove quantize",
        )


@dataclass(frozen=True, kw_only=True)
class WidthConfig:
    """How narrow a student becomes: sizes, or a share of the parameters; what matters least goes first."""

    hidden_size: int | float | None = None
    """Channels that are kept: how many, or a share below 1.0 of the source's."""
    heads: int | float | None = None
    """Attention heads that are kept in each layer; they keep their size, and with them whole groups where several
    queries share keys and values."""
    intermediate_size: int | float | None = None
    """Units of the feed-forward block that are kept in each layer."""
    target: float | None = None
    """The share of the source's parameters, embeddings included, that is reached at most, by scaling all three; before
    ``student.vocabulary`` is cut."""
    importance: Literal["activation", "random"] = "activation"
    """What is kept: what says most on a sample of training texts (Minitron), or anything, for comparison."""
    rows: int | None = None
    """Of ``activation``: texts of the sample; 256 unless given."""

    def __post_init__(self) -> None:
        where = "recipe.student.width"
        sizes = [name for name in ("hidden_size", "heads", "intermediate_size") if getattr(self, name) is not None]
        refuse_unless(
            (self.target is None) != (not sizes),
            f"{where}: expected either target or sizes (hidden_size, heads, intermediate_size), got "
            f"{' and '.join([*sizes, *['target'] * (self.target is not None)]) or 'none'}",
        )
        for name in (*sizes, *["target"] * (self.target is not None)):
            value = getattr(self, name)
            refuse_unless(
                value >= 1 if isinstance(value, int) else 0.0 < value < 1.0,
                f"{where}.{name}: expected {'' if name == 'target' else 'at least 1, or '}a share between 0.0 and 1.0, "
                f"got {value}",
            )
        refuse_unless(self.rows is None or self.rows >= 1, f"{where}.rows: expected at least 1 text, got {self.rows}")
        refuse_unless(
            self.rows is None or self.importance == "activation",
            f"{where}.rows: does nothing for importance: {self.importance}; remove it",
        )

    @property
    def calibration_rows(self) -> int:
        """How many texts the sample has."""
        return 256 if self.rows is None else self.rows


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which tokens a student keeps, beside special ones and single characters."""

    keep: Literal["used"] | None = None
    """``used``: those that stand in the training texts."""
    minimum: int | None = None
    """Of ``keep: used``: how often; once unless given."""
    size: int | None = None
    """So many, the most frequent ones in the training texts."""

    def __post_init__(self) -> None:
        where = "recipe.student.vocabulary"
        refuse_unless((self.keep is None) != (self.size is None), f"{where}: expected exactly one of keep and size")
        refuse_unless(self.size is None or self.size >= 1, f"{where}.size: expected at least 1 token, got {self.size}")
        refuse_unless(
            self.minimum is None or self.minimum >= 1, f"{where}.minimum: expected at least 1, got {self.minimum}"
        )
        refuse_unless(
            self.minimum is None or self.keep is not None,
            f"{where}.minimum: does nothing beside size; remove it, or set keep: used in its place",
        )

    @property
    def least(self) -> int:
        """How often a token must be used to be kept."""
        return self.minimum or 1


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How the small model is born: of parts (layers, width, vocabulary) of the teacher or of something pretrained, of
    something pretrained as it is, or of a config."""

    layers: int | list[int] | dict[str, int | list[int]] | None = None
    """So many of the teacher's layers (or of ``pretrained``'s), evenly spaced, or which ones; negative from the end.

    Of an encoder-decoder a mapping: ``{encoder: 6, decoder: [0, -1]}``; a side that is left out keeps all its layers.
    """
    width: WidthConfig | None = None
    """How many channels, heads and units are kept, of the layers that are."""
    vocabulary: VocabularyConfig | None = None
    """Which tokens are kept."""
    config: dict[str, Any] | None = None
    """Changes to the teacher's config, or with ``model_type`` a new one; fresh weights."""
    pretrained: str | None = None
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit of ``pretrained``."""
    tokenizer: str | dict[str, Any] | None = None
    """A Hub id or folder, or {kind, vocab_size, lowercase} to train one on the data's texts."""
    lora: LoraConfig | None = None
    """Of a student that is pretrained or made of layers: adapters learn, its own weights do not."""
    freeze: list[Literal["embeddings", "encoder"]] | None = None
    """Parts that do not learn: its tables of embeddings, or the encoder of an encoder-decoder."""

    def __post_init__(self) -> None:
        parts = self.parts
        whole = [name for name in ("config", "pretrained") if getattr(self, name) is not None]
        refuse_unless(
            len(whole) <= 1 and bool(parts or whole) and not (parts and self.config is not None),
            "recipe.student: expected parts of the teacher or of a pretrained model (layers, width, vocabulary), or "
            f"exactly one of config and pretrained, got {' and '.join([*parts, *whole]) or 'none'}"
            + "; fresh weights have the vocabulary of student.tokenizer, as {vocab_size: 8000}"
            * (self.config is not None and "vocabulary" in parts),
        )
        if isinstance(self.layers, dict):
            unknown = [side for side in self.layers if side not in ("encoder", "decoder")]
            refuse_unless(
                not unknown and len(self.layers) > 0,
                "recipe.student.layers: expected encoder, decoder or both as the keys of the mapping, got "
                f"{', '.join(unknown) or 'none'}",
            )
        refuse_unless(
            self.revision is None or self.pretrained is not None,
            "recipe.student.revision: only a pretrained student has one; remove it",
        )
        self._check_what_learns()

    @property
    def parts(self) -> list[str]:
        """The keys that take parts of a model."""
        return [name for name in ("layers", "width", "vocabulary") if getattr(self, name) is not None]

    def _check_what_learns(self) -> None:
        where = "recipe.student"
        refuse_unless(
            self.freeze is None or 0 < len(self.freeze) == len(set(self.freeze)),
            f"{where}.freeze: expected parts of the student, each once, got {self.freeze}",
        )
        if self.lora is None:
            return
        parts = self.parts
        refuse_unless(
            self.config is None,
            f"{where}.lora: fresh weights would stay random beside adapters; use pretrained or layers, or remove it",
        )
        refuse_unless(
            self.freeze is None,
            f"{where}.freeze: does nothing with lora, beside which all weights are frozen; remove it, or choose "
            "lora.target_modules",
        )
        refuse_unless(
            not parts or (self.lora.merge and self.lora.quantize is None),
            f"{where}.lora.merge: adapters alone are of use beside a model that others have, and {' and '.join(parts)} "
            "make a new one; set merge to true, without quantize",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """One term of the loss."""

    kind: str
    """As in ``OBJECTIVES``, or ``package.module:Class``."""
    weight: float | dict[str, Any] = 1.0
    """Its factor in the loss; or ``{from: 1.0, to: 0.1, shape: cosine}`` over all steps of the training."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the objective."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """On-policy distillation: the student writes batches itself, and the teacher judges each token of them."""

    share: float = 0.5
    """Of the optimizer steps: those whose batches the student writes; all others learn from the data."""
    max_new_tokens: int = 128
    """Tokens that it writes after a prompt at most."""
    prompt_tokens: int | None = None
    """Of plain text alone: how many tokens of a row are the prompt."""
    temperature: float = 1.0
    """At which it draws its tokens, whatever the objectives' temperatures are."""
    top_k: int | None = None
    """It draws among so many tokens, the likeliest; among all unless given."""
    top_p: float | None = None
    """It draws among the likeliest tokens that have this share of the mass; among all unless given."""
    batch_size: int | None = None
    """Rows that are written at once, of as many as a step and a process have; those of one batch unless given. Larger
    is faster, and takes memory for the keys and values of all."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student while it writes; ``vllm`` for causal-lm on one GPU."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """Of ``vllm``: keyword arguments of ``vllm.LLM``."""

    def __post_init__(self) -> None:
        where = "recipe.rollout"
        refuse_unless(0.0 <= self.share <= 1.0, f"{where}.share: expected 0.0 to 1.0, got {self.share}")
        refuse_unless(self.temperature > 0.0, f"{where}.temperature: expected above 0.0, got {self.temperature}")
        for name in ("max_new_tokens", "prompt_tokens", "top_k", "batch_size"):
            value = getattr(self, name)
            refuse_unless(value is None or value >= 1, f"{where}.{name}: expected at least 1, got {value}")
        refuse_unless(
            self.top_p is None or 0.0 < self.top_p <= 1.0, f"{where}.top_p: expected above 0.0 to 1.0, got {self.top_p}"
        )
        refuse_unless(
            not self.engine_options or self.engine == "vllm",
            f"{where}.engine_options: they do nothing for engine: {self.engine}; remove them, or set engine: vllm",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How the models are compared."""

    split: Literal["test", "validation"] = "test"
    """The rows that all models are scored on."""
    metric: str | None = None
    """The metric that decides; the task's own unless given."""
    scorers: tuple[str, ...] = ()
    """What judges the texts that models write: of ``SCORERS``, or package.module:function; the task's unless given."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How models write: settings of ``transformers.GenerationConfig``, which the student keeps."""
    control: bool = True
    """Whether the same student is trained without a teacher, too."""
    resamples: int = 1000
    """Of the bootstrap that gives the intervals."""
    batch_size: int = 32
    """Rows of a batch when throughput is measured."""
    start: bool = False
    """Whether the student is scored before it is trained, too: of use where it is made of something trained."""
    floor: bool = False
    """Whether a linear bag-of-words model is trained and told, too."""

    def __post_init__(self) -> None:
        refuse_unless(self.resamples >= 100, f"recipe.evaluate.resamples: expected at least 100, got {self.resamples}")
        refuse_unless(self.batch_size >= 1, f"recipe.evaluate.batch_size: expected at least 1, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Whether and where the student is pushed."""

    push: bool = False
    """Push when the run is complete."""
    model_id: str | None = None
    """``user/name``."""
    private: bool = True
    """Whether a repository that is made for it is private."""

    def __post_init__(self) -> None:
        refuse_unless(
            not self.push or self.model_id is not None, "recipe.hub.model_id: required to push; name user/model"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run depends on. The keys stand in the order of the flow."""

    version: int
    """Of this format: 1."""
    name: str
    """Of the run, and of its folder: letters, digits, dot, dash and underscore."""
    seed: int = 42
    """Decides splits, initial weights, order and dropout."""
    task: TaskConfig
    """A name, or a mapping of ``name`` and options."""
    data: DataConfig
    """Where the rows come from."""
    teacher: TeacherConfig | None = None
    """None: plain fine-tuning."""
    label: LabelConfig | None = None
    """Whether the student learns from texts that the teacher wrote, and how they come about."""
    student: StudentConfig
    """How the small model is born."""
    rollout: RolloutConfig | None = None
    """Whether the student learns from what it writes itself, and how it writes."""
    objectives: tuple[ObjectiveConfig, ...] = (ObjectiveConfig(kind="labels"),)
    """The terms of the loss."""
    training: dict[str, Any] = field(default_factory=dict)
    """Goes untouched to ``transformers.TrainingArguments``."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the models are compared."""
    hub: HubConfig = HubConfig()
    """Whether and where the student is pushed."""

    def __post_init__(self) -> None:
        refuse_unless(
            self.version == 1, f"recipe.version: expected 1, got {self.version!r}; this release reads version 1"
        )
        refuse_unless(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None,
            f"recipe.name: expected letters, digits, '.', '_' and '-', got {self.name!r}; it names the run's folder",
        )
        refuse_unless(self.seed >= 0, f"recipe.seed: expected at least 0, got {self.seed}")
        refuse_unless(len(self.objectives) > 0, "recipe.objectives: expected at least one, got an empty list")
        refuse_unless(
            self.teacher is not None or self.data == self.data.labelled(),
            "recipe.data: unlabelled rows teach nothing without a teacher; remove unlabelled_split and "
            "unlabelled_files, or name a teacher",
        )
        refuse_unless(
            self.rollout is None or self.teacher is not None,
            "recipe.rollout: only a teacher can judge what a student writes; name one, or remove it",
        )
        refuse_unless(
            self.rollout is None or self.teacher is None or self.teacher.kind == "live",
            "recipe.teacher.kind: a cache holds what a teacher said of the data, nothing of what a student will write; "
            "set it to live, or remove rollout",
        )
        if self.label is not None:
            self._check_label()

    def _check_label(self) -> None:
        refuse_unless(self.teacher is not None, "recipe.label: nobody is there to write; name a teacher, or remove it")
        refuse_unless(
            self.teacher is None or self.teacher.kind == "live",
            "recipe.label: a cached teacher keeps what it says of the data's texts, and writes none; set teacher.kind "
            "to live, or remove label",
        )
        refuse_unless(
            not self.data.streaming,
            "recipe.label: a stream's rows have no ids to be written for once; set data.streaming to false",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that loads again to an equal recipe, keys in the order of the flow."""
        plain = dataclasses.asdict(self)
        for name in ("label", "rollout"):
            if plain[name] is None:  # A recipe without it keeps the hash that it had before there was this key.
                del plain[name]
        plain["task"] = {"name": self.task.name, **self.task.options}
        plain["objectives"] = [{"kind": o.kind, "weight": o.weight, **o.options} for o in self.objectives]
        if self.teacher is not None and isinstance(self.teacher.recipe, Recipe):
            plain["teacher"]["recipe"] = self.teacher.recipe.to_dict()
        return plain
