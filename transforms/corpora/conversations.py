"""Conversations: chats as lists of messages, and dialogues as one text with marked turns.

The last assistant turn is the response; what stands before it is its context, the question. A context of one user turn
is that turn's text. A longer one is a dialogue of turns marked `System:`, `Human:`, `Assistant:` (any other role by its
own name), so that nothing the response rests on is lost.
"""

import re
from typing import Any

LAST_ANSWER = re.compile(r"\n\nAssistant:(?!.*\n\nAssistant:)", re.DOTALL)
MARKS = {"user": "Human", "human": "Human", "assistant": "Assistant", "gpt": "Assistant"}
TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of a part, as chat APIs call them


class Unusable(ValueError):
    """What is wrong with a record, under the name that its reject has."""


def split_dialogue(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """Return (question, rejected answer, chosen answer) of dialogues that differ in the last turn, else None."""
    good, bad = LAST_ANSWER.search(chosen), LAST_ANSWER.search(rejected)
    if not good or not bad or chosen[: good.start()].strip() != rejected[: bad.start()].strip():
        return None
    context = chosen[: good.start()].strip()
    question = context.removeprefix("Human:").strip() if context.count("\n\nHuman:") == 0 else context
    return question, rejected[bad.end() :].strip(), chosen[good.end() :].strip()


def split_messages(messages: Any) -> tuple[str, str | None]:
    """Return (question, response) of a chat: {role, content} objects, or {from, value} as ShareGPT calls them.

    Raises Unusable where it is no chat, does not end with the assistant, or holds anything but text.
    """
    turns = _turns(messages)
    if not turns or turns[-1][0] != "Assistant":
        raise Unusable("no_assistant_turn_at_the_end")
    return _context(turns[:-1]), turns[-1][1]


def write_context(messages: Any) -> str:
    """Return all messages of a chat as a question; raise Unusable as `split_messages` does."""
    return _context(_turns(messages))


def read_content(content: Any) -> str | None:
    """Return the text of a message, text parts joined by line ends.

    Raises Unusable for any other part.
    """
    if content is None or isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part
        if not isinstance(text, str):
            raise Unusable("messages_with_more_than_text")
        texts.append(text)
    return "\n".join(texts)


def _turns(messages: Any) -> list[tuple[str, str | None]]:
    """Return (mark, text) of every message.

    The text is None where it only calls a tool, say.
    """
    if messages is None:
        raise Unusable("null_messages")
    if not isinstance(messages, list):
        raise Unusable("messages_are_not_a_list")
    turns = []
    for message in messages:
        role = message.get("role") or message.get("from") if isinstance(message, dict) else None
        if not isinstance(role, str):
            raise Unusable("message_without_role")
        content = message.get("content") if message.get("content") is not None else message.get("value")
        turns.append((MARKS.get(role.lower(), role.capitalize()), read_content(content)))
    return turns


def _context(turns: list[tuple[str, str | None]]) -> str:
    texts = [text.strip() for _, text in turns if text is not None]
    if len(texts) < len(turns):
        raise Unusable("message_without_text")
    if [mark for mark, _ in turns] == ["Human"]:
        return texts[0]
    return "\n\n".join(f"{mark}: {text}" for (mark, _), text in zip(turns, texts, strict=True))
