"""Text to token ids and back, the chat template around a prompt, and which tokens end a completion.

    prompt_ids([user: q])  =  template(q) with the opening of the assistant's turn          <user>q<assistant>
    trained tokens         =  prompt_ids + encode(completion) + [stop_id]                   ...12<eos>

A name of a special token inside a question or a completion is text, never the token: no data row can end a turn. A
tokenizer without a chat template asks in plain text: the contents, each followed by a line break. It does not know what
is asked, nor weights.

The template is a program that came with the checkpoint: how it is kept within bounds is `template`'s business.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from headway.errors import CheckpointError, ConfigError, DataError
from headway.model.folder import first_line, read_object, resolve, write_object
from headway.model.template import ChatTemplate

Messages = Sequence[dict[str, str]]

_SPECIALS = ("<pad>", "<eos>", "<user>", "<assistant>")
_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '<user>' + message['content'] -}}"
    "{%- elif message['role'] == 'assistant' -%}{{- '<assistant>' + message['content'] + eos_token -}}"
    "{%- else -%}{{- raise_exception('roles are user and assistant') -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)
_DATE = "26 Jul 2024"  # Llama 3's templates write the date; theirs for "unknown", so that prompts do not change by the day
_SENTINEL = "\ue0f0content\ue0f1"  # private-use characters: in no vocabulary and no template
_CHUNK = 4096  # texts given to the library at once


class Tokenizer:
    """A byte-level (or any fast) tokenizer with its template. Make one with `load` or `train`.

    `stop_id` is the token to train on: what the template ends an assistant's turn with. `stop_ids` are all tokens that
    end a completion. `size` is one more than the highest token id, added tokens with the others: how many embedding rows a
    model needs at least. It is no count: Phi-4's ids have gaps before `<|end|>`, its turn's end.
    """

    def __init__(self, wrapped: Any, more_stop_ids: Sequence[int] = (), origin: str = "tokenizer"):
        backend = getattr(wrapped, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            raise CheckpointError(f"{origin}: only tokenizers with a tokenizer.json (fast ones) are supported")
        self._wrapped, self._origin = wrapped, origin
        self._parsing = _copy(backend)  # names of special tokens are the tokens: for what the template wrote
        self._literal = _copy(backend)  # they are text: for what people and models wrote
        self._literal.encode_special_tokens = True
        self.size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        specials = [t.content for t in backend.get_added_tokens_decoder().values() if t.special]
        self._special = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or r"(?!)")
        self._chat = _chat_template(wrapped, origin)
        self.stop_id = self._find_stop_id()
        found = (self.stop_id, wrapped.eos_token_id, *more_stop_ids)
        self.stop_ids = tuple(sorted({i for i in found if i is not None and 0 <= i < self.size}))
        self.unknown_stop_ids = tuple(sorted({i for i in found if i is not None} - set(self.stop_ids)))  # of no vocabulary entry
        pad = wrapped.pad_token_id
        self.pad_id: int = self.stop_id if pad is None else int(pad)
        self.bos_id: int | None = wrapped.bos_token_id
        self.fingerprint = self._fingerprint(backend)

    @staticmethod
    def load(folder: str | Path, gguf_file: str = "") -> Tokenizer:
        """The tokenizer of a checkpoint folder, of a hub model, or inside a GGUF file. Raises CheckpointError."""
        path = resolve(folder, gguf_file)
        if gguf_file:
            require_gguf(path, gguf_file)
        more = {"gguf_file": gguf_file} if gguf_file else {}
        try:
            with _without_advice():
                wrapped = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True, **more)
        except Exception as error:  # the library raises whatever its parsers raise
            raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {first_line(error)}") from None
        return Tokenizer(wrapped, [] if gguf_file else _configured_stops(path), str(folder))

    @staticmethod
    def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
        """Byte-level byte-pair encoding learned from `texts`, with at most `vocabulary` tokens.

        Every byte is representable and every digit is a token of its own: numbers of any length are spelled one way. The
        same texts give the same tokenizer. Raises ConfigError below 260 tokens (256 bytes and 4 special ones).
        """
        least = 256 + len(_SPECIALS)
        if vocabulary < least:
            raise ConfigError(f"model.vocabulary = {vocabulary}: a byte-level tokenizer needs at least {least}")
        backend = tokenizers.Tokenizer(models.BPE())
        digits, split = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, split])  # type: ignore[assignment]
        backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer=trainer)
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="<pad>",
            eos_token="<eos>",
            additional_special_tokens=["<user>", "<assistant>"],
            clean_up_tokenization_spaces=False,
        )
        wrapped.chat_template = _TEMPLATE
        return Tokenizer(wrapped)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template into an existing folder."""
        self._wrapped.save_pretrained(str(folder))
        path = Path(folder) / "tokenizer_config.json"
        values = read_object(path)
        if values.get("tokenizer_class") == "TokenizersBackend":  # a name that older readers do not know
            values["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_object(path, {k: v for k, v in values.items() if k not in ("name_or_path", "local_files_only", "is_local")})

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is added. Raises DataError for text that is not Unicode (a lone surrogate)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in order, on all cores."""
        return _encode(self._literal, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens, the stop token among them, are left out."""
        return self._literal.decode(list(ids), skip_special_tokens=True)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each, in order."""
        return self._literal.decode_batch([list(ids) for ids in batch], skip_special_tokens=True)

    def prompt_ids(self, messages: Messages) -> tuple[int, ...]:
        """A conversation as the model is asked it, ending in the opening of the assistant's turn.

        `messages` are {"role": ..., "content": ...}. Raises CheckpointError where the template refuses them.
        """
        return self.prompt_ids_batch([messages])[0]

    def prompt_ids_batch(self, conversations: Sequence[Messages]) -> list[tuple[int, ...]]:
        """`prompt_ids` of each conversation, in order, on all cores but for the template."""
        result: list[tuple[int, ...]] = [()] * len(conversations)
        plain: list[int] = []
        for number, messages in enumerate(conversations):
            if any(self._special.search(message["content"]) for message in messages):
                result[number] = self._prompt_with_special_names(messages)
            else:
                plain.append(number)
        texts = [self._render(conversations[number]) for number in plain]
        for number, ids in zip(plain, _encode(self._parsing, texts), strict=True):
            result[number] = tuple(ids)
        return result

    def prompt_text(self, messages: Messages) -> str:
        """The text that `prompt_ids` encodes, for those who tokenize elsewhere. Raises CheckpointError as it does."""
        return self._render(messages)

    @property
    def opens_thinking(self) -> bool:
        """Whether the template begins the assistant's turn inside `<think>`, so that a completion starts as a thought."""
        return self._template is not None and self._shows([{"role": "user", "content": "x"}]).rstrip().endswith("<think>")

    @property
    def drops_thinking(self) -> bool:
        """Whether the template leaves the thoughts of earlier turns out of a prompt, as DeepSeek-R1's and Qwen3's do."""
        if self._template is None:
            return False
        turns = [("user", "x"), ("assistant", f"<think>\n{_SENTINEL}\n</think>\n\ny"), ("user", "z")]
        return _SENTINEL not in self._shows([{"role": role, "content": content} for role, content in turns])

    def _shows(self, messages: Messages) -> str:
        """The text of a conversation; all contents where the template refuses it, so that nothing seems left out."""
        try:
            return self._render(messages)
        except CheckpointError:
            return "".join(message["content"] for message in messages)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, special ones by their names; for the eye."""
        return [self._parsing.decode([i], skip_special_tokens=False) or self._parsing.id_to_token(i) or "" for i in ids]

    def written(self, ids: Sequence[int]) -> str:
        """The text of token ids with the names of special tokens, as a template writes it."""
        return self._parsing.decode(list(ids), skip_special_tokens=False)

    def knows(self, number: int) -> bool:
        """Whether a token id has an entry in the vocabulary."""
        return self._parsing.id_to_token(number) is not None

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for what the vocabulary cannot spell; None where it can spell everything.

        A byte-level vocabulary may name one (GPT-2 and SmolLM2 name their end of text), but never writes it.
        """
        model = self._parsing.model
        if isinstance(model, models.Unigram):
            spells_bytes = json.loads(self._parsing.to_str())["model"].get("byte_fallback")
            return None if spells_bytes else self._wrapped.unk_token_id
        name: str | None = getattr(model, "unk_token", None)
        return None if name is None else self._parsing.token_to_id(name)

    @property
    def opens_turn(self) -> bool:
        """Whether a prompt ends where an answer begins: no more of the turn's opening follows than it has."""
        question = {"role": "user", "content": "x"}
        try:
            prompt, plain = self._render([question]), self._render([question], generation=False)
            turn = self._render([question, {"role": "assistant", "content": _SENTINEL}], generation=False)
        except CheckpointError:  # it cannot show an assistant's turn
            return True
        opened = turn.partition(_SENTINEL)[0]
        is_given = prompt != plain or not opened.startswith(prompt.rstrip())
        return self._template is None or is_given or not opened.removeprefix(prompt.rstrip()).strip()

    @property
    def opening(self) -> str:
        """What stands between a question and the completion in a prompt: the opening of the assistant's turn."""
        return self._render([{"role": "user", "content": _SENTINEL}]).rpartition(_SENTINEL)[2]

    @property
    def stop_text(self) -> str:
        """The stop token's own name, as in "<|im_end|>"."""
        return self._parsing.id_to_token(self.stop_id) or ""

    def names_special(self, text: str) -> bool:
        """Whether a text holds the name of a special token: it would become the token where others tokenize it."""
        return self._special.search(text) is not None

    def check_fits(self, rows: int) -> None:
        """Raise CheckpointError where a model with `rows` embedding rows lacks some of the vocabulary."""
        if self.size > rows:
            raise CheckpointError(f"{self._origin}: {self.size} tokens, but the model has {rows} embedding rows")

    @property
    def _template(self) -> Any:
        return self._wrapped.chat_template

    def _render(self, messages: Messages, generation: bool = True) -> str:
        """The text of a conversation, by the template or in plain."""
        if self._chat is None:
            return "".join(message["content"] + "\n" for message in messages)
        try:
            return self._chat.render(
                **{**self._wrapped.special_tokens_map, "date_string": _DATE},
                messages=[dict(m) for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generation,
            )
        except Exception as error:  # jinja's errors, the template's own and ours
            raise CheckpointError(f"{self._origin}: the chat template fails: {first_line(error)}") from None

    def _prompt_with_special_names(self, messages: Messages) -> tuple[int, ...]:
        """The slow, careful way: contents are encoded apart from the template's text, as text."""
        marks = [f"\ue0f0{number}\ue0f1" for number in range(len(messages))]
        text = self._render([{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)])
        ids: list[int] = []
        for mark, message in zip(marks, messages, strict=True):
            before, found, text = text.partition(mark)
            if not found:
                name = (self._special.search(message["content"]) or [""])[0]
                raise CheckpointError(f"{self._origin}: the template hides a message that holds the special name {name!r}")
            ids += _encode(self._parsing, [before])[0] + self.encode(message["content"])
        return tuple(ids + _encode(self._parsing, [text])[0])

    def _find_stop_id(self) -> int:
        """The first special token behind an assistant's turn; the end-of-text token where the template shows none."""
        if self._template is not None:
            turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SENTINEL}]
            try:
                after = self._render(turns, generation=False).rpartition(_SENTINEL)[2]
            except CheckpointError:  # it cannot show an assistant's turn; whether it can ask is seen at the first prompt
                after = ""
            found = self._special.search(after)
            if found:
                number = self._parsing.token_to_id(found[0])
                assert number is not None, "a special token has an id"
                return number
        eos = self._wrapped.eos_token_id
        if eos is None:
            raise CheckpointError(f"{self._origin}: no token ends a completion: no eos_token, none in the chat template")
        return int(eos)

    def _fingerprint(self, backend: tokenizers.Tokenizer) -> str:
        """A hash of all that decides ids: vocabulary, merges, added tokens, normalisation, splitting and template."""
        state = json.loads(backend.to_str())
        parts = {key: state.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
        added = sorted((t["id"], t["content"], t["special"]) for t in state["added_tokens"])
        text = json.dumps([parts, added, self._template, self.stop_id], sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _chat_template(wrapped: Any, origin: str) -> ChatTemplate | None:
    """The template of a tokenizer, the one called "default" where it has several."""
    source = wrapped.chat_template
    if isinstance(source, dict):
        source = source.get("default")
        if source is None:
            raise CheckpointError(f"{origin}: several chat templates and none of them called default")
    try:
        return None if source is None else ChatTemplate(source)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from None


def require_gguf(folder: Path, gguf_file: str) -> None:
    """Raise CheckpointError where a GGUF file is not there, or what reads it is not installed."""
    if not (folder / gguf_file).is_file():
        raise CheckpointError(f"{folder}: there is no {gguf_file}")
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError:
        raise CheckpointError(f"{gguf_file}: reading GGUF needs `pip install headway[gguf]`") from None


@contextmanager
def _without_advice() -> Iterator[None]:
    """No warnings of transformers inside: to read a tokenizer it reads config.json, too, and advises on the model's settings."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _copy(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """An independent tokenizer without the truncation and padding that a tokenizer.json may carry."""
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _encode(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), _CHUNK):
        part = list(texts[start : start + _CHUNK])
        try:
            ids += [e.ids for e in backend.encode_batch_fast(part, add_special_tokens=False)]
        except (TypeError, UnicodeError):
            for text in part:
                bad = next((c for c in text if unicodedata.category(c) == "Cs"), None)
                if bad is not None:
                    raise DataError(f"not Unicode: a lone surrogate {bad!r} in the text {text[:40]!r}") from None
            raise
    return ids


def _configured_stops(folder: Path) -> list[int]:
    """The eos_token_id entries of generation_config.json and config.json, each a number, a list or absent."""
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            value = read_object(folder / name).get("eos_token_id")
            stops += [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
    return stops
