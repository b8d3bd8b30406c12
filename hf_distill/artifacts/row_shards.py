"""Files of rows that several processes write side by side, in a folder that is claimed for what they are made of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.artifacts.files import digest, read_json, write_json
from hf_distill.artifacts.folders import set_aside, writing_to
from hf_distill.errors import HfDistillError, OutputError
from hf_distill.secrets import hidden_in

logger = logging.getLogger(__name__)


def claim(
    folder: Path, identity: Mapping[str, Any], error: type[HfDistillError] = OutputError
) -> dict[str, tuple[Any, Any]]:
    """Make a folder, with a manifest of what it is made of, unless it is there; what differs, as there and asked.

    A damaged manifest is an error, unless the folder's name says what stood in it.
    """
    path = folder / "manifest.json"
    expected = hidden_in(json.loads(json.dumps(identity, default=str)))
    remedy = f"delete {folder}, and the same command makes it anew"

    def read() -> dict[str, Any]:
        keys = [key for key in expected if key == "format"]
        return read_json(path, error, "the manifest of what this folder was made of", keys, remedy)

    if PartialState().is_main_process:
        if path.is_file() and folder.name.endswith(digest(identity)[:12]):
            try:
                read()
            except error:
                logger.info(f"warning: {path} is damaged; written again, as the folder's name says what stood in it")
                set_aside(path)
        if not path.is_file():
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(path, expected)
    PartialState().wait_for_everyone()
    there = read()
    pairs = {name: (there.get(name), expected.get(name)) for name in sorted({*there, *expected})}
    return {name: (kept, asked) for name, (kept, asked) in pairs.items() if kept != asked}


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Files of a fixed number of rows each, which several processes write side by side.

    After a kill, each process does again at most the ``size`` rows of one file.
    """

    folder: Path
    suffix: str
    rows: int
    size: int
    is_whole: Callable[[Path], bool] = Path.is_file  # Whether a shard was written to its end.

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{number:05d}{self.suffix}"

    def places(self, number: int) -> range:
        """Which rows a shard holds."""
        return range(number * self.size, min((number + 1) * self.size, self.rows))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not written yet."""
        return [number for number in range(len(self)) if not self.is_whole(self.path(number))]

    def missing_for_all(self) -> list[int]:
        """As :meth:`missing`, the same in every process: all look before one writes, or a late one went on alone."""
        found = self.missing()
        PartialState().wait_for_everyone()
        return found

    def own(self, numbers: Sequence[int]) -> list[int]:
        """Those of some shards that this process is to write."""
        state = PartialState()
        return [number for number in numbers if number % state.num_processes == state.process_index]
