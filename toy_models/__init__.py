"""Policies differentiated by hand, and the worlds they live in.

    tabular  one logit per prompt and response
    linear   log-linear in features of a response
    ngram    a softmax over the next token for each context of n - 1 tokens
    mlp      those contexts sharing an embedding and a hidden layer
    gpt      a decoder-only transformer
    lora     low-rank adapters over the matrices of any of them
    worlds   rewards and Bradley-Terry annotators, as exact populations or samples of preferences
    tasks    prompts whose answers a rule can check
"""

from .gpt import GPT
from .linear import LogLinear
from .lora import LoRA
from .mlp import MLP
from .ngram import NGram
from .tabular import Tabular
from .tasks import brackets, modular_sums
from .worlds import World, bandit, strings

__all__ = [
    "GPT", "MLP", "LoRA", "LogLinear", "NGram", "Tabular", "World", "bandit", "brackets", "modular_sums", "strings",
]
