"""The machine and its processes."""

from __future__ import annotations

from hf_distill.models.hardware import share_rows


def test_rows_are_shared_in_batches_of_similar_lengths_and_come_back_in_order():
    batches: list[list[int]] = []

    def work(numbers: list[int]) -> list[str]:
        batches.append(numbers)
        return [f"row {number}" for number in numbers]

    assert share_rows([5, 1, 5, 2, 9], 2, work) == [f"row {number}" for number in range(5)]
    assert batches == [[1, 3], [0, 2], [4]]
    assert share_rows([], 2, work) == []
