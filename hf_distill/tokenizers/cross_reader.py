"""Reads a student's rows with a teacher's tokenizer, and finds where both have read the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hf_distill.tokenizers.alignment import Place, Region, meetings, token_bytes
from hf_distill.tokenizers.chat import Chat

NOWHERE = -1
"""Stands for a teacher's token where the student's meets none."""

Reading = tuple[list[int], list[int]]
"""The teacher's tokens of a row; for each of the student's the place of the one that begins at the same byte."""


class TeacherReader:
    """Reads rows of a student with a teacher's tokenizer, each row the same bytes."""

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.limit = teacher, teacher.model_max_length
        self.student, self.teacher = token_bytes(student), token_bytes(teacher)

    def of_text(self, text: str, ids: Sequence[int], row: slice) -> Reading:
        """Read a row that holds the tokens ``row`` of a text: that part alone, and the end where the row has it."""
        whole = text.encode(errors="surrogatepass")
        places = self.student.places(ids, whole)[row]
        is_last = row.stop >= len(ids)
        start, stop = (places[0].start, places[-1].end) if places else (0, 0)
        # A row may begin or end inside a character, of which the teacher could make nothing.
        while start < stop and whole[start] & 0xC0 == 0x80:
            start += 1
        part = whole[start:stop].decode(errors="ignore")
        own: list[int] = self.tokenizer(part, verbose=False)["input_ids"]
        end = self.teacher.end
        if end is not None and (len(own) > 1 and own[-1] == end) != is_last:
            own = [*own, end] if is_last else own[:-1]
        region = Region(first=start, second=0, length=len(part.encode()), ends=is_last)
        return self._meet(ids[row], places, own, part.encode(), [region])

    def of_chat(self, chat: Chat, own_chat: Chat, ids: Sequence[int], row: slice) -> Reading:
        """Read a row of a chat, each model in its own template, compared on what the assistant says and that it ends.

        Nothing is compared in a row without the chat's beginning.
        """
        own: list[int] = self.tokenizer(own_chat.text, add_special_tokens=False, verbose=False)["input_ids"]
        first, second = chat.text.encode(), own_chat.text.encode()
        regions = []
        for here, there in zip(chat.contents, own_chat.contents, strict=False):
            (start, stop), (other, _) = _in_bytes(chat.text, here), _in_bytes(own_chat.text, there)
            if row.start == 0 and first[start:stop] == second[other : other + stop - start]:
                regions.append(Region(first=start, second=other, length=stop - start, ends=True))
        places = self.student.places(ids, first)[row]
        return self._meet(ids[row], places, own, second, regions)

    def _meet(
        self, ids: Sequence[int], places: Sequence[Place], own: list[int], whole: bytes, regions: Sequence[Region]
    ) -> Reading:
        own_places, own = self.teacher.places(own, whole), own[: self.limit]
        sides = (ids, self.student.end), (own, self.teacher.end)
        ends = [[i for i, token in enumerate(read) if token == end] for read, end in sides]
        found = [NOWHERE] * len(ids)
        for i, j in meetings(places, own_places[: len(own)], regions, ends):
            if j > 0:  # Its first token nothing tells.
                found[i] = j
        return own[: max(max(found, default=0) + 1, 1)], found


def _in_bytes(text: str, span: tuple[int, int]) -> tuple[int, int]:
    start = len(text[: span[0]].encode())
    return start, start + len(text[slice(*span)].encode())
