"""Conversion of published weights: layouts by their shapes at full size, by their values at reduced width; errors."""

import collections
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import typing

import numpy as np
import original_layouts
import pytest
import tiny_system
import torch
from huggingface_hub import constants
from original_layouts import FULL, SMALL
from safetensors.torch import save_file

from lib import load_system, paths
from lib.errors import RangeError, WeightsError
from lib.models import checkpoint_layouts, convert, download, published_sources, system, weight_files
from lib.models.swinir import Attention, Block, SwinIR, relative_index, shift_mask
from lib.restoration.sampling import restore

SIZE = 64
SWIN = {key: SMALL.swin[key] for key in ("depths", "heads", "window", "fold")}


@pytest.fixture(scope="module")
def originals():
    """The original modules at reduced width, every weight random, norms and zero convolutions too."""
    torch.manual_seed(0)
    made = types.SimpleNamespace(
        unet=original_layouts.UNet(**SMALL.unet),
        control=original_layouts.Control(**SMALL.unet),
        vae=original_layouts.Vae(SMALL.vae),
        text=original_layouts.Text(**SMALL.text),
        swin={k: 0.1 * torch.randn(s) for k, s in original_layouts.swin_shapes(**SMALL.swin).items()},
    )
    for module in (made.unet, made.control, made.vae, made.text):
        for weight in module.eval().requires_grad_(False).parameters():
            weight += 0.02 * torch.randn(weight.shape)
    made.buffers = original_layouts.swin_buffers(**SMALL.swin)
    return made


def prefixed(prefix, state):
    return {prefix + key: tensor.clone() for key, tensor in state.items()}


def base_state(made):
    schedule = {
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9999),
    }
    return (
        prefixed("model.diffusion_model.", made.unet.state_dict())
        | prefixed("first_stage_model.", made.vae.state_dict())
        | prefixed("cond_stage_model.model.", made.text.state_dict())
        | schedule
    )


def write_folder(made, folder):
    """SD 2.1 as the mirrors have it: old names in vae and text encoder, sizes of other models, another sampler."""
    parts = {
        part: checkpoint_layouts.convert_part(part, state.state_dict(), "original")
        for part, state in (("unet", made.unet), ("vae", made.vae), ("text_encoder", made.text))
    }
    for part, module in parts.items():
        module.save_pretrained(folder / part)
    parts["unet"].register_to_config(sample_size=96), parts["unet"].save_config(folder / "unet")
    parts["vae"].register_to_config(sample_size=768), parts["vae"].save_config(folder / "vae")
    old = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    state = {key: tensor.clone() for key, tensor in parts["vae"].state_dict().items()}
    for key in [key for key in state if ".attentions." in key]:
        new = key
        for ours, theirs in old:
            new = new.replace(ours, theirs)
        state[new] = state.pop(key)
    save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    state = prefixed("text_model.", parts["text_encoder"].state_dict()) | {
        "text_model.embeddings.position_ids": torch.arange(77)[None]
    }
    save_file(state, folder / "text_encoder" / "model.safetensors", {"format": "pt"})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**published_sources.SCHEDULE, "_class_name": "PNDMScheduler"})
    )
    original_layouts.write_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def files(originals, tmp_path_factory):
    """One file or folder for each layout, at reduced width."""
    at = tmp_path_factory.mktemp("published")
    original_layouts.write_tokenizer(at / "tokenizer")
    write_folder(originals, at / "sd21")
    base, control, swin = base_state(originals), originals.control.state_dict(), originals.swin | originals.buffers
    save_file(base, at / "v2-1_512-ema-pruned.safetensors")
    torch.save({"global_step": 220000, "state_dict": base}, at / "v2-1_512-ema-pruned.ckpt")
    torch.save(control, at / "v1_face.pth")
    torch.save(prefixed("module.", swin), at / "face_swinir_v1.ckpt")
    encoder = {k: v for k, v in originals.vae.state_dict().items() if k.startswith(("encoder.", "quant_conv."))}
    full = (
        base
        | prefixed("control_model.", control)
        | prefixed("cond_encoder.", encoder)
        | prefixed("preprocess_model.", swin)
    )
    full |= {"preprocess_model.lpips_metric.net.weight": torch.zeros(3)}
    torch.save(
        {"state_dict": full, "callbacks": {"kept": lightning()}, "best": np.float64(0.5)}, at / "face_full_v1.ckpt"
    )
    for name in list(sys.modules):
        if name.startswith("pytorch_lightning"):
            del sys.modules[name]
    return at


def lightning():
    """An object of a class that cannot be imported where the file is read."""
    module = types.ModuleType("pytorch_lightning.callbacks")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    sys.modules["pytorch_lightning"] = types.ModuleType("pytorch_lightning")
    sys.modules[module.__name__] = module
    kept = module.ModelCheckpoint()
    kept.monitor = "loss"
    return kept


def sources(files, *names):
    return [str(files / name) for name in names]


SINGLE = ("v2-1_512-ema-pruned.safetensors", "tokenizer", "v1_face.pth", "face_swinir_v1.ckpt")


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """A system folder from single files, by the command."""
    target = tmp_path_factory.mktemp("converted") / "system"
    assert convert.main([*sources(files, *SINGLE), "--to", str(target), "--size", str(SIZE)]) == 0
    return target


@pytest.fixture(scope="module")
def B(folder):
    return load_system(folder)


# ---- full size, by shapes alone ----


def full(kind, *args, **kwargs):
    with torch.device("meta"):
        return kind(*args, **kwargs).state_dict()


@pytest.fixture(scope="module")
def full_size():
    """part -> weights of the published layout, without storage, and the modules they become."""
    swin = {key: torch.empty(shape, device="meta") for key, shape in original_layouts.swin_shapes(**FULL.swin).items()}
    states = {
        "unet": full(original_layouts.UNet, **FULL.unet),
        "vae": full(original_layouts.Vae, FULL.vae),
        "text_encoder": full(original_layouts.Text, **FULL.text),
        "control": full(original_layouts.Control, **FULL.unet),
        "cleaner": swin | original_layouts.swin_buffers(**FULL.swin),
    }
    G = checkpoint_layouts.convert_part("unet", states["unet"], "full")
    return states, {"unet": G} | {
        part: checkpoint_layouts.convert_part(part, states[part], "full", G) for part in states if part != "unet"
    }


def test_parameters_at_full_size(full_size):
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in full_size[1].items()}
    assert counts == {
        "unet": 865_910_724,
        "control": 363_153_280,
        "cleaner": 15_792_587,
        "vae": 83_653_863,
        "text_encoder": 340_387_840,
    }
    assert counts["cleaner"] == sum(p.numel() for p in full_default().parameters())


def full_default():
    with torch.device("meta"):
        return SwinIR()


def test_configurations_at_full_size(full_size):
    G, vae, text = (full_size[1][part].config for part in ("unet", "vae", "text_encoder"))
    assert (G.block_out_channels, G.attention_head_dim) == ([320, 640, 1280, 1280], [5, 10, 20, 20])
    assert (G.cross_attention_dim, G.layers_per_block) == (1024, 2)
    assert (
        G.down_block_types == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
        and G.up_block_types == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    )
    assert (vae.block_out_channels, vae.latent_channels, vae.scaling_factor, vae.layers_per_block) == (
        [128, 256, 512, 512],
        4,
        0.18215,
        2,
    )
    assert (text.num_hidden_layers, text.hidden_size, text.num_attention_heads, text.intermediate_size) == (
        23,
        1024,
        16,
        4096,
    )
    assert (text.vocab_size, text.max_position_embeddings, text.hidden_act) == (49408, 77, "gelu")
    swin_as_published = {**full_default().config, "depths": [6] * 8}
    sizes = ("width", "depths", "heads", "window", "mlp_width", "fold", "features")
    assert {k: full_size[1]["cleaner"].config[k] for k in sizes}.items() <= swin_as_published.items()


@pytest.mark.parametrize(
    "part, entries", [("unet", 686), ("control", 324), ("vae", 248), ("text_encoder", 294), ("cleaner", 732)]
)
def test_every_key_and_shape_goes_there_and_back(full_size, part, entries):
    """Our tensors, joined under the original names, have the published names and shapes. What is left out is known."""
    states, modules = full_size
    held = checkpoint_layouts.kept(part, states[part])
    origins, back = checkpoint_layouts.trace_keys(part, held, modules[part]), {}
    for ours, (key, shape) in origins.items():
        assert tuple(modules[part].state_dict()[ours].shape) == shape
        back.setdefault(key, []).append(shape)
    assert len(states[part]) == entries and origins.keys() == modules[part].state_dict().keys()
    assert {key: sum(map(math.prod, shapes)) for key, shapes in back.items()} == {
        key: tensor.numel() for key, tensor in held.items()
    }
    assert all(shapes[0] in (held[key].shape, held[key].shape[:2]) for key, shapes in back.items() if len(shapes) == 1)
    split = {
        "control": {"input_blocks.0.0.weight": [(320, 4, 3, 3)] * 2},
        "text_encoder": {"positional_embedding": [(77, 1024)]},
    }
    assert all(back[key] == shapes for key, shapes in split.get(part, {}).items())
    assert {len(shapes) for key, shapes in back.items() if "in_proj" in key} <= {3}
    left = {"text_encoder": 12 + 2, "cleaner": 48 + 24}
    assert len(states[part]) - len(held) == left.get(part, 0)


def test_a_system_of_full_size(full_size):
    """512 px pictures, 64x64 latents, 77 tokens: every shape flows, on no storage."""
    B = convert.fit_together({part: module.to("meta") for part, module in full_size[1].items()}, range(49408), 512)
    assert (B.size, B.fold, B.G.config.sample_size, B.scheduler.config.prediction_type) == (512, 1, 64, "epsilon")
    with torch.device("meta"), torch.no_grad():
        hint, prompt = (
            B.encode(B.clean(torch.empty(1, 3, 512, 512))),
            B.text_encoder(torch.zeros(1, 77).long()).last_hidden_state,
        )
        assert hint.shape == (1, 4, 64, 64) and prompt.shape == (1, 77, 1024)
        assert B.predict(hint, torch.zeros(1), prompt, hint, prompt).shape == hint.shape and B.decode(hint).shape == (
            1,
            3,
            512,
            512,
        )


def test_scheduler_is_the_respaced_ddpm(B):
    """Steps and posterior of IDDPM's respacing: betas anew from the alphas that are kept."""
    B.scheduler.set_timesteps(50)
    stride, steps = 999 / 49, B.scheduler.timesteps.tolist()
    assert steps == [round(k * stride) for k in range(50)][::-1] and (steps[:2], steps[-2:]) == ([999, 979], [20, 0])
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[steps[::-1]]
    before = np.append(1.0, alphas[:-1])
    variance = (1 - alphas / before) * (1 - before) / (1 - alphas)
    found = [float(B.scheduler._get_variance(t)) for t in steps[::-1]]
    assert np.allclose(found[1:], variance[1:], rtol=1e-4) and (variance[0], found[0] < 1e-19) == (0, True)
    assert B.scheduler.config.prediction_type == "epsilon" and not B.scheduler.config.clip_sample


def test_one_step_of_the_scheduler_is_that_of_the_respaced_ddpm(B):
    B.scheduler.set_timesteps(50)
    x, eps = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = B.scheduler.timesteps.tolist()
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for k in (0, 24, 48):
        t, then = steps[k], steps[k + 1]
        a, b = alphas[t], alphas[then]
        x_0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        mean = (1 - a / b) * b**0.5 / (1 - a) * x_0 + (1 - b) * (a / b) ** 0.5 / (1 - a) * x
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        step = B.scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(2)).prev_sample
        expected = mean + ((1 - a / b) * (1 - b) / (1 - a)) ** 0.5 * noise
        assert torch.allclose(step, expected.float(), rtol=1e-4, atol=1e-4)


# ---- reduced width, by what is computed ----


def near(found, expected, tolerance=1e-5):
    return float((found - expected).abs().max()) <= tolerance


@torch.no_grad()
def test_E_and_G_compute_what_the_original_layout_does(B, originals):
    g = torch.Generator().manual_seed(0)
    x, hint = torch.randn(2, 2, 4, 8, 8, generator=g)
    t, text, null = torch.tensor([17, 901]), *torch.randn(2, 2, 77, 48, generator=g)
    control = originals.control(x, hint, t, null)
    down, mid = B.E(x, t, null, controlnet_cond=hint, return_dict=False)
    assert len(control) == 13 and all(near(ours, theirs) for ours, theirs in zip((*down, mid), control))
    assert near(B.predict(x, t, text, hint, null), originals.unet(x, t, text, control))
    assert near(B.predict(x, t, text), originals.unet(x, t, text))
    assert not near(B.predict(x, t, text, hint, text), originals.unet(x, t, text, control))  # E has the empty prompt


@torch.no_grad()
def test_autoencoder_and_text_encoder_compute_what_the_original_layouts_do(B, originals):
    pictures = tiny_system.pictures(2, size=SIZE)
    assert near(B.encode(pictures), originals.vae.moments(pictures)[:, :4] * 0.18215)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert near(B.picture(z), originals.vae.decode(z), 1e-4)  # of values up to 5
    words = original_layouts.vocabulary()
    for text in ("", "a b"):
        ids = [words["<|startoftext|>"], *(words[f"{c}</w>"] for c in text.split()), words["<|endoftext|>"]]
        padded = torch.tensor([ids + [0] * (77 - len(ids))])  # OpenCLIP fills up with token 0
        assert near(B.embed([text]), originals.text(padded))


@torch.no_grad()
def test_swinir_computes_what_the_original_layout_does(B, originals):
    pictures = tiny_system.pictures(2, size=SIZE)
    expected = original_layouts.swin(originals.swin, (pictures + 1) / 2, **SWIN) * 2 - 1
    assert near(B.clean(pictures), expected) and expected.abs().max() > 1  # what comes out is not clamped
    assert B.clean(pictures[:, :, :40, :50]).shape == (2, 3, 40, 50)


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 2])
def test_a_window_attention_block_is_attention_within_windows(shift):
    torch.manual_seed(5)
    block = Block(width=12, heads=3, side=4, mlp_width=20, shift=shift)
    for weight in block.parameters():
        weight += 0.3 * torch.randn(weight.shape)
    x = torch.randn(2, 8, 12, 12)
    assert near(
        block(x, relative_index(4), shift_mask(8, 12, 4)),
        original_layouts.swin_block(block.state_dict(), x, 3, 4, shift),
    )


@torch.no_grad()
def test_attention_with_one_window_is_torchs_own():
    torch.manual_seed(6)
    ours, theirs = Attention(width=12, heads=3, side=4), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    torch.nn.init.normal_(ours.relative_position_bias_table)
    x, index = torch.randn(5, 16, 12), relative_index(4)
    bias = ours.relative_position_bias_table[index].permute(2, 0, 1).repeat(5, 1, 1)
    assert near(ours(x, index), theirs(x, x, x, attn_mask=bias)[0])


def test_swinir_saves_and_loads_as_diffusers_models_do(tmp_path):
    made = SwinIR(width=12, depths=(1, 2), heads=2, window=4, mlp_width=20, fold=4, features=8)
    made.save_pretrained(tmp_path)
    back, info = SwinIR.from_pretrained(tmp_path, output_loading_info=True)
    assert (
        tiny_system.same(made.state_dict(), back.state_dict())
        and not info["missing_keys"]
        and list(back.config.depths) == [1, 2]
    )


# ---- the folder ----


def test_a_converted_folder_restores(B):
    assert (B.size, B.fold, B.tokenizer.model_max_length) == (SIZE, 1, 77) and isinstance(B.cleaner, SwinIR)
    degraded, told = tiny_system.pictures(2, size=SIZE), []
    out = restore(
        B, degraded, "a photo", seeds=[1, 2], steps=4, gamma=0.5, w=2, callback=lambda state: told.append(state["t"])
    )
    assert out.shape == degraded.shape and torch.isfinite(out).all() and out.std() > 0.01 and told == [999, 666, 333, 0]
    assert torch.equal(out, restore(B, degraded, "a photo", seeds=[1, 2], steps=4, gamma=0.5, w=2))


def test_the_folder_has_diffusers_layout_and_says_where_it_comes_from(folder, files, B):
    assert {path.name for path in folder.iterdir()} == {*system.PARTS, "tokenizer", "scheduler", "provenance.json"}
    facts = B.provenance
    assert facts["size"] == SIZE and [one["source"] for one in facts["sources"][::2]] == [
        "v2-1_512-ema-pruned.safetensors",
        "v1_face.pth",
    ]
    assert [one["parts"] for one in facts["sources"]] == [
        ["unet", "vae", "text_encoder"],
        ["tokenizer"],
        ["control"],
        ["cleaner"],
    ]
    [face] = facts["sources"][2]["files"]
    assert face == {
        "file": "v1_face.pth",
        "bytes": (files / "v1_face.pth").stat().st_size,
        "sha256": weight_files.sha256(files / "v1_face.pth"),
    }
    assert len(face["sha256"]) == 64
    assert {one["file"] for one in facts["sources"][1]["files"]} == {
        f"tokenizer/{n}" for n in ("vocab.json", "merges.txt", "tokenizer_config.json")
    }


@pytest.mark.parametrize(
    "names",
    [
        ("face_full_v1.ckpt", "tokenizer"),
        ("face_swinir_v1.ckpt", "v1_face.pth", "sd21"),
        ("v1_face.pth", "face_full_v1.ckpt", "sd21/tokenizer"),
    ],
)
def test_every_layout_of_the_same_weights_gives_the_same_system(files, B, tmp_path, names):
    convert.convert(sources(files, *names), tmp_path / "system", SIZE)
    back = load_system(tmp_path / "system")
    assert back.fingerprint() == B.fingerprint() and back.size == SIZE
    assert torch.equal(back.embed(["a photo!", ""]), B.embed(["a photo!", ""]))
    assert {
        part: module.config["sample_size"] for part, module in back.modules().items() if part in ("unet", "vae")
    } == {"unet": 8, "vae": 64}


def test_half_precision_and_pickled_bases_are_read(files, originals, tmp_path):
    half = shutil.copytree(files / "sd21", tmp_path / "sd21")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (half / part / f"{stem}.safetensors").rename(half / part / f"{stem}.fp16.safetensors")
    opened = published_sources.open_source(half)
    assert sorted(opened.parts) == ["text_encoder", "tokenizer", "unet", "vae"]
    assert tiny_system.same(
        convert._load_folder("vae", half / "vae").state_dict(),
        checkpoint_layouts.convert_part("vae", originals.vae.state_dict(), "original").state_dict(),
    )
    opened = published_sources.open_source(files / "v2-1_512-ema-pruned.ckpt")
    assert tiny_system.same(opened.parts["unet"], originals.unet.state_dict())
    torch.save(originals.unet.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert tiny_system.same(weight_files.read(tmp_path / "old.pth"), originals.unet.state_dict())


def test_the_command_takes_a_hub_id_from_the_hubs_cache(files, B, tmp_path):
    """As a user runs it, in a process of its own; a folder on disk in the cache's layout stands for the hub."""
    cache = hub(files, tmp_path)
    command = [
        sys.executable,
        "-m",
        "lib.convert",
        weight_files.BASE_ID,
        *sources(files, "v1_face.pth", "face_swinir_v1.ckpt"),
        "--to",
        str(tmp_path / "system"),
        "--size",
        str(SIZE),
    ]
    done = subprocess.run(
        command, cwd=paths.ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_CACHE": str(cache)}
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "control",
        "cleaner",
        "system",
    ]
    back = load_system(tmp_path / "system")
    assert (
        back.fingerprint() == B.fingerprint()
        and back.provenance["sources"][0]["source"] == f"{weight_files.BASE_ID} at 0123abcd"
    )


def hub(files, at):
    """The hub's cache with SD 2.1-base in it."""
    model = at / "hub" / f"models--{weight_files.BASE_ID.replace('/', '--')}"
    shutil.copytree(files / "sd21", model / "snapshots" / "0123abcd")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abcd")
    return at / "hub"


# ---- named errors, before anything is written ----


def refused(names, match, target, **kwargs):
    with pytest.raises(WeightsError, match=match):
        convert.convert(names, target, SIZE, **kwargs)
    assert not target.exists() and not list(target.parent.glob(".part*"))


def spoilt(files, name, target, **changes):
    """A copy of a torch file with tensors replaced; None takes one out."""
    state = torch.load(files / name, weights_only=True) | changes
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, target)
    return str(target)


OTHERS_OF_E = {
    "a key missing": ({"zero_convs.3.0.bias": None}, r"1 missing: zero_convs.3.0.bias"),
    "a key too many": ({"label_emb.0.0.weight": torch.zeros(3)}, r"1 unexpected: label_emb.0.0.weight"),
    "a key too many in a block": (
        {"input_blocks.1.0.more.weight": torch.zeros(3)},
        r"1 unexpected: input_blocks.1.0.more.weight",
    ),
    "ControlNet, whose hint is a picture": (
        {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), "input_hint_block.0.weight": torch.zeros(16)},
        r"input_blocks.0.0.weight: expected \(32, 8, 3, 3\), found \(32, 4, 3, 3\)",
    ),
    "another width": (
        {"middle_block_out.0.weight": torch.zeros(96, 96, 1, 1)},
        r"middle_block_out.0.weight.*expected \(128, 128, 1, 1\), found \(96, 96, 1, 1\)",
    ),
    "convolutions in its transformers, as in SD 1": (
        {"middle_block.1.proj_in.weight": torch.zeros(128, 128, 1, 1)},
        r"expected \(128, 128\), found \(128, 128, 1, 1\)",
    ),
    "no first convolution": ({"input_blocks.0.0.weight": None}, r"input_blocks.0.0.weight' is missing"),
}


@pytest.mark.parametrize("what", OTHERS_OF_E)
def test_another_architecture_of_E_is_named_with_both_shapes(files, tmp_path, what):
    changes, match = OTHERS_OF_E[what]
    bad = spoilt(files, "v1_face.pth", tmp_path / "v1_face.pth", **changes)
    refused(
        [bad, *sources(files, "sd21", "face_swinir_v1.ckpt")],
        f"another architecture: v1_face.pth.*{match}.*Remedy",
        tmp_path / "system",
    )


OTHERS_OF_STAGE_1 = {
    "its index": (
        {"module.layers.0.residual_group.blocks.1.attn.relative_position_index": torch.zeros(16, 16).long()},
        "offsets in windows of 4",
    ),
    "its mask": ({"module.layers.1.residual_group.blocks.1.attn_mask": torch.zeros(4, 16, 16)}, "mask of windows of 4"),
    "a layer": ({"module.conv_hr.weight": None}, "1 missing: conv_hr.weight"),
    "three convolutions": (
        {"module.conv_after_body.weight": None, "module.conv_after_body.0.weight": torch.zeros(3)},
        "1 unexpected: conv_after_body.0.weight",
    ),
    "its width": ({"module.norm.weight": torch.zeros(13)}, r"norm.weight: expected \(12,\), found \(13,\)"),
}


@pytest.mark.parametrize("what", OTHERS_OF_STAGE_1)
def test_another_architecture_of_stage_1_is_named(files, tmp_path, what):
    changes, match = OTHERS_OF_STAGE_1[what]
    bad = spoilt(files, "face_swinir_v1.ckpt", tmp_path / "swinir.ckpt", **changes)
    refused(
        [bad, *sources(files, "sd21", "v1_face.pth")],
        f"another architecture: swinir.ckpt.*{match}.*Remedy",
        tmp_path / "system",
    )


def test_stable_diffusion_1_is_told_by_its_shapes_before_its_text_encoder_is_missed(originals, files, tmp_path):
    state = {k: v for k, v in base_state(originals).items() if not k.startswith("cond_stage_model.")}
    state["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.zeros(48)
    save_file(
        state | {"model.diffusion_model.middle_block.1.proj_in.weight": torch.zeros(128, 128, 1, 1)},
        tmp_path / "v1-5.safetensors",
    )
    refused(
        [str(tmp_path / "v1-5.safetensors"), *sources(files, "v1_face.pth")],
        r"v1-5.*expected \(128, 128\), found \(128, 128, 1, 1\)",
        tmp_path / "system",
    )


@pytest.mark.parametrize(
    "key, shape, match",
    [
        ("model.diffusion_model.label_emb.0.0.weight", (3,), "unet.*unexpected: label_emb.0.0.weight"),
        (
            "model.diffusion_model.out.2.weight",
            (5, 32, 3, 3),
            r"unet.*out.2.bias -> conv_out.bias: expected \(5,\), found \(4,\)",
        ),
        ("first_stage_model.encoder.down.0.attn.0.q.weight", (3,), "vae.*unexpected: encoder.down.0.attn.0.q.weight"),
        (
            "first_stage_model.decoder.mid.attn_1.q.weight",
            (64, 64, 1, 1),
            r"vae.*mid.attn_1.q.weight.*expected \(128, 128\), found \(64, 64\)",
        ),
        (
            "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias",
            (9,),
            r"text_encoder.*q_proj.bias: expected \(48,\), found \(3,\)",
        ),
        ("cond_stage_model.model.visual.proj", (9,), "text_encoder.*unexpected: visual.proj"),
    ],
)
def test_another_architecture_of_the_base_is_named(originals, files, tmp_path, key, shape, match):
    save_file(base_state(originals) | {key: torch.zeros(shape)}, tmp_path / "base.safetensors")
    refused(
        [str(tmp_path / "base.safetensors"), *sources(files, *SINGLE[1:])],
        f"another architecture: base.safetensors.*{match}",
        tmp_path / "system",
    )


def test_a_full_file_with_a_hint_encoder_of_its_own_is_refused(files, tmp_path):
    state = weight_files.read(files / "face_full_v1.ckpt")
    torch.save(state | {"cond_encoder.quant_conv.bias": torch.zeros(8)}, tmp_path / "face_full_v1.ckpt")
    refused(
        [str(tmp_path / "face_full_v1.ckpt"), str(files / "tokenizer")],
        "cond_encoder.quant_conv.bias differs",
        tmp_path / "system",
    )


@pytest.mark.parametrize("part, name", [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "truncated"])
def test_a_base_folder_is_read_strictly(files, tmp_path, part, name, change):
    folder = shutil.copytree(files / "sd21", tmp_path / "sd21")
    file = folder / part / f"{name}.safetensors"
    state = weight_files.read(file)
    key = next(key for key in state if key.endswith("bias"))
    shape = tuple(state[key].shape)
    match = {
        "missing": "missing",
        "unexpected": "unexpected bogus",
        "shape": rf"\b7\b.*\b{shape[0]}\b|{shape[0]}.*\b7\b",
        "truncated": "unusable.*Remedy",
    }[change]
    state |= {"missing": {}, "unexpected": {"bogus": torch.zeros(3)}, "shape": {key: torch.zeros(7)}, "truncated": {}}[
        change
    ]
    state = {k: v.clone() for k, v in state.items() if change != "missing" or k != key}
    save_file(state, file, {"format": "pt"})
    if change == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    refused([str(folder), *sources(files, "v1_face.pth", "face_swinir_v1.ckpt")], match, tmp_path / "system")


def test_an_incomplete_base_folder_says_what_is_missing_and_where_to_get_it(files, tmp_path):
    folder = shutil.copytree(files / "sd21", tmp_path / "sd21")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(), (folder / "tokenizer" / "merges.txt").unlink()
    refused(
        [str(folder)],
        r"Missing: unet/diffusion_pytorch_model.safetensors \(3.46 GB\), tokenizer/merges.txt \(0.5 MB\). "
        "Remedy.*sd2-community",
        tmp_path / "system",
    )
    refused([str(tmp_path)], "neither a diffusers folder nor a tokenizer.*Remedy", tmp_path / "system")


def test_a_base_that_predicts_v_is_refused(files, tmp_path):
    folder = shutil.copytree(files / "sd21", tmp_path / "sd21")
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**published_sources.SCHEDULE, "prediction_type": "v_prediction"})
    )
    refused([str(folder)], "predicts v", tmp_path / "system")
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    refused([str(folder)], "unreadable: .*scheduler_config.json", tmp_path / "system")
    for name in ("DiffBIR_v2.1.pt", "sd2.1-base-zsnr-laionaes5.ckpt", "v2-1_768-ema-pruned.ckpt"):
        refused(
            [str(shutil.copy(files / "v1_face.pth", tmp_path / name))],
            f"{name} is of a model that predicts v",
            tmp_path / "system",
        )


def test_parts_of_different_models_are_refused(files, originals, tmp_path):
    shutil.copytree(files / "tokenizer", tmp_path / "tokenizer")
    words = dict(list(original_layouts.vocabulary().items())[1:])
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    refused(
        [str(tmp_path / "tokenizer"), *sources(files, "face_full_v1.ckpt")],
        "words of tokenizer and text_encoder are 513 and 514",
        tmp_path / "system",
    )
    (tmp_path / "tokenizer" / "vocab.json").write_text("{")
    refused(
        [str(tmp_path / "tokenizer"), *sources(files, "face_full_v1.ckpt")], "unreadable tokenizer", tmp_path / "system"
    )
    text = prefixed("cond_stage_model.model.", original_layouts.Text(**{**SMALL.text, "width": 32}).state_dict())
    state = {k: v for k, v in base_state(originals).items() if not k.startswith("cond_stage_model.")} | {
        k: v.detach() for k, v in text.items()
    }
    save_file(state, tmp_path / "base.safetensors")
    refused(
        [str(tmp_path / "base.safetensors"), *sources(files, *SINGLE[1:])],
        "text width of unet and text_encoder are 48 and 32",
        tmp_path / "system",
    )


def test_parts_without_a_source_and_sources_without_a_part(files, tmp_path):
    refused(
        sources(files, "v1_face.pth"),
        r"parts without a source: unet, vae, text_encoder, tokenizer, cleaner. Remedy: .*face_swinir_v1.ckpt "
        r"\(0.1 GB at https://huggingface.co/lxq007/DiffBIR\).*unet/diffusion_pytorch_model.safetensors \(3.46 GB\)",
        tmp_path / "system",
    )
    refused(
        sources(files, *SINGLE[::2], "face_swinir_v1.ckpt"),
        r"without a source: tokenizer.*vocab.json \(1.1 MB\)",
        tmp_path / "system",
    )
    refused(sources(files, *SINGLE, "sd21"), "adds nothing: .*sd21.*unet \\(from v2-1_512", tmp_path / "system")


def test_a_second_E_in_place_of_the_cleaner_is_told_so(files, tmp_path):
    general = shutil.copy(files / "v1_face.pth", tmp_path / "v1_general.pth")
    refused(
        [*sources(files, "sd21", "v1_face.pth"), general],
        r"adds nothing: v1_general.pth holds only what another source gives: control \(from v1_face.pth\)"
        r".*Still without a source: cleaner.*face_swinir_v1.ckpt \(0.1 GB at ",
        tmp_path / "system",
    )


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-exist",)


def test_files_that_are_no_weights_are_named(files, tmp_path):
    bad, target = tmp_path / "v1_face.pth", tmp_path / "system"
    for name in ("../nowhere/else", "./nowhere", "weights/mine.pth"):
        refused([name], f"no weights: .*{name.lstrip('./')} is missing. Remedy", target)
    refused(
        [str(bad)],
        r"v1_face.pth is missing; the published file has about 1.45 GB, at https://huggingface.co/lxq007/DiffBIR-v2",
        target,
    )
    for name in ("v1_face.pth", "v2-1_512-ema-pruned.safetensors", "face_full_v1.ckpt"):
        shutil.copy(files / name, tmp_path / name)
        os.truncate(tmp_path / name, (files / name).stat().st_size * 2 // 3)
        refused(
            [str(tmp_path / name)],
            f"unreadable weights: .*{name} .*bytes; .*the published file has about.*half-downloaded",
            target,
        )
    for content, match in (
        (b"", "0 bytes; "),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x80\x02junk" * 99, "unreadable"),
    ):
        bad.write_bytes(content)
        refused([str(bad)], match, target)
    torch.save([1, 2], bad)
    refused([str(bad)], "holds no named tensors", target)
    torch.save({"fc.weight": torch.zeros(3)}, bad)
    refused([str(bad)], "unknown layout: v1_face.pth .*fc.weight", target)


@pytest.mark.parametrize("packed", [True, False])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, packed):
    bad = tmp_path / "bad.ckpt"
    state = {"state_dict": {"a": torch.zeros(3)}, "b": Bomb()}
    torch.save(state, bad, _use_new_zipfile_serialization=packed)
    refused([str(bad)], "unsafe weights: .*wants to run.*system", tmp_path / "system")
    assert not os.path.exists("/tmp/should-not-exist")


@pytest.mark.parametrize("packed", [True, False])
def test_the_configuration_that_a_trainer_left_in_a_checkpoint_is_inert(tmp_path, packed):
    """What a pickled OmegaConf DictConfig refers to: its own classes, typing.Any, built-in types, a defaultdict."""
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": module.__name__})
    config = module.DictConfig()
    config.__dict__ |= {"ref_type": typing.Any, "type": dict, "_resolver_cache": collections.defaultdict(dict)}
    names = {"omegaconf": types.ModuleType("omegaconf"), module.__name__: module}
    with pytest.MonkeyPatch.context() as patch:
        for name, made in names.items():
            patch.setitem(sys.modules, name, made)
        content = {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": config}
        torch.save(content, tmp_path / "trained.ckpt", _use_new_zipfile_serialization=packed)
    assert torch.equal(weight_files.read(tmp_path / "trained.ckpt")["a"], torch.ones(3))


# ---- damage that shapes do not show ----


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(files, tmp_path, value):
    bad = torch.full((32, 8, 3, 3), value)
    face = spoilt(files, "v1_face.pth", tmp_path / "v1_face.pth", **{"input_blocks.0.0.weight": bad})
    refused(
        [face, *sources(files, "sd21", "face_swinir_v1.ckpt")],
        "damaged weights: input_blocks.0.0.weight of v1_face.pth holds NaN or infinite values.*Remedy",
        tmp_path / "system",
    )
    base = shutil.copytree(files / "sd21", tmp_path / "sd21")
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    state = weight_files.read(file)
    state["decoder.conv_in.bias"] = torch.full_like(state["decoder.conv_in.bias"], value)
    save_file(state, file, {"format": "pt"})
    refused(
        [str(base), *sources(files, "v1_face.pth", "face_swinir_v1.ckpt")],
        "damaged weights: decoder.conv_in.bias of .*vae holds NaN",
        tmp_path / "system",
    )


def test_an_E_that_was_never_trained_is_refused(files, tmp_path):
    state = torch.load(files / "v1_face.pth", weights_only=True)
    outgoing = {
        key: torch.zeros_like(state[key]) for key in state if key.startswith(("zero_convs", "middle_block_out"))
    }
    bad = spoilt(files, "v1_face.pth", tmp_path / "v1_face.pth", **outgoing)
    refused(
        [bad, *sources(files, "sd21", "face_swinir_v1.ckpt")],
        "untrained weights: every outgoing convolution of E in v1_face.pth is zero.*Remedy",
        tmp_path / "system",
    )


def test_keys_that_belong_to_no_part_are_refused(originals, files, tmp_path):
    state = base_state(originals) | {"control_lora.0.weight": torch.zeros(3)}
    save_file(state, tmp_path / "base.safetensors")
    refused(
        [str(tmp_path / "base.safetensors"), *sources(files, *SINGLE[1:])],
        "base.safetensors holds 1 tensor.s. that belong to no part.*'control_lora.0.weight'.*Remedy",
        tmp_path / "system",
    )


def test_a_flipped_byte_of_a_torch_file_is_found(files, tmp_path):
    content = bytearray((files / "v1_face.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "v1_face.pth").write_bytes(content)
    refused([str(tmp_path / "v1_face.pth")], "unreadable weights: .*checksum of .* is wrong", tmp_path / "system")


def test_a_file_of_the_hub_is_held_to_the_digest_that_its_client_noted(files, tmp_path):
    """Where `hf download --local-dir` notes it, and in the cache, whose files are named by their digests."""
    weights = tmp_path / "weights"
    notes = weights / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    face = shutil.copy(files / "v1_face.pth", weights / "v1_face.pth")
    note = notes / "v1_face.pth.metadata"
    note.write_text(f"0123abcd\n{weight_files.sha256(face)}\n1700000000.0\n")
    assert weight_files.check_digest(face) == weight_files.sha256(face)
    note.write_text(f"0123abcd\n{'0' * 64}\n1700000000.0\n")
    refused(
        [str(face), *sources(files, "sd21", "face_swinir_v1.ckpt")],
        f"damaged weights: .*v1_face.pth has the SHA-256 .*, its publisher gives {'0' * 64}.*Remedy",
        tmp_path / "system",
    )
    blob = shutil.copy(files / "v1_face.pth", tmp_path / ("1" * 64))
    (tmp_path / "linked.pth").symlink_to(blob)
    with pytest.raises(WeightsError, match="damaged weights"):
        weight_files.check_digest(tmp_path / "linked.pth")


# ---- the hub ----


def test_a_hub_id_without_a_network_is_an_error_within_ten_seconds(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    start = time.monotonic()
    assert convert.main([weight_files.BASE_ID, "--to", str(tmp_path / "system")]) == 1
    said = capsys.readouterr().err
    assert (
        time.monotonic() - start < 10
        and said.startswith("\nWeightsError: no weights")
        and not (tmp_path / "system").exists()
    )
    assert all(f"{name} ({size})" in said for name, size in download.FOLDER.items()) and all(
        mirror in said for mirror in download.MIRRORS
    )
    cache = hub(files, tmp_path)
    [part] = cache.rglob("vae/diffusion_pytorch_model.safetensors")
    part.rename(part.with_suffix(".incomplete"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    refused(
        [weight_files.BASE_ID],
        r"not whole in the hub's cache.*Missing: vae/diffusion_pytorch_model.safetensors \(335 MB\). Remedy",
        tmp_path / "system",
    )


def test_a_name_server_that_never_answers_holds_nobody_up(tmp_path, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: over.wait(30) and [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(WeightsError, match="the hub cannot be reached. Missing: unet/config.json"):
        download.from_hub(weight_files.BASE_ID, seconds=0.5)
    assert time.monotonic() - start < 5
    over.set()


def test_a_hub_that_answers_no_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_reachable", lambda *_: True)  # and then the client, offline, finds nothing
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="stabilityai/gone could not be fetched.*Remedy.*sd2-community"):
        download.from_hub("stabilityai/gone")


# ---- the target ----


def test_a_target_below_a_file_is_refused(files, tmp_path):
    (tmp_path / "notes.txt").write_text("dear to me")
    with pytest.raises(WeightsError, match="below a file: .*notes.txt is no folder. Remedy"):
        convert.convert(sources(files, *SINGLE), tmp_path / "notes.txt" / "weights" / "system", SIZE)


def test_a_terminated_conversion_leaves_nothing_behind(files, tmp_path, monkeypatch):
    def save(self, folder, dtype):
        with paths.atomic_write(folder) as aside:
            (aside / "unet").mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # the handler runs before this ends

    monkeypatch.setattr(system.System, "save", save)
    with pytest.raises(SystemExit) as stopped:
        convert.main([*sources(files, *SINGLE), "--to", str(tmp_path / "system"), "--size", str(SIZE)])
    assert stopped.value.code == 143 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_target_in_use_is_kept(files, folder, tmp_path):
    before = (folder / "provenance.json").read_text()
    with pytest.raises(WeightsError, match="target is in use.*--force"):
        convert.convert(sources(files, *SINGLE), folder, SIZE)
    (tmp_path / "mine.txt").write_text("dear to me")
    with pytest.raises(WeightsError, match="target is in use"):
        convert.convert(sources(files, *SINGLE), tmp_path, SIZE, force=True)
    shutil.copytree(folder, tmp_path / "system")
    with pytest.raises(WeightsError, match="v1_face.pth lies in"):
        convert.convert(
            [shutil.copy(files / "v1_face.pth", tmp_path / "system")], tmp_path / "system", SIZE, force=True
        )
    (tmp_path / "system" / "v1_face.pth").unlink(), (tmp_path / "system" / "provenance.json").write_text("{}")
    convert.convert(sources(files, *SINGLE), tmp_path / "system", SIZE, force=True)
    assert (folder / "provenance.json").read_text() == before == (tmp_path / "system" / "provenance.json").read_text()
    assert (tmp_path / "mine.txt").read_text() == "dear to me"


def test_sizes_out_of_range(files, tmp_path):
    for size in (0, 500, 64.0):
        with pytest.raises(RangeError, match="size out of range.*Remedy"):
            convert.convert(sources(files, *SINGLE), tmp_path / "system", size)
