"""The system B: its parts in closed form, on disk and back, fingerprint, tokenizer, the same classes at full scale."""

import copy
import json
import shutil

import pytest
import tiny_system
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from lib.errors import DeviceError, RecipeError, WeightsError
from lib.models import system, tiny
from lib.models.precision import offloaded
from lib.models.swinir import SwinIR
from lib.models.system import encoder_from
from lib.models.system_folder import load_system
from lib.people import procedural
from lib.training.trainer import Training
from lib.training.tunable import tunable


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def folder(B, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "system"
    B.save(folder)
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "system")


@pytest.fixture(scope="module")
def untrained():
    return tiny.build_tiny(procedural.WORDS, 0).freeze()


def inputs(B, count=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, hint = torch.randn(2, count, *tiny_system.LATENT, generator=g)
    return x, torch.tensor([17, 901][:count]), hint, B.embed([system.CLASS_PROMPT] * count), B.embed([""] * count)


# ---- on disk and back ----


def test_saved_in_half_precision_and_loaded_exactly(B, folder):
    back = load_system(folder)
    for name, module in B.modules().items():
        kept = back.modules()[name].state_dict()
        assert kept.keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            assert torch.equal(kept[key], value.half().float()) and kept[key].dtype == torch.float32, f"{name}.{key}"
    assert not any(p.requires_grad for m in back.modules().values() for p in m.parameters())
    assert not any(m.training for m in back.modules().values())


def test_a_loaded_system_predicts_what_the_halved_one_does(B, folder):
    halved, back = tiny_system.build(), load_system(folder)
    for module in halved.modules().values():
        module.half().float()
    x, t, hint, prompt, null = inputs(B)
    pictures = tiny_system.pictures(2)
    with torch.no_grad():
        assert torch.equal(back.predict(x, t, prompt, hint, null), halved.predict(x, t, prompt, hint, null))
    assert torch.equal(back.embed(["a photo of a sks person"]), halved.embed(["a photo of a sks person"]))
    assert torch.equal(back.encode(pictures), halved.encode(pictures)) and torch.equal(back.decode(x), halved.decode(x))
    assert torch.equal(back.clean(pictures), halved.clean(pictures))
    assert torch.equal(back.scheduler.alphas_cumprod, B.scheduler.alphas_cumprod)
    assert (back.scheduler.config.variance_type, back.scheduler.config.clip_sample) == ("fixed_small", False)


def test_in_single_precision_nothing_is_lost_and_facts_travel(tmp_path):
    B = tiny_system.build(3).with_(provenance={"made": "here"})
    B.vae.register_to_config(scaling_factor=0.71)
    B.save(tmp_path, torch.float32)
    back = load_system(tmp_path)
    assert back.fingerprint() == B.fingerprint() and back.provenance == {"made": "here"}
    assert back.vae.config.scaling_factor == 0.71


def test_a_system_names_its_recipe_or_says_that_it_has_none():
    assert tiny_system.build().recipe == "tiny-heavy"
    with pytest.raises(RecipeError, match="no recipe of its own.*Remedy"):
        tiny_system.build().with_(provenance={}).recipe


def test_the_shipped_systems_name_the_recipes_they_were_trained_for():
    assert load_system("data/system").recipe == "tiny-heavy"
    assert load_system("data/photo_system").recipe == "photo-heavy"


def test_saving_leaves_the_system_as_it_is(tmp_path):
    B = tiny_system.build()
    before = {name: tiny_system.state(module) for name, module in B.modules().items()}
    B.save(tmp_path)
    for name, module in B.modules().items():
        assert tiny_system.same(before[name], module.state_dict())
        assert next(module.parameters()).dtype == torch.float32


@pytest.mark.parametrize("part", [*system.PARTS, "tokenizer", "scheduler"])
def test_a_missing_part_is_named(damaged, part):
    shutil.rmtree(damaged / part)
    with pytest.raises(WeightsError, match=f"{part}.*Remedy"):
        load_system(damaged)


def test_missing_weights_and_a_missing_folder_are_named(damaged):
    next((damaged / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(WeightsError, match="no weights.*vae.*Remedy"):
        load_system(damaged)
    with pytest.raises(WeightsError, match="no weights.*nowhere.*Remedy"):
        load_system(damaged / "nowhere")


def test_a_missing_provenance_is_named(damaged):
    (damaged / "provenance.json").unlink()
    with pytest.raises(WeightsError, match="provenance.*Remedy"):
        load_system(damaged)


@pytest.mark.parametrize("part", list(system.PARTS))
def test_truncated_weights_are_named(damaged, part):
    file = next((damaged / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=f"{part}.*truncated"):
        load_system(damaged)


def test_an_empty_weights_file_and_a_broken_config_are_named(damaged):
    next((damaged / "unet").glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(WeightsError, match="unet.*truncated"):
        load_system(damaged)
    (damaged / "unet" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="unet.*Remedy"):
        load_system(damaged)


def test_weights_of_another_architecture_are_named(damaged):
    config = damaged / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [32, 96]}))
    with pytest.raises(WeightsError, match="another architecture.*unet"):
        load_system(damaged)
    shutil.copytree(damaged / "vae", damaged / "unet", dirs_exist_ok=True)
    with pytest.raises(WeightsError, match="unet"):
        load_system(damaged)


def test_weights_that_are_not_finite_are_named(damaged):
    file = next((damaged / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    tensors["conv_in.bias"][3] = float("nan")
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="not finite: conv_in.bias.*unet.*Remedy"):
        load_system(damaged)


def test_a_tensor_in_two_files_of_a_part_is_named(damaged):
    """The second file would override the first in silence."""
    file = next((damaged / "vae").glob("*.safetensors"))
    save_file({"quant_conv.bias": torch.zeros(8)}, file.with_name("zz.safetensors"))
    with pytest.raises(WeightsError, match="twice: quant_conv.bias.*Remedy"):
        load_system(damaged)


def test_a_part_may_lie_in_several_files(B, folder, damaged):
    file = next((damaged / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    save_file({"conv_in.bias": tensors.pop("conv_in.bias")}, file.with_name("second.safetensors"))
    save_file(tensors, file)
    assert load_system(damaged).fingerprint() == load_system(folder).fingerprint()


def test_an_unknown_device_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(DeviceError, match="cuda:99.*Remedy"):
        load_system(tmp_path / "nowhere", "cuda:99")


def everything(module):
    """Parameters and all buffers, also those that no file holds."""
    return [*module.named_parameters(), *module.named_buffers()]


def test_loading_draws_no_random_numbers_and_fills_every_tensor(B, tmp_path):
    """Networks are built without storage; SwinIR is the cleaner of the full size."""
    torch.manual_seed(2)
    swinir = SwinIR(width=12, depths=(2,), heads=2, window=4, mlp_width=16, fold=4, features=8).eval()
    B.with_(cleaner=swinir).save(tmp_path, torch.float32)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    back = load_system(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, module in back.modules().items():
        assert {key: t.device.type for key, t in everything(module) if t.device.type != "cpu"} == {}, name
        known = dict(everything(B.with_(cleaner=swinir).modules()[name]))
        assert all(torch.equal(t, known[key]) for key, t in everything(module)), name
    pictures = tiny_system.pictures(1)
    assert type(back.cleaner) is SwinIR and torch.equal(back.clean(pictures), B.with_(cleaner=swinir).clean(pictures))


def test_adapters_are_not_saved_as_a_system(B, tmp_path):
    adapted = B.with_(E=tunable(B.E, Training(lora=2)))
    with pytest.raises(WeightsError, match="save_personal"):
        adapted.save(tmp_path / "system")
    assert list(tmp_path.iterdir()) == []


# ---- the device ----


def test_a_system_keeps_its_device_while_parts_wait_on_the_cpu():
    B = tiny_system.build()
    B.home = torch.device("meta")  # stands for a GPU
    with offloaded(B, "vae", "cleaner", "text_encoder", "G"):
        assert B.G.device.type == B.vae.device.type == "cpu"
        assert B.device.type == B.with_(E=B.E).device.type == "meta"
    assert tiny_system.build().device.type == tiny_system.build().to("cpu").device.type == "cpu"


# ---- the parts in closed form ----


def test_a_first_convolution_over_latent_and_hint_is_the_sum_of_two():
    """DiffBIR's 8-in-one layout, split as reference/ecosystem.md section 2 says, gives E's first feature map."""
    B = tiny_system.build()
    whole = torch.nn.Conv2d(8, 32, 3, padding=1)
    B.E.conv_in.weight.data, B.E.conv_in.bias.data = whole.weight[:, :4].detach(), whole.bias.detach()
    B.E.controlnet_cond_embedding.weight.data = whole.weight[:, 4:].detach()
    x, t, hint, _, null = inputs(B)
    seen = []
    handle = B.E.down_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        B.E(x, t, null, controlnet_cond=hint, return_dict=False)
        handle.remove()
        assert torch.allclose(seen[0], whole(torch.cat([x, hint], 1)), atol=1e-5)


def test_an_encoder_before_training_is_a_silent_copy_of_Gs_own():
    B = tiny_system.build(stir=False)
    x, t, hint, prompt, null = inputs(B)
    with torch.no_grad():
        assert torch.equal(B.predict(x, t, prompt, hint, null), B.predict(x, t, prompt))
    G, E = B.G.state_dict(), B.E.state_dict()
    copied = [k for k in E if k.split(".")[0] in ("conv_in", "time_embedding", "down_blocks", "mid_block")]
    assert len(copied) == len(
        [k for k in G if k.split(".")[0] in ("conv_in", "time_embedding", "down_blocks", "mid_block")]
    )
    assert all(torch.equal(E[k], G[k]) for k in copied)
    assert {k for k in E if k not in copied and E[k].any()} == set()


def test_a_trained_encoder_steers_by_its_hint_and_not_by_the_prompt_of_G():
    B = tiny_system.build()
    x, t, hint, prompt, null = inputs(B)
    with torch.no_grad():
        steered = B.predict(x, t, prompt, hint, null)
        assert not torch.allclose(steered, B.predict(x, t, prompt), atol=1e-3)
        assert not torch.allclose(steered, B.predict(x, t, prompt, hint.flip(0), null), atol=1e-4)
        down, mid = B.E(x, t, null, controlnet_cond=hint, return_dict=False)
        by_hand = B.G(x, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        assert torch.equal(steered, by_hand)
        assert not torch.allclose(
            by_hand, B.predict(x, t, prompt, hint, prompt), atol=1e-6
        )  # E asked with the prompt differs


def test_latents_of_pictures_and_pictures_of_latents(B):
    pictures = tiny_system.pictures(3)
    folded = F.pixel_unshuffle(pictures, 4)
    with torch.no_grad():
        mode = B.vae.encode(folded).latent_dist.mean
    assert (B.size, B.fold) == (64, 4)
    assert B.encode(pictures).shape == (3, *tiny_system.LATENT)
    assert torch.allclose(B.encode(pictures), mode * B.vae.config.scaling_factor)
    z = torch.randn(3, *tiny_system.LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unfolded = F.pixel_shuffle(B.vae.decode(z / B.vae.config.scaling_factor).sample, 4)
    assert B.decode(z).shape == pictures.shape and torch.allclose(B.decode(z), unfolded.clamp(-1, 1))
    assert B.decode(100 * z).abs().max() == 1  # clamped


def test_the_cleaner_adds_a_residual_and_stays_in_range(B):
    cleaner = copy.deepcopy(B.cleaner)
    pictures = tiny_system.pictures(2)
    with torch.no_grad():
        residual = F.pixel_shuffle(cleaner(F.pixel_unshuffle(pictures, 4), 0).sample, 4)
    assert torch.allclose(cleaner.clean(pictures), (pictures + residual).clamp(-1, 1)) and residual.abs().max() > 1e-3
    torch.nn.init.zeros_(cleaner.conv_out.weight), torch.nn.init.zeros_(cleaner.conv_out.bias)
    assert torch.equal(cleaner.clean(pictures), pictures)


def test_replacing_a_part_leaves_the_original(B):
    other = B.with_(G=copy.deepcopy(B.G))
    assert other.G is not B.G and other.E is B.E and other.vae is B.vae


# ---- the fingerprint ----


@pytest.mark.parametrize("part", list(system.PARTS))
def test_one_weight_of_any_part_changes_the_fingerprint(B, part):
    module = copy.deepcopy(B.modules()[part])
    changed = B.with_(**{system.FIELD.get(part, part): module})
    assert changed.fingerprint() == B.fingerprint()
    weights = [weight for _, weight in sorted(module.named_parameters())]
    for weight in (weights[0], weights[len(weights) // 2], weights[-1]):
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
        assert changed.fingerprint() != B.fingerprint()


def test_a_fingerprint_survives_disk_device_and_dtype(folder, tmp_path):
    back = load_system(folder)
    mark = back.fingerprint()
    back.save(tmp_path)
    assert load_system(tmp_path).to("cpu").fingerprint() == mark
    for module in back.modules().values():
        module.half()  # its weights are halves already, so nothing is lost
    assert back.fingerprint() == mark and len(mark) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1e-3),
        lambda weight: weight.data.mul_(2),
        lambda weight: setattr(weight, "data", weight.data + 1),
    ],
    ids=["in place", "through data", "other data"],
)
def test_a_fingerprint_is_computed_once_until_a_weight_changes(monkeypatch, change):
    B, computed, digest = tiny_system.build(), [], system._digest
    monkeypatch.setattr(system, "_digest", lambda *args: computed.append(1) or digest(*args))
    first = B.fingerprint()
    assert B.fingerprint() == first and len(computed) == 1
    assert B.fingerprint("vae") == B.fingerprint("vae") != B.fingerprint("vae", "cleaner") and len(computed) == 3
    weight, before = B.E.conv_in.weight, B.E.conv_in.weight.clone()
    with torch.no_grad():
        change(weight)
    assert B.fingerprint() != first
    with torch.no_grad():
        weight.copy_(before)
    assert B.fingerprint() == first


def test_a_fingerprint_does_not_depend_on_use_or_on_versions(B, folder):
    fresh = load_system(folder)
    mark = fresh.fingerprint()
    fresh.embed(["a photo of a sks person"])  # the tokenizer notes how it padded
    fresh.scheduler.register_to_config(_diffusers_version="0.0")
    assert fresh.fingerprint() == mark == load_system(folder).fingerprint()


def with_scheduler(B, **settings):
    return B.with_(scheduler=DDPMScheduler.from_config(B.scheduler.config, **settings))


def with_scaling(B):
    vae = copy.deepcopy(B.vae)
    vae.register_to_config(scaling_factor=0.5)
    return B.with_(vae=vae)


def with_another_word(B):
    tokenizer = copy.deepcopy(B.tokenizer)
    tokenizer.add_tokens(["zwx"])
    return B.with_(tokenizer=tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        lambda B: with_scheduler(B, prediction_type="v_prediction"),
        lambda B: with_scheduler(B, beta_end=0.013),
        with_scaling,
        with_another_word,
    ],
    ids=["prediction", "betas", "scaling factor", "tokenizer"],
)
def test_settings_that_decide_a_prediction_change_the_fingerprint(B, change):
    assert change(B).fingerprint() != B.fingerprint()
    assert change(B).fingerprint("vae", "cleaner") == B.fingerprint("vae", "cleaner")


# ---- words ----


def test_every_word_is_one_token_and_so_is_the_rare_one(untrained):
    tokens = {
        word: untrained.tokenizer(word, add_special_tokens=False).input_ids
        for word in (*procedural.WORDS, system.RARE_TOKEN)
    }
    assert {word: len(ids) for word, ids in tokens.items() if len(ids) != 1} == {}
    assert len({ids[0] for ids in tokens.values()}) == len(procedural.WORDS) + 1


def test_every_caption_fits_and_is_made_of_whole_words(untrained):
    crowd = procedural.people_of("train", 80)
    captions = [procedural.caption(p, p.shot(k)) for p in crowd for k in range(5)]
    words = {untrained.tokenizer(w, add_special_tokens=False).input_ids[0] for w in procedural.WORDS}
    ids = untrained.tokenizer(captions).input_ids
    assert max(map(len, ids)) <= untrained.tokenizer.model_max_length == tiny.TOKENS
    start, end = untrained.tokenizer.bos_token_id, untrained.tokenizer.eos_token_id
    assert all(row[0] == start and row[-1] == end and set(row[1:-1]) <= words for row in ids)


def test_no_text_is_unknown(untrained):
    for text in ("zebra", "Ünïcödé 東京 🙂", "sksy", "a_b-c\t\n"):
        ids = untrained.tokenizer(text, add_special_tokens=False).input_ids
        assert ids and untrained.tokenizer.unk_token_id not in ids
    sks = untrained.tokenizer("sks", add_special_tokens=False).input_ids[0]
    assert sks not in untrained.tokenizer("sksy", add_special_tokens=False).input_ids  # only the whole word


def test_a_saved_tokenizer_reads_as_before(untrained, tmp_path):
    untrained.tokenizer.save_pretrained(tmp_path)
    text = ["a photo of a sks person", "", "a photo of a person with blue eyes , bald, smiling", "zebra"]
    assert CLIPTokenizer.from_pretrained(tmp_path)(text).input_ids == untrained.tokenizer(text).input_ids


def test_embeddings_depend_on_the_words_and_not_on_the_batch(untrained):
    both = untrained.embed(["a photo of a sks person", ""])
    assert both.shape == (2, tiny.TOKENS, 128) and not torch.allclose(both[0], both[1])
    assert torch.allclose(both[:1], untrained.embed(["a photo of a sks person"]), atol=1e-5)


# ---- scales ----


def test_the_shipped_scale(untrained):
    channels = untrained.G.config.in_channels
    assert (untrained.size, untrained.fold) == (128, 4) and channels == untrained.vae.config.latent_channels
    assert untrained.encode(tiny_system.pictures(1, size=128)).shape == (1, channels, 16, 16)
    parameters = sum(p.numel() for m in untrained.modules().values() for p in m.parameters())
    assert 2 * parameters < 40e6  # bytes in half precision
    again, other = tiny.build_tiny(procedural.WORDS, 0), tiny.build_tiny(procedural.WORDS, 1)
    assert again.fingerprint() == untrained.fingerprint() != other.fingerprint()


@pytest.fixture(scope="module")
def full():
    """SD 2.1's UNet and DiffBIR's control network, without storage."""
    with torch.device("meta"):
        G = UNet2DConditionModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        return G, encoder_from(G)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_same_classes_at_full_scale(full):
    G, E = full
    assert count(G) == 865_910_724
    assert count(E) == 363_153_280 and count(E.controlnet_cond_embedding) == 4 * 320 * 9


def test_full_scale_shapes_flow(full):
    G, E = full
    with torch.device("meta"), torch.no_grad():
        x, prompt, t = torch.empty(2, 4, 64, 64), torch.empty(2, 77, 1024), torch.zeros(2, dtype=torch.long)
        down, mid = E(x, t, prompt, controlnet_cond=x, return_dict=False)
        assert len(down) + 1 == 13 and mid.shape == (2, 1280, 8, 8)
        assert (
            G(x, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample.shape
            == x.shape
        )
