"""Preference files: every format in every container, every way to be broken, every way to teach nothing."""

import csv
import gzip
import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpo_numpy as dn
from dpo_numpy.data import Row
from dpo_numpy.data.formats import common_prefix

KEYS = (
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "winner",
    "response_a",
    "response_b",
    "conversation_a",
    "conversation_b",
    "message_tree_id",
    "replies",
    "rank",
    "role",
    "text",
    "content",
    "score_chosen",
    "result_x",
    "policy_chosen_logps",
    "other",
)
USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
WORSE = {"role": "assistant", "content": "What"}
SCORED = {
    "policy_chosen_logps": -2.1,
    "policy_rejected_logps": -4.5,
    "reference_chosen_logps": -3.0,
    "reference_rejected_logps": -3.2,
}


def reply(name, text, rank=None, replies=(), role="assistant"):
    return {
        "message_id": name,
        "text": text,
        "role": role,
        "replies": list(replies),
        **({} if rank is None else {"rank": rank}),
    }


TREE = {
    "message_tree_id": "t1",
    "prompt": reply(
        "p",
        "Q",
        role="prompter",
        replies=[
            reply("c", "third", 2),
            reply(
                "a",
                "first",
                0,
                [reply("q", "why?", role="prompter", replies=[reply("x", "so", 1), reply("y", "because", 0)])],
            ),
            reply("b", "second", 1),
            reply("u", "unranked"),
        ],
    ),
}

#: format -> records, rows (prompt, responses, group, where, weight, label, facts)
FORMATS = {
    "prompt, chosen, rejected": (
        [{"prompt": "Q", "chosen": "yes", "rejected": "no", "source": "ignored"}],
        [Row("Q", ("yes", "no"), "Q", "row 1")],
    ),
    "chosen, rejected, prompt shared": (
        [{"chosen": "Q: is it? yes", "rejected": "Q: is it? no"}],
        [Row("Q: is it? ", ("yes", "no"), "Q: is it? ", "row 1")],
    ),
    "conversations, prompt apart": (
        [{"prompt": [USER], "chosen": [BOT], "rejected": [WORSE]}],
        [Row("user: Hi", ("Hello", "What"), "user: Hi", "row 1")],
    ),
    "conversations, prompt shared": (
        [{"chosen": [USER, BOT], "rejected": [USER, WORSE]}],
        [Row("user: Hi", ("Hello", "What"), "user: Hi", "row 1")],
    ),
    "string prompt, conversations (UltraFeedback)": (
        [{"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, WORSE], "score_chosen": 8.5, "score_rejected": 6}],
        [Row("Hi", ("Hello", "What"), "Hi", "row 1", facts={"margin": 2.5})],
    ),
    "Human/Assistant transcripts (HH)": (
        [
            {
                "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
                "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
            }
        ],
        [
            Row(
                "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
                (" d", " e"),
                "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
                "row 1",
            )
        ],
    ),
    "unpaired completions with labels": (
        [{"prompt": "Q", "completion": "yes", "label": True}, {"prompt": "Q", "completion": "no", "label": 0}],
        [Row("Q", ("yes",), "Q", "row 1", label=True), Row("Q", ("no",), "Q", "row 2", label=False)],
    ),
    "ranked trees (OASST)": (
        [TREE],
        [
            Row("prompter: Q", ("first", "third"), "t1", "row 1, message a over c"),
            Row("prompter: Q", ("second", "third"), "t1", "row 1, message b over c"),
            Row("prompter: Q", ("first", "second"), "t1", "row 1, message a over b"),
            Row(
                "prompter: Q\n\nassistant: first\n\nprompter: why?", ("because", "so"), "t1", "row 1, message y over x"
            ),
        ],
    ),
    "model battles": (
        [
            {"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "model_b"},
            {"conversation_a": [USER, BOT], "conversation_b": [USER, WORSE], "winner": "model_a"},
        ],
        [Row("Q", ("no", "yes"), "Q", "row 1"), Row("user: Hi", ("Hello", "What"), "user: Hi", "row 2")],
    ),
}


def as_json(records):
    return json.dumps(records).encode()


def as_jsonl(records):
    return "\n\n".join(json.dumps(record) for record in records).encode() + b"\n"


def as_csv(records):
    out = io.StringIO()
    writer = csv.DictWriter(out, records[0])
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def write(tmp_path, data, name="data.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: b"\xef\xbb\xbf" + data], ids=["plain", "gzip", "BOM"]
)
@pytest.mark.parametrize("container", [as_json, as_jsonl])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_every_container(tmp_path, name, container, pack):
    records, rows = FORMATS[name]
    found = dn.load(write(tmp_path, pack(container(records))))
    assert found.format == name
    assert [*found.rows] == [
        row._replace(where=row.where)
        if container is as_json
        else row._replace(where=row.where.replace("row 2", "row 3"))
        for row in rows
    ]  # JSONL counts lines, the blank one too
    assert found.dropped == {} and found.ties == ()


@pytest.mark.parametrize(
    "name", ["prompt, chosen, rejected", "chosen, rejected, prompt shared", "unpaired completions with labels"]
)
def test_flat_formats_as_csv(tmp_path, name):
    records, rows = FORMATS[name]
    found = dn.load(write(tmp_path, as_csv(records)))
    assert [row._replace(where="") for row in found.rows] == [row._replace(where="") for row in rows]


def test_parquet_where_pyarrow_is_installed(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    records, rows = FORMATS["conversations, prompt apart"]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "data.parquet")
    assert [*dn.load(tmp_path / "data.parquet").rows] == rows
    broken = (tmp_path / "data.parquet").read_bytes()[:-30]
    with pytest.raises(ValueError, match="is a damaged Parquet file"):
        dn.load(write(tmp_path, broken))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        ValueError, match=r"is a Parquet file; reading it needs pyarrow: pip install 'dpo-numpy\[parquet\]'"
    ):
        dn.load(write(tmp_path, b"PAR1 and more"))


def test_rows_already_scored(tmp_path):
    found = dn.load(write(tmp_path, as_jsonl([SCORED, {**SCORED, "policy_chosen_logps": -1}])))
    assert found.rows == () and found.scored is not None
    assert {key: values.tolist() for key, values in found.scored.items()}["policy_chosen_logps"] == [-2.1, -1.0]
    assert found.describe() == "format   rows already scored\nkept     2 pairs"


# ---- battles and their votes

PAIRS = [
    {"id": 0, "text": "Q", "result_x": "yes", "result_y": "no"},
    {"id": 1, "text": "R", "result_x": "", "result_y": "no"},
    {"id": 2, "text": "S", "result_x": "a", "result_y": "b"},
]


def votes(*cast):
    return ("id,worker,winner\n" + "".join(f"{name},7,{winner}\n" for name, winner in cast)).encode()


def test_votes_of_one_order_become_a_weight_and_ties_are_kept_apart(tmp_path):
    cast = [(0, "left"), (0, "right"), (0, "left"), (0, "tie"), (1, "left"), (0, "tie"), (0, "tie")]
    found = dn.load(
        write(tmp_path, as_jsonl(PAIRS)), votes=write(tmp_path, gzip.compress(votes(*cast)), "votes.csv.gz")
    )
    assert [*found.rows] == [Row("Q", ("yes", "no"), "Q", "id 0", 2.0), Row("Q", ("no", "yes"), "Q", "id 0", 1.0)]
    assert [*found.ties] == [Row("Q", ("yes", "no"), "Q", "id 0", 3.0)]
    assert found.dropped == {"empty or blank response": ("id 1",), "no votes": ("id 2",)}
    assert found.describe().splitlines() == [
        "format   model battles with votes",
        "kept     2 pairs, 3 votes",
        "ties     1 kept apart, 3 votes (the first: id 0)",
        "dropped  1 empty or blank response (the first: id 1)",
        "dropped  1 no votes (the first: id 2)",
    ]


@pytest.mark.parametrize(
    ("cast", "sentence"),
    [
        ([(0, "both")], r"votes\.csv, row 2: key 'winner' is 'both'; expected 'left', 'right' or 'tie'"),
        ([(0, "left"), (9, "left")], r"votes\.csv, row 3: key 'id' is '9', which no pair has"),
    ],
)
def test_votes_that_are_none(tmp_path, cast, sentence):
    with pytest.raises(ValueError, match=sentence):
        dn.load(write(tmp_path, as_jsonl(PAIRS)), votes=write(tmp_path, votes(*cast), "votes.csv"))


def test_battles_need_votes_and_other_files_need_none(tmp_path):
    with pytest.raises(
        ValueError, match=r"row 1 is a battle without its votes; pass the file of votes as well \(--votes FILE\)"
    ):
        dn.load(write(tmp_path, as_jsonl(PAIRS)))
    path = write(tmp_path, as_jsonl([{"prompt": "Q", "chosen": "yes", "rejected": "no"}]))
    with pytest.raises(ValueError, match=r"votes were given, but .* holds prompt, chosen, rejected; expected battles"):
        dn.load(path, votes=path)


def test_ties_of_a_single_file_and_of_a_tree(tmp_path):
    battle = {"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "tie (bothbad)"}
    found = dn.load(write(tmp_path, as_jsonl([{**battle, "winner": "model_a"}, battle])))
    assert len(found.rows) == 1 and [row.where for row in found.ties] == ["row 3"]
    tree = {
        "message_tree_id": "t",
        "prompt": reply(
            "p", "Q", role="prompter", replies=[reply("a", "x", 0), reply("b", "y", 0), reply("c", "z", 1)]
        ),
    }
    found = dn.load(write(tmp_path, as_jsonl([tree])))
    assert [row.responses for row in found.rows] == [("x", "z"), ("y", "z")] and [
        row.responses for row in found.ties
    ] == [("x", "y")]


# ---- broken

GOOD = {"prompt": "Q", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty; expected preference data"),
        (b" \n\n ", "is empty; expected preference data"),
        (b"[]", "is an empty list; expected preference data"),
        (gzip.compress(b""), "is empty; expected preference data"),
        (gzip.compress(as_jsonl([GOOD]))[:-9], "is a gzip file that ends too early: it is truncated"),
        (gzip.compress(as_jsonl([GOOD]))[:-4] + b"abcd", "is a damaged gzip file"),
        (gzip.compress(b"x" * 500)[:10] + b"\xff" * 20, "is a damaged gzip file"),
        (as_jsonl([GOOD]) + b'{"prompt": "\xff"}', r"row 2: byte \d+ \(0xff\) is not UTF-8; expected UTF-8 text"),
        (b'{"prompt": "Q"', "row 1 is not valid JSON: Expecting ',' delimiter at column 15"),
        (b'{"prompt": "Q', "row 1 is not valid JSON: Unterminated string starting at column 12"),
        (as_jsonl([GOOD]) + b"{]", "row 2 is not valid JSON: .* column 2"),
        (as_jsonl([GOOD]) + b"[1]", "row 2 is a list; expected an object with keys"),
        (b'["a", "b"]', "row 1 is a string; expected an object with keys"),
        (b"[1, 2", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON: nested too deep"),
        (b'{"label": ' + b"1" * 10_000 + b"}", "row 1 is not valid JSON: .*a number too long"),
        (b'{"text": "x"}', "row 1 has keys 'text'; expected chosen and rejected"),
        (b"{}", r"row 1 has keys \(none\); expected chosen and rejected"),
        (
            as_jsonl([GOOD, {"prompt": "Q", "chosen": "yes"}]),
            "row 3 has no key 'rejected'; its keys are 'prompt', 'chosen'",
        ),
        (as_jsonl([{**GOOD, "rejected": 3}]), "row 1 key 'rejected' is a number; expected a string"),
        (as_jsonl([{**GOOD, "rejected": None}]), "row 1 key 'rejected' is null; expected a string"),
        (
            as_jsonl([{"chosen": [USER, BOT], "rejected": "no"}]),
            "row 1 key 'rejected' is a string; expected a list of messages",
        ),
        (
            as_jsonl([{"chosen": [USER, BOT], "rejected": []}]),
            "row 1 key 'rejected' is an empty list; expected a list of messages",
        ),
        (
            as_jsonl([{"chosen": [USER, {"role": "assistant"}], "rejected": [USER]}]),
            "row 1 key 'chosen', message 1 is an object; expected",
        ),
        (
            as_jsonl([{"prompt": "Hi", "chosen": [USER], "rejected": [USER, BOT]}]),
            "row 1 key 'chosen' ends with a message of 'user'; expected",
        ),
        (
            as_jsonl([{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "a"}]),
            "row 1 key 'rejected' has no .*Assistant.*; expected a transcript",
        ),
        (
            as_jsonl([{"prompt": "Q", "completion": "c", "label": "good"}]),
            "row 1 key 'label' is 'good'; expected true or false",
        ),
        (as_jsonl([{"prompt": "Q", "completion": "c"}]), "row 1 has no key 'label'; its keys are"),
        (
            as_jsonl([{**SCORED, "policy_chosen_logps": float("nan")}]),
            "row 1 key 'policy_chosen_logps' is nan; expected a finite number",
        ),
        (
            as_jsonl([{**SCORED, "policy_chosen_logps": "x"}]),
            "row 1 key 'policy_chosen_logps' is 'x'; expected a finite number",
        ),
        (
            as_jsonl([{k: v for k, v in SCORED.items() if "rejected" not in k}]),
            "row 1 has no key 'policy_rejected_logps'; its keys are",
        ),
        (
            as_jsonl([{"message_tree_id": 3, "prompt": {}}]),
            "row 1 key 'message_tree_id' is a number; expected a string",
        ),
        (
            as_jsonl([{"message_tree_id": "t", "prompt": {"text": "Q"}}]),
            "row 1 a message of tree t is an object; expected",
        ),
        (
            as_jsonl([{"message_tree_id": "t", "prompt": reply("p", "Q", replies=[reply("a", "x", "best")])}]),
            "row 1 key 'rank' is 'best'; expected a finite number",
        ),
        (
            as_jsonl([{"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "A"}]),
            "row 1 key 'winner' is 'A'; expected",
        ),
        (b"prompt,chosen,rejected\na,b\n", "row 2 has another number of columns than the header; expected 3"),
        (b"prompt;chosen;rejected\na;b;c\n", "has one column 'prompt;chosen;rejected', split by ';'; expected commas"),
        (b"prompt,chosen,rejected\na,b,c,d\n", "row 2 has another number of columns than the header; expected 3"),
        (b'prompt,chosen,rejected\n"a"b,c,d\n', "near row 2 is not valid CSV"),
        (b"prompt,chosen,rejected\n", "holds no rows; expected preference data"),
        (b"hello", "holds no rows; expected preference data"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_broken_file_is_one_sentence(tmp_path, data, sentence):
    path = write(tmp_path, data)
    with pytest.raises(ValueError, match=sentence) as caught:
        dn.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="is a folder; expected a file"):
        dn.load(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        dn.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        dn.load(tmp_path / ("x" * 300))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz"
    for pack in (bytes, gzip.compress, lambda data: b'{"chosen": ' + data, lambda data: as_jsonl([GOOD]) + data):
        path.write_bytes(pack(data))
        sentence = ""
        try:
            dn.load(path)
        except ValueError as error:
            sentence = str(error)
        assert "\n" not in sentence.replace(str(path), "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6), min_size=1, max_size=3))
def test_no_records_at_all_raise_anything_else(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(as_jsonl(records))
    try:
        found = dn.load(path)
    except ValueError:
        return
    assert found.rows or found.scored


# ---- well-formed, but nothing to learn


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**GOOD, "rejected": ""}, "empty or blank response"),
        ({**GOOD, "chosen": " \n"}, "empty or blank response"),
        ({**GOOD, "rejected": "yes"}, "chosen and rejected are identical"),
    ],
)
def test_what_teaches_nothing_is_dropped_by_reason_and_fatal_when_strict(tmp_path, record, reason):
    path = write(tmp_path, as_jsonl([GOOD, record, record]))
    found = dn.load(path)
    assert len(found.rows) == 1 and found.dropped == {reason: ("row 3", "row 5")}
    assert f"dropped  2 {reason} (the first: row 3)" in found.describe()
    with pytest.raises(ValueError, match=rf"row 3: {reason} \(2 such in all\); expected none with strict"):
        dn.load(path, strict=True)
    dn.load(write(tmp_path, as_jsonl([GOOD])), strict=True)
    with pytest.raises(ValueError, match=f"has no pair left to learn from: 1 {reason}"):
        dn.load(write(tmp_path, as_jsonl([record])))


def test_transcripts_of_different_prompts_are_dropped_and_a_shared_beginning_may_be_all_there_is(tmp_path):
    same = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    other = {**same, "rejected": "\n\nHuman: z\n\nAssistant: c"}
    found = dn.load(write(tmp_path, as_jsonl([same, other])))
    assert found.dropped == {"chosen and rejected answer different prompts": ("row 3",)}
    prefix = dn.load(
        write(
            tmp_path,
            as_jsonl(
                [
                    {"chosen": "abc", "rejected": "xyz"},
                    {"chosen": "abc", "rejected": "ab"},
                    {"chosen": "ab", "rejected": "ab"},
                ]
            ),
        )
    )
    assert prefix.rows == (Row("", ("abc", "xyz"), "", "row 1"),)
    assert prefix.dropped == {"empty or blank response": ("row 3",), "chosen and rejected are identical": ("row 5",)}


@given(st.text(max_size=8), st.text(max_size=4), st.text(max_size=4))
def test_the_shared_prompt_is_the_longest_common_beginning(prompt, a, b):
    x, y = prompt + a, prompt + b
    cut = common_prefix(x, y)
    assert x[:cut] == y[:cut] and cut >= len(prompt)
    assert cut in (len(x), len(y)) or x[cut] != y[cut]


# ---- tokenizers


@given(st.text())
def test_bytes_there_and_back(text):
    tokenizer = dn.Bytes()
    ids = tokenizer.encode(text.encode("utf-8", "ignore").decode())
    assert all(1 <= i < tokenizer.vocab for i in ids)
    assert tokenizer.decode([0, *ids, 0]) == text.encode("utf-8", "ignore").decode()


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_words_there_and_back_when_all_are_known(texts):
    tokenizer = dn.Words.fit(texts, limit=10_000)
    for text in texts:
        ids = tokenizer.encode(text)
        assert all(2 <= i < tokenizer.vocab for i in ids) and tokenizer.decode([0, *ids, 0]) == text


def test_words_keep_the_most_frequent_and_mark_the_rest():
    tokenizer = dn.Words.fit(["b a, b a c", "b d"], limit=3)
    assert tokenizer.pieces == (" a", "b", " b")
    assert tokenizer.encode("b a, zebra b") == [3, 2, 1, 1, 4] and tokenizer.vocab == 5
    assert tokenizer.decode([3, 2, 1, 0]) == "b a\ufffd"
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        dn.Words.fit(["a"], limit=0)


# ---- to Preferences


def test_rows_become_tokens_between_boundaries():
    rows = [
        Row("q", ("ab", "c"), "q", "1", 3.0, facts={"margin": 2.0, "odd": 1.0}),
        Row("q", ("c", "a"), "q", "2", 1.0, facts={"margin": -1.0}),
    ]
    pairs = dn.to_preferences(rows, dn.Bytes(), np.float32)
    a, b, c, q = (ord(x) + 1 for x in "abcq")
    assert pairs.responses.tokens.tolist() == [[0, q, 0, a, b, 0], [0, q, 0, c, 0, 0], [0, q, 0, a, 0, 0]]
    assert pairs.responses.mask.tolist() == [
        [False] * 3 + [True] * 3,
        [False] * 3 + [True] * 2 + [False],
        [False] * 3 + [True] * 2 + [False],
    ]
    assert pairs.index.tolist() == [[0, 1], [1, 2]] and pairs.weight.tolist() == [0.75, 0.25]
    assert (
        pairs.weight.dtype == np.float32 and [*pairs.facts] == ["margin"] and pairs.facts["margin"].tolist() == [2, -1]
    )


def test_labelled_completions_become_single_columns():
    rows = [Row("q", ("a",), "q", "1", label=True), Row("r", ("a",), "r", "2", label=False)]
    single = dn.to_preferences(rows, dn.Bytes())
    assert single.index.tolist() == [[0], [1]] and single.facts["label"].tolist() == [True, False]
    with pytest.raises(ValueError, match="rows mix pairs and labelled completions; expected one kind"):
        dn.to_preferences([*rows, Row("q", ("a", "b"), "q", "3")], dn.Bytes())
    with pytest.raises(ValueError, match="rows is empty; expected at least one"):
        dn.to_preferences([], dn.Bytes())


# ---- real files


def test_oasst(data_dir):
    found = dn.load(data_dir / "oasst_en_100_tree.jsonl.gz")
    assert (found.format, len(found.rows), len({row.group for row in found.rows})) == ("ranked trees (OASST)", 754, 100)
    pairs = dn.to_preferences(found.rows, dn.Bytes())
    assert pairs.responses.tokens.dtype == np.int32 and len(pairs.responses) == 641
    longer = [np.sign(len(row.responses[0]) - len(row.responses[1])) for row in found.rows]
    assert 0.65 < (1 + np.mean(longer)) / 2 < 0.75


def test_llmfao(data_dir):
    found = dn.load(data_dir / "llmfao_pairs.jsonl.gz", votes=data_dir / "llmfao_crowd_comparisons.csv.gz")
    assert len(found.dropped["empty or blank response"]) == 289
    assert len({row.where for row in (*found.rows, *found.ties)}) == 2139 - 289
    # of 8,931 votes; the others are on pairs with an empty answer
    assert sum(row.weight for row in (*found.rows, *found.ties)) == 7723


def test_hh(data_dir):
    found = dn.load(data_dir / "hh_harmless_test.jsonl.gz")
    assert len(found.rows) == 2303
    assert {reason: len(where) for reason, where in found.dropped.items()} == {
        "empty or blank response": 4,
        "chosen and rejected answer different prompts": 5,
    }
    assert all(row.prompt.endswith("\n\nAssistant:") for row in found.rows)
