"""A student that somebody has pretrained already."""

from __future__ import annotations

from hf_distill.errors import StudentError
from hf_distill.models.loading import load_config, load_model
from hf_distill.names import portable
from hf_distill.recipe import FromPretrained
from hf_distill.students.adapters import has_adapters, of_adapters, quantized
from hf_distill.students.label_heads import label_order, names_of, reorder_outputs
from hf_distill.students.request import Student, StudentRequest, dtype_of_files
from hf_distill.tokenizers.processors import load_processor


def from_pretrained(request: StudentRequest[FromPretrained]) -> Student:
    """Load a student in float32, with a new head unless its own has as many outputs as the data has labels."""
    name, revision = request.config.pretrained, request.config.revision
    if isinstance(request.config.tokenizer, dict):
        raise StudentError(
            "student.tokenizer: a pretrained student knows its own tokens only; leave it out, or name it"
        )
    # A head that knows the data's labels in another order is worth keeping, in the data's order.
    own = names_of(load_config(name, revision).id2label)
    outputs = label_order(own, names_of(request.model_options.get("id2label", {})))
    options = {**request.model_options, **quantized(request.config.lora)}
    model = load_model(request.auto_model, name, revision=revision, new_head=True, **options)
    if has_adapters(model):
        raise of_adapters("student.pretrained", name)
    reorder_outputs(model, outputs)
    of, at = (request.config.tokenizer, None) if request.config.tokenizer else (name, revision)
    tokenizer = load_processor(request.auto_processor, of, at)
    origin = f"{name}@{revision}" if revision else portable(name)
    return Student(model=model, tokenizer=tokenizer, origin=origin, dtype=dtype_of_files(model))
