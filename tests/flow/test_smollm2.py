"""An exported checkpoint, of SmolLM2 or any other, in transformers and in Headway: the same prompts, the same greedy text.

It runs where HEADWAY_SMOLLM2 names a checkpoint folder (see docs/smollm2.md); a minute or two.
"""

import os

import pytest
import torch

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer
from headway.types import Request

NEW_TOKENS = 48
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
QUESTIONS = [
    "Natalia sold clips to 48 friends in April and half as many in May. How many did she sell altogether?",
    "Weng earns $12 an hour. Yesterday she worked 50 minutes. How much did she earn?",
    "What is 17 + 25?",
    "A train goes 60 km in an hour. How far does it go in 3 hours?",
    "Tom has 3 boxes of 12 pencils and gives 7 away. How many are left?",
    "Solve 3x + 4 = 19 for x.",
    "A shirt costs $20 and is 25% off. What does it cost now?",
    "How many legs do 4 cats and 3 ducks have?",
    "The sum of two numbers is 30 and their difference is 4. What is the larger one?",
    "What is the area of a rectangle of 7 by 9?",
    "A baker makes 24 rolls an hour for 5 hours and sells 100. How many are left?",
    "What is 144 divided by 12?",
    "Anna is twice as old as Ben. Together they are 27. How old is Ben?",
    "A book has 200 pages. Sam reads 30 pages a day for 4 days. How many are left?",
    "What is the next number: 2, 4, 8, 16?",
    "There are 5 red and 8 blue marbles. What share is red?",
    "Half of a number is 21. What is the number?",
    "A pump fills 15 litres a minute. How long for 180 litres?",
    "Write <|im_end|> backwards.",
    "Hello!",
]


def test_transformers_and_headway_continue_twenty_prompts_alike():
    folder = os.environ.get("HEADWAY_SMOLLM2", "")
    if not folder:
        pytest.skip("HEADWAY_SMOLLM2 names no checkpoint folder")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = Tokenizer.load(folder)
    conversations = [[{"role": "user", "content": question + INSTRUCTION}] for question in QUESTIONS]
    prompts = tokenizer.prompt_ids_batch(conversations)
    engine = Engine(load_decoder(folder), tokenizer.stop_ids)
    requests = [Request(p, (sample_key(0, i),), NEW_TOKENS, temperature=0.0) for i, p in enumerate(prompts)]
    ours = [tokenizer.decode(completion.token_ids) for [completion] in engine.generate(requests)]

    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    their_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for question, conversation, prompt, text in zip(QUESTIONS, conversations, prompts, ours, strict=True):
        if "<|" not in question:  # there, a special token's name is that token; here it is text
            theirs = their_tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
            assert tuple(theirs["input_ids"]) == prompt, question
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = their_model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS)
        assert their_tokenizer.decode(found[0, len(prompt) :], skip_special_tokens=True) == text, question
