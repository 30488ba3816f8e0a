"""How a checkpoint is used, as its card shows it: transformers, vLLM, Headway, each asked as the run asked it.

It does not know what the checkpoint learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_QUESTION = "What is 7 + 5?"
_CUTS = ("top_k", "min_p")  # told where they cut; runs of before have none


def how_to_use(folder: Path, recipe: Mapping[str, Any]) -> str:
    """Snippets for the checkpoint in `folder`, with the recipe's instruction and the sampling settings of its evaluation."""
    instruction, how = str(recipe["problems"]["instruction"]), recipe["evaluate"]
    asked = f"{_QUESTION}\n{instruction}" if instruction else _QUESTION
    told = "Sampled as in the evaluation above."
    if instruction:
        told += " Questions were followed by the instruction that stands in the example; without it the numbers do not hold."
    name = "THIS_FOLDER"
    flags = f"--temperature {how['temperature']:g} --top-p {how['top_p']:g} --max-tokens {how['max_tokens']}"
    flags += "".join(f" --{key.replace('_', '-')} {how[key]:g}" for key in _CUTS if how.get(key))
    body = {"model": name, "messages": [{"role": "user", "content": asked}], **_wire(how)}
    return "\n".join(
        [
            f"{told}\n",
            "```python",
            *_transformers(name, asked, how, _has_template(folder)),
            "```\n",
            "With vLLM (not tried here), or with Headway's own server, `headway serve THIS_FOLDER`:\n",
            "```console",
            f"$ vllm serve {name}",
            "$ curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\",
            f"    -d '{json.dumps(body).replace(chr(39), chr(92) + 'u0027')}'",
            "```\n",
            "In the terminal (the instruction is added by itself):\n",
            "```console",
            f"$ headway chat {name} {flags}",
            "```\n",
        ]
    )


def _transformers(name: str, asked: str, how: Mapping[str, Any], has_template: bool) -> list[str]:
    sampled = f"do_sample=True, temperature={how['temperature']:g}, top_p={how['top_p']:g}, top_k={how.get('top_k', 0)}"
    sampled += f", min_p={how['min_p']:g}" if how.get("min_p") else ""
    sampling = sampled if how["temperature"] else "do_sample=False"
    if has_template:
        inputs = [
            f'messages = [{{"role": "user", "content": {json.dumps(asked)}}}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        inputs = [f'inputs = tokenizer({json.dumps(asked + chr(10))}, add_special_tokens=False, return_tensors="pt")']
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        *inputs,
        f"output = model.generate(**inputs, {sampling}, max_new_tokens={how['max_tokens']})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _wire(how: Mapping[str, Any]) -> dict[str, Any]:
    return {key: how[key] for key in ("temperature", "top_p", "max_tokens")} | {key: how[key] for key in _CUTS if how.get(key)}


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and "chat_template" in json.loads(path.read_text(encoding="utf-8"))
