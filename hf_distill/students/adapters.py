"""LoRA through peft: the student's own weights stay as they are, and small matrices beside them learn.

They are put inside the Transformers model, which stays what it is; ``save_pretrained`` writes the adapters alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto as names

from hf_distill.errors import StudentError
from hf_distill.students.request import refused_as

if TYPE_CHECKING:
    from hf_distill.recipe import LoraConfig

ADAPTER = "default"  # What peft calls the only adapter of a model.

TASK_TYPES: dict[str, dict[str, Any]] = {
    "SEQ_CLS": names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": names.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": names.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "CAUSAL_LM": names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "FEATURE_EXTRACTION": names.MODEL_MAPPING_NAMES,
}
"""By what peft calls a task, the classes of Transformers: its ``AutoPeftModelFor...`` loads no adapters without it."""


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters are inside a model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def of_adapters(key: str, name: str) -> StudentError:
    """Of a student that would start from a model with adapters."""
    return StudentError(
        f"{key}: {name} holds adapters, and a student starts from a whole model; merge them first "
        "(lora.merge: true where they were made, or peft's merge_and_unload)"
    )


def add_adapters(model: PreTrainedModel, config: LoraConfig, revision: str | None = None) -> None:
    """Freeze a model and put new adapters into it.

    A pooler, and a head that is not over a vocabulary, learn whole and are saved with the adapters: they are often new.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        modules_to_save=_learning_whole(model) or None,
        revision=revision,
        **_loaded_as(model),
    )
    with refused_as("student.lora"):
        model.add_adapter(lora, ADAPTER)
    for what, module in (("output head", model.get_output_embeddings()), ("embeddings", model.get_input_embeddings())):
        if isinstance(module, BaseTunerLayer):
            name = next(name for name, each in model.named_modules() if each is module)
            raise StudentError(
                f"student.lora.target_modules: they name {name}, the {what}, whose weights the loss or a tied layer "
                "reads directly, without an adapter; leave it out (all-linear does)"
            )


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters to the frozen weights, which leaves an ordinary model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[ADAPTER])
    del model.peft_config
    model._hf_peft_config_loaded = False


def load_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Load a checkpoint's weights into a model's adapters; Trainer does so for a PeftModel alone."""
    from peft import set_peft_model_state_dict

    state = load_file(folder / "adapter_model.safetensors")
    plain = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    found: Any = set_peft_model_state_dict(model, plain, ADAPTER)
    if found.unexpected_keys:
        raise StudentError(f"{folder} holds other adapters than the recipe asks for ({found.unexpected_keys[0]})")


def quantized(config: LoraConfig | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load the frozen weights as the recipe asks for."""
    where = "student.lora.quantize"
    if config is None or config.quantize is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StudentError(f"{where}: 4bit needs bitsandbytes, which is not installed; pip install bitsandbytes")
    if not torch.cuda.is_available():
        raise StudentError(f"{where}: 4bit needs a CUDA device, and there is none; remove it")
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )
    return {"quantization_config": how, "device_map": {"": torch.cuda.current_device()}}


def _loaded_as(model: PreTrainedModel) -> dict[str, Any]:
    """What tells peft's Auto classes which class loads the model beside the adapters."""
    own = type(model).__name__
    for task_type, classes in TASK_TYPES.items():
        if any(own in (known if isinstance(known, tuple) else (known,)) for known in classes.values()):
            return {"task_type": task_type}
    # peft has no name for the others, masked language models among them; AutoPeftModel reads this.
    return {"auto_mapping": {"base_model_class": own, "parent_library": type(model).__module__}}


def _learning_whole(model: PreTrainedModel) -> list[str]:
    over_vocabulary, base = model.get_output_embeddings(), model.base_model_prefix
    # A T5 that writes has no base model inside it, and no head but the one over its vocabulary.
    heads = [
        name
        for name, child in model.named_children()
        if hasattr(model, base) and name != base and all(each is not over_vocabulary for each in child.modules())
    ]
    poolers = [name for name, _ in model.named_modules() if name.endswith("pooler")]
    return [name for name in [*heads, *poolers] if any(True for _ in model.get_submodule(name).parameters())]
