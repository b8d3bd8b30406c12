"""What is kept on disk: files that are whole or absent, checksums, folders that are claimed and locked, full disks.

May be imported: all that stands below.
Never belongs here: what a file means (``pipeline.run_folder``, ``training.checkpoints``, ``teachers.cache_store``).
"""

from hf_distill.artifacts.checksums import checksums, damage
from hf_distill.artifacts.disk_and_memory import faults_told
from hf_distill.artifacts.files import (
    copy_files,
    digest,
    files_digest,
    load_json,
    read_json,
    remove,
    seed_of,
    size_of,
    write_json,
    write_text,
    write_whole,
)
from hf_distill.artifacts.folders import by_main, check_owner, locked, set_aside, writing_to
from hf_distill.artifacts.row_shards import Shards, claim

__all__ = [
    "Shards",
    "by_main",
    "check_owner",
    "checksums",
    "claim",
    "copy_files",
    "damage",
    "digest",
    "faults_told",
    "files_digest",
    "load_json",
    "locked",
    "read_json",
    "remove",
    "seed_of",
    "set_aside",
    "size_of",
    "write_json",
    "write_text",
    "write_whole",
    "writing_to",
]
