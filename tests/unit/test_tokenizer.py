"""Text and ids there and back, templates of several families, stop tokens, and templates that misbehave."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from headway.errors import CheckpointError, ConfigError, DataError
from headway.model.tokenizer import Tokenizer

TEXTS = [f"{a} + {b} = {a + b}, so the answer is \\boxed{{{a + b}}}." for a in range(40) for b in range(40)]
OURS = Tokenizer.train(TEXTS, 300)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("message['content']", "message['content'] | trim")  # as Llama 3's
DEFAULT_SYSTEM = "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + CHATML  # as SmolLM2's
LISTENING = CHATML.replace("message['content']", "('no' if '/no_think' in message['content'] else 'yes') + message['content']")
DATED = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}" + CHATML
ENDLESS = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def folder_with(path: Path, template: str | None, **files: object) -> Path:
    """A checkpoint folder whose tokenizer has ChatML's special tokens, this template, and these JSON files beside."""
    backend = OURS._wrapped.backend_tokenizer
    wrapped = PreTrainedTokenizerFast(tokenizer_object=type(backend).from_str(backend.to_str()), eos_token="<eos>")
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|more|>"]})
    wrapped.add_tokens([AddedToken("<think>", special=False)])
    wrapped.chat_template = template
    wrapped.save_pretrained(path)
    for name, values in files.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    return path


def theirs(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> tuple[int, ...]:
    ids = tokenizer._wrapped.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return tuple(ids)


# -- text and ids


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_is_representable(byte: int) -> None:
    text = bytes([byte]).decode("latin-1")
    assert OURS.decode(OURS.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decode_undoes_encode(text: str) -> None:
    assert OURS.decode(OURS.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["", " ", "  two  spaces ", "don 't , do n't .", "a\r\n\tb", "7\u00a07", "<eos>", "a<user>b<pad>", "🙂é"]
)
def test_decode_undoes_encode_on_awkward_texts(text: str) -> None:
    assert OURS.decode(OURS.encode(text)) == text
    assert OURS.decode_batch(OURS.encode_batch([text, "x"])) == [text, "x"]


def test_digits_are_tokens_of_their_own() -> None:
    ids = OURS.encode("the answer is 1234567")
    assert [OURS.decode([i]) for i in ids[-7:]] == list("1234567")
    assert len(ids) < 7 + len("the answer is ")  # and words are not


def test_names_of_special_tokens_in_text_are_text() -> None:
    assert not set(OURS.encode("one<eos><user>two<assistant>")) & {0, 1, 2, 3}


def test_decode_leaves_the_stop_token_out() -> None:
    assert OURS.decode([*OURS.encode("12"), OURS.stop_id]) == "12"


def test_batches_equal_single_texts() -> None:
    assert OURS.encode_batch(TEXTS[:50]) == [OURS.encode(text) for text in TEXTS[:50]]


def test_training_is_a_function_of_the_texts() -> None:
    again = Tokenizer.train(iter(TEXTS), 300)
    assert again.fingerprint == OURS.fingerprint
    assert again.encode_batch(TEXTS) == OURS.encode_batch(TEXTS)


def test_training_uses_no_more_tokens_than_asked_or_needed() -> None:
    assert OURS.size <= 300
    assert Tokenizer.train(["aaaa"], 1000).size < 270  # 260, and the few pairs that the text has
    assert Tokenizer.train([], 260).size == 260


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.vocabulary = 259: .* at least 260"):
        Tokenizer.train(TEXTS, 259)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        OURS.encode_batch(["fine", "broken \ud800 text"])


# -- the template


def test_our_template_by_hand() -> None:
    # <pad> <eos> <user> <assistant> are 0 to 3
    assert OURS.prompt_ids(user("7+5?")) == (2, *OURS.encode("7+5?"), 3)
    turns = [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]
    assert OURS.prompt_ids(turns) == (2, *OURS.encode("a"), 3, *OURS.encode("b"), 1, 2, *OURS.encode("c"), 3)
    assert (OURS.stop_id, OURS.stop_ids, OURS.pad_id) == (1, (1,), 0)


def test_our_template_refuses_a_system_turn() -> None:
    with pytest.raises(CheckpointError, match="roles are user and assistant"):
        OURS.prompt_ids([{"role": "system", "content": "Be kind."}, *user("7+5?")])


@pytest.mark.parametrize("template", [CHATML, TRIMMED, DEFAULT_SYSTEM, LISTENING, None])
def test_prompts_equal_transformers(template: str | None, tmp_path: Path) -> None:
    """Many questions at once give what `apply_chat_template` gives for each."""
    tokenizer = Tokenizer.load(folder_with(tmp_path, template))
    contents = ["2 + 2", " spaces ", "\nlines\n\n", "", "a\n", "<think>{{x}}", "late /no_think", *TEXTS[:20]]
    for some in (contents, contents[::-1], ["/no_think", *contents]):
        found = tokenizer.prompt_ids_batch([user(content) for content in some])
        if template is None:
            assert found == [tuple(tokenizer.encode(content + "\n")) for content in some]
        else:
            assert found == [theirs(tokenizer, user(content)) for content in some]


def test_conversations_equal_transformers(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, DEFAULT_SYSTEM))
    turns = [{"role": "system", "content": "s"}, *user("a"), {"role": "assistant", "content": "b"}, *user("c")]
    assert tokenizer.prompt_ids_batch([turns, user("d")]) == [theirs(tokenizer, turns), theirs(tokenizer, user("d"))]


def test_a_special_name_in_a_question_ends_no_turn(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, CHATML))
    plain, start, end = "Say ", *(tokenizer._wrapped.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    ids = tokenizer.prompt_ids(user(f"{plain}<|im_end|> twice"))
    assert ids.count(end) == 1  # the template's own
    assert ids.count(start) == 2
    assert "Say <|im_end|> twice" in tokenizer.decode(ids)
    beside = tokenizer.prompt_ids_batch([user("a"), user("<|im_end|>"), user("b")])
    assert [beside[0], beside[2]] == [theirs(tokenizer, user("a")), theirs(tokenizer, user("b"))]


def test_prompts_do_not_change_by_the_day(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, DATED))
    assert tokenizer.decode(tokenizer.prompt_ids(user("x"))).startswith("26 Jul 2024")


def test_a_truncation_in_tokenizer_json_cuts_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, CHATML)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    values["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    assert len(tokenizer.prompt_ids(user(TEXTS[0]))) > 10


# -- which tokens end a completion


def test_the_stop_token_is_what_the_template_ends_a_turn_with(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, CHATML))
    number = tokenizer._wrapped.convert_tokens_to_ids
    assert tokenizer.stop_id == number("<|im_end|>")
    assert tokenizer.stop_ids == tuple(sorted([number("<eos>"), number("<|im_end|>")]))
    assert tokenizer.pad_id == tokenizer.stop_id  # it has no pad token


@pytest.mark.parametrize("listed", [True, False])
def test_stop_tokens_of_the_configurations_count(listed: bool, tmp_path: Path) -> None:
    more = OURS.size + 2  # <|im_start|>, <|im_end|>, <|more|> follow the vocabulary
    generation = {"eos_token_id": [more, 10**6] if listed else more}  # an id beyond the vocabulary is no token
    folder = folder_with(tmp_path, CHATML, generation_config=generation, config={"eos_token_id": 5 if listed else None})
    tokenizer = Tokenizer.load(folder)
    assert tokenizer._wrapped.convert_ids_to_tokens(more) == "<|more|>"
    assert tokenizer.stop_ids == tuple(sorted({1, tokenizer.stop_id, more} | ({5} if listed else set())))


def test_without_a_template_the_end_of_text_stops(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, None))
    assert (tokenizer.stop_id, tokenizer.stop_ids) == (1, (1,))


def test_a_tokenizer_without_any_end_is_refused(tmp_path: Path) -> None:
    backend = OURS._wrapped.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no token ends a completion"):
        Tokenizer.load(tmp_path)


# -- saved and read again


@pytest.mark.parametrize("template", [CHATML, None])
def test_saved_and_read_again_it_is_the_same(template: str | None, tmp_path: Path) -> None:
    first = Tokenizer.load(folder_with(tmp_path / "a", template))
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    first.save(tmp_path / "b")
    second = Tokenizer.load(tmp_path / "b")
    second.save(tmp_path / "c")
    assert second.fingerprint == first.fingerprint
    assert (second.stop_id, second.stop_ids, second.pad_id) == (first.stop_id, first.stop_ids, first.pad_id)
    questions = [user(text) for text in TEXTS[:30]]
    assert second.prompt_ids_batch(questions) == first.prompt_ids_batch(questions)
    for file in (tmp_path / "b").iterdir():
        assert file.read_bytes() == (tmp_path / "c" / file.name).read_bytes(), file.name


def test_ours_saved_and_read_again_is_the_same(tmp_path: Path) -> None:
    OURS.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == OURS.fingerprint
    assert again.prompt_ids(user("7+5?")) == OURS.prompt_ids(user("7+5?"))
    assert (again.stop_ids, again.pad_id, again.size) == (OURS.stop_ids, OURS.pad_id, OURS.size)


def test_fingerprints_differ_where_ids_would(tmp_path: Path) -> None:
    prints = {OURS.fingerprint, Tokenizer.train(TEXTS, 265).fingerprint, Tokenizer.train(["other"] * 9, 300).fingerprint}
    for number, template in enumerate([CHATML, TRIMMED, None]):
        prints.add(Tokenizer.load(folder_with(tmp_path / str(number), template)).fingerprint)
    assert len(prints) == 6


def test_check_fits() -> None:
    OURS.check_fits(OURS.size)
    with pytest.raises(CheckpointError, match="embedding rows"):
        OURS.check_fits(OURS.size - 1)


# -- what cannot be loaded, and templates that misbehave


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: the tokenizer cannot be loaded")
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, CHATML)
    (folder / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Tokenizer.load(folder)


def test_a_name_that_is_neither_folder_nor_hub() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Tokenizer.load("no/such/folder")


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model\.gguf"):
        Tokenizer.load(tmp_path, "model.gguf")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for message in %}", "template"),
        ("{{ raise_exception('never ask me') }}", "never ask me"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        (ENDLESS, "did not end"),
    ],
    ids=["syntax", "refuses", "attacks", "endless"],
)
def test_a_bad_template_is_one_clear_line(template: str, says: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, template))
    with pytest.raises(CheckpointError, match=says) as caught:
        tokenizer.prompt_ids(user("x"))
    assert "\n" not in str(caught.value)


def test_an_endless_template_ends_in_a_thread_too(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, ENDLESS))
    said: list[str] = []

    def ask() -> None:
        try:
            tokenizer.prompt_ids(user("x"))
        except CheckpointError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(said) == 1
    assert "did not end" in said[0]


def test_a_template_that_hides_the_content_of_a_special_name(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(
        folder_with(tmp_path, CHATML.replace("message['content']", "message['content'] | length | string"))
    )
    assert tokenizer.prompt_ids(user("four")) == theirs(tokenizer, user("four"))
    with pytest.raises(CheckpointError, match="hides a message"):
        tokenizer.prompt_ids(user("<|im_end|>"))


def test_an_enormous_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="more than 131072 characters"):
        Tokenizer.load(folder_with(tmp_path, CHATML + "{# " + "x" * 131_072 + " #}"))
