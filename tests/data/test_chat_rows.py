"""Rows of every form that people have: read as messages, prompts or texts, and told; or refused by row."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, IterableDataset

from hf_distill.data.forms.chat_rows import read_chats
from hf_distill.data.forms.known_forms import recognised
from hf_distill.data.forms.turns import Unreadable, read_tools, read_turns
from hf_distill.data.rows import Data, load_data
from hf_distill.errors import DataError
from hf_distill.recipe import DataConfig
from hf_distill.tasks import CausalLanguageModeling, Translation


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


CHAT = [turn("user", "my card"), turn("assistant", "is good")]
SHARED = [{"from": "human", "value": "my card"}, {"from": "gpt", "value": "is good"}]
PAIRS = {"chosen": CHAT, "rejected": [CHAT[0], turn("assistant", "no")]}


def load(
    rows: list[dict], tmp_path, task=CausalLanguageModeling, kind: str = "jsonl", *, prompts=False, **keys
) -> Data:
    path = str(tmp_path / f"rows.{kind}")
    {"parquet": Dataset.to_parquet, "csv": Dataset.to_csv, "jsonl": Dataset.to_json}[kind](
        Dataset.from_list(rows), path
    )
    config = DataConfig(files=dict.fromkeys(("train", "validation", "test"), path), **keys)
    return load_data(config, task.required, task.optional, task.text_columns, 0, prompts=prompts)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"conversations": SHARED}, "rows have conversations (from, value): read as messages"),
        ({"conversation": CHAT}, "rows have conversation: read as messages"),
        ({"conversations": json.dumps(SHARED)}, "conversations"),
        ({"messages": json.dumps(CHAT)}, None),
        ({"messages": SHARED}, None),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "rows have prompt, completion: read as messages"),
        ({"prompt": "my card", **PAIRS}, "rows have prompt, chosen, rejected: read as messages, the turns of chosen"),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, "the turns of prompt and chosen"),
        (PAIRS, "rows have chosen, rejected: read as messages"),
        ({"messages": [turn("human", ["my card"]), turn("model", ["is ", "good"])]}, None),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_chats_of_every_form_are_read_as_messages_and_told(row, told, kind, tmp_path):
    data = load([row] * 3, tmp_path, kind=kind)
    assert data.test["messages"][:] == [CHAT] * 3
    assert told is None or any(told in note for note in data.notes)


@pytest.mark.parametrize(
    ("row", "read", "told"),
    [
        ({"instruction": "do", "input": "x", "output": "done"}, ("do\n\nx\n\n", "done"), "a blank line behind each"),
        ({"instruction": "do", "context": "", "response": "done"}, ("do\n\n", "done"), "completion (response)"),
        ({"prompt": "do", "chosen": "done", "rejected": "no"}, ("do", "done"), "read as prompt and chosen"),
        ({"prompt": "do", "response": "done"}, ("do", "done"), "read as prompt and response"),
    ],
)
def test_instructions_and_pairs_of_texts_are_read_as_prompt_and_completion(row, read, told, tmp_path):
    data = load([row] * 3, tmp_path)
    assert (data.train[0]["prompt"], data.train[0]["completion"]) == read
    assert any(told in note for note in data.notes)


def test_columns_that_the_recipe_names_are_not_guessed(tmp_path):
    rows = [{"instruction": "do", "output": "done", "text": "whole"}] * 3
    assert load(rows, tmp_path).train.column_names == ["text"]
    named = load(rows, tmp_path, columns={"prompt": "instruction", "completion": "output"}).train
    assert (named[0]["prompt"], named[0]["completion"]) == ("do", "done")


BAD = [
    (None, "expected a list of turns"), ([], "has no turns"), ("my card", "is no JSON"),
    (CHAT[:1], "no assistant's turn"),
    ([turn("narrator", "a"), CHAT[1]], "'narrator'"), ([turn(None, "a"), CHAT[1]], "role is null"),
    ([turn("user", None), CHAT[1]], "content is null"), ([CHAT[0], turn("assistant", " ")], "says nothing"),
    ([turn("user", [{"type": "image_url"}]), CHAT[1]], "'image_url'"),
    ([turn("user", 5), CHAT[1]], "a text as its content"),
    ([CHAT[0], turn("assistant", "a", weight=0.5)], "weight 0 or 1"), (["my card", "is good"], "role and content"),
    ([CHAT[0], turn("assistant", "a", weight=0)], "no turn of the assistant is learned"),
    ([CHAT[0], turn("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}])], "is no JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("chat", "told"), BAD, ids=[told for _, told in BAD])
def test_a_chat_that_cannot_be_read_is_refused_with_its_row_or_dropped(chat, told, tmp_path):
    rows = [{"messages": json.dumps(CHAT)}] * 5 + [{"messages": None if chat is None else json.dumps(chat)}]
    if chat == "my card":
        rows[-1] = {"messages": chat}
    with pytest.raises(DataError, match=rf"1 of 6 rows cannot be learned from \(first: row 5, .*{told}"):
        load(rows, tmp_path)
    dropped = load(rows, tmp_path, invalid_rows="drop")
    assert len(dropped.train) == 5
    assert any("1 of 6 rows are dropped" in note and told in note for note in dropped.notes)


def test_arguments_of_tools_are_without_the_nulls_of_other_rows_and_tools_are_kept(tmp_path):
    def called(**arguments) -> list[dict]:
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        return [turn("user", "my card", tool_calls=None), turn("assistant", None, tool_calls=[call])]

    tools = [{"type": "function", "function": {"name": "look"}}]
    rows = [{"messages": called(city="Rome", zone=None), "tools": tools}] * 2
    rows += [{"messages": called(city=None, zone="east"), "tools": None}] * 2
    data = load(rows, tmp_path, kind="parquet")
    said = [json.loads(chat[-1]["tool_calls"])[0]["function"]["arguments"] for chat in data.test["messages"]]
    assert [json.loads(each) for each in said] == [{"city": "Rome"}] * 2 + [{"zone": "east"}] * 2
    assert [each and json.loads(each)[0]["function"]["name"] for each in data.test["tools"]] == ["look"] * 2 + [
        None
    ] * 2


def test_reading_is_the_same_a_second_time():
    call = turn("assistant", None, function_call={"name": "f", "arguments": '{"a": null, "b": 1}'})
    chats = [[CHAT[0], call, turn("function", "x"), {**CHAT[1], "weight": 1}], SHARED, CHAT]
    for once in map(read_turns, chats):
        assert read_turns(once) == once
    described = read_tools([{"name": "f", "parameters": {}}])
    assert read_tools(described) == described
    with pytest.raises(Unreadable, match="list of objects in tools"):
        read_tools(["f"])


def test_a_stream_is_read_as_it_comes():
    rows = [{"conversations": SHARED}] * 3 + [{"conversations": []}]
    stream, notes = recognised(IterableDataset.from_generator(lambda: iter(rows)))
    assert notes
    read, _ = read_chats(stream, "train", "drop")
    assert [row["messages"] for row in read] == [CHAT] * 3
    with pytest.raises(DataError, match="row 3, messages has no turns"):
        list(read_chats(stream, "train", "refuse")[0])


def test_prompts_alone_are_enough_where_a_model_writes_what_is_learned(tmp_path):
    for rows in ([{"prompt": "my card"}] * 3, [{"prompt": CHAT[:1]}] * 3, [{"messages": CHAT[:1]}] * 3):
        with pytest.raises(DataError, match=r"prompts alone|no assistant's turn"):
            load(rows, tmp_path)
        with pytest.raises(DataError, match=r"prompts alone|no assistant's turn"):  # Of the rows that are scored.
            load(rows, tmp_path, prompts=True)
    path, answered = tmp_path / "prompts.jsonl", tmp_path / "answered.jsonl"
    for row, other in (
        ({"prompt": "my card"}, {"prompt": "my", "completion": "card"}),
        ({"prompt": CHAT[:1]}, {"messages": CHAT}),
    ):
        Dataset.from_list([row] * 3).to_json(str(path))
        Dataset.from_list([other] * 3).to_json(str(answered))
        config = DataConfig(files={"train": str(path), "validation": str(answered), "test": str(answered)})
        task = CausalLanguageModeling
        data = load_data(config, task.required, task.optional, task.text_columns, 0, prompts=True)
        assert len(data.train) == 3


@pytest.mark.parametrize(
    ("task", "row", "column"),
    [
        (CausalLanguageModeling, {"text": ["a", "b"]}, "text"),
        (CausalLanguageModeling, {"prompt": "a", "completion": ["b", "c"]}, "completion"),
        (Translation, {"source": "a", "target": ["b", "c"]}, "target"),
    ],
)
def test_a_list_where_one_text_is_meant_is_refused_with_the_way_out(task, row, column, tmp_path):
    with pytest.raises(DataError, match=rf"row 0 has a list in column '{column}'.*one text is meant; choose one"):
        load([row] * 3, tmp_path, task)


def test_empty_texts_are_refused_or_dropped_and_counted(tmp_path):
    rows = [{"text": "a b"}] * 4 + [{"text": " "}, {"text": None}]
    with pytest.raises(DataError, match=r"2 of 6 rows have no text in column 'text' \(first: row 4, ' '"):
        load(rows, tmp_path)
    data = load(rows, tmp_path, invalid_rows="drop")
    assert len(data.train) == 4
    assert any("2 of 6 rows are dropped" in note for note in data.notes)


@pytest.mark.parametrize("row", [{"inputs": "a", "targets": "b"}, {"dialog": ["a", "b"]}, {"input_ids": [1, 2]}])
def test_rows_of_which_the_task_reads_nothing_are_refused_with_what_it_reads(row, tmp_path):
    with pytest.raises(DataError, match=r"reads none of its columns '\w+'.*it reads text, prompt.*in data.columns"):
        load([row] * 3, tmp_path)


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"instruction": "do", "output": "done", "history": [["a", "b"]]}, "history"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:], "label": False}, "label"),
        ({"messages": CHAT, "text": "a", "id": 3}, "id"),
        ({"text": "a"}, None),
    ],
)
def test_columns_that_nothing_reads_are_told(row, unread, tmp_path):
    notes = [note for note in load([row] * 3, tmp_path).notes if "not read" in note]
    assert notes == ([f"data: columns that are not read: {unread}"] if unread else [])


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize("chats", [{"messages": CHAT}, {"conversations": SHARED}])
def test_a_system_turn_in_a_column_of_its_own_is_the_first_turn(chats, name, tmp_path):
    data = load([{**chats, name: "be kind"}, {**chats, name: None}] * 2, tmp_path)
    assert [row["messages"] for row in data.train.select(range(2))] == [[turn("system", "be kind"), *CHAT], CHAT]
    assert any(name in note for note in data.notes)


def test_a_text_among_chats_is_nobodys_turn(tmp_path):
    rows = [{"conversations": json.dumps(SHARED)}] * 3 + [{"conversations": "my card"}]
    with pytest.raises(DataError, match="row 3, messages: 'my card' is no JSON"):
        load(rows, tmp_path)


def test_a_call_under_a_role_in_capitals_is_a_call():
    read = read_turns([CHAT[0], {"from": "Function_Call", "value": '{"name": "f", "arguments": {}}'}])
    assert json.loads(read[1]["tool_calls"])[0]["function"]["name"] == "f"
    with pytest.raises(Unreadable, match=r"its content is missing \(its keys: role, text\)"):
        read_turns([{"role": "user", "text": "my card"}, CHAT[1]])


def test_only_texts_are_joined(tmp_path):
    columns = {"prompt": ["a", "b"], "completion": "c"}
    with pytest.raises(DataError, match="column 'b' holds '3', which is no text"):
        load([{"a": "my", "b": 3, "c": "card"}] * 3, tmp_path, columns=columns)
