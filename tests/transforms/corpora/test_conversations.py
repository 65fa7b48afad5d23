import pytest

from transforms.corpora.conversations import Unusable, split_dialogue, split_messages, write_context


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_a_question_of_one_turn_is_plain_text():
    assert split_messages([user(" Why?\n"), assistant("So.")]) == ("Why?", "So.")
    assert write_context([user("Why?")]) == "Why?"


def test_a_longer_context_is_the_dialogue_that_preference_data_give():
    messages = [user("Hi."), assistant("Yes?"), user("And?"), assistant("Well.")]
    dialogue = "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: And?\n\nAssistant: "
    assert split_messages(messages) == ("Human: Hi.\n\nAssistant: Yes?\n\nHuman: And?", "Well.")
    assert split_dialogue(dialogue + "Well.", dialogue + "No.") == (split_messages(messages)[0], "No.", "Well.")


def test_system_and_other_turns_are_marked():
    messages = [system("Be brief."), user("Sum?"), {"role": "tool", "content": "5"}, assistant("Five.")]
    assert split_messages(messages) == ("System: Be brief.\n\nHuman: Sum?\n\nTool: 5", "Five.")


def test_sharegpt_calls_the_same_otherwise():
    messages = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    assert split_messages(messages) == ("Why?", "So.")


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two", "image": None}]
    assert split_messages([user(parts), assistant([{"type": "text", "text": "So."}])]) == ("one\ntwo", "So.")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "null_messages"),
        ("user: hi", "messages_are_not_a_list"),
        ([], "no_assistant_turn_at_the_end"),
        ([assistant("So."), user("Why?")], "no_assistant_turn_at_the_end"),
        ([{"content": "Why?"}, assistant("So.")], "message_without_role"),
        (["Why?", assistant("So.")], "message_without_role"),
        ([user(None), assistant("So.")], "message_without_text"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant("So.")], "messages_with_more_than_text"),
        ([user([{"type": "text", "text": None}]), assistant("So.")], "messages_with_more_than_text"),
        ([user("Why?"), assistant({"type": "audio"})], "messages_with_more_than_text"),
    ],
)
def test_what_is_no_chat_of_texts_says_why(messages, reason):
    with pytest.raises(Unusable, match=f"^{reason}$"):
        split_messages(messages)
