"""``python -m hf_distill``, for torchrun and accelerate launch."""

from hf_distill.cli import main

main()
