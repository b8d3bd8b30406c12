"""Chats in templates of every kind: what counts, what is left out, and what a template refuses."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from hf_distill.errors import DataError, RecipeError
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.tokenizers.chat import render_chats
from hf_distill.tokenizers.templates import read_template
from tests.helpers import tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_EARLIER = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1] }}"
)
CUTS = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
OPENS = CUTS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
)
CALLS = CHATML.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}|{{ k }}={{ v }}{% endfor %}{% endfor %}",
)

MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def turn(role: str, content: str | None, **more) -> dict:
    return {"role": role, "content": content, **more}


THOUGHTS = [
    turn("user", "my card"), turn("assistant", "<think>the bank</think>is good"),
    turn("user", "your card"), turn("assistant", "<think>the river</think>is bad"),
]  # fmt: skip


def rendered(template: str, messages: list[dict], tools=None) -> list[tuple[str, list[str]]]:
    chats = render_chats(tiny.chat_tokenizer(template), messages, tools)
    return [(chat.text, [chat.text[slice(*span)] for span in chat.spans]) for chat in chats]


def test_where_a_template_renders_earlier_turns_otherwise_each_turn_is_an_example():
    assert [spans for _, spans in rendered(CHATML, THOUGHTS)] == [
        ["<think>the bank</think>is good<|im_end|>\n", "<think>the river</think>is bad<|im_end|>\n"]
    ]
    (first, one), (second, other) = rendered(DROPS_EARLIER, THOUGHTS)
    assert one == ["<think>the bank</think>is good<|im_end|>\n"]
    assert other == ["<think>the river</think>is bad<|im_end|>\n"]
    assert "your card" not in first
    assert "the bank" not in second  # As the model sees it when it writes.
    made, task = tiny.chat_tokenizer(DROPS_EARLIER), CausalLanguageModeling(max_length=64)
    rows = Dataset.from_list([{"messages": THOUGHTS}] * 3)
    encoded = task.encode(rows, made)
    assert list(encoded["source"]) == [0, 0, 1, 1, 2, 2]
    assert [line for line in task.check_rows(rows, made) if "6 in all" in line]
    assert task.prompts(rows, made).references == [THOUGHTS[-1]["content"]] * 3


def test_a_template_whose_prompt_opens_a_block_works_for_single_turns():
    ((text, spans),) = rendered(OPENS, [turn("user", "my card"), turn("assistant", "is good")])
    assert spans == ["is good<|im_end|>\n"]
    assert "<think>" not in text
    assert [spans for _, spans in rendered(OPENS, THOUGHTS)] == [["is good<|im_end|>\n", "is bad<|im_end|>\n"]]


@pytest.mark.parametrize(
    ("template", "more", "named"),
    [
        (CUTS, {}, "content in 2"),
        (CHATML, {"reasoning_content": "the letter"}, "reasoning_content in 2"),
        (CHATML, {"thinking": "the letter"}, "thinking in 2"),
        (CHATML, {"tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}, "tool_calls in 2"),
    ],
)
def test_what_a_template_leaves_out_is_counted(template, more, named):
    chat = [turn("user", "my card"), turn("assistant", "<think>the bank</think>is good", **more)]
    rows = Dataset.from_list([{"messages": chat}] * 2)
    lines = list(CausalLanguageModeling(max_length=64).check_rows(rows, tiny.chat_tokenizer(template)))
    assert [line for line in lines if named in line and "of 2 rows" in line]
    assert list(CausalLanguageModeling(max_length=64).check_rows(rows, tiny.chat_tokenizer(CALLS))) == [] or more


def test_a_template_that_leaves_out_all_that_is_said_is_refused():
    calls = json.dumps([{"function": {"name": "look", "arguments": "{}"}}])
    rows = Dataset.from_list([{"messages": [turn("user", "my card"), turn("assistant", "", tool_calls=calls)]}] * 2)
    with pytest.raises(DataError, match=r"leaves out all .*tool_calls.*2 of 2 rows"):
        list(CausalLanguageModeling().check_rows(rows, tiny.chat_tokenizer(CHATML)))
    assert list(CausalLanguageModeling().check_rows(rows, tiny.chat_tokenizer(CALLS))) == []


@pytest.mark.parametrize(
    ("template", "chat", "told"),
    [
        (NO_SYSTEM, [turn("system", "the"), *THOUGHTS[:2]], "System role not supported; merge the system turn"),
        (ALTERNATES, [THOUGHTS[0], *THOUGHTS[:2]], "roles must alternate user/assistant; merge turns of one role"),
        ("{{ messages[0].content.nothing.more }}", THOUGHTS, "has no attribute 'nothing'; set task.chat_template"),
        ("{{ messages[0].role + 1 }}", THOUGHTS, "chat of user, assistant: .*set task.chat_template"),
        ("{{ 1 / 0 }}", THOUGHTS, "division by zero; set task.chat_template"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", THOUGHTS, "recursion.*; set task.chat_template"),
        (MARKED.replace("'assistant'", "'nobody'"), THOUGHTS, "marks nothing of what the assistant says"),
    ],
)
def test_what_a_template_raises_names_the_row_its_words_and_the_way_out(template, chat, told):
    made, rows = tiny.chat_tokenizer(template), Dataset.from_list([{"messages": THOUGHTS[:2]}] * 3)
    rows = Dataset.from_list([*([{"messages": THOUGHTS[:2]}] * 2), {"messages": chat}])
    with pytest.raises(DataError, match=rf"row \d: .*{told}"):
        CausalLanguageModeling().encode(rows, made)
    with pytest.raises(DataError, match=rf"row \d: .*{told}"):
        list(CausalLanguageModeling().check_rows(rows, made))


def test_calls_of_tools_reach_the_template_as_mappings_and_tools_as_descriptions():
    calls = json.dumps([{"type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}])
    chat = [turn("user", "my card", tool_calls=None), turn("assistant", "", tool_calls=calls)]
    described = json.dumps([{"type": "function", "function": {"name": "look", "parameters": {}}}])
    template = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}" + CALLS
    ((text, spans),) = rendered(template, chat, described)
    assert text.startswith("look;")
    assert spans == ["look|city=Rome<|im_end|>\n"]


@pytest.mark.parametrize("unlearned", [{"weight": 0}, {"train": False}])
def test_turns_that_are_not_to_be_learned_do_not_count(unlearned):
    chat = [THOUGHTS[0], {**THOUGHTS[1], **unlearned}, *THOUGHTS[2:]]
    assert [spans for _, spans in rendered(CHATML, chat)] == [["<think>the river</think>is bad<|im_end|>\n"]]
    assert [spans for _, spans in rendered(DROPS_EARLIER, chat)] == [["<think>the river</think>is bad<|im_end|>\n"]]
    assert [spans for _, spans in rendered(MARKED, chat)] == [["<think>the river</think>is bad"]]


def test_a_template_comes_from_a_text_a_file_or_a_tokenizer_and_is_saved_with_the_student(tmp_path):
    (tmp_path / "chat.jinja").write_text(CHATML)
    tiny.chat_tokenizer(CHATML).save_pretrained(tmp_path / "other")
    for given in (CHATML, str(tmp_path / "chat.jinja"), str(tmp_path / "other")):
        made, task = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE), CausalLanguageModeling(chat_template=given)
        task.encode(Dataset.from_list([{"messages": THOUGHTS}]), made)
        assert made.chat_template == task.chat_template == CHATML
        assert task.settings["chat_template"] == CHATML
    (tmp_path / "chat.txt").write_text(CHATML)
    (tmp_path / "chat.json").write_text(json.dumps({"chat_template": CHATML}))
    several = tiny.chat_tokenizer(CHATML)
    several.chat_template = {"default": CHATML, "rag": CUTS}
    several.save_pretrained(tmp_path / "several")
    assert {read_template(str(tmp_path / name)) for name in ("chat.txt", "chat.json", "several")} == {CHATML}
    for given in (" ", ""):
        with pytest.raises(RecipeError, match=r"task.chat_template: expected a text that says something"):
            CausalLanguageModeling(chat_template=given)
    with pytest.raises(RecipeError, match=r"task.chat_template: .*; or give the template itself"):
        read_template(str(tmp_path / "no_folder"))
    with pytest.raises(RecipeError, match=r"task.chat_template: .*none.jinja cannot be read"):
        read_template(str(tmp_path / "none.jinja"))
    with pytest.raises(RecipeError, match=r"task.chat_template: does nothing for rows of text"):
        CausalLanguageModeling(chat_template=CHATML).read_labels(Dataset.from_list([{"text": "a"}]))


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (CHATML.replace("for m in messages", "for m in messages if m.role != 'system'"), "system in 2"),
        (CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'assistant' }}"), "system in 2, user in 2"),
        (MARKED.replace("{% if", "{% if loop.last and"), r"assistant's turns without {% generation %} in 2"),
        (CHATML.replace("{{ m.content }}", "{{ m.content | tojson }}"), None),
        (CHATML, None),
    ],
)
def test_what_others_say_is_not_left_out_in_silence(template, named):
    chat = [turn("system", "je\nné"), *THOUGHTS]
    rows = Dataset.from_list([{"messages": chat}] * 2)
    lines = list(CausalLanguageModeling(max_length=64).check_rows(rows, tiny.chat_tokenizer(template)))
    assert [named in line for line in lines if "leaves out" in line] == ([True] if named else [])


def test_of_a_first_turn_only_what_the_assistant_says_counts():
    opened = "{% if messages[0].role != 'system' %}you are kind {% endif %}" + CHATML
    chat = [turn("assistant", "is good"), *THOUGHTS[2:]]
    (_, spans) = rendered(opened, chat)[0]
    assert spans == ["is good<|im_end|>\n", "<think>the river</think>is bad<|im_end|>\n"]


def test_rows_of_another_form_than_those_that_are_learned_from_are_told():
    task, made = CausalLanguageModeling(max_length=64), tiny.chat_tokenizer(CHATML)
    task.read_labels(Dataset.from_list([{"messages": THOUGHTS[:2]}] * 2))
    (line,) = task.check_rows(Dataset.from_list([{"text": "my card"}] * 2), made)
    assert line.startswith("warning: its rows are text, those that are learned from messages")
    assert list(task.check_rows(Dataset.from_list([{"messages": THOUGHTS[:2]}] * 2), made)) == []
