"""Two small language models at 8 bits and, weights alone, at 4: one like GPT-2, one like Llama.

    BITWRIGHT_DATA=DIR python benchmarks/language_models.py --weights-dir DIR [--output FILE]

Both are trained here on words of film reviews (2,000 words, 32 at a time) in a few minutes, once: their weights stay in
--weights-dir. GPT-2's layers are products with a transposed weight plus a bias (`Conv1D`, `addmm`), its norms stand in
front of the blocks, and its table of embeddings is its last layer, too; Llama has RMS norms, rotary positions and gated
layers (SwiGLU) without biases. For each: perplexity in float, and its change, in percent, at W8A8 under each
placement, plain and after `smooth`; and with weights of 4 bits in groups of 32, plain and after `smooth` and `gptq`.
256 windows calibrate.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _task_networks import language, trained  # noqa: E402
from bitwright.tasks import Language, evaluate  # noqa: E402

SMOOTH: tuple[str, dict[str, Any]] = ("smooth", {"strength": None})
FOUR: tuple[tuple[str, dict[str, Any]], ...] = (("smooth", {"strength": None, "weights": 4}), ("gptq", {}))
CASES: dict[str, tuple[str, int, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "W8A8 edge": ("edge", 8, ()),
    "W8A8 linear": ("linear", 8, ()),
    "W8A8 linear, smooth": ("linear", 8, (SMOOTH,)),
    "W8A8 dynamic": ("dynamic", 8, ()),
    "W4 weight-only": ("weight-only", 4, ()),
    "W4 weight-only, smooth, gptq": ("weight-only", 4, FOUR),
}
"""What is measured -> placement, bits of weights, repairs."""


class Conv1D(nn.Module):
    """A linear layer as Hugging Face's GPT-2 has it: the weight is (inputs, outputs)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(layer.weight.detach().t().contiguous()), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """x W + b."""
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.weight.shape[1])


def like_gpt2(model: nn.Module) -> nn.Module:
    """The model with every linear layer that has a bias as a `Conv1D`."""
    for name, module in list(model.named_modules()):
        for label, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.bias is not None:
                setattr(model.get_submodule(name), label, Conv1D(child))
    return model.eval()


class RMSNorm(nn.Module):
    """As Hugging Face's Llama has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root of the mean square."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class LlamaBlock(nn.Module):
    """Attention with rotary positions, then a gated layer, each behind an RMS norm."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map (N, T, width) to the same, given (T, width of a head) cosines and sines of the positions."""
        batch, length, width = x.shape
        y = self.norm1(x)
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (layer(y).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        query, key = (part * cosine + turned(part) * sine for part in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        out: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return out


def turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class Llama(nn.Module):
    """A causal transformer over words."""

    def __init__(self, words: int = 2000, length: int = 32, width: int = 96, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads, 256) for _ in range(layers))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, words, bias=False)
        size = width // heads
        rates = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(length), rates).repeat(1, 2)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T) numbers of words to (N, T, words) logits of the word that comes next."""
        length, x = tokens.shape[1], self.words(tokens)
        for block in self.blocks:
            x = block(x, self.cosine[:length], self.sine[:length])
        logits: Tensor = self.head(self.norm(x))
        return logits


def changes(model: nn.Module, calibration: Any, evaluation: Any) -> dict[str, Any]:
    """Float's perplexity, and what each case changes of it, in percent with its interval."""
    batches = list(zip(*(part[:256].split(32) for part in calibration), strict=True))
    test = list(zip(*(part.split(32) for part in evaluation), strict=True))
    found: dict[str, Any] = {}
    for name, (placement, weights, repairs) in CASES.items():
        graph = bw.calibrate(bw.capture(model, batches[0][0][:2], quantizer=placement), batches)
        graph.apply(bw.Policy.uniform(graph.sites, weights, 8))
        for repair, options in repairs:
            bw.repair(graph, repair, batches, **options)
        figure = evaluate(graph, graph.policy, test, Language()).primary
        assert figure.reference is not None
        found["float"] = figure.reference.value
        lost = figure.lost
        found[name] = [lost.value, lost.low, lost.high]
        print(f"# {name}: {lost.value:+.2f} %", flush=True)
    return found


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--weights-dir", metavar="DIR", required=True, type=Path, help="where trained weights are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    built = language(Path(os.environ["BITWRIGHT_DATA"]), arguments.weights_dir)
    found = {"gpt2": changes(like_gpt2(built.model), built.calibration, built.evaluation)}
    torch.manual_seed(0)
    llama, _ = trained(
        Llama(),
        arguments.weights_dir / "llama.safetensors",
        built.calibration[0],
        (built.calibration[1],),
        lambda logits, wanted: functional.cross_entropy(logits.transpose(1, 2), wanted),
        epochs=3,
        rate=3e-3,
        decay=0.05,
    )
    found["llama"] = changes(llama, built.calibration, built.evaluation)
    write("language_models", found, arguments.output)


if __name__ == "__main__":
    main()
