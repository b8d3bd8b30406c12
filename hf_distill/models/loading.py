"""Loads models and configs from a folder or the Hub; failures become one line."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from transformers import (
    AutoConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.quantizers.auto import get_hf_quantizer
from transformers.utils import cached_file
from transformers.utils import logging as library_logging

from hf_distill.errors import HfDistillError, ModelError
from hf_distill.logs import reported, silenced
from hf_distill.models.sizes import tell_sides
from hf_distill.names import shortened

logger = logging.getLogger(__name__)

# Where a repository holds pickled weights only, Transformers would ask a bot to open a pull request in it.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

ADAPTED_CONFIG = "adapted_config.json"
"""The config of a model beside its adapters; beside a ``config.json`` Transformers would look for a whole model."""


_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""As safetensors call them."""


def save_adapted_config(config: PretrainedConfig, folder: Path) -> None:
    """Write a model's config beside its adapters, without the quantization that it was trained with."""
    plain = json.loads(config.to_json_string())
    plain.pop("quantization_config", None)
    (folder / ADAPTED_CONFIG).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def load_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """Load the config of a model."""
    adapter = adapter_of(name, revision)
    with as_model_error("config", name, revision):
        if adapter is None:
            return _runnable(AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False))
        if (own := _optional_file(name, ADAPTED_CONFIG, revision)) is not None:
            return AutoConfig.from_pretrained(own, trust_remote_code=False)
    return load_config(adapter["base_model_name_or_path"], adapter.get("revision"))


def _runnable(config: PretrainedConfig) -> PretrainedConfig:
    """A config as it is; refused where its weights are quantised in a way that this machine cannot load."""
    get_hf_quantizer(copy.deepcopy(config), None, None, True, {})
    return config


def load_model(
    auto_model: Any,
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    new_head: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Load a model with its weights, from safetensors alone and without code from the Hub."""
    if (adapter := adapter_of(name, revision)) is not None:
        return _load_with_adapters(auto_model, name, revision, adapter, {"dtype": dtype, **options})
    # Transformers would report a new head like a problem, and others in tables.
    with as_model_error("model", name, revision), _quiet():
        model, info = auto_model.from_pretrained(
            name,
            revision=revision or "main",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=new_head,
            output_loading_info=True,
            **options,
        )
    _check_complete(name, model, info, new_head)
    tell_sides(model)
    model.stored_dtype = stored_dtype(name, revision)
    if (unused := sorted(info["unexpected_keys"])) and not new_head:
        logger.info(f"{name}: left out, for {type(model).__name__} has no such weights: {shortened(unused, 3)}")
    return model


def stored_dtype(name: str, revision: str | None = None) -> torch.dtype | None:
    """In which dtype most weights of a model's files are; None where these are no safetensors."""
    path = _optional_file(name, "model.safetensors", revision)
    if path is None and (index := _optional_file(name, "model.safetensors.index.json", revision)) is not None:
        first = next(iter(json.loads(Path(index).read_text())["weight_map"].values()))
        path = _optional_file(name, first, revision)
    if path is None:
        return None
    counts: Counter[str] = Counter()
    with safe_open(path, framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118  # It cannot be iterated over.
            part = weights.get_slice(key)
            counts[part.get_dtype()] += math.prod(part.get_shape())
    return _FLOATS.get(max(_FLOATS, key=lambda kind: counts[kind]))


def check_weights(
    auto_model: Any, name: str, config: PretrainedConfig, *, new_head: bool = False, **options: Any
) -> None:
    """Refuse a folder whose weights :func:`load_model` would refuse; its files are opened, and no weight is read."""
    _check_known(auto_model, config, name)
    is_plain = Path(name).is_dir() and adapter_of(name, None) is None
    if is_plain and getattr(config, "quantization_config", None) is None:
        with reported(silenced):
            load_model(auto_model, name, new_head=new_head, device_map="meta", **options)


def empty_model(auto_model: Any, config: PretrainedConfig, name: str, revision: str | None = None) -> PreTrainedModel:
    """A model without weights, on the meta device; refused (ModelError) if its class could not load it again."""
    _check_known(auto_model, config, name)
    with as_model_error("model", name, revision), torch.device("meta"):
        model: PreTrainedModel = auto_model.from_config(config)
    tell_sides(model)
    # Of Emu3 the part that reads text is taken, whose own config no class is known for.
    _check_known(auto_model, model.config, name)
    return model


def _check_known(auto_model: Any, config: PretrainedConfig, name: str) -> None:
    known = getattr(auto_model, "_model_mapping", None)
    if known is not None and type(config) not in known:
        raise ModelError(
            f"{name}: {auto_model.__name__} loads no model with a {type(config).__name__}; name another or, where part "
            "of it is a model that reads text, save that with save_pretrained and name its folder"
        )


def load_generation(name: str, revision: str | None = None) -> GenerationConfig | None:
    """How a model writes unless somebody says otherwise; None where no file tells it."""
    with as_model_error("generation config", name, revision):
        if _optional_file(name, "generation_config.json", revision) is None:
            return None
        return GenerationConfig.from_pretrained(name, revision=revision or "main")


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder that holds a model's files: the folder itself, or the Hub's snapshot in the cache, with its README."""
    if Path(name).is_dir():
        return Path(name)
    main = "config.json" if adapter_of(name, revision) is None else "adapter_config.json"
    with as_model_error("config", name, revision):
        folder = Path(hf_hub_download(name, main, revision=revision)).parent
    # A model need not have a card.
    with suppress(OSError, hub.EntryNotFoundError):
        hf_hub_download(name, "README.md", revision=revision)
    return folder


def vector_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model with all files on how it makes vectors; None where it has none."""
    with as_model_error("vectors' modules", name, revision):
        if (modules := _optional_file(name, "modules.json", revision)) is None:
            return None
        for module in json.loads(Path(modules).read_text())[1:]:
            for file in ("config.json", "model.safetensors"):
                _optional_file(name, f"{module['path']}/{file}", revision)
    return Path(modules).parent


def adapter_of(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """What peft wrote about the adapters in a folder or repository; None where it holds a whole model."""
    with as_model_error("config", name, revision):
        path = _optional_file(name, "adapter_config.json", revision)
        return json.loads(Path(path).read_text()) if path is not None else None


def _optional_file(name: str, file: str, revision: str | None) -> str | None:
    quiet = [f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors")]
    return cached_file(name, file, revision=revision or "main", **dict.fromkeys(quiet, False))


def _load_with_adapters(
    auto_model: Any, name: str, revision: str | None, adapter: Mapping[str, Any], options: dict[str, Any]
) -> PreTrainedModel:
    config = load_config(name, revision)
    base, at = adapter["base_model_name_or_path"], adapter.get("revision")
    model = load_model(auto_model, base, revision=at, new_head=True, config=config, **options)
    with as_model_error("model", name, revision):
        # load_adapter would take pickled ones where these are missing.
        cached_file(name, "adapter_model.safetensors", revision=revision or "main")
        model.load_adapter(name, adapter_kwargs={"revision": revision or "main"})
        if _optional_file(name, "generation_config.json", revision) is not None:
            model.generation_config = GenerationConfig.from_pretrained(name, revision=revision or "main")
    # What lies beside the adapters is the model's, not what lies beside its base.
    model.config._name_or_path, model.config._commit_hash = name, revision
    return model.eval()


@contextmanager
def as_model_error(what: str, name: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the libraries raise, nearly every built-in type, into one line."""
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise ModelError(f"there is no folder {name}; name a folder that holds the {what}, or a Hub id (user/model)")
    if revision not in (None, "main") and Path(name).is_dir():
        raise ModelError(f"{name}: a folder has no revision {revision!r}; remove it, or name a Hub id (user/model)")
    try:
        yield
    except HfDistillError:
        raise
    except Exception as error:
        shown = f"{name}@{revision}" if revision else name
        raise ModelError(f"{shown}: {_reason(what, name, revision, error)}") from error


def _reason(what: str, name: str, revision: str | None, error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

    def caused_by(*kinds: type[Exception]) -> bool:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, kinds):
            cause = cause.__cause__ or cause.__context__
        return cause is not None

    if caused_by(hub.GatedRepoError):
        return "its owner asks you to accept terms first; do so on its page, then log in with `hf auth login`"
    if caused_by(hub.RevisionNotFoundError):
        return f"the Hub has no revision {revision!r} of it; check student.revision or teacher.revision"
    if caused_by(hub.RepositoryNotFoundError) or "valid model identifier" in text:
        return "neither a folder nor a model on the Hub; check the spelling, or log in with `hf auth login` if private"
    if caused_by(hub.LocalEntryNotFoundError, ConnectionError):
        return "not in the cache, and the Hub cannot be reached (offline?); connect, or name a local folder"
    if "safetensors" in text and isinstance(error, OSError):
        return _missing(Path(name), text)
    if "trust_remote_code" in str(error):
        return "it needs code from its repository, which is never run here; use a model that Transformers knows"
    return f"the {what} cannot be loaded ({text})"


def _missing(folder: Path, text: str) -> str:
    """Why the weights of a model are not read."""
    if (folder / "model.safetensors.index.json").is_file():
        return f"a file of its weights is missing ({text}); copy it there, or save the model anew"
    if folder.is_dir() and not any(folder.glob("*model*.bin")):
        return "holds no weights (model.safetensors); save the model there with save_pretrained"
    return (
        "its weights are pickled (*.bin), which can run code when loaded; convert them once, where you trust them: "
        "load with from_pretrained(..., use_safetensors=False), save_pretrained to a folder, and name that folder"
    )


def _check_complete(name: str, model: PreTrainedModel, info: Mapping[str, Any], new_head: bool) -> None:
    """Refuse random weights where trained ones were asked for; Transformers only warns."""
    base = model.base_model_prefix + "." if hasattr(model, model.base_model_prefix) else ""
    if reshaped := sorted(key for key, *_ in info["mismatched_keys"] if key.startswith(base)):
        raise ModelError(f"{name}: {shortened(reshaped, 3)} have other shapes than its config says; it is broken")
    missing = sorted(info["missing_keys"])
    # Checkpoints from masked language modelling have no pooler; it is trained with the head.
    body = [key for key in missing if key.startswith(base) and "pooler" not in key]
    if body:
        raise ModelError(f"{name}: its weights lack {shortened(body, 3)} of {type(model).__name__}; name another model")
    head = [key for key in missing if not key.startswith(base)]
    if head and not new_head:
        raise ModelError(
            f"{name} has no trained head for this task ({shortened(head, 3)} are not among its weights); "
            "use a model that was fine-tuned for the task, or make one with teacher.recipe"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(before)
