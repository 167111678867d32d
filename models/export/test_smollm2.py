"""Tests of smollm2.py and precision_cost.py, with a small golden checkpoint instead of SmolLM2.

python models/export/test_smollm2.py
"""

import contextlib
import io
import math
import shutil
import tempfile
import unittest
from pathlib import Path

import export
from plan import Plan

export.quiet()

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText

import precision_cost
import runtime
import smollm2

PLAIN = Path(__file__).resolve().parent.parent.parent / "tests/golden/e2e/plain"
torch.set_num_threads(1)


class RowsOfHeads(unittest.TestCase):
    def test_rows_are_those_before_a_gguf_was_made(self):
        heads, rows, columns = 3, 8, 5
        matrix = torch.arange(heads * rows * columns).reshape(heads * rows, columns)
        # As llama.cpp's converter writes them (LlamaModel.permute).
        written = matrix.reshape(heads, 2, rows // 2, columns).swapaxes(1, 2).reshape(matrix.shape)
        self.assertFalse(torch.equal(written, matrix))
        self.assertTrue(torch.equal(smollm2.as_transformers(written, heads), matrix))


class Cost(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="smollm2-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for precision in ("fp32", "int4"):
            with contextlib.redirect_stdout(io.StringIO()):
                assert export.export(PLAIN, cls.folder / precision, Plan(precision, "cpu")) == 0
        cls.models = {name: precision_cost.Language(cls.folder / name) for name in ("fp32", "int4")}
        words = Tokenizer.from_file(str(PLAIN / "tokenizer.json")).get_vocab_size()
        cls.ids = np.random.default_rng(1).integers(0, words, precision_cost.PASSAGE_TOKENS).tolist()

    def test_every_token_is_scored_as_by_transformers(self):
        ids = self.ids[:40]
        found = self.models["fp32"].log_probabilities(ids)
        model = AutoModelForImageTextToText.from_pretrained(PLAIN, dtype=torch.float32)
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        # The package's own graph gives the last row.
        text = runtime.graph_file(self.folder / "fp32", "decoder_model_merged")
        shape = self.models["fp32"].decoder.shape
        own = runtime.Decoder(text, shape[1], shape[3])(self.models["fp32"].words(ids))
        np.testing.assert_allclose(precision_cost.log_softmax(own), found[-1], atol=1e-5)

    def test_float32_costs_nothing_and_four_bits_cost_something(self):
        cost = precision_cost.on_text(self.models, self.ids)
        self.assertEqual((cost["fp32"]["divergence"], cost["fp32"]["same_word"]), (0, 1))
        self.assertGreater(cost["int4"]["divergence"], 0)
        # Random tokens are as good as unknown to random weights.
        self.assertGreater(cost["fp32"]["perplexity"], len(set(self.ids)) / 4)


class Answers(unittest.TestCase):
    def test_answers_are_compared_up_to_the_first_difference(self):
        found = precision_cost.agreement([[1, 2, 3], [1, 2], [5], [7, 8]], [[1, 2, 3], [1, 2, 3], [6], [7, 9]])
        self.assertEqual((found["same"], found["prompts"], found["common"]), (1, 4, 1))
        self.assertTrue(math.isnan(precision_cost.agreement([[1]], [[1]])["common"]))

    def test_the_book_has_only_the_story(self):
        book = precision_cost.eighty_days()
        self.assertTrue(book.startswith("Chapter I\nIN WHICH PHILEAS FOGG"))
        self.assertTrue(book.endswith("make the tour around the world?"))


if __name__ == "__main__":
    unittest.main()
