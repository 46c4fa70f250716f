"""Captions as tokens: a vocabulary is trained on the captions of the training examples, and kept in the run directory.

A caption is i32[T]: the ids of its tokens, then zeros, which stand for no token. The `tokenizers` library counts ids
from 0, so a token's id here is its id there plus 1.

A vocabulary of words holds words in lower case and punctuation, and reads any other word as `UNKNOWN`. A vocabulary of
byte pairs (Sennrich et al., 2016) or of bytes represents any text.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from genimg_jax import files
from genimg_jax.data.types import Options
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would outlive the fork of a decoding worker

UNKNOWN = "[unknown]"
FILE = "vocabulary.json"  # in a run directory
SHOWN = 3  # nearest words in a message


def train(captions: Iterable[str], kind: str, most: int) -> "Tokenizer":
    """Trains a vocabulary of at most `most` ids, no token included. The order of the captions does not matter.

    `kind` is 'words', 'bpe' or 'bytes'; bytes need no training and always have 257 ids.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=most - 1, special_tokens=[UNKNOWN], show_progress=False)
        tokenizer.train_from_iterator(captions, trainer)
        return tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "bpe":
        trainer = trainers.BpeTrainer(vocab_size=most - 1, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def size(vocabulary: "Tokenizer") -> int:
    """The number of ids, 0 for no token included."""
    return vocabulary.get_vocab_size() + 1


def encode(vocabulary: "Tokenizer", caption: str, length: int) -> np.ndarray:  # -> i32[length]
    """The tokens of a user's caption. Raises ConfigError for a word that is not in the vocabulary, with the nearest
    words, and for a caption of more than `length` tokens."""
    encoding = vocabulary.encode(caption)
    for token, (start, stop) in zip(encoding.tokens, encoding.offsets, strict=True):
        if token == UNKNOWN:
            word = caption[start:stop]
            near = nearest(word.lower(), vocabulary.get_vocab(), SHOWN)
            raise ConfigError(
                f"the word {word!r} of {caption!r} is not in the model's vocabulary{near} Use words of the training "
                "captions."
            )
    if len(encoding.ids) > length:
        raise ConfigError(f"{caption!r} has {len(encoding.ids)} tokens, and the model takes {length}; say it in fewer.")
    return _filled([encoding.ids], length)[0]


def rows(vocabulary: "Tokenizer", captions: Sequence[str], names: Sequence[str], length: int) -> np.ndarray:
    """The tokens of the captions of examples. Raises DataError naming the example whose caption is too long."""
    # -> i32[B, length]
    ids = [encoding.ids for encoding in vocabulary.encode_batch(list(captions))]
    for name, caption, tokens in zip(names, captions, ids, strict=True):
        if len(tokens) > length:
            raise DataError(
                f"The caption of '{name}' has {len(tokens)} tokens, over data.captions.length={length}: raise it, or "
                f"shorten {caption!r}."
            )
    return _filled(ids, length)


def _filled(ids: Sequence[Sequence[int]], length: int) -> np.ndarray:  # -> i32[B, length]
    return np.array([[i + 1 for i in tokens] + [0] * (length - len(tokens)) for tokens in ids], np.int32)


def digest(vocabulary: "Tokenizer") -> str:
    """SHA-256 (16 hexadecimal digits) of a vocabulary."""
    return files.digest(vocabulary.to_str())


def save(vocabulary: "Tokenizer", folder: pathlib.Path) -> None:
    files.write_atomic(folder / FILE, vocabulary.to_str(pretty=True))


def load(path: str) -> "Tokenizer":
    """Raises ConfigError if `save` did not write the file."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(pathlib.Path(path).read_text())
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"data.captions.vocabulary is {path}, which is no {FILE} of a run: {error}.") from error


def with_vocabulary(options: Options, *folders: str | os.PathLike) -> Options:
    """The options with the vocabulary of the first of these run directories that has one; "" is no directory."""
    if not (path := files.first_with(FILE, folders)):
        return options
    return dataclasses.replace(options, captions=dataclasses.replace(options.captions, vocabulary=path))
