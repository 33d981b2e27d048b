"""Preference files: what stands beside a pair and before it, votes that do not fit, and a wrong value anywhere."""

import csv
import gzip
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data import BOT, FORMATS, GOOD, JSON, PAIRS, SCORED, USER, WORSE, as_json, as_jsonl, reply, write

import dpo_numpy as dn
from dpo_numpy.data import Row
from dpo_numpy.data.formats import common_prefix

UNPAIRED = {"prompt": "Q", "completion": "yes", "label": True}
BATTLE = {"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "model_a"}


# ---- what stands beside a pair, and before it


@pytest.mark.parametrize(
    "beside",
    [
        {"label": "x"},
        {"winner": "gpt4"},
        {"completion": "x"},
        {"response_a": "x"},
        {"reference_chosen_logps": -1.0, "reference_rejected_logps": -2.0},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_a_pair_is_a_pair_whatever_stands_beside_it(tmp_path, beside):
    found = dn.load(write(tmp_path, as_jsonl([GOOD | beside, GOOD])))
    assert found.format == "prompt, chosen, rejected"
    assert [row.responses for row in found.rows] == [("yes", "no")] * 2


SYSTEM = {"role": "system", "content": "Be brief"}
MORE = {"role": "user", "content": "And?"}


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "responses"),
    [
        ([BOT], [WORSE], "Hi", ("Hello", "What")),
        (
            [USER, BOT, MORE, BOT],
            [USER, BOT, MORE, WORSE],
            "user: Hi\n\nassistant: Hello\n\nuser: And?",
            ("Hello", "What"),
        ),
        (
            [USER, BOT, MORE, BOT],
            [USER, WORSE, MORE, BOT],
            "Hi",
            ("assistant: Hello\n\nuser: And?\n\nassistant: Hello", "assistant: What\n\nuser: And?\n\nassistant: Hello"),
        ),
        ([SYSTEM, USER, BOT], [SYSTEM, USER, WORSE], "system: Be brief\n\nuser: Hi", ("Hello", "What")),
    ],
)
def test_nothing_said_in_an_ultrafeedback_row_is_lost(tmp_path, chosen, rejected, prompt, responses):
    [row] = dn.load(write(tmp_path, as_jsonl([{"prompt": "Hi", "chosen": chosen, "rejected": rejected}]))).rows
    assert (row.prompt, row.responses, row.facts) == (prompt, responses, {})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "chosen": [MORE, BOT], "rejected": [MORE, WORSE]},
        {"prompt": "Hi", "chosen": [USER, BOT], "rejected": [MORE, WORSE]},
        {"conversation_a": [USER, BOT], "conversation_b": [MORE, WORSE], "winner": "model_a"},
        {"conversation_a": [USER, BOT], "conversation_b": [MORE, WORSE], "winner": "tie"},
    ],
)
def test_conversations_on_different_prompts_are_dropped(tmp_path, record):
    with pytest.raises(
        ValueError, match=r"no pair left to learn from: 1 chosen and rejected answer different prompts$"
    ):
        dn.load(write(tmp_path, as_jsonl([record])))


@pytest.mark.parametrize(("asked", "prompt"), [({"question": "R"}, "R"), ({"prompt": "Q", "question": "R"}, "Q")])
def test_the_prompt_of_a_battle_may_be_called_question(tmp_path, asked, prompt):
    record = {k: v for k, v in BATTLE.items() if k != "prompt"} | asked
    assert dn.load(write(tmp_path, as_jsonl([record]))).rows[0].prompt == prompt


def test_models_in_a_battle_go_on_from_answers_of_their_own(tmp_path):
    battle = {"conversation_a": [USER, BOT, MORE, BOT], "conversation_b": [USER, WORSE, MORE, BOT], "winner": "model_b"}
    [row] = dn.load(write(tmp_path, as_jsonl([battle]))).rows
    assert row.prompt == "user: Hi"
    assert [text.split("\n\n")[0] for text in row.responses] == ["assistant: What", "assistant: Hello"]


def test_transcripts_without_the_empty_lines_before_the_first_human_are_transcripts(tmp_path):
    found = dn.load(
        write(tmp_path, as_jsonl([{"chosen": "Human: a\n\nAssistant: bc", "rejected": "Human: a\n\nAssistant: bd"}]))
    )
    assert (found.format, found.rows[0].responses) == ("Human/Assistant transcripts (HH)", (" bc", " bd"))


def test_the_csv_module_is_left_as_it_was(tmp_path):
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    [row] = dn.load(write(tmp_path, f"prompt,chosen,rejected\n{long},a,b\n".encode())).rows
    assert row.prompt == long and csv.field_size_limit() == before


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    text = json.dumps({**GOOD, "chosen": "a\u2028b\x85c"}, ensure_ascii=False)
    assert dn.load(write(tmp_path, text.encode())).rows[0].responses[0] == "a\u2028b\x85c"


# ---- ranks, battles, votes


def test_ranks_are_numbers_even_where_they_are_strings(tmp_path):
    replies = [reply("a", "x", "10"), reply("b", "y", "9")]
    tree = {"message_tree_id": "t", "prompt": reply("p", "Q", role="prompter", replies=replies)}
    assert dn.load(write(tmp_path, as_jsonl([tree]))).rows[0].responses == ("y", "x")
    tree["prompt"]["replies"][1]["rank"] = 11
    assert dn.load(write(tmp_path, as_jsonl([tree]))).rows[0].responses == ("x", "y")


@pytest.mark.parametrize(
    ("pairs", "cast", "sentence"),
    [
        (
            [{k: v for k, v in PAIRS[0].items() if k != "id"}],
            [{"id": "None", "winner": "left"}],
            r"data\.bin, row 1 has no key 'id'; its keys are",
        ),
        (
            [{**PAIRS[0], "id": 0.5}],
            [{"id": 0.5, "winner": "left"}],
            r"data\.bin, row 1 key 'id' is a number; expected a whole number or a string",
        ),
        (
            [PAIRS[0], {**PAIRS[2], "id": "0"}],
            [{"id": 0, "winner": "left"}],
            r"data\.bin, row 3 key 'id' is '0', as in an earlier row; expected",
        ),
        ([PAIRS[0]], [{"winner": "left"}], "votes, row 1: has no key 'id'; its keys are 'winner'"),
        ([PAIRS[0]], [{"id": 0, "winner": ["left"]}], "votes, row 1: key 'winner' is a list; expected a string"),
    ],
)
def test_pairs_and_votes_that_cannot_be_joined(tmp_path, pairs, cast, sentence):
    with pytest.raises(ValueError, match=sentence):
        dn.load(write(tmp_path, as_jsonl(pairs)), votes=write(tmp_path, as_jsonl(cast), "votes"))


# ---- broken


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\xef\xbb\xbf{\xff}", r"row 1: byte 4 \(0xff\) is not UTF-8"),
        (b"chosen,rejected,chosen\na,b,c\n", "has two columns 'chosen'; expected different names"),
        (
            b'{"chosen": "\\ud800", "rejected": "a"}',
            r"row 1 key 'chosen' has the lone surrogate '\\ud800' at character 0; expected Unicode",
        ),
        (as_jsonl([{**UNPAIRED, "label": 10**4000}]), r"row 1 key 'label' is 10{39} \.\.\.; expected true or false"),
        (as_jsonl([{**UNPAIRED, "label": 2}]), "row 1 key 'label' is 2; expected true or false"),
        (
            as_jsonl([{**BATTLE, "winner": "tiebreak"}]),
            "row 1 key 'winner' is 'tiebreak'; expected 'model_a', 'model_b', 'tie' or",
        ),
        (
            as_jsonl([{k: v for k, v in BATTLE.items() if k != "prompt"}]),
            "row 1 has no key 'prompt'; its keys are 'response_a'",
        ),
        (
            as_jsonl([{"message_tree_id": "t", "prompt": reply("p", "Q") | {"replies": 0}}]),
            "key 'replies' of tree t is a number; expected a list",
        ),
        (as_jsonl([{str(i): i for i in range(99)}]), r"row 1 has keys '0', .*'19' \.\.\.; expected chosen"),
        (
            as_jsonl([{"chosen": "Qa", "rejected": "Qb"}, GOOD]),
            "row 3 is of the format 'prompt, chosen, rejected'; expected 'chosen, rejected, prompt shared' as in row 1",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, data, sentence):
    path = write(tmp_path, data)
    with pytest.raises(ValueError, match=sentence) as caught:
        dn.load(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 500


def test_a_name_that_no_file_can_have():
    with pytest.raises(ValueError, match=r"^'a\\x00b' cannot be the name of a file$"):
        dn.load("a\0b")


def test_parquet_inside_gzip(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([GOOD]), tmp_path / "pairs")
    path = write(tmp_path, gzip.compress((tmp_path / "pairs").read_bytes()))
    assert [*dn.load(path).rows] == [Row("Q", ("yes", "no"), "Q", "row 1")]


def places(value, path=()):
    """Every path into a record, the record's own included"""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def put(value, path, new):
    """A copy with `new` at the path; with `...`, without what stands there"""
    if not path:
        return {} if new is ... else new
    copy = value.copy()
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


VOTED = [{"id": 0, "winner": "left"}, {"id": 0, "winner": "tie"}]
SOUND = [records for records, _ in FORMATS.values()] + [[SCORED]]


@given(st.data(), st.just(...) | JSON)
def test_nothing_in_the_place_of_a_value_raises_anything_else(tmp_path_factory, data, new):
    path, votes = (tmp_path_factory.getbasetemp() / name for name in ("fuzz.json", "fuzz_votes.json"))
    records, cast = data.draw(st.sampled_from([(records, None) for records in SOUND] + [(PAIRS, VOTED)]))
    at = data.draw(
        st.sampled_from(
            [(which, *inner) for which, whole in enumerate((records, cast or [])) for inner in places(whole) if inner]
        )
    )
    records, cast = (
        put(whole, at[1:], new) if which == at[0] else whole for which, whole in enumerate((records, cast))
    )
    path.write_bytes(as_json(records))
    votes.write_bytes(as_json(cast))
    found, sentence = None, str(path)
    try:
        found = dn.load(path, votes if cast is not None else None)
    except ValueError as error:
        sentence = str(error)
    assert str(path) in sentence or str(votes) in sentence
    if found and not found.scored:
        assert len(dn.to_preferences(found.rows, dn.Bytes())) == len(found.rows)


# ---- nothing to learn


def test_what_is_left_out_is_all_told_where_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match=r"has no pair left to learn from: 1 empty or blank response; 1 ties$"):
        dn.load(write(tmp_path, as_jsonl([{**BATTLE, "response_a": ""}, {**BATTLE, "winner": "tie"}])))
    with pytest.raises(ValueError, match=r"row 1: tie \(1 such in all\); expected none with strict$"):
        dn.load(write(tmp_path, as_jsonl([{**BATTLE, "winner": "tie"}, BATTLE])), strict=True)
    with pytest.raises(ValueError, match=r"has no pair left to learn from: it compares nothing$"):
        dn.load(write(tmp_path, as_jsonl([{"message_tree_id": "t", "prompt": reply("p", "Q")}])))


# ---- the shared prompt

MARKED = st.text(st.sampled_from("ab \u0301\u0300\ufe0f\u093e"), max_size=5) | st.text(max_size=5)


@given(MARKED, MARKED, MARKED)
def test_the_shared_prompt_is_the_longest_common_beginning_that_ends_between_letters(prompt, a, b):
    x, y = prompt + a, prompt + b

    def allowed(cut):
        marks = [text[cut] for text in (x, y) if cut < len(text) and unicodedata.category(text[cut])[0] == "M"]
        return x[:cut] == y[:cut] and (cut == 0 or not marks)

    assert common_prefix(x, y) == max(cut for cut in range(min(len(x), len(y)) + 1) if allowed(cut))


def test_letters_that_differ_in_their_accents_differ(tmp_path):
    [row] = dn.load(write(tmp_path, json.dumps({"chosen": "cafe\u0301", "rejected": "cafe"}).encode())).rows
    assert (row.prompt, row.responses) == ("caf", ("e\u0301", "e"))


# ---- to Preferences, and back to text

ONE = Row("q", ("a", "b"), "q", "row 7")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (ONE._replace(responses=("a", " ")), "row 7 has an empty or blank response; expected text"),
        (ONE._replace(responses=()), "row 7 has an empty or blank response; expected text"),
        (ONE._replace(responses=("a", "a")), "row 7 compares a response with itself; expected different ones"),
        (ONE._replace(prompt="\ud800"), "row 7 has a lone surrogate; expected Unicode text"),
        (ONE._replace(weight=float("nan")), "row 7 has the weight nan; expected a finite number, at least 0"),
        (ONE._replace(weight=-1.0), "row 7 has the weight -1.0; expected a finite number, at least 0"),
        (ONE._replace(weight=0.0), "the weights of all rows are 0; expected some that count"),
        (ONE._replace(facts={"margin": float("inf")}), "row 7 has the margin inf; expected a finite number"),
    ],
)
def test_rows_that_cannot_be_learned_from(row, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        dn.to_preferences([row], dn.Bytes())
    dn.to_preferences([ONE, ONE._replace(weight=0.0), ONE._replace(facts={"margin": -1.0})], dn.Bytes())


def test_a_vocabulary_may_hold_a_single_word():
    assert dn.Words.fit(["b a a a"], limit=1).pieces == (" a",)


@pytest.mark.parametrize(("tokenizer", "bad"), [(dn.Bytes(), 257), (dn.Words(("a",)), 3), (dn.Bytes(), -1)])
def test_ids_out_of_the_vocabulary_are_errors(tokenizer, bad):
    with pytest.raises(ValueError, match=f"^id {bad} is not in the vocabulary; expected 0 to {tokenizer.vocab - 1}$"):
        tokenizer.decode([0, bad])
    tokenizer.decode([0, tokenizer.vocab - 1])
