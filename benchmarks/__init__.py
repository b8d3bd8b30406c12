"""What is measured: each module is a program, ``python -m benchmarks.fused_loss``, and writes ``results/NAME.json``.

``experiments/`` holds what was run for model cards and defaults: it scores students and compares runs.
"""
