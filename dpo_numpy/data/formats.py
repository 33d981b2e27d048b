"""Records to rows: one small converter a format, and a table that says which is which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .files import Record, kind

__all__ = ["FORMATS", "Drop", "Format", "Row", "Tie", "battles_with_votes", "recognize"]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SCORED = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")


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
    row: Row


Outcome = Row | Drop | Tie
Converter = Callable[[str, Record], Iterator[Outcome]]


class Format(NamedTuple):
    name: str
    recognizes: Callable[[Record], bool]
    convert: Converter


# ---- fields of a record, or a sentence

def text_of(record: Record, key: str) -> str:
    if key not in record:
        raise ValueError(f"has no key {key!r}; its keys are {', '.join(map(repr, record))}")
    if not isinstance(record[key], str):
        raise ValueError(f"key {key!r} is {kind(record[key])}; expected a string")
    return record[key]  # type: ignore[no-any-return]


def messages_of(record: Record, key: str) -> list[tuple[str, str]]:
    """[(role, content)] of a conversation."""
    value = record.get(key)
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"key {key!r} is {kind(value) if value != [] else 'an empty list'}; expected a list of messages"
        )
    found = []
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not all(isinstance(message.get(part), str) for part in ("role", "content")):
            raise ValueError(
                f"key {key!r}, message {i} is {kind(message)}; expected an object with strings 'role' and 'content'"
            )
        found.append((message["role"], message["content"]))
    return found


def number_of(record: Record, key: str) -> float:
    value = record.get(key)
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        shown = value if isinstance(value, (int, float, str)) else kind(value)
        raise ValueError(f"key {key!r} is {shown!s:.40}; expected a finite number")
    return number


def rendered(messages: Sequence[tuple[str, str]]) -> str:
    """A conversation as text: "role: content", a line between."""
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


def common_prefix(a: str, b: str) -> int:
    """How many characters the two begin with alike."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def compared(prompt: str, chosen: str, rejected: str, where: str, **more: Any) -> Iterator[Outcome]:
    if not chosen.strip() or not rejected.strip():
        yield Drop("empty or blank response", where)
    elif chosen == rejected:
        yield Drop("chosen and rejected are identical", where)
    else:
        yield Row(prompt, (chosen, rejected), more.pop("group", prompt), where, **more)


# ---- one converter a format

def explicit(where: str, record: Record) -> Iterator[Outcome]:
    return compared(text_of(record, "prompt"), text_of(record, "chosen"), text_of(record, "rejected"), where)


def implicit(where: str, record: Record) -> Iterator[Outcome]:
    """The prompt is what the two begin with alike; nothing is left of a text that the other merely continues: then it
    is blank.
    """
    chosen, rejected = text_of(record, "chosen"), text_of(record, "rejected")
    cut = common_prefix(chosen, rejected)
    if chosen == rejected:
        return iter([Drop("chosen and rejected are identical", where)])
    return compared(chosen[:cut], chosen[cut:], rejected[cut:], where)


def transcript(where: str, record: Record) -> Iterator[Outcome]:
    """HH: the prompt is all up to and including the last "Assistant:"."""
    parts = {}
    for key in ("chosen", "rejected"):
        text = text_of(record, key)
        if ASSISTANT not in text:
            raise ValueError(f"key {key!r} has no {ASSISTANT!r}; expected a transcript of Human and Assistant")
        cut = text.rindex(ASSISTANT) + len(ASSISTANT)
        parts[key] = text[:cut], text[cut:]
    (prompt, chosen), (other, rejected) = parts["chosen"], parts["rejected"]
    return (
        iter([Drop("chosen and rejected answer different prompts", where)])
        if prompt != other
        else compared(prompt, chosen, rejected, where)
    )


def conversation(where: str, record: Record) -> Iterator[Outcome]:
    """Explicit: the prompt is a list of messages. Implicit: what the two lists begin with alike."""
    chosen, rejected = messages_of(record, "chosen"), messages_of(record, "rejected")
    if "prompt" in record:
        prompt = messages_of(record, "prompt")
    else:
        if chosen == rejected:
            return iter([Drop("chosen and rejected are identical", where)])
        cut = next(
            (i for i, (x, y) in enumerate(zip(chosen, rejected, strict=False)) if x != y),
            min(len(chosen), len(rejected)),
        )
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
    return compared(rendered(prompt), answer(chosen), answer(rejected), where)


def answer(messages: Sequence[tuple[str, str]]) -> str:
    """A single message is its content; several keep their roles."""
    return messages[0][1] if len(messages) == 1 else rendered(messages)


def ultrafeedback(where: str, record: Record) -> Iterator[Outcome]:
    """A string prompt, and two full conversations that begin with it; scores become the fact `margin`."""
    prompt = text_of(record, "prompt")
    answers = {}
    for key in ("chosen", "rejected"):
        messages = messages_of(record, key)
        if messages[-1][0] != "assistant":
            raise ValueError(f"key {key!r} ends with a message of {messages[-1][0]!r}; expected one of 'assistant'")
        answers[key] = messages[-1][1]
    scores = [number_of(record, f"score_{key}") for key in ("chosen", "rejected") if f"score_{key}" in record]
    facts = {"margin": scores[0] - scores[1]} if len(scores) == 2 else {}
    return compared(prompt, answers["chosen"], answers["rejected"], where, facts=facts)


def unpaired(where: str, record: Record) -> Iterator[Outcome]:
    prompt, completion = (rendered_or_text(record, key) for key in ("prompt", "completion"))
    label = record.get("label")
    if isinstance(label, str) and label.lower() in ("true", "false", "0", "1"):
        label = label.lower() in ("true", "1")
    if label not in (0, 1):
        raise ValueError(
            f"key 'label' is {kind(label) if not isinstance(label, (int, float, str)) else repr(label)}; "
            "expected true or false"
        )
    if completion.strip():
        yield Row(prompt, (completion,), prompt, where, label=bool(label))
    else:
        yield Drop("empty or blank response", where)


def rendered_or_text(record: Record, key: str) -> str:
    if isinstance(record.get(key), list):
        messages = messages_of(record, key)
        return rendered(messages) if key == "prompt" else answer(messages)
    return text_of(record, key)


def tree(where: str, record: Record) -> Iterator[Outcome]:
    """OASST: every two ranked assistant replies to one message, the lower rank better; the prompt is the conversation
    so far.
    """
    name = record.get("message_tree_id")
    if not isinstance(name, str):
        raise ValueError(f"key 'message_tree_id' is {kind(name)}; expected a string")
    stack: list[tuple[list[tuple[str, str]], Any]] = [([], record.get("prompt"))]
    while stack:
        before, message = stack.pop()
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("text", "role")):
            raise ValueError(
                f"a message of tree {name} is {kind(message)}; expected an object with strings 'text' and 'role'"
            )
        replies = message.get("replies") or []
        if not isinstance(replies, list):
            raise ValueError(f"key 'replies' of tree {name} is {kind(replies)}; expected a list")
        so_far = [*before, (message["role"], message["text"])]
        ranked = [
            reply
            for reply in replies
            if isinstance(reply, dict) and reply.get("role") == "assistant" and reply.get("rank") is not None
        ]
        for reply in ranked:
            number_of(reply, "rank")
            text_of(reply, "text")
        for i, better in enumerate(ranked):
            for worse in ranked[i + 1:]:
                first, second = sorted((better, worse), key=lambda reply: reply["rank"])
                at = f"{where}, message {first.get('message_id')} over {second.get('message_id')}"
                for outcome in compared(rendered(so_far), first["text"], second["text"], at, group=name):
                    yield Tie(outcome) if isinstance(outcome, Row) and first["rank"] == second["rank"] else outcome
        stack += [(so_far, reply) for reply in reversed(replies)]


def arena(where: str, record: Record) -> Iterator[Outcome]:
    """One battle a record: winner model_a, model_b, or a tie of some kind."""
    answers = []
    prompt = record.get("prompt", record.get("question"))
    for side in "ab":
        if f"conversation_{side}" in record:
            messages = messages_of(record, f"conversation_{side}")
            prompt = rendered(messages[:-1]) if prompt is None else prompt
            answers.append(messages[-1][1])
        else:
            answers.append(text_of(record, f"response_{side}"))
    if not isinstance(prompt, str):
        raise ValueError(f"key 'prompt' is {kind(prompt)}; expected a string")
    winner = text_of(record, "winner")
    a, b = answers
    if winner.startswith("tie"):
        for outcome in compared(prompt, a, b, where):
            yield Tie(outcome) if isinstance(outcome, Row) else outcome
        return
    if winner not in ("model_a", "model_b"):
        raise ValueError(f"key 'winner' is {winner!r}; expected 'model_a', 'model_b' or 'tie'")
    yield from compared(prompt, a, b, where) if winner == "model_a" else compared(prompt, b, a, where)


def scored(where: str, record: Record) -> Iterator[Outcome]:
    numbers = {key: number_of(record, key) for key in SCORED}
    yield Row("", (), "", where, facts=numbers)


def unvoted(where: str, record: Record) -> Iterator[Outcome]:
    raise ValueError("is a battle without its votes; pass the file of votes as well (--votes FILE)")


def battles_with_votes(
    pairs: list[tuple[str, Record]], votes: list[tuple[str, Record]], votes_name: str
) -> Iterator[Outcome]:
    """LLMFAO: pairs with `id`, `result_x`, `result_y`; votes with `id` and `winner`, left (x), right (y) or tie.

    Votes for one order of a pair are one row whose weight is their number.
    """
    count = {str(record.get("id")): {"left": 0, "right": 0, "tie": 0} for _, record in pairs}
    for where, vote in votes:
        name, winner = str(vote.get("id")), vote.get("winner")
        if name not in count:
            raise ValueError(f"{votes_name}, {where}: key 'id' is {name!r}, which no pair has")
        if winner not in count[name]:
            raise ValueError(f"{votes_name}, {where}: key 'winner' is {winner!r}; expected 'left', 'right' or 'tie'")
        count[name][winner] += 1
    for where, record in pairs:
        name = str(record.get("id"))
        try:
            x, y, prompt = text_of(record, "result_x"), text_of(record, "result_y"), text_of(record, "text")
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        got = {key: number for key, number in count[name].items() if number}
        if not got:
            yield Drop("no votes", f"id {name}")
        elif any(isinstance(outcome, Drop) for outcome in compared(prompt, x, y, f"id {name}")):
            yield from compared(prompt, x, y, f"id {name}")
        else:
            for winner, number in got.items():
                row = Row(prompt, (y, x) if winner == "right" else (x, y), prompt, f"id {name}", weight=float(number))
                yield Tie(row) if winner == "tie" else row


def _is(record: Record, key: str, *types: type) -> bool:
    return isinstance(record.get(key), types)


FORMATS = (
    Format("rows already scored", lambda r: any(key in r for key in SCORED), scored),
    Format("ranked trees (OASST)", lambda r: "message_tree_id" in r, tree),
    Format("model battles with votes", lambda r: "result_x" in r or "result_y" in r, unvoted),
    Format("model battles", lambda r: "winner" in r, arena),
    Format("unpaired completions with labels", lambda r: "completion" in r or "label" in r, unpaired),
    Format(
        "string prompt, conversations (UltraFeedback)",
        lambda r: _is(r, "prompt", str) and _is(r, "chosen", list),
        ultrafeedback,
    ),
    Format("conversations, prompt apart", lambda r: "prompt" in r and _is(r, "chosen", list), conversation),
    Format("conversations, prompt shared", lambda r: _is(r, "chosen", list), conversation),
    Format("prompt, chosen, rejected", lambda r: "prompt" in r and "chosen" in r, explicit),
    Format(
        "Human/Assistant transcripts (HH)",
        lambda r: _is(r, "chosen", str) and r["chosen"].startswith(HUMAN),
        transcript,
    ),
    Format("chosen, rejected, prompt shared", lambda r: "chosen" in r or "rejected" in r, implicit),
)


def recognize(record: Record) -> Format:
    """The first format that fits a record's keys. Raises `ValueError` naming the keys that came."""
    for found in FORMATS:
        if found.recognizes(record):
            return found
    raise ValueError(
        f"has keys {', '.join(map(repr, record)) or '(none)'}; expected chosen and rejected, prompt/completion/label, "
        f"a message tree, battles, or policy_chosen_logps ..."
    )
