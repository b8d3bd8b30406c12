"""Files as people have them: packed, in any encoding, with any separator, in the forms of benchmarks."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from hf_distill.data.rows import load_data
from hf_distill.errors import DataError, RecipeError
from hf_distill.logs import reported
from hf_distill.recipe import DataConfig, TestDataConfig
from hf_distill.tasks import QuestionAnswering, Task, TextClassification, TokenClassification
from tests.helpers.data import given

ROWS = [{"text": f"das Café Nr. {i}", "label": ("gut", "schlecht")[i % 2]} for i in range(12)]
PACKERS: dict[str, Any] = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def table(separator: str = ",") -> str:
    return "\n".join([separator.join(["text", "label"]), *(separator.join(row.values()) for row in ROWS), ""])


TEXTS = {
    ".csv": table(),
    ".tsv": table("\t"),
    ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    ".json": json.dumps(ROWS, ensure_ascii=False),
}


def load(files: Any, task: type[Task] = TextClassification, **config):
    config = {"test_size": 2, "validation_size": 2, **config}
    return load_data(DataConfig(files=files, **config), task.required, task.optional, task.text_columns, 0)


def rows_of(data: Any, *columns: str) -> list[tuple[Any, ...]]:
    parts = [data.train, data.validation, data.test]
    return sorted(tuple(row[name] for name in columns) for part in parts for row in part)


def write(path: Path, text: str, encoding: str = "utf-8", pack: Any = PACKERS[""]) -> str:
    path.write_bytes(pack(text.encode(encoding)))
    return str(path)


EXPECTED = sorted((row["text"], row["label"]) for row in ROWS)


def squad(**second: Any) -> bytes:
    """A good article, and a second one."""
    answers = [{"text": "a", "answer_start": 0}]
    good = {"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": answers}] * 5}]}
    return json.dumps({"data": [good, second]}).encode()


WORDS = ("\n".join(json.dumps(row) for row in ROWS) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", squad(title="x"), "article 1 has no 'paragraphs'"),
        ("a.json", squad(paragraphs="x"), "article 1 holds what is no list of objects"),
        ("a.json", squad(paragraphs=[{"context": "a"}]), "article 1 has no 'qas'"),
        ("a.json", squad(paragraphs=[{"context": "a", "qas": None}]), "article 1 holds what is no list"),
        ("a.json", squad(paragraphs=[{"context": "a", "qas": [{}]}]), "article 1 has no 'question'"),
        ("a.json", squad(paragraphs=[{"context": "a", "qas": [{"question": "q", "answers": [{}]}]}]), "'text'"),
        ("a.json", squad(paragraphs=[{"context": "a", "qas": [{"question": "q", "answers": "a"}]}]), "article 1 holds"),
        ("a.json", "[1, 2, 3]".encode("utf-16"), r"expected rows, which are JSON objects, got \[1, 2, 3\]"),
        ("a.jsonl", (WORDS.decode() + "{bad").encode("utf-16"), "line 13: no JSON"),
        ("a.csv.gz", gzip.compress(table().encode())[:-9], "it is cut, or not packed"),
        ("a.jsonl.gz", gzip.compress(WORDS)[:-9], "it is cut, or not packed"),
        ("a.csv.gz", table().encode(), "it is cut, or not packed"),
        ("a.csv.bz2", bz2.compress(table().encode())[:-9], "it is cut, or not packed"),
        ("a.csv.xz", lzma.compress(table().encode())[:20], "it is cut, or not packed"),
        ("a.csv.xz", table().encode(), "it is cut, or not packed"),
    ],
    # gzip writes the time into its bytes, and the id of a test must be the same in every process.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_file_that_is_cut_or_of_another_form_is_refused_by_its_place(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    task = QuestionAnswering if content.startswith(b'{"data"') else TextClassification
    with pytest.raises(DataError, match=f"{name}.*{told}"):
        load(str(tmp_path / name), task)


@pytest.mark.parametrize("encoding", ["nope", "base64", "hex"])
def test_an_encoding_that_is_none_is_refused_by_its_key(encoding, tmp_path):
    with pytest.raises(DataError, match=f"data.encoding: .*'{encoding}'"):
        load(write(tmp_path / "a.csv", table()), encoding=encoding)


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("ending", TEXTS)
def test_packed_files_of_every_kind_give_their_rows(ending, packed, tmp_path):
    path = write(tmp_path / f"a{ending}{packed}", TEXTS[ending], pack=PACKERS[packed])
    assert rows_of(load(path), "text", "label") == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("ending", TEXTS)
def test_files_of_every_encoding_give_their_rows_and_tell_what_was_assumed(ending, encoding, tmp_path):
    path, lines = write(tmp_path / f"a{ending}", TEXTS[ending], encoding), []
    with reported(lines.append):
        assert rows_of(load({"train": path}), "text", "label") == EXPECTED
    told = {"utf-8-sig": [], "utf-16": ["UTF-16"]}.get(encoding, ["cp1252"])
    assert all(any(word in line for line in lines) for word in told)


def test_an_encoding_that_is_named_is_used(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nжёлтый,x\n" + "a,x\nb,y\n" * 4, "cp1251")
    assert "жёлтый" in {text for (text,) in rows_of(load(path, encoding="cp1251"), "text")}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_separates_columns_is_found_and_told(ending, separator, encoding, tmp_path):
    path, lines = write(tmp_path / f"a{ending}", table(separator), encoding), []
    with reported(lines.append):
        assert rows_of(load(path), "text", "label") == EXPECTED
    usual = "\t" if ending == ".tsv" else ","
    assert any("separated by" in line for line in lines) == (separator != usual)
    assert rows_of(load(path, delimiter=separator), "text", "label") == EXPECTED


def test_a_separator_within_texts_is_no_separator(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "a; b | c,x\nd; e | f,y\n" * 5)
    assert rows_of(load(path), "text")[0] == ("a; b | c",)


# --- several files of one split ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"note": None}, {"note": "late"}),
        ({}, {"note": "late"}),
        ({"note": 1}, {"note": "late"}),
        ({"more": {"a": None}}, {"more": {"a": "x"}}),
    ],
)
def test_files_may_disagree_about_columns_that_the_task_does_not_need(first, second, tmp_path):
    paths = []
    for name, more, part in (("a", first, ROWS[:6]), ("b", second, ROWS[6:])):
        paths.append(write(tmp_path / f"{name}.jsonl", "".join(json.dumps({**row, **more}) + "\n" for row in part)))
    assert rows_of(load({"train": paths}), "text", "label") == EXPECTED


def test_a_column_that_is_empty_in_one_file_is_filled_from_the_other(tmp_path):
    parts = ([{**row, "label": None} for row in ROWS[:6]], ROWS[6:])
    paths = [
        write(tmp_path / f"{i}.jsonl", "".join(json.dumps(row) + "\n" for row in part)) for i, part in enumerate(parts)
    ]
    data = load({"train": paths}, missing_labels="drop", test_size=2)
    assert rows_of(data, "text", "label") == sorted((row["text"], row["label"]) for row in ROWS[6:])


def test_the_file_that_is_wrong_is_named(tmp_path):
    good, broken = write(tmp_path / "good.jsonl", TEXTS[".jsonl"]), write(tmp_path / "broken.jsonl", '{"text": "a"\n{')
    with pytest.raises(DataError, match=r"broken\.jsonl cannot be read as json"):
        load({"train": [good, broken]})
    other = write(tmp_path / "other.jsonl", "".join(json.dumps({**row, "label": [1]}) + "\n" for row in ROWS))
    with pytest.raises(DataError, match=r"column 'label' holds string in .*good\.jsonl and List.* in .*other\.jsonl"):
        load({"train": [good, other]})


# --- questions --------------------------------------------------------------------------------------------------------

ARTICLES = [
    {
        "title": "Cards",
        "paragraphs": [
            {
                "context": "A card is good.",
                "qas": [
                    {"id": str(i), "question": f"What is good {i}?", "answers": [{"text": "card", "answer_start": 2}]}
                    for i in range(8)
                ]
                + [{"id": "n", "question": "Who?", "answers": [], "is_impossible": True}],
            }
        ],
    }
]


@pytest.mark.parametrize(
    ("whole", "config"),
    [
        ({"version": "1.1", "data": ARTICLES}, {}),
        ({"articles": ARTICLES}, {"field": "articles"}),
        ({"version": "2.0", "data": ARTICLES}, {"field": "data"}),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_the_own_files_of_squad_give_their_questions(whole, config, indent, tmp_path):
    data = load(write(tmp_path / "dev.json", json.dumps(whole, indent=indent)), QuestionAnswering, **config)
    rows = rows_of(data, "question", "context")
    assert len(rows) == 9
    assert rows[0] == ("What is good 0?", "A card is good.")
    answers = [row["answers"] for part in (data.train, data.validation, data.test) for row in part]
    assert {"text": ["card"], "answer_start": [2]} in answers
    assert {"text": [], "answer_start": []} in answers


def test_rows_in_a_field_are_read_and_another_field_is_refused(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"rows": ROWS, "meta": 1}))
    assert rows_of(load(path, field="rows"), "text", "label") == EXPECTED
    with pytest.raises(
        DataError, match=r"data\.field: .* no list of rows, .* in its field 'row'; there are some in: rows"
    ):
        load(path, field="row")
    with pytest.raises(DataError, match=r"data\.field: .* is no JSON object"):
        load(write(tmp_path / "b.jsonl", TEXTS[".jsonl"]), field="rows")


def questions(answers: Any, count: int = 6) -> DatasetDict:
    rows = Dataset.from_list([{"question": "What?", "context": "A card is good.", "answers": answers}] * count)
    return DatasetDict(train=rows, validation=rows, test=rows)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["card"], "answer_start": [2]},
        {"text": "card", "answer_start": 2},
        [{"text": "card", "answer_start": 2}],
    ],
)
def test_answers_of_every_form_are_read(answers):
    from hf_distill.tasks.question_answering import answers_of

    rows = questions(answers)["train"]
    assert [tuple(each) for each in answers_of(rows[0]["answers"])] == [("card", 2)]


@pytest.mark.parametrize("answers", ["card", ["card"], {"text": ["card"]}, {"text": "card", "start": 2}, 3])
def test_answers_without_a_place_are_refused_with_the_forms_that_are_read(answers):
    task = QuestionAnswering()
    with pytest.raises(DataError, match=r"split 'test', row 0: .*answer_start"):
        task.check_labels(questions(answers)["test"], "test")
    with pytest.raises(DataError, match="answer_start"):
        task.read_labels(questions(answers)["train"])


# --- words and tags ---------------------------------------------------------------------------------------------------

LINES = {
    ".conll": ["-DOCSTART- -X- O O", "", "EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "", "Peter NNP B-NP B-PER", ""],
    ".txt": ["EU B-ORG", "rejects O", "", "Peter B-PER"],
    ".tsv": ["EU\tB-ORG", "rejects\tO", "", "Peter\tB-PER", "", ""],
    ".bio": ["EU\tX\tB-ORG", "rejects\tY\tO", "   ", "Peter\tX\tB-PER"],
    ".conllu": [
        "# text = EU rejects",
        "1\tEU\teu\tB-ORG\t_",
        "2-3\tdu\t_\t_\t_",
        "2\trejects\treject\tO\t_",
        "",
        "1\tPeter\tPeter\tB-PER\t_",
    ],
}


@pytest.mark.parametrize("ending", LINES)
def test_files_of_words_with_their_tags_are_read(ending, tmp_path):
    path = write(tmp_path / f"a{ending}", "\n".join([*LINES[ending], ""] * 4))
    rows = rows_of(load({"train": path}, TokenClassification), "tokens", "labels")
    assert rows == [(["EU", "rejects"], ["B-ORG", "O"])] * 4 + [(["Peter"], ["B-PER"])] * 4


def test_a_line_with_other_columns_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "a.conll", "EU B-ORG\nrejects\n")
    with pytest.raises(DataError, match=r"a\.conll, line 2: expected a word and its tags in 2 columns, got 'rejects'"):
        load({"train": path}, TokenClassification)


# --- columns, sources -------------------------------------------------------------------------------------------------


def test_a_nested_column_may_be_empty_in_the_first_row():
    metas = [None, {"label": "x"}, {"label": "y"}, None] * 3
    rows = Dataset.from_dict({"text": [f"a {i}" for i in range(12)], "meta": metas})
    given.value = DatasetDict(train=rows, validation=rows.select([1, 2]), test=rows.select([1, 2]))
    config = DataConfig(path="tests.helpers.data:given", columns={"label": "meta.label"})
    data = load_data(config, TextClassification.required, (), ("text",), 0)
    assert list(data.train["label"]) == [None, "x", "y", None] * 3


def test_blanks_in_a_header_are_shown(tmp_path):
    path = write(tmp_path / "a.csv", "text, label\n" + "a,x\nb,y\n" * 5)
    with pytest.raises(DataError, match=r"no column 'label'; it has 'text', ' label'"):
        load(path)


def test_the_test_split_may_come_from_files(tmp_path):
    train = write(tmp_path / "a.csv", table())
    other = write(tmp_path / "b.jsonl", "".join(json.dumps({"t": "x", "label": "gut"}) + "\n" for _ in range(3)))
    test = TestDataConfig(files=other, columns={"text": "t"})
    data = load(train, test=test, test_size=None)
    assert list(data.test["text"]) == ["x"] * 3
    assert data.source == "train: a.csv, test: test: b.jsonl"
    for keys in ({}, {"path": "a/b", "files": "c.csv"}):
        with pytest.raises(RecipeError, match=r"recipe\.data\.test: expected exactly one of path and files"):
            TestDataConfig(**keys)


@pytest.mark.parametrize("key", ["encoding", "delimiter", "field"])
def test_keys_of_files_are_refused_without_files(key):
    with pytest.raises(RecipeError, match=rf"recipe\.data\.{key}: only files are read with it"):
        DataConfig(path="a/b", **{key: "x"})


def test_a_pattern_names_all_files_that_fit_in_order(tmp_path):
    for part in (2, 10, 0):
        write(tmp_path / f"part-{part:02}.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[part % 3 :: 3]))
    assert rows_of(load(str(tmp_path / "part-*.jsonl")), "text", "label") == EXPECTED
    with pytest.raises(DataError, match=r"no file .*/other-\*.jsonl"):
        load(str(tmp_path / "other-*.jsonl"))


@pytest.mark.parametrize("content", [{"train": [["a", "x"]], "val": []}, [["a", "x"], ["b", "y"]]])
def test_rows_that_are_lists_are_refused_with_what_they_should_be(content, tmp_path):
    path = write(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(DataError, match=r"objects with named columns, got lists.*'a', 'x'"):
        load(path)


def test_a_table_without_a_header_is_refused_with_a_hint(tmp_path):
    path = write(tmp_path / "a.csv", "".join(f"a plane takes off {i},{i % 2}\n" for i in range(12)))
    with pytest.raises(DataError, match="a first line with the names of its columns"):
        load(path)


# --- files that hold, or are called, something unusual ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ("folder", "folder is a folder; name the files in it"),
        ("https://host/train.csv", "expected a file of this machine, got the address"),
        (["train.csv", "train.csv"], "train.csv is named twice"),
        ("a" * 5000 + ".csv", "there is no file aaa"),
    ],
    ids=["folder", "address", "twice", "long"],
)
def test_what_is_no_file_is_refused_by_what_it_is(files, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.csv", TEXTS[".csv"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=told):
        load(files)


@pytest.mark.parametrize("name", ["train [1].csv", "tr*in.csv", "tr?in.csv"])
def test_a_name_with_signs_of_patterns_is_that_of_one_file(name, tmp_path):
    write(tmp_path / "train.csv", "text,label\nother,odd\n")
    assert rows_of(load(write(tmp_path / name, TEXTS[".csv"])), "text", "label") == EXPECTED


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\n" + "oh no, it is bad,bad\nfine,good\n" * 6, r"more cells than its header.*'oh no'.*quotes"),
        ("# made by hand\n" + TEXTS[".csv"], "more cells than its header"),
        (TEXTS[".csv"].replace("das Café", "カード").encode("shift-jis"), r"data\.encoding"),
        ("", "has no rows|No columns"),
    ],
    ids=["commas in texts", "comment", "another encoding", "empty"],
)
def test_a_table_that_would_be_read_wrongly_is_refused(content, told, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=told):
        load(str(path))


def test_rows_that_are_numbered_in_a_column_without_a_name_are_read(tmp_path):
    first, *lines = TEXTS[".csv"].splitlines()
    numbered = "\n".join([first, *(f"{number},{line}" for number, line in enumerate(lines))])
    assert rows_of(load(write(tmp_path / "train.csv", numbered)), "text", "label") == EXPECTED


def test_quotation_marks_that_stay_open_do_not_join_the_lines_of_a_tsv(tmp_path):
    text = TEXTS[".tsv"].replace("das Café Nr. 3", '"das Café Nr. 3').replace("das Café Nr. 7", '"das Café Nr. 7')
    rows = rows_of(load(write(tmp_path / "train.tsv", text)), "text")
    assert len(rows) == 12
    assert [row for (row,) in rows if row.startswith('"')] == ['"das Café Nr. 3', '"das Café Nr. 7']
    closed = TEXTS[".tsv"].replace("das Café Nr. 3", '"das Café Nr. 3"')
    assert rows_of(load(write(tmp_path / "closed.tsv", closed)), "text", "label") == EXPECTED


def test_columns_of_one_name_are_told(tmp_path):
    lines: list[str] = []
    first, *others = TEXTS[".csv"].splitlines()
    twice = "\n".join([f"{first},label", *(f"{line},x" for line in others)])
    with reported(lines.append):
        data = load(write(tmp_path / "train.csv", twice))
    assert rows_of(data, "text", "label") == EXPECTED
    assert "warning: data: train.csv: 2 columns are called 'label'; the first of them is read" in lines


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\xa0"])
@pytest.mark.parametrize("separator", [" ", "\t"])
def test_what_only_looks_like_an_end_of_a_line_stays_within_words_and_texts(sign, separator, tmp_path):
    words = f"Ca{sign}fé{separator}O\nda{separator}B-x\n\n" * 6
    data = load(write(tmp_path / "train.conll", words), TokenClassification)
    assert data.train[0]["tokens"] == [f"Ca{sign}fé", "da"]
    rows = "".join(json.dumps({"text": f"a{sign}b", "label": label}, ensure_ascii=False) + "\n" for label in "xyxyxy")
    if sign != "\x0b":  # JSON has it escaped.
        assert load(write(tmp_path / "train.jsonl", rows, "utf-16")).train[0]["text"] == f"a{sign}b"


def test_a_first_line_that_names_the_columns_is_no_word(tmp_path):
    words = "word\ttag\n" + "Café\tO\nda\tB-x\n\n" * 6
    data = load(write(tmp_path / "train.conll", words), TokenClassification)
    parts = (data.train, data.validation, data.test)
    assert all(row["tokens"] == ["Café", "da"] and row["labels"] == ["O", "B-x"] for part in parts for row in part)


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize("content", ["", "[" * 100_000], ids=["empty", "deep"])
def test_json_that_is_empty_or_nested_too_deep_is_refused(content, ending, tmp_path):
    with pytest.raises(DataError, match=r"has no rows|cannot be read as json"):
        load(write(tmp_path / f"train{ending}", content))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_stream_that_breaks_is_refused_where_it_is_opened(ending, tmp_path):
    broken = TEXTS[ending] + ("a,b,c\n" if ending == ".csv" else "{bad\n")
    with pytest.raises(DataError, match="cannot be read"):
        load(write(tmp_path / f"train{ending}", broken), streaming=True)


def test_rows_that_are_trained_on_and_scored_are_told(tmp_path):
    train = write(tmp_path / "train.csv", TEXTS[".csv"])
    data = load({"train": train, "test": write(tmp_path / "test.csv", TEXTS[".csv"])}, test_size=None)
    assert data.warnings[0].startswith("10 of 12 test rows stand among the training rows, too")
    assert f"warning: data: {data.warnings[0]}" in data.notes
    assert load(train).warnings == ()


@pytest.mark.parametrize("name", ["a [v2]", "a*b", "a?"])
def test_a_path_names_one_file_whatever_its_characters(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / "axb").mkdir()
    write(tmp_path / "axb" / "rows.jsonl", TEXTS[".jsonl"])
    data = load({"train": write(tmp_path / name / "rows.jsonl", TEXTS[".jsonl"])})
    assert rows_of(data, "text", "label") == EXPECTED
