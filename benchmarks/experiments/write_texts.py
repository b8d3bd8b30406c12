"""Let a decoder write texts from nothing, drawn at temperature 1: what a student of it can learn on.

Texts that do not end within the bound are left out, for they would teach a student to stop anywhere.

    python -m benchmarks.experiments.write_texts --model FOLDER --count 10000 --tokens 400 --out texts.jsonl

With ``--prompt-words 8`` a row is a prompt, the first words of a text, and a completion, all others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or Hub id")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=400, help="of each text at most")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt-words", type=int, help="that are the prompt of a row; without, a row is a text")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model).eval()
    start, end = model.generation_config.bos_token_id, model.generation_config.eos_token_id
    set_seed(options.seed)
    with options.out.open("w") as file, torch.inference_mode():
        for _ in range(options.count // options.batch_size):
            written = model.generate(
                torch.full((options.batch_size, 1), start),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=options.tokens,
                pad_token_id=end,
            )
            ended = written[:, 1:].eq(end).any(1).tolist()
            for text, whole in zip(tokenizer.batch_decode(written, skip_special_tokens=True), ended, strict=True):
                if whole:
                    file.write(json.dumps(row_of(text.strip(), options.prompt_words)) + "\n")


def row_of(text: str, prompt_words: int | None) -> dict[str, str]:
    """A row with the whole text, or with its first words and all others."""
    if prompt_words is None:
        return {"text": text}
    words = text.split(" ")
    return {"prompt": " ".join(words[:prompt_words]), "completion": " " + " ".join(words[prompt_words:])}


if __name__ == "__main__":
    main()
