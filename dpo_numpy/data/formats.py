"""Records to rows: one small converter a format, and a table that says which is which.

Conversations become text in one way, "role: content" with an empty line between; a last message that is the response
stands without its role.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from .files import Record, kind, shown

__all__ = ["BATTLES", "FORMATS", "SCORED", "Drop", "Format", "Outcome", "Row", "Scored", "Tie", "battle", "identified",
           "recognize", "vote"]

HUMAN, ASSISTANT = "Human:", "\n\nAssistant:"
#: columns of rows that come with their log-probs
SCORED = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
TIES = ("tie", "tie (bothbad)")
LABELS = {"true": True, "1": True, "false": False, "0": False}

BLANK = "empty or blank response"
IDENTICAL = "chosen and rejected are identical"
OTHER_PROMPT = "chosen and rejected answer different prompts"

Message = tuple[str, str]  # role, content
Item = TypeVar("Item")


class Row(NamedTuple):
    """One comparison (responses best first) or one labelled completion."""

    prompt: str
    responses: tuple[str, ...]
    group: str  # what a split must keep together
    where: str
    weight: float = 1.0
    label: bool | None = None
    facts: Mapping[str, float] = {}


class Drop(NamedTuple):
    """A well-formed row that teaches nothing."""

    reason: str
    where: str


class Tie(NamedTuple):
    """A comparison without a winner; the order of the row's responses means nothing."""

    row: Row


class Scored(NamedTuple):
    """A comparison of which only the log-probs are known."""

    logps: Mapping[str, float]


#: what a record becomes
Outcome = Row | Drop | Tie | Scored


class Format(NamedTuple):
    """`convert(where, record)` raises `ValueError` with the rest of a sentence that begins with file and row."""

    name: str
    recognizes: Callable[[Record], bool]
    convert: Callable[[str, Record], list[Outcome]]


# ---- fields of a record, or the rest of a sentence

def value_of(record: Record, key: str) -> Any:
    if key not in record:
        raise ValueError(f"has no key {key!r}; its keys are {_keys(record)}")
    return record[key]


def text_of(record: Record, key: str) -> str:
    value = value_of(record, key)
    if not isinstance(value, str):
        raise ValueError(f"key {key!r} is {kind(value)}; expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"key {key!r} has the lone surrogate {value[error.start]!a} at character {error.start}; "
                         f"expected Unicode text") from None
    return value


def messages_of(record: Record, key: str) -> list[Message]:
    value = value_of(record, key)
    if not isinstance(value, list) or not value:
        raise ValueError(f"key {key!r} is {kind(value)}; expected a list of messages")
    found = []
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not all(isinstance(message.get(part), str) for part in ("role", "content")):
            raise ValueError(f"key {key!r}, message {i} is {kind(message)}; expected an object with strings 'role' "
                             f"and 'content'")
        found.append((text_of(message, "role"), text_of(message, "content")))
    return found


def text_or_messages(record: Record, key: str, told: Callable[[Sequence[Message]], str]) -> str:
    return told(messages_of(record, key)) if isinstance(record.get(key), list) else text_of(record, key)


def number_of(record: Record, key: str) -> float:
    value = value_of(record, key)
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"key {key!r} is {shown(value)}; expected a finite number")
    return number


def _keys(record: Record) -> str:
    names = [repr(key) for key in record]
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") or "(none)"


# ---- pieces of conversations

def rendered(messages: Sequence[Message]) -> str:
    """A conversation as text: "role: content", an empty line between."""
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


def answer(messages: Sequence[Message]) -> str:
    """A single message is its content; several keep their roles."""
    return messages[0][1] if len(messages) == 1 else rendered(messages)


def common(a: Sequence[Item], b: Sequence[Item]) -> int:
    """How many items the two begin with alike."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def common_prefix(a: str, b: str) -> int:
    """The length of the longest common beginning behind which neither goes on with a mark of its last letter.

    >>> common_prefix("Is it? Yes", "Is it? No"), common_prefix("e\\u0301", "e\\u0300")
    (7, 0)
    """
    cut = common(a, b)
    while cut and any(unicodedata.category(text[cut]).startswith("M") for text in (a, b) if cut < len(text)):
        cut -= 1
    return cut


def compared(prompt: str, chosen: str, rejected: str, where: str, group: str | None = None, weight: float = 1.0,
             facts: Mapping[str, float] | None = None) -> Row | Drop:
    if not chosen.strip() or not rejected.strip():
        return Drop(BLANK, where)
    if chosen == rejected:
        return Drop(IDENTICAL, where)
    return Row(prompt, (chosen, rejected), prompt if group is None else group, where, weight, facts=facts or {})


def tied(outcome: Row | Drop) -> Tie | Drop:
    return Tie(outcome) if isinstance(outcome, Row) else outcome


def shared(chosen: Sequence[Message], rejected: Sequence[Message], where: str) -> Row | Drop:
    """The prompt is what two conversations begin with alike, and the responses are all the rest of them."""
    if chosen == rejected:
        return Drop(IDENTICAL, where)
    cut = common(chosen, rejected)
    return compared(rendered(chosen[:cut]), answer(chosen[cut:]), answer(rejected[cut:]), where)


# ---- one converter a format

def explicit(where: str, record: Record) -> list[Outcome]:
    return [compared(text_of(record, "prompt"), text_of(record, "chosen"), text_of(record, "rejected"), where)]


def implicit(where: str, record: Record) -> list[Outcome]:
    """The prompt is what both begin with alike, perhaps nothing; a text that the other continues is left blank."""
    chosen, rejected = text_of(record, "chosen"), text_of(record, "rejected")
    if chosen == rejected:
        return [Drop(IDENTICAL, where)]
    cut = common_prefix(chosen, rejected)
    return [compared(chosen[:cut], chosen[cut:], rejected[cut:], where)]


def transcript(where: str, record: Record) -> list[Outcome]:
    """HH: the prompt is all up to and including the last "Assistant:"."""
    parts = []
    for key in ("chosen", "rejected"):
        text = text_of(record, key)
        if ASSISTANT not in text:
            raise ValueError(f"key {key!r} has no {ASSISTANT!r}; expected a transcript of Human and Assistant")
        cut = text.rindex(ASSISTANT) + len(ASSISTANT)
        parts.append((text[:cut], text[cut:]))
    (prompt, chosen), (other, rejected) = parts
    return [Drop(OTHER_PROMPT, where) if prompt != other else compared(prompt, chosen, rejected, where)]


def conversation(where: str, record: Record) -> list[Outcome]:
    """The prompt is a list of messages, or what the two lists begin with alike."""
    chosen, rejected = messages_of(record, "chosen"), messages_of(record, "rejected")
    if "prompt" not in record:
        return [shared(chosen, rejected, where)]
    return [compared(rendered(messages_of(record, "prompt")), answer(chosen), answer(rejected), where)]


def ultrafeedback(where: str, record: Record) -> list[Outcome]:
    """A string prompt, and two conversations that begin with it; scores become the fact `margin`.

    Where the conversations share more than the prompt, all they share is the prompt, as text.
    """
    prompt = text_of(record, "prompt")
    full = []
    for key in ("chosen", "rejected"):
        messages = messages_of(record, key)
        if messages[-1][0] != "assistant":
            raise ValueError(f"key {key!r} ends with a message of {messages[-1][0]!r}; expected one of 'assistant'")
        full.append(messages if messages[0][0] != "assistant" else [("user", prompt), *messages])
    chosen, rejected = full
    begin = next(i for i, (role, _) in enumerate(chosen) if role == "assistant")
    if chosen[:begin] != rejected[:begin] or chosen[begin - 1][1].strip() != prompt.strip():
        return [Drop(OTHER_PROMPT, where)]
    if chosen == rejected:
        return [Drop(IDENTICAL, where)]
    cut = common(chosen, rejected)
    said = prompt if cut == 1 else rendered(chosen[:cut])
    facts = {}
    if record.get("score_chosen") is not None and record.get("score_rejected") is not None:
        facts["margin"] = number_of(record, "score_chosen") - number_of(record, "score_rejected")
    return [compared(said, answer(chosen[cut:]), answer(rejected[cut:]), where, facts=facts)]


def unpaired(where: str, record: Record) -> list[Outcome]:
    prompt = text_or_messages(record, "prompt", rendered)
    completion, label = text_or_messages(record, "completion", answer), value_of(record, "label")
    if isinstance(label, str):
        label = LABELS.get(label.lower(), label)
    if not isinstance(label, (bool, int, float)) or label not in (0, 1):
        raise ValueError(f"key 'label' is {shown(label)}; expected true or false")
    if not completion.strip():
        return [Drop(BLANK, where)]
    return [Row(prompt, (completion,), prompt, where, label=bool(label))]


def tree(where: str, record: Record) -> list[Outcome]:
    """OASST: every two ranked assistant replies to a message, the lower rank better; the prompt is all said so far."""
    name, outcomes = text_of(record, "message_tree_id"), list[Outcome]()
    stack = [("", value_of(record, "prompt"))]
    while stack:
        before, message = stack.pop()
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("text", "role")):
            raise ValueError(f"a message of tree {name} is {kind(message)}; expected an object with strings 'text' and "
                             f"'role'")
        replies = message.get("replies")
        if not isinstance(replies, list | None):
            raise ValueError(f"key 'replies' of tree {name} is {kind(replies)}; expected a list")
        so_far = before + rendered([(text_of(message, "role"), text_of(message, "text"))])
        outcomes += siblings(so_far, replies or [], name, where)
        stack += [(so_far + "\n\n", reply) for reply in reversed(replies or [])]
    return outcomes


def siblings(prompt: str, replies: Sequence[Any], group: str, where: str) -> list[Outcome]:
    ranked = [(number_of(reply, "rank"), text_of(reply, "text"), text_of(reply, "message_id")) for reply in replies
              if isinstance(reply, dict) and reply.get("role") == "assistant" and reply.get("rank") is not None]
    outcomes: list[Outcome] = []
    for i, one in enumerate(ranked):
        for other in ranked[i + 1:]:
            better, worse = (other, one) if other[0] < one[0] else (one, other)
            outcome = compared(prompt, better[1], worse[1], f"{where}, message {better[2]} over {worse[2]}", group)
            outcomes.append(tied(outcome) if one[0] == other[0] else outcome)
    return outcomes


def arena(where: str, record: Record) -> list[Outcome]:
    """One battle a record: winner model_a, model_b, or a tie.

    Of whole conversations the prompt is what both begin with alike: each model went on from answers of its own.
    """
    winner = text_of(record, "winner")
    if winner not in ("model_a", "model_b", *TIES):
        raise ValueError(f"key 'winner' is {shown(winner)}; expected 'model_a', 'model_b', 'tie' or 'tie (bothbad)'")
    x, y = "ba" if winner == "model_b" else "ab"
    if "conversation_a" in record:
        better, worse = messages_of(record, f"conversation_{x}"), messages_of(record, f"conversation_{y}")
        outcome = shared(better, worse, where) if better[0] == worse[0] else Drop(OTHER_PROMPT, where)
    else:
        asked = "question" if "question" in record and "prompt" not in record else "prompt"
        prompt = text_or_messages(record, asked, rendered)
        outcome = compared(prompt, text_of(record, f"response_{x}"), text_of(record, f"response_{y}"), where)
    return [tied(outcome) if winner in TIES else outcome]


def scored(where: str, record: Record) -> list[Outcome]:
    return [Scored({key: number_of(record, key) for key in SCORED})]


def unvoted(where: str, record: Record) -> list[Outcome]:
    raise ValueError("is a battle without its votes; pass the file of votes as well (--votes FILE)")


# ---- battles whose votes are in a file of their own (LLMFAO)

Votes = dict[str, Counter[str]]


def identified(record: Record) -> str:
    """The key that joins pairs and votes: a number in JSON is a string in CSV."""
    value = value_of(record, "id")
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"key 'id' is {kind(value)}; expected a whole number or a string")
    return text_of({"id": str(value)}, "id")


def vote(record: Record, votes: Votes) -> None:
    """Counts one vote: left is x, right is y."""
    name, winner = identified(record), text_of(record, "winner")
    if name not in votes:
        raise ValueError(f"key 'id' is {shown(name)}, which no pair has")
    if winner not in ("left", "right", "tie"):
        raise ValueError(f"key 'winner' is {shown(winner)}; expected 'left', 'right' or 'tie'")
    votes[name][winner] += 1


def battle(record: Record, votes: Votes) -> list[Outcome]:
    """The votes for one order of a pair are one row, and their number is its weight."""
    name, x, y = identified(record), text_of(record, "result_x"), text_of(record, "result_y")
    prompt, where, counted = text_of(record, "text"), f"id {name}", votes[name]
    if isinstance(useless := compared(prompt, x, y, where), Drop):
        return [useless]
    if not counted:
        return [Drop("no votes", where)]
    cast: dict[str, Row | Drop] = {
        "left": compared(prompt, x, y, where, weight=float(counted["left"])),
        "right": compared(prompt, y, x, where, weight=float(counted["right"])),
        "tie": compared(prompt, x, y, where, weight=float(counted["tie"])),
    }
    return [tied(row) if winner == "tie" else row for winner, row in cast.items() if counted[winner]]


# ---- which is which

def _is(record: Record, key: str, *types: type) -> bool:
    return isinstance(record.get(key), types)


def _scored(record: Record) -> bool:
    """Texts may carry the reference's log-probs along: they are still texts."""
    return all(key in record for key in SCORED) or ("chosen" not in record and any(key in record for key in SCORED))


def _transcript(record: Record) -> bool:
    text = record.get("chosen")
    return isinstance(text, str) and text.lstrip().startswith(HUMAN) and ASSISTANT in text


def _any(*keys: str) -> Callable[[Record], bool]:
    return lambda record: any(key in record for key in keys)


#: two results and, elsewhere, who voted for which
BATTLES = Format("model battles with votes", _any("result_x", "result_y"), unvoted)

# Pairs stand before battles and labels: a column `winner` or `label` besides chosen and rejected is one more to ignore.
#: in the order in which a file is tried on them
FORMATS = (
    Format("rows already scored", _scored, scored),
    Format("ranked trees (OASST)", _any("message_tree_id"), tree),
    BATTLES,
    Format("string prompt, conversations (UltraFeedback)",
           lambda r: _is(r, "prompt", str) and _is(r, "chosen", list), ultrafeedback),
    Format("conversations, prompt apart", lambda r: "prompt" in r and _is(r, "chosen", list), conversation),
    Format("conversations, prompt shared", lambda r: _is(r, "chosen", list), conversation),
    Format("prompt, chosen, rejected", lambda r: "prompt" in r and ("chosen" in r or "rejected" in r), explicit),
    Format("Human/Assistant transcripts (HH)", _transcript, transcript),
    Format("chosen, rejected, prompt shared", _any("chosen", "rejected"), implicit),
    Format("model battles", _any("response_a", "response_b", "conversation_a", "conversation_b"), arena),
    Format("unpaired completions with labels", _any("completion", "label"), unpaired),
)


def recognize(record: Record) -> Format:
    """The first format that fits a record's keys. Raises `ValueError` naming the keys that came.

    >>> recognize({"prompt": "Is it?", "completion": "Yes.", "label": True}).name
    'unpaired completions with labels'
    """
    for found in FORMATS:
        if found.recognizes(record):
            return found
    raise ValueError(f"has keys {_keys(record)}; expected chosen and rejected, prompt/completion/label, "
                     f"a message tree, battles, or policy_chosen_logps ...")
