"""Trains the demo model from nothing: `make demo-model`.

    python models/demo/train.py [STAGE …] [--work DIR] [--package DIR] [--small]

Stages, in order; each is done once and continues where it stopped: scenes (render), singles (images of many more
places), tower (CLIP learns what is where in single images), features (every image through the tower), words (the
language model learns from windows), package (checkpoint and export). --small runs a little of each stage as a test.
"""

import argparse
import functools
import math
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pool, get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

import frames
import lessons
import model
import words
from lessons import BINS, PER_KIND
from muon import Muon
from world import KINDS

HERE = Path(__file__).resolve().parent


@dataclass
class Size:
    """The amounts of data and the numbers of steps."""

    scenes: int = 440
    # Kept from training, to see how it goes.
    spare: int = 20
    # Files of frames.SINGLES pictures.
    singles: int = 100
    tower_steps: int = 1000
    word_steps: int = 6000
    batch: int = 6


SMALL = Size(scenes=6, spare=2, singles=2, tower_steps=20, word_steps=20)


def main() -> int:
    stages = {
        "scenes": render_scenes, "singles": render_singles, "tower": train_tower, "features": encode,
        "words": train_words, "package": package,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(stages))
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "target/demo-model")
    parser.add_argument("--package", type=Path, default=HERE / "package")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.stages) - set(stages):
        parser.error(f"no stage is called {', '.join(unknown)}; there are {', '.join(stages)}")
    torch.set_num_threads(1)
    for name, stage in stages.items():
        if not args.stages or name in args.stages:
            began = time.time()
            args.work.mkdir(parents=True, exist_ok=True)
            stage(SMALL if args.small else Size(), args)
            print(f"{name}: done in {time.time() - began:.0f} s", flush=True)
    return 0


def render_scenes(size: Size, args) -> None:
    render("scenes", frames.make, size.scenes + size.spare, args)


def render_singles(size: Size, args) -> None:
    render("singles", frames.make_singles, size.singles, args)


def render(name: str, make, total: int, args) -> None:
    folder = args.work / name
    folder.mkdir(exist_ok=True)
    with Pool(args.workers) as pool:
        for done, _ in enumerate(pool.imap(functools.partial(make, folder=folder), range(total)), 1):
            if done % 20 == 0 or done == total:
                print(f"{name}: {done}/{total}", flush=True)


# ---- the tower ---------------------------------------------------------------------------------


class Tower(nn.Module):
    """CLIP's tower with three heads that are used in training only: kind, colour, and the actor's centre."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.clip = CLIPVisionModel(model.vision_config())
        self.kind, self.colour, self.centre = (nn.Linear(model.TOWER, n) for n in (4, 6, 1))

    def forward(self, pictures):
        seen = model.features(self.clip, pictures)
        return self.kind(seen), self.colour(seen), self.centre(seen)[..., 0]


def tower_loss(told, kind, colour, centre):
    rare = torch.tensor([0.3, 1, 1, 1, 1, 1])
    loss = F.cross_entropy(told[0].flatten(0, 1), kind.flatten(), ignore_index=frames.UNSURE, weight=rare[:4])
    loss += F.cross_entropy(told[1].flatten(0, 1), colour.flatten(), ignore_index=frames.UNSURE, weight=rare)
    there = (kind > 0) & (kind < 4)
    return loss + 2 * F.smooth_l1_loss(told[2][there], centre[there].float() / 125 - 1, beta=0.05)


def train_tower(size: Size, args) -> None:
    out = args.work / "tower.pt"
    if finished(out, size.tower_steps):
        return
    scenes = sorted((args.work / "scenes").glob("scene????.npz"))
    singles = sorted((args.work / "singles").glob("singles????.npz"))
    data = load_pictures([(f, 6) for f in scenes[: size.scenes]] + [(f, 1) for f in singles[: size.singles]])
    spare = load_pictures([(f, 12) for f in scenes[size.scenes : size.scenes + size.spare]])
    net = Tower()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    progress = Progress("tower", size.tower_steps)
    for step in range(resume(out, net, optimizer), size.tower_steps):
        rng = np.random.default_rng([1, step])
        chosen = np.sort(rng.choice(len(data["kind"]), 64, replace=False))
        batch = {
            k: torch.from_numpy(rows) for k, rows in mirrored({k: v[chosen] for k, v in data.items()}, rng).items()
        }
        labels = [batch[k].long() for k in ("kind", "colour", "centre")]
        loss = tower_loss(net(relit(batch["pixels"], rng)), *labels)
        optimizer.zero_grad()
        loss.backward()
        move(optimizer, 2e-3, step, size.tower_steps, warm=150)
        progress.step(step, loss=loss.item())
        if step % 200 == 199 or step == size.tower_steps - 1:
            save(out, net, optimizer, step + 1)
            print("  " + tower_score(net, spare), flush=True)


def load_pictures(files: list[tuple[Path, int]]) -> dict[str, np.ndarray]:
    """Loads every `every`-th image of each file, from a different first image each time."""
    parts: dict[str, list] = {}
    for n, (file, every) in enumerate(files):
        with np.load(file) as pictures:
            for kind in pictures:
                parts.setdefault(kind, []).append(pictures[kind][n % every :: every])
    return {kind: np.concatenate(rows) for kind, rows in parts.items()}


def mirrored(data: dict, rng) -> dict:
    """Mirrors every second image, because the language model learns from mirrored scenes, too."""
    way = rng.random(len(data["kind"])) < 0.5
    side = lambda labels: labels.reshape(-1, frames.GRID, frames.GRID)[:, :, ::-1].reshape(labels.shape)
    turned = {"pixels": data["pixels"][:, :, ::-1], "centre": 250 - side(data["centre"])}
    turned |= {k: side(data[k]) for k in ("kind", "colour")}
    return {k: np.where(way.reshape(-1, *[1] * (rows.ndim - 1)), turned[k], rows) for k, rows in data.items()}


def relit(pictures: torch.Tensor, rng) -> torch.Tensor:
    """Changes the light at random, because there are fewer scenes than kinds of light."""
    gain = torch.from_numpy(
        rng.uniform(0.82, 1.18, (len(pictures), 1, 1, 1)) * rng.uniform(0.95, 1.05, (len(pictures), 1, 1, 3))
    )
    return model.pixels((pictures.float() * gain.float()).clamp(0, 255))


@torch.no_grad()
def tower_score(net: Tower, data) -> str:
    kind, colour, centre = (torch.from_numpy(data[k]).long() for k in ("kind", "colour", "centre"))
    told = [net(model.pixels(torch.from_numpy(data["pixels"][i : i + 128]))) for i in range(0, len(kind), 128)]
    told = [torch.cat(t) for t in zip(*told)]
    share = lambda guess, wanted: (guess == wanted).float().mean().item()
    right = [f"{share(told[0].argmax(-1)[kind == k], k):.3f}" for k in range(4)]
    there, painted = (kind > 0) & (kind < 4), (colour > 0) & (colour < 6)
    off = (told[2] - (centre.float() / 125 - 1))[there].abs().mean().item() * 136
    return f"patches right: none, {', '.join(KINDS)} {right}, colour {share(told[1].argmax(-1)[painted], colour[painted]):.3f}, centre off by {off:.1f} px"


# ---- features ----------------------------------------------------------------------------------


def encode(size: Size, args) -> None:
    """Encodes every image, plain and mirrored, with the finished tower."""
    (args.work / "features").mkdir(exist_ok=True)
    total = size.scenes + size.spare
    with get_context("spawn").Pool(args.workers) as pool:
        for done, _ in enumerate(pool.imap(functools.partial(encode_scene, work=args.work), range(total)), 1):
            if done % 20 == 0 or done == total:
                print(f"features: {done}/{total}", flush=True)


@functools.cache
def finished_tower(work: Path) -> CLIPVisionModel:
    torch.set_num_threads(1)
    net = Tower()
    net.load_state_dict(torch.load(work / "tower.pt")["net"])
    return net.clip


@torch.no_grad()
def encode_scene(number: int, work: Path) -> None:
    out = {name: work / "features" / f"scene{number:04}.{name}.npy" for name in ("plain", "mirrored")}
    if all(file.exists() for file in out.values()):
        return
    pictures = torch.from_numpy(np.load(work / "scenes" / f"scene{number:04}.npz")["pixels"])
    for name, shown in (("plain", pictures), ("mirrored", pictures.flip(2))):
        batches = (model.pixels(shown[i : i + 64]) for i in range(0, len(shown), 64))
        seen = [model.features(finished_tower(work), batch).half() for batch in batches]
        new = out[name].with_suffix(".new.npy")
        np.save(new, torch.cat(seen).numpy())
        new.rename(out[name])


# ---- words -------------------------------------------------------------------------------------


class Listener(nn.Module):
    """LLaVA without its tower, with heads that are used in training only. From the fast tokens,
    they predict what each frame shows: where, behind the projector; who, how moving and which colour, behind the second
    layer."""

    def __init__(self, tokenizer):
        super().__init__()
        torch.manual_seed(1)
        self.llava = model.build(tokenizer)
        self.place = nn.Linear(model.FAST_TOKENS * model.WORDS, len(KINDS) * BINS)
        self.norm, self.state = nn.LayerNorm(model.WORDS), nn.Linear(model.WORDS, len(KINDS) * PER_KIND)

    def learnt(self):
        """Returns the parameters without those of the tower, which is trained already."""
        return [p for name, p in self.named_parameters() if "vision_tower" not in name]

    def forward(self, batch: "Batch"):
        llava = self.llava.model
        counts = [len(f) for f in batch.features]
        projected = llava.multi_modal_projector(torch.cat(batch.features)).split(counts)
        video = torch.cat([model.video_tokens(p) for p in projected])
        embeds = llava.language_model.embed_tokens(batch.ids)
        embeds = embeds.masked_scatter(batch.is_video[..., None], video)
        told = llava.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, output_hidden_states=True,
            use_cache=False,
        )  # fmt: skip
        fast = lambda rows: torch.cat([r.reshape(t, model.FAST_TOKENS, -1) for r, t in zip(rows, counts)])
        first = model.SLOW * model.SLOW_TOKENS
        lengths = [first + t * model.FAST_TOKENS for t in counts]
        places = self.place(fast([v[first:] for v in video.split(lengths)]).flatten(1)).reshape(-1, len(KINDS), BINS)
        begin = batch.video_from + first
        second = fast([h[begin : begin + n - first] for h, n in zip(told.hidden_states[2], lengths)])
        states = self.state(self.norm(second.mean(1))).reshape(-1, len(KINDS), PER_KIND)
        answers = batch.targets[:, 1:] != -100
        return self.llava.lm_head(told.last_hidden_state[:, :-1][answers]), places, states


@dataclass
class Batch:
    """Windows, each with its questions side by side behind one video: no question sees another."""

    features: list[torch.Tensor]
    ids: torch.Tensor
    is_video: torch.Tensor
    video_from: int
    positions: torch.Tensor
    mask: torch.Tensor
    # Answers' tokens, -100 elsewhere; how much each counts; which question they belong to, from 1.
    targets: torch.Tensor
    weights: torch.Tensor
    question: torch.Tensor
    lessons: list


class Packer:
    def __init__(self, tokenizer):
        self.encode = functools.lru_cache(100_000)(lambda text: tokenizer.encode(text, add_special_tokens=False))
        self.image, self.eos = tokenizer.convert_tokens_to_ids("<image>"), tokenizer.eos_token_id
        self.prefix = [tokenizer.bos_token_id, *self.encode("USER: ")]

    def __call__(self, cuts: list, taught: list) -> Batch:
        rows = [self.row(len(c.features), asked) for c, asked in zip(cuts, taught)]
        longest = max(len(r[0]) for r in rows)
        fill = (self.eos, 0, -1, -100, 0.0)
        padded = [[column + [fill[i]] * (longest - len(column)) for i, column in enumerate(row)] for row in rows]
        ids, positions, question, targets, weights = (torch.tensor([p[i] for p in padded]) for i in range(5))
        order = torch.arange(longest)
        sees = (order[:, None] >= order) & ((question[:, :, None] == question[:, None]) | (question[:, None] == 0))
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
        return Batch(
            [c.features for c in cuts], ids, ids == self.image, len(self.prefix), positions, mask, targets, weights,
            question, taught,
        )  # fmt: skip

    def row(self, frames: int, asked: list):
        """Returns ids, positions, the question's number (0: seen by all), targets and weights."""
        video = model.SLOW * model.SLOW_TOKENS + frames * model.FAST_TOKENS
        ids = self.prefix + [self.image] * video
        shared = len(ids)
        positions, question = list(range(shared)), [0] * shared
        targets, weights = [-100] * shared, [0.0] * shared
        for number, (about, text, answer) in enumerate(asked, 1):
            prompt, said = self.encode(f"\n{text} ASSISTANT:"), [*self.encode(f" {answer}"), self.eos]
            length = len(prompt) + len(said)
            ids = ids + prompt + said
            positions += range(shared, shared + length)
            question += [number] * length
            targets += [-100] * len(prompt) + said
            # Of five colours asked about, one is right: its yes counts more.
            heavy = (3.0 if answer == "Yes." else 0.9) if about == "coloured" else 1.0
            weights += [0.0] * len(prompt) + [heavy / math.sqrt(len(said))] * len(said)
        return ids, positions, question, targets, weights


def train_words(size: Size, args) -> None:
    """Trains the language model. Each process computes its share of every batch."""
    if not (args.work / "tokenizer").exists():
        model.train_tokenizer(lessons.texts(300), args.work / "tokenizer")
    if finished(args.work / "words.pt", size.word_steps):
        return
    (args.work / "meeting").unlink(missing_ok=True)
    start = get_context("spawn").Process
    workers = [start(target=words_worker, args=(n, size, args), daemon=True) for n in range(args.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"words: a worker ended with {worker.exitcode}")


def words_worker(number: int, size: Size, args) -> None:
    torch.set_num_threads(1)
    meeting = (args.work / "meeting").resolve().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=args.workers)
    out = args.work / "words.pt"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer")
    pack = Packer(tokenizer)
    load = functools.partial(lessons.Recorded.load, folder=args.work / "features")
    recorded = [load(n) for n in range(size.scenes)]
    net = Listener(tokenizer)
    optimizer = Both(net)
    if number == 0:
        spare = [load(n) for n in range(size.scenes, size.scenes + size.spare)]
        progress = Progress("words", size.word_steps)
    for step in range(resume(out, net, optimizer), size.word_steps):
        optimizer.zero_grad()
        for share in range(number, SHARES, args.workers):
            r = random.Random(f"words {step} {share}")
            cuts = [lessons.cut(r.choice(recorded), r) for _ in range(size.batch // SHARES)]
            loss, means = words_loss(net, pack(cuts, [words.lesson(c.window, r) for c in cuts]), cuts)
            (loss / SHARES).backward()
        meet(net.learnt())
        optimizer.step(step, size.word_steps)
        if number > 0:
            continue
        progress.step(step, **means)
        last = step == size.word_steps - 1
        if step % 250 == 249 or last:
            save(out, net, optimizer, step + 1)
        if step % 500 == 499 or last:
            print("  " + words_score(net, pack, spare, 400 if last else 60), flush=True)
    dist.destroy_process_group()


# Number of parts of a batch, and maximum number of processes. The trained model does not depend on the processes.
SHARES = 2


class Both:
    """Muon for the matrices of the language model's layers, AdamW for all other weights."""

    def __init__(self, net: "Listener"):
        layers = list(net.llava.model.language_model.layers.parameters())
        matrices = [p for p in layers if p.dim() == 2]
        known = set(map(id, matrices))
        others = [p for p in net.learnt() if id(p) not in known]
        adam = torch.optim.AdamW(others, lr=RATE, weight_decay=0.02, betas=(0.9, 0.98))
        self.parts = [(Muon(matrices, MATRIX_RATE), MATRIX_RATE), (adam, RATE)]

    def zero_grad(self) -> None:
        for part, _ in self.parts:
            part.zero_grad()

    def step(self, step: int, steps: int) -> None:
        for part, rate in self.parts:
            move(part, rate, step, steps, warm=100)

    def state_dict(self) -> list:
        return [part.state_dict() for part, _ in self.parts]

    def load_state_dict(self, saved: list) -> None:
        for (part, _), state in zip(self.parts, saved):
            part.load_state_dict(state)


def words_loss(net: Listener, batch: Batch, cuts: list):
    logits, places, states = net(batch)
    wanted = batch.targets[:, 1:]
    weights = batch.weights[:, 1:][wanted != -100]
    wanted = wanted[wanted != -100]
    said = (F.cross_entropy(logits, wanted, reduction="none") * weights).sum() / weights.sum()
    where = F.binary_cross_entropy_with_logits(
        places, torch.cat([c.places for c in cuts]), pos_weight=torch.tensor(4.0)
    )
    who = state_loss(states, torch.cat([c.states for c in cuts]))
    right = (logits.argmax(-1) == wanted).float().mean()
    means = {"said": said.item(), "who": who.item(), "where": where.item(), "right": right.item()}
    return said + 0.3 * who + 2 * where, means


RATE, MATRIX_RATE = 1.4e-3, 3e-3


def state_loss(told: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Returns the loss for each frame and kind: the number, and with fewer than two the motion and the colour."""
    count, way, colour = states.unbind(-1)
    few = count < 2
    loss = F.cross_entropy(told[..., :3].flatten(0, 1), count.flatten())
    return (
        loss + 1.5 * F.cross_entropy(told[..., 3:7][few], way[few]) + F.cross_entropy(told[..., 7:][few], colour[few])
    )


@torch.no_grad()
def words_score(net: Listener, pack: Packer, spare: list, count: int) -> str:
    """Counts the answers that are right in every token, for usual windows of held-out scenes."""
    r = random.Random(5)
    rights: dict[str, list[bool]] = {}
    for _ in range(count // 10):
        cuts = [lessons.cut(r.choice(spare), r, crisp=1, usual=1, rough=0) for _ in range(10)]
        batch = pack(cuts, [words.lesson(c.window, r) for c in cuts])
        logits, _, _ = net(batch)
        answers = batch.targets[:, 1:] != -100
        right = torch.ones_like(answers)
        right[answers] = logits.argmax(-1) == batch.targets[:, 1:][answers]
        for cut, question, row, asked in zip(cuts, batch.question[:, 1:], right, batch.lessons):
            for number, (about, _, _) in enumerate(asked, 1):
                name = f"{about} of {min(len(cut.window.parts), 2)}" if about == "happening" else about
                rights.setdefault(name, []).append(bool(row[question == number].all()))
    every = [x for rows in rights.values() for x in rows]
    return f"right {np.mean(every):.3f}: " + ", ".join(
        f"{k} {np.mean(v):.3f} ({len(v)})" for k, v in sorted(rights.items())
    )


# ---- the package -------------------------------------------------------------------------------


def package(_size: Size, args) -> None:
    """Writes the checkpoint as transformers does, and exports the package."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer")
    net, tower = Listener(tokenizer), Tower()
    net.load_state_dict(torch.load(args.work / "words.pt")["net"])
    tower.load_state_dict(torch.load(args.work / "tower.pt")["net"])
    llava = net.llava
    llava.model.vision_tower.load_state_dict(tower.clip.state_dict())
    # Greedy, and ends where it was taught to.
    settings = llava.generation_config
    settings.do_sample, settings.eos_token_id = False, tokenizer.eos_token_id
    settings.bos_token_id, settings.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    folder = args.work / "checkpoint"
    llava.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.image_processor().save_pretrained(folder)
    print(f"checkpoint: {sum(p.numel() for p in llava.parameters()):,} parameters", flush=True)
    export = [sys.executable, str(HERE.parent / "export/export.py")]
    subprocess.run([*export, str(folder), str(args.package), "--precision", "fp32"], check=True)


# ---- every stage -------------------------------------------------------------------------------


def move(optimizer, rate: float, step: int, steps: int, warm: int) -> None:
    """Makes one step. The rate warms up, then falls along a cosine to a fiftieth."""
    now = rate * min(1, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    parameters = []
    for group in optimizer.param_groups:
        group["lr"] = now
        parameters += group["params"]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def meet(parameters: list) -> None:
    """Replaces the gradients by their sum over all processes."""
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, g in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad = g.view_as(p)


def save(path: Path, net, optimizer, step: int) -> None:
    new = path.with_suffix(".new")
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, new)
    new.rename(path)


def resume(path: Path, net, optimizer) -> int:
    """Loads the last state. Each step draws from its own seed, so a resumed run equals an uninterrupted one."""
    if not path.exists():
        return 0
    saved = torch.load(path)
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]


def finished(path: Path, steps: int) -> bool:
    return path.exists() and torch.load(path)["step"] >= steps


class Progress:
    """Prints a line every 50 steps: means since the last one, and the remaining time."""

    def __init__(self, name: str, steps: int):
        self.name, self.steps, self.began, self.first, self.seen = name, steps, time.time(), None, []

    def step(self, step: int, **values: float) -> None:
        self.first = step if self.first is None else self.first
        self.seen.append(values)
        if step % 50 == 49 or step == self.first + 4:
            means = ", ".join(f"{k} {np.mean([s[k] for s in self.seen]):.4f}" for k in values)
            each = (time.time() - self.began) / (step + 1 - self.first)
            left = each * (self.steps - step - 1) / 60
            print(
                f"{self.name}: {step + 1}/{self.steps}, {means}; {each:.2f} s a step, {left:.0f} min left", flush=True
            )
            self.seen = []


if __name__ == "__main__":
    sys.exit(main())
