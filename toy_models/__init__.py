"""Policies differentiated by hand, and the worlds they live in.

    tabular  one logit per prompt and response
    ngram    a softmax over the next token for each context of n - 1 tokens
    worlds   rewards and Bradley-Terry annotators, as exact populations or samples of preferences
"""

from .ngram import NGram
from .tabular import Tabular
from .worlds import World, bandit, strings

__all__ = ["NGram", "Tabular", "World", "bandit", "strings"]
