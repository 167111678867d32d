"""Trains the linear layer after all-MiniLM-L6-v2, 2_Dense, on sentences about what cameras see.

    apt-get install wordnet-base
    target/export-env/bin/python models/search/adapt.py target/embedding/all-MiniLM-L6-v2

The layer turns the vectors so that what somebody does and which colour it has count as much as who it is. A question's
vector comes closer to the statements that answer it, and leaves the others (contrastive learning). The similarities
of 3,000 definitions of WordNet, which are about everything, stay as they are: that keeps the model's general sense.
Takes ten minutes on one core.
"""

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch.nn import functional

import sentences

STATEMENTS, QUESTIONS, DEFINITIONS = 7000, 7000, 3000
STEPS, TEMPERATURE = 500, 0.05


class Model:
    """The sentence-embedding model as lookout runs it, without the linear layer."""

    def __init__(self, folder: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()

    def vectors(self, texts: list[str]) -> torch.Tensor:
        tokens = [self.tokenizer.encode(text).ids for text in texts]
        means = np.zeros((len(texts), 384), np.float32)
        for length in sorted({len(ids) for ids in tokens}):
            rows = [row for row, ids in enumerate(tokens) if len(ids) == length]
            for some in (rows[start : start + 16] for start in range(0, len(rows), 16)):
                ids = np.array([tokens[row] for row in some])
                inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
                means[some] = self.session.run(None, inputs)[0].mean(1)
        return functional.normalize(torch.from_numpy(means), dim=-1)


def definitions(r: random.Random, wordnet: Path) -> list[str]:
    """Returns definitions of WordNet."""
    files = [wordnet / f"data.{kind}" for kind in ("noun", "verb", "adj", "adv")]
    lines = [line for file in files for line in file.read_text("latin1").splitlines() if not line.startswith("  ")]
    return [re.split(r'; "', line.split("| ", 1)[1])[0].strip() for line in r.sample(lines, DEFINITIONS)]


def train(stated, asked, answers, general) -> torch.Tensor:
    """Returns the layer's weights. `answers[q, s]`: statement `s` answers question `q`."""
    torch.manual_seed(0)
    weight = torch.eye(stated.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    turned = lambda vectors: functional.normalize(vectors @ weight.T, dim=-1)
    for step in range(STEPS):
        q, s = torch.randint(len(asked), (256,)), torch.randint(len(stated), (768,))
        right = answers[q][:, s]
        similar = turned(asked[q]) @ turned(stated[s]).T / TEMPERATURE
        wrong = torch.logsumexp(similar.masked_fill(right, -1e9), 1, keepdim=True)
        each = functional.softplus(wrong - similar) * right
        some = right.any(1)
        learned = (each.sum(1)[some] / right.sum(1)[some]).mean()
        g = general[torch.randint(len(general), (384,))]
        kept = (turned(g) @ turned(g).T - g @ g.T).square().mean() * 1000
        (learned + kept).backward()
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: {learned.item():.3f}, {kept.item():.3f}", flush=True)
    return weight.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--into", type=Path, default=Path(__file__).with_name("2_Dense"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    r = random.Random(5)
    model = Model(options.model)
    facts = [sentences.fact(r) for _ in range(STATEMENTS)]
    asked = [sentences.question(r, sentences.fact(r)) for _ in range(QUESTIONS)]
    answers = torch.tensor([[fact.is_answer_to(about) for fact in facts] for _, about in asked])
    stated = model.vectors([sentences.statement(r, fact) for fact in facts])
    questions = model.vectors([text for text, _ in asked])
    general = model.vectors(definitions(r, options.wordnet))
    weight = train(stated, questions, answers, general)
    options.into.mkdir(exist_ok=True)
    width = weight.shape[0]
    config = {
        "in_features": width,
        "out_features": width,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (options.into / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({"linear.weight": weight.numpy().astype(np.float16)}, options.into / "model.safetensors")


if __name__ == "__main__":
    main()
