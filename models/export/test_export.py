"""Tests of the exporter: refusals, interruptions, and every way to store a checkpoint.

    python models/export/test_export.py

Works on the golden checkpoints and on ones made here. That packages answer as transformers does is
held by families.py, and by the check that ends every export.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import export
from plan import Plan

export.quiet()

import av
import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import attention
import check
import families
import runtime
from checkpoint import Refusal, modern_name, open_checkpoint
from tools import requantise

HERE = Path(__file__).resolve().parent
PLAIN = HERE.parent.parent / "tests/golden/e2e/plain"
FP32 = Plan("fp32", "cpu")
torch.set_num_threads(1)


class Folder(unittest.TestCase):
    """A test with a folder and a copy of a golden checkpoint in it."""

    @classmethod
    def setUpClass(cls):
        cls.base = Path(tempfile.mkdtemp(prefix="export-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(dir=self.base))
        self.source = self.folder / "source"
        shutil.copytree(PLAIN, self.source)

    def config(self, **changes) -> None:
        """Changes config.json. `text_config=` and `vision_config=` are merged into the present values."""
        file = self.source / "config.json"
        config = json.loads(file.read_text())
        for key, value in changes.items():
            config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        file.write_text(json.dumps(config))

    def refused(self, *words: str) -> None:
        with self.assertRaises(Refusal) as caught:
            open_checkpoint(self.source)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def export(self, plan: Plan = FP32, vision: Path | None = None, out: str = "package") -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = export.export(self.source, self.folder / out, plan, vision)
        return code, said.getvalue()


class Refusals(Folder):
    def test_the_authors_own_layout(self):
        self.config(architectures=["LlavaLlamaForCausalLM"], model_type="llava_llama")
        self.refused("LlavaLlamaForCausalLM", "authors' own layout", "llava-hf", "convert")
        self.config(architectures=["LlavaQwenForCausalLM"], model_type="llava_qwen")
        self.refused("LlavaQwenForCausalLM", "llava-onevision-qwen2")

    def test_an_unknown_architecture(self):
        self.config(architectures=["Idefics3ForConditionalGeneration"], model_type="idefics3")
        self.refused("Idefics3ForConditionalGeneration", "LlavaNextForConditionalGeneration")

    def test_an_unknown_tower(self):
        self.config(vision_config={"model_type": "dinov2"})
        self.refused("vision tower is dinov2", "siglip_vision_model")

    def test_an_unknown_language_model(self):
        self.config(text_config={"model_type": "gemma"})
        self.refused("language model is gemma", "qwen2")

    def test_unknown_rope_in_each_notation(self):
        for scaling in ({"rope_scaling": {"type": "su"}}, {"rope_scaling": {"rope_type": "longrope"}},
                        {"rope_scaling": None, "rope_parameters": {"rope_type": "proportional"}}):  # fmt: skip
            self.config(text_config=scaling)
            kind = next(iter((scaling.get("rope_scaling") or scaling["rope_parameters"]).values()))
            self.refused(f"RoPE scaling is {kind}", "yarn")

    def test_quantised_weights(self):
        self.config(quantization_config={"quant_method": "awq"})
        self.refused("awq", "original")

    def test_a_hidden_state_that_is_not_there(self):
        self.config(vision_feature_layer=-7)
        self.refused("vision_feature_layer is -7", "3 layers")

    def test_another_shape_than_config_asks_for(self):
        self.config(text_config={"vocab_size": 785})
        self.refused("model.language_model.embed_tokens.weight", "[784, 64]", "[785, 64]")

    def test_a_missing_tensor(self):
        weights = load_file(self.source / "model.safetensors")
        name = next(name for name in weights if name.endswith("lm_head.weight"))
        del weights[name]
        save_file(weights, self.source / "model.safetensors")
        self.refused("tensor lm_head.weight is missing")

    def test_a_shard_that_was_cut_short(self):
        files = shard(self.source, 3)
        size = files[1].stat().st_size
        os.truncate(files[1], size - 100)
        self.refused(files[1].name, f"{size} bytes wanted, {size - 100} found")
        os.truncate(files[1], 100)
        self.refused(files[1].name, "cut short")
        files[1].unlink()
        self.refused(files[1].name, "not found", "model.safetensors.index.json")

    def test_plain_decoders_that_cannot_be(self):
        code = self.assertRaises(Refusal)
        with code:
            self.export(Plan("int4", "cpu", "plain"))
        self.assertIn("fp32 and fp16", str(code.exception))
        self.config(text_config={"rope_scaling": {"type": "dynamic", "factor": 2.0}})
        with code:
            self.export(Plan("fp32", "cpu", "plain"))
        self.assertIn("dynamic", str(code.exception))

    def test_float32_attention_on_a_gpu(self):
        with self.assertRaises(Refusal) as caught:
            self.export(Plan("fp32", "cuda"))
        self.assertIn("take fp16", str(caught.exception))

    def test_nothing_but_a_package_is_replaced(self):
        (self.folder / "things").mkdir()
        (self.folder / "things/photo.jpg").write_bytes(b"dear")
        for out in ("things", "source"):
            with self.assertRaises(Refusal) as caught:
                self.export(out=out)
            self.assertIn("is not a model package", str(caught.exception))
        self.assertEqual((self.folder / "things/photo.jpg").read_bytes(), b"dear")

    def test_below_the_floor_nothing_is_written(self):
        floor, check.FLOORS["int8"] = check.FLOORS["int8"], 1.1
        self.addCleanup(check.FLOORS.update, int8=floor)
        code, said = self.export(Plan("int8", "cpu"))
        self.assertEqual(code, 1)
        self.assertIn("int8 must reach 1.1", said)
        self.assertFalse((self.folder / "package").exists())

    def test_the_command_ends_with_2(self):
        self.config(vision_config={"model_type": "dinov2"})
        run = command(self.source, self.folder / "package")
        said = run.communicate()[0]
        self.assertEqual(run.returncode, 2, said)
        self.assertFalse((self.folder / "package").exists())


class Storage(Folder):
    """Tests that every way to store a checkpoint gives the same package."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.base / "one"
        with contextlib.redirect_stdout(io.StringIO()):
            assert export.export(PLAIN, cls.one, FP32) == 0

    def same_package(self) -> None:
        code, said = self.export(vision=self.one / "onnx/vision_encoder.onnx")
        self.assertEqual(code, 0, said)
        for file in (self.one / "onnx").iterdir():
            self.assertEqual(file.read_bytes(), (self.folder / "package/onnx" / file.name).read_bytes(), file.name)

    def test_shards(self):
        shard(self.source, 3)
        self.same_package()

    def test_the_names_of_transformers_5(self):
        weights = load_file(self.source / "model.safetensors")
        save_file({modern_name(name): value for name, value in weights.items()}, self.source / "model.safetensors")
        self.same_package()

    def test_pickled_weights(self):
        torch.save(load_file(self.source / "model.safetensors"), self.source / "pytorch_model.bin")
        (self.source / "model.safetensors").unlink()
        self.same_package()

    def test_config_files_are_the_checkpoints_own(self):
        for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json"):
            self.assertEqual((self.one / name).read_bytes(), (PLAIN / name).read_bytes(), name)

    def test_a_processor_config_alone_is_enough(self):
        pictures = json.loads((self.source / "preprocessor_config.json").read_text())
        (self.source / "processor_config.json").write_text(json.dumps({"image_processor": pictures}))
        (self.source / "preprocessor_config.json").unlink()
        code, said = self.export(vision=self.one / "onnx/vision_encoder.onnx")
        self.assertEqual(code, 0, said)
        self.assertEqual(json.loads((self.folder / "package/preprocessor_config.json").read_text()), pictures)

    def test_external_data(self):
        code, said = self.export(Plan("fp32", "cpu", external_above=10_000), self.one / "onnx/vision_encoder.onnx")
        self.assertEqual(code, 0, said)
        for name in ("embed_tokens", "decoder_model_merged"):
            self.assertTrue((self.folder / f"package/onnx/{name}.onnx_data").is_file(), name)
        ids = np.arange(40)[None]
        found, wanted = (
            runtime.session(package / "onnx/embed_tokens.onnx").run(None, {"input_ids": ids})[0]
            for package in (self.folder / "package", self.one)
        )
        np.testing.assert_array_equal(found, wanted)

    def test_attention_is_written_for_a_cpu(self):
        """Tests the form. The check that ends the export proves that it is the same function."""
        graph = onnx.load(self.one / "onnx/decoder_model_merged.onnx").graph
        nodes = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
        self.assertTrue(nodes)
        for node in nodes:
            self.assertEqual(node.input[attention.SINK], attention.NO_SINK)
            self.assertEqual([a.f for a in node.attribute if a.name == "scale"], [1.0])

    def test_a_package_is_replaced_by_the_next(self):
        for _ in range(2):
            code, said = self.export(vision=self.one / "onnx/vision_encoder.onnx")
            self.assertEqual(code, 0, said)
        self.assertEqual([p.name for p in self.folder.iterdir() if "package" in p.name], ["package"])


class Parts(Folder):
    """Tests packages that lack parts."""

    def graphs(self) -> list[str]:
        return sorted(file.name for file in (self.folder / "package/onnx").iterdir())

    def test_a_package_without_a_decoder_is_for_vllm(self):
        code, said = self.export(Plan("int4", "cpu", parts=("vision", "embed")))
        self.assertEqual(code, 0, said)
        self.assertEqual(self.graphs(), ["embed_tokens_fp16.onnx", "vision_encoder_int8.onnx"])
        self.assertRegex(said, 'without decoder_model_merged: it needs language.backend = "vllm"')
        self.assertRegex(said, "token embeddings +off by at most")
        self.assertNotIn("logits", said)
        for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
            self.assertTrue((self.folder / "package" / name).is_file(), name)

    def test_a_part_alone_is_compared_but_runs_nowhere(self):
        code, said = self.export(Plan("fp32", "cpu", parts=("decoder",)))
        self.assertEqual(code, 0, said)
        self.assertEqual(self.graphs(), ["decoder_model_merged.onnx"])
        self.assertIn("without vision_encoder and embed_tokens: no back end of lookout runs it", said)
        self.assertRegex(said, "next step logits +off by at most")

    def test_a_wrong_part_is_compared_and_refused(self):
        floor, check.FLOORS["int4"] = check.FLOORS["int4"], 1.1
        self.addCleanup(check.FLOORS.update, int4=floor)
        code, said = self.export(Plan("int4", "cpu", parts=("embed",)))
        self.assertEqual(code, 1)
        self.assertIn("token embeddings has cosine", said)

    def test_parts_are_named_on_the_command_line(self):
        run = command(self.source, self.folder / "package", "--parts", "embed, vision")
        said = run.communicate()[0]
        self.assertEqual(run.returncode, 0, said)
        self.assertEqual(self.graphs(), ["embed_tokens.onnx", "vision_encoder.onnx"])
        for parts, why in (("vision,table", "'table' is no part; wanted one or more of vision, embed, decoder"),
                           ("", "'' is no part")):  # fmt: skip
            run = command(self.source, self.folder / "other", "--parts", parts)
            said = run.communicate()[0]
            self.assertEqual(run.returncode, 2, said)
            self.assertIn(why, said)

    def test_another_choice_of_parts_starts_anew(self):
        floor, check.FLOORS["int4"] = check.FLOORS["int4"], 1.1
        self.addCleanup(check.FLOORS.update, int4=floor)
        self.assertEqual(self.export(Plan("int4", "cpu", parts=("embed",)))[0], 1)
        check.FLOORS["int4"] = floor
        code, said = self.export(Plan("int4", "cpu", parts=("vision", "embed")))
        self.assertEqual(code, 0, said)
        self.assertIn("starting anew", said)

    def test_a_plain_decoder_needs_a_decoder(self):
        with self.assertRaises(Refusal) as caught:
            self.export(Plan("fp32", "cpu", "plain", parts=("vision", "embed")))
        self.assertIn("--parts names none", str(caught.exception))


class Interruption(Folder):
    def test_a_killed_export_goes_on(self):
        out = self.folder / "package"
        first = command(self.source, out)
        for line in first.stdout:
            if line.startswith("vision_encoder"):
                break
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        self.assertFalse(out.exists())
        vision = out.with_name("package.partial") / "package/onnx/vision_encoder.onnx"
        before = vision.stat().st_mtime_ns
        second = command(self.source, out)
        said = second.communicate()[0]
        self.assertEqual(second.returncode, 0, said)
        self.assertRegex(said, r"vision_encoder\.onnx +done before")
        self.assertEqual((out / "onnx/vision_encoder.onnx").stat().st_mtime_ns, before)
        self.assertFalse(out.with_name("package.partial").exists())

    def test_another_setting_starts_anew(self):
        floor, check.FLOORS["int8"] = check.FLOORS["int8"], 1.1
        self.addCleanup(check.FLOORS.update, int8=floor)
        self.assertEqual(self.export(Plan("int8", "cpu"))[0], 1)
        code, said = self.export(FP32)
        self.assertEqual(code, 0, said)
        self.assertIn("starting anew", said)
        self.assertEqual(len(list((self.folder / "package/onnx").iterdir())), 3)


class Shapes(Folder):
    """Tests of rare settings, compared with the whole model as transformers loads it."""

    def make(self, config: dict):
        shutil.rmtree(self.source)
        families.FAMILIES["rare"] = (config, "llama", families.VICUNA_CHAT, families.MAX_1D, "old")
        family = families.Family("rare", self.source)
        self.source.mkdir()
        family.write_tokenizer()
        family.write_pictures_config()
        family.write_weights(1)
        code, said = self.export()
        self.assertEqual(code, 0, said)
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(self.source, dtype=torch.float32)

    def test_several_hidden_states(self):
        model = self.make(families.LLAVA | {"text_config": families.LLAMA, "vision_feature_layer": [1, -2, -1]})
        pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = torch.stack(list(model.get_image_features(pixels, return_dict=True).pooler_output)).numpy()
        vision = runtime.session(self.folder / "package/onnx/vision_encoder.onnx")
        found = vision.run(None, {"pixel_values": pixels.numpy()})[0]
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    def test_attention_that_forgets(self):
        """Tests that the attention window of Mistral's first version reaches the graph."""
        text = families.MISTRAL | {"sliding_window": 32}
        model = self.make(families.NEXT | {"text_config": text})
        source = open_checkpoint(self.source)
        decoder = runtime.Decoder(
            self.folder / "package/onnx/decoder_model_merged.onnx", text["num_key_value_heads"], source.head_dim
        )
        embeds = torch.randn(1, 101, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = model.lm_head(model.model.language_model(inputs_embeds=embeds).last_hidden_state)[0].numpy()
        np.testing.assert_allclose(decoder(embeds[:, :100].numpy()), wanted[99], atol=1e-3)
        np.testing.assert_allclose(decoder(embeds[:, 100:].numpy()), wanted[100], atol=1e-3)


class Trained(Folder):
    """Tests of the demo's package, quantised: the error that precision causes with trained weights."""

    package = HERE.parent / "demo/package"

    def test_few_bits_keep_the_direction(self):
        features, logits = self.answer(self.package)
        for precision in ("int8", "int4"):
            out = self.folder / precision
            requantise.requantise(self.package, out, precision)
            found_features, found_logits = self.answer(out)
            seen, said = check.cosine(found_features, features), check.cosine(found_logits, logits)
            print(f"demo's, {precision}: cosine of image features {seen:.5f}, of first logits {said:.5f}")
            self.assertGreater(min(seen, said), 0.98, precision)

    def answer(self, package: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns features of sixteen frames of a demo camera, and the first logits of a question about them."""
        with av.open(str(HERE.parent / "demo/cameras/gate.mp4")) as clip:
            frames = [f.to_image() for number, f in enumerate(clip.decode(video=0)) if number % 12 == 0][:16]
        config, pictures = (
            json.loads((package / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")
        )
        side = config["vision_config"]["image_size"]
        mean, std = (np.array(pictures[key], np.float32) for key in ("image_mean", "image_std"))
        pixels = np.stack([np.asarray(f.resize((side, side), Image.BICUBIC), np.float32) for f in frames])
        pixels = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
        vision = runtime.session(runtime.graph_file(package, "vision_encoder"))
        features = vision.run(None, {"pixel_values": pixels})[0]
        plan = families.MAX_1D.replace("fast_2x2", "fast_2x4")
        video = families.slow_fast(torch.from_numpy(features), plan).numpy()[None]
        embed = runtime.session(runtime.graph_file(package, "embed_tokens"))
        tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
        before, after = (
            embed.run(None, {"input_ids": np.array([tokenizer.encode(text, add_special_tokens=False).ids])})[0]
            for text in ("<s>USER: ", "\nWhat is happening? ASSISTANT:")
        )
        text = config["text_config"]
        decoder = runtime.Decoder(
            runtime.graph_file(package, "decoder_model_merged"), text["num_key_value_heads"], text["head_dim"]
        )
        return features, decoder(np.concatenate([before, video, after], axis=1))


def shard(folder: Path, count: int) -> list[Path]:
    """Splits model.safetensors as large checkpoints are."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map, files = sorted(weights), {}, []
    for number in range(count):
        file = folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = names[number::count]
        save_file({name: weights[name] for name in part}, file)
        weight_map |= dict.fromkeys(part, file.name)
        files.append(file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


def command(source: Path, out: Path, *more: str) -> subprocess.Popen:
    """Starts the exporter as a user does, at fp32."""
    return subprocess.Popen(
        [sys.executable, "-u", str(HERE / "export.py"), str(source), str(out), "--precision", "fp32", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


if __name__ == "__main__":
    unittest.main()
