"""A tokenizer in the manner of Phi-4-mini's: two tokens end a turn, ids have gaps, and the template is the family's own.

<|endoftext|>  like 199999: bos, eos and pad        <|end|>  like 200020: the end of a turn, which no setting of the
                                                             tokenizer names, only the template and generation_config.json
"""

import json
from pathlib import Path

import tokenizers
from tiny_sampler import parities
from transformers import PreTrainedTokenizerFast

from headway.model.tokenizer import Tokenizer
from headway.problems.prompt import boxed

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
GAPS = {"<|endoftext|>": 2, "<|assistant|>": 21, "<|end|>": 22, "<|user|>": 23, "<|system|>": 24}  # behind the vocabulary


def phi_like(folder: Path, vocabulary: int = 300) -> dict[str, int]:
    """Write the tokenizer's files and a generation_config.json into `folder`; the ids of its special tokens."""
    texts = [f"{problem.question} {boxed(problem.reference)}" for problem in parities(50)]
    state = json.loads(Tokenizer.train(texts, vocabulary)._wrapped.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    first = max(words.values())
    ids = {name: first + gap for name, gap in GAPS.items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words |= ids
    state["added_tokens"] = [{"id": number, "content": name, **flags} for name, number in ids.items()]
    end = "<|endoftext|>"
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)),
        bos_token=end, eos_token=end, pad_token=end, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    stops = {"bos_token_id": ids[end], "pad_token_id": ids[end], "eos_token_id": [ids["<|end|>"], ids[end]]}
    (folder / "generation_config.json").write_text(json.dumps(stops))
    return ids
