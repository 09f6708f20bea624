"""README's "Full size", command by command, on weights of reduced width: convert, tune, restore, measure, as a user does it."""

import json
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_system
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from test_convert import files, hub, originals  # noqa: F401 (fixtures)
from tiny_pack import write_recogniser

from lib import paths
from lib.errors import PersonalWeightsError, RangeError, WeightsError
from lib.metrics import headline, pyiqa_metrics
from lib.models import weight_files, personal_weights, precision, system
from lib.people import procedural
from lib.people.picture_files import load_picture, save_picture
from lib.restoration import baselines
from lib.restoration.sampling import generate
from lib.runs import folders, parameters, runner
from lib.studies import arms, cost_counted, cost_timed, person, statistics
from lib.training import pivots
from lib.training.trainer import Tuning

SIZE = 64
BLOCK = re.search(
    r"<!-- full -->\n```bash\n(.*?)```\n<!-- /full -->", (paths.ROOT / "README.md").read_text(), re.S
).group(1)
COMMANDS = [shlex.split(line) for line in BLOCK.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
SMALLER = {
    "DEVICE": "cpu",
    "TEXTUAL_STEPS": 3,
    "MODEL_STEPS": 2,
    "SAMPLING_STEPS": 3,
    "PRIOR": 2,
    "TIMED_STEPS": 1,
    "ROUNDS": 1,
    "SWITCHES": '["bf16 channels_last"]',
}
IN_PLACE = {
    "path/to/somebody": "somebody",
    "path/to/photographs": "photographs",
    "buffalo_l": "pack.onnx",
    "weights/": "weights/",
}

STAND_INS = {
    "spandrel_extra_arches.py": "def install(ignore_duplicates): pass",
    "spandrel.py": """
import torch
from types import SimpleNamespace
class Mirror(torch.nn.Module):
    def forward(self, x):
        return x.flip(3), None
class ModelLoader:
    def load_from_state_dict(self, state):
        size = SimpleNamespace(check=lambda width, height: True)
        return SimpleNamespace(model=Mirror(), architecture=SimpleNamespace(id=list(state)[0]), size_requirements=size)
canonicalize_state_dict = dict
""",
}


@pytest.fixture(scope="module")
def home(files, tmp_path_factory):  # noqa: F811
    """The hub, a person with targets, a recogniser: what a user has before the first command."""
    at = tmp_path_factory.mktemp("full")
    hub(files, at)
    for part, shots in (("references", 3), ("inputs", 2), ("targets", 2)):
        for k, picture in enumerate(tiny_system.pictures(shots, len(part), SIZE)):
            save_picture(at / "somebody" / part / f"{k}.png", picture)
    card = {"name": "somebody", "class_noun": "woman", "real": True, "source": "drawn by a test", "terms": "CC0"}
    (at / "somebody" / "person.yaml").write_text(json.dumps(card))
    photographs_of(procedural.people_of("test", 2, start=40), at / "photographs", card)
    for module, text in STAND_INS.items():
        (at / "site" / module).parent.mkdir(exist_ok=True)
        (at / "site" / module).write_text(text)
    (at / "baselines").mkdir()
    for arm, (file, *_) in baselines.PUBLISHED.items():
        torch.save({"params_ema": {arm: torch.zeros(1)}}, at / "baselines" / file)
    write_recogniser(at / "pack.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    return at


def photographs_of(two, folder, card):
    """Whole photographs of the first of two drawn people; in the input both are."""
    drawn = [procedural.render([(person, person.shot(k)) for k in range(4)], 160).pictures for person in two]
    framed = [np.pad(picture, ((50, 50), (40, 40), (0, 0)), constant_values=120) for picture in drawn[0]]
    for k, picture in enumerate(framed[:3]):
        save_picture(folder / "references" / f"{k}.png", picture, synthetic=False)
    both = np.concatenate([np.pad(drawn[1][3], ((50, 50), (40, 40), (0, 0)), constant_values=120), framed[3]], 1)
    save_picture(folder / "inputs" / "party.png", both, synthetic=False)
    (folder / "person.yaml").write_text(json.dumps(card))


def here(word, home):
    """A word of README's command with this test's places in it."""
    for theirs, ours in IN_PLACE.items():
        word = word.replace(theirs, f"{home}/{ours}")
    return word


def download(words, files, home):  # noqa: F811
    """Stands for `hf download OWNER/MODEL FILE --local-dir FOLDER`, which needs a network: as far as the published file is known."""
    model, name, option, folder = words
    assert option == "--local-dir" and weight_files.PUBLISHED[name][1].endswith(f"/{model}")
    (home / folder).mkdir(exist_ok=True)
    (home / folder / name).write_bytes((files / name).read_bytes())


@pytest.fixture(scope="module")
def done(files, home):  # noqa: F811
    """Every command of README, in order; of each run, its folder, executed notebook and record, in the order of the commands."""
    runs, environment = [], {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "hub"), "OMP_NUM_THREADS": "1"}
    for words in COMMANDS:
        if words[:2] == ["hf", "download"]:
            download(words[2:], files, home)
        elif words[:2] == ["python", "-c"]:  # likewise: the very line that a missing pack asks for
            assert (
                words[2] == "import insightface; insightface.app.FaceAnalysis('buffalo_l')"
                and words[2] in (paths.ROOT / "lib" / "align.py").read_text()
            )
        elif words[0] == "curl":  # nothing is fetched, so that the tables have to say what is absent
            arm = next(
                arm for arm, (file, *_) in baselines.PUBLISHED.items() if words[-2] == f"weights/baselines/{file}"
            )
            assert words[-3] == "-o" and words[-1] == baselines.PUBLISHED[arm][2]
        elif words[:3] == ["python", "-m", "lib.convert"]:
            command = [sys.executable, *(here(word, home) for word in words[1:]), "--size", str(SIZE)]
            subprocess.run(command, cwd=paths.ROOT, check=True, env=environment, capture_output=True)
        else:
            assert words[:3] == ["python", "-m", "lib.run"]
            runs.append(executed(words[3:], home))
    return runs


def executed(words, home):
    notebook = parameters.find(words[0])
    smaller = {"SYSTEM": home / "weights" / "sd21-diffbir", "BASELINES": home / "weights" / "baselines", **SMALLER}
    if "params/full_published_code.yaml" in words:
        smaller["BASELINES"] = home / "baselines"  # this run has both baselines
    if "ALIGNER" in words:
        smaller |= {
            "ALIGNER": "people",
            "SCORER": "people",
        }  # the shipped pack, which knows the faces of these photographs
    typed = [["-p", name, str(value)] for name, value in smaller.items() if name in parameters.declared(notebook)]
    words = [here(word, home) if not word.startswith("params/") else str(paths.ROOT / word) for word in words] + sum(
        typed, []
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(home / "site"))  # where a stand-in of spandrel lies
        assert runner.main(words) == 0
    given = runner._arguments(words)
    folder = folders.folder_of(notebook.stem, parameters.resolve(notebook, given.file, given.parameter))
    return SimpleNamespace(
        folder=folder, text=(folder / notebook.name).read_text(), **json.loads((folder / "record.json").read_text())
    )


def test_every_command_of_readme_runs_at_reduced_width(done):
    names = [
        "00_start_here",
        "04_dual_pivot_ablation",
        *["00_start_here"] * 3,
        "01_degradation_synthesis",
        "02_blind_restoration",
        "22_cost_of_a_person",
    ]
    assert [one.notebook for one in done] == names


def test_the_system_was_written_with_the_hashes_of_its_files(done, home):
    B = system.load(home / "weights" / "sd21-diffbir")
    assert (B.size, B.fold, B.tokenizer.model_max_length) == (SIZE, 1, 77)
    facts = {file["file"]: file["sha256"] for source in B.provenance["sources"] for file in source["files"]}
    assert weight_files.sha256(home / "weights" / "v1_face.pth") in facts.values() and len(facts) > 5


def test_both_pivots_are_tuned_restored_and_measured(done, home):
    one, B = done[0], system.load(home / "weights" / "sd21-diffbir")
    B_p, facts = personal_weights.load(one.folder / "pivot", B)
    assert facts["changed"] == ["G", "E"] and facts["prompt"] == "a photo of a sks woman" and facts["gamma"] == 0.5
    assert not tiny_system.same(B_p.G.state_dict(), B.G.state_dict()) and not tiny_system.same(
        B_p.E.state_dict(), B.E.state_dict()
    )
    assert len(list((one.folder / "restored").glob("*.png"))) == 4
    assert {(row["arm"], row["metric"]) for row in one.metrics} == {
        (a, m) for a in ("input", "blind", "dual pivot") for m in headline.headline_metrics(SIZE)[0]
    }
    assert all(np.isfinite(row["value"]) for row in one.metrics) and "people-p" not in {
        row["metric"] for row in one.metrics
    }
    assert one.parameters["LEVERS"] == "bf16 channels_last" and one.parameters["RECIPE"] == "codeformer"


def test_why_there_is_no_perceptual_metric_is_said(done):
    absent = headline.headline_metrics(SIZE)[1]
    assert not absent or all("no perceptual metric: people-p reads 128 px, not 64" in one.text for one in done[:4])


def test_absent_baselines_say_so_in_the_tables(done):
    for one in done[:2] + done[3:5]:
        for file, size, place in baselines.PUBLISHED.values():
            assert f"{file} ({size}, {place})" in one.text and "absent: see above" in one.text
        assert not {row["arm"] for row in one.metrics} & set(baselines.PUBLISHED)


def test_baselines_that_are_here_are_restored_measured_and_recorded(done, home):
    one, (file, *_) = done[2], baselines.PUBLISHED["GFPGAN"]
    assert {row["arm"] for row in one.metrics} == {"input", "blind", *baselines.PUBLISHED, "swap + model pivot"}
    assert one.loaded["GFPGAN"] == weight_files.sha256(home / "baselines" / file)
    given, made = (
        load_picture(folder / name)
        for folder, name in ((home / "somebody" / "inputs", "0.png"), (one.folder / "restored", "0-GFPGAN.png"))
    )
    assert np.abs(made[:, ::-1].astype(int) - given).max() <= 1  # the stand-in mirrors what it is given


def test_what_was_loaded_is_in_the_record(done, home):
    B = system.load(home / "weights" / "sd21-diffbir")
    assert all(one.loaded["system"] == B.fingerprint() for one in (*done[:5], done[6]))


def test_blind_restoration_of_a_real_person_is_measured_on_her_references(done):
    assert {row["person"] for row in done[6].metrics} == {
        f"reference {n}" for n in (1, 2, 3)
    } and "3 references of somebody" in done[6].text


def test_several_people_are_served_in_one_batch(done, home):
    block = re.search(
        r"<!-- serve -->\n```python\n(.*?)```\n<!-- /serve -->", (paths.ROOT / "README.md").read_text(), re.S
    ).group(1)
    for theirs, ours in {"cuda": "cpu", "weights/": f"{home}/weights/", "path/to/somebody": f"{home}/somebody"}.items():
        block = block.replace(theirs, ours)
    block = re.sub(r"runs/00_start_here/\w+-\w+/pivot", str(done[3].folder / "pivot"), block)
    exec(block, scope := {})
    assert scope["restored"].shape == (2, 3, SIZE, SIZE)


def test_the_person_is_laid_back_into_a_photograph_and_others_are_restored_blind(done, home):
    made = load_picture(done[4].folder / "restored" / "party-whole.png").astype(int)
    given = load_picture(home / "photographs" / "inputs" / "party.png").astype(int)
    changed = np.abs(made - given).max(2)[70:190]
    assert made.shape == given.shape and done[4].parameters["OTHERS"] == "blind"
    assert (
        (changed[:, 60:180] > 0).mean() > 0.9 and (changed[:, 300:420] > 0).mean() > 0.9 and not changed[:, :20].any()
    )


def test_the_six_arms_run(done):
    assert {row["arm"] for row in done[1].metrics} == {"input", *arms.ARMS}


def test_the_published_code_s_choices_are_those_that_were_run(done, home):
    one, E = done[2], system.load(home / "weights" / "sd21-diffbir").E
    assert (one.parameters["GAMMA"], one.parameters["TEXTUAL_RATE"]) == (0.0, 1e-6)
    changed = set(load_file(one.folder / "pivot" / "control.safetensors"))
    assert changed and changed <= pivots.published_tensors(E) < {name for name, _ in E.named_parameters()}


def test_the_route_for_small_cards_makes_adapters_that_peft_opens(done, home):
    folder = done[3].folder / "pivot"
    assert (folder / "unet" / "adapter_model.safetensors").is_file() and (
        folder / "control" / "adapter_config.json"
    ).is_file()
    assert sum(file.stat().st_size for file in folder.rglob("*")) < sum(
        file.stat().st_size for file in (done[0].folder / "pivot").rglob("*")
    )
    assert personal_weights.load(folder, system.load(home / "weights" / "sd21-diffbir"))[1]["changed"] == ["G", "E"]


def test_the_paper_s_settings_are_in_the_file():
    notebook = parameters.find("00_start_here")
    found = parameters.from_file(paths.PARAMS / "full.yaml", notebook)
    wanted = dict(
        TEXTUAL_STEPS=2500,
        TEXTUAL_RATE=8e-6,
        MODEL_STEPS=800,
        MODEL_RATE=5e-5,
        BATCH=1,
        GAMMA=0.5,
        GUIDANCE=1.0,
        SAMPLING_STEPS=50,
        DEVICE="cuda",
        SYSTEM="weights/sd21-diffbir",
    )
    assert wanted.items() <= found.items() and found["PRIOR"] > 0
    assert found == parameters.from_file(paths.PARAMS / "full.yaml", parameters.find("04_dual_pivot_ablation"))
    assert not found.get("LORA") and parameters.from_file(paths.PARAMS / "full_adapters.yaml", notebook)["LORA"] == 3


def test_adapters_of_one_person_are_at_most_ten_megabytes():
    B = cost_counted.full_size()
    kept = sum(
        2 * p.numel()
        for network in (B.G, B.E)
        for p in pivots.tunable(network, Tuning(lora=3)).parameters()
        if p.requires_grad
    )
    assert 8e6 < kept < 1e7


# ---- what full size asks of the library ----


def test_levers_by_name():
    assert precision.parse("") == precision.Precision() and precision.parse(
        "bf16 channels_last"
    ) == precision.Precision(bf16=True, channels_last=True)
    with pytest.raises(RangeError, match="'fp16'.*bf16, checkpointing, channels_last, compile"):
        precision.parse("bf16 fp16")
    with pytest.raises(RangeError, match="Remedy"):
        parameters.resolve(parameters.find("00_start_here"), typed=[("LEVERS", "fast")])


def test_other_systems_networks_wait_on_the_cpu():
    went = []
    part = lambda name: SimpleNamespace(device="cuda", to=lambda where: went.append((name, where)))  # noqa: E731
    shared = part("shared")
    B, other = (
        SimpleNamespace(device=SimpleNamespace(type="cuda"), G=part(name), E=shared) for name in ("own", "other")
    )
    precision.move_to_device(B, [B, other, other])
    assert went == [("other", "cpu")] * 2 + [("own", B.device), ("shared", B.device)]
    went.clear()
    precision.move_to_device(other, [B])
    assert went == [("own", "cpu"), ("other", other.device), ("shared", other.device)]
    B.device.type = "cpu"
    precision.move_to_device(B, [other])
    assert len(went) == 3


def test_lpips_takes_the_place_of_people_p_where_it_can_be_had(monkeypatch):
    x, y = tiny_system.pictures(2, 1), tiny_system.pictures(2, 2)
    monkeypatch.setattr(pyiqa_metrics, "check_available", lambda name: None)
    monkeypatch.setattr(pyiqa_metrics, "score", lambda name, a, b: (a - b).abs().mean((1, 2, 3)))
    headline.headline_metrics.cache_clear()
    try:
        found = headline.headline_values(x, y)
        assert list(found) == ["psnr", "lpips", "identity"] and torch.equal(
            found["lpips"], (x - y).abs().mean((1, 2, 3))
        )
        assert headline.labels(size=SIZE)["lpips"] == "LPIPS" and headline.labels() == headline.LABEL
    finally:
        headline.headline_metrics.cache_clear()


def test_without_lpips_there_is_no_perceptual_column_but_a_reason(monkeypatch):
    def absent(name):
        raise WeightsError(f"{name} is not here. Remedy: fetch it.")

    monkeypatch.setattr(pyiqa_metrics, "check_available", absent)
    headline.headline_metrics.cache_clear()
    try:
        assert headline.headline_metrics(512) == (
            ("psnr", "identity"),
            "no perceptual metric: people-p reads 128 px, not 512; lpips is not here. Remedy: fetch it.",
        )
        assert headline.headline_metrics(128) == (headline.HEADLINE, "")
    finally:
        headline.headline_metrics.cache_clear()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("there, left", [(("psnr", "identity"), 9), (("psnr", "lpips", "identity"), 12)])
def test_statements_are_held_against_the_metrics_that_there_are(there, left):
    import pandas as pd

    rows = [
        dict(person=p, arm=arm, shot=0, seed=0, metric=m, value=float(len(arm) * p))
        for p in (1, 2)
        for arm in ("input", *arms.ARMS)
        for m in there
    ]
    found = statistics.verdicts(pd.DataFrame(rows))
    assert len(found) == left and ("lpips" in there) == found.measured.str.startswith("lpips").any()
    assert list(statistics.summary(pd.DataFrame(rows)).columns[::4])[0] in there


def test_class_pictures_of_a_real_person_are_g_s_own():
    B = tiny_system.build()
    made = generate(B, "a photo of a person", [0, 1, 2], steps=3, batch=2)
    assert made.shape == (3, 3, SIZE, SIZE) and made.abs().max() <= 1 and not torch.equal(made[0], made[1])
    assert torch.allclose(made[2], generate(B, "a photo of a person", [2], steps=3)[0], atol=1e-4)
    assert not torch.allclose(made[0], generate(B, "a drawing", [0], steps=3)[0], atol=1e-4)


def test_many_pictures_are_encoded_in_parts(monkeypatch):
    B = tiny_system.build()
    whole = pivots.prepare(B, tiny_system.pictures(5), degradations=2)
    monkeypatch.setattr(system, "AT_ONCE", 2 * SIZE * SIZE)
    parts = pivots.prepare(B, tiny_system.pictures(5), degradations=2)
    assert torch.allclose(whole.latents, parts.latents, atol=1e-5) and torch.allclose(
        whole.hints, parts.hints, atol=1e-5
    )


def test_a_plan_for_a_part_of_e_that_there_is_not():
    with pytest.raises(PersonalWeightsError, match="no such part"):
        arms.Plan(trained="half")
    with pytest.raises(PersonalWeightsError, match="lora 4"):
        arms.Plan(trained="repo150", model=Tuning(lora=4))
    with pytest.raises(RangeError, match="arm out of range: 'triple'.*blind"):
        arms.tune_arms(None, None, arms.Plan(), ("triple",))


# ---- what it costs ----


def test_full_size_is_that_of_the_published_layouts():
    B = cost_counted.full_size()
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in B.modules().items()}
    assert counts == {
        "unet": 865_910_724,
        "control": 363_153_280,
        "cleaner": 15_792_587,
        "vae": 83_653_863,
        "text_encoder": 340_387_840,
    }
    assert (B.size, B.fold) == (512, 1)


def test_what_a_multiply_add_counts_and_what_is_kept(monkeypatch):
    layer, x = torch.nn.Linear(8, 4), torch.zeros(2, 8)
    assert cost_counted._counted(lambda: layer(x)) * 1e12 == 2 * 2 * 8 * 4
    B = tiny_system.build()
    tuned = cost_counted.tuned(B, "G")
    assert 0 < cost_counted._kept(tuned.with_(G=cost_counted._checkpointed(tuned.G))) < cost_counted._kept(tuned)


def test_random_weights_of_full_size_run_where_there_is_storage(monkeypatch):
    monkeypatch.setattr(
        cost_counted,
        "UNET",
        dict(
            cost_counted.UNET,
            block_out_channels=(32, 64),
            cross_attention_dim=32,
            attention_head_dim=2,
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
    )
    monkeypatch.setattr(cost_counted, "VAE", dict(cost_counted.VAE, sample_size=SIZE, block_out_channels=(32,) * 4))
    monkeypatch.setattr(
        cost_counted,
        "TEXT",
        dict(
            cost_counted.TEXT,
            vocab_size=1000,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
    )
    monkeypatch.setattr(cost_counted, "SwinIR", lambda: tiny_system.build().cleaner)
    B = cost_counted.full_size("cpu")
    assert isinstance(B.G, UNet2DConditionModel) and isinstance(B.vae, AutoencoderKL) and B.size == SIZE
    table = cost_timed.timed(
        B, tiny_system.pictures(3), {"ours": {}, "LoRA": {"lora": 2}}, Tuning(steps=1, batch=1), 1, "E"
    )
    assert (
        list(table.index) == ["plain loop", "ours", "LoRA"]
        and table.loc["plain loop", "plain loop / this"] == 1
        and bool((table > 0).to_numpy().all())
    )
    assert list(cost_timed.restoring(B, tiny_system.pictures(1), 2, (1, 2)).index) == [
        "1 at once",
        "2 at once",
        "1 at once, bf16",
        "2 at once, bf16",
    ]


def test_the_plain_loop_takes_the_same_step():
    """Its loss is that of the loop it is compared with, where neither noise of the autoencoder nor a draw differs."""
    B, x = tiny_system.build(), tiny_system.pictures(1)
    B.vae.quant_conv.weight.data[4:], B.vae.quant_conv.bias.data[4:] = (
        0,
        -30,
    )  # a posterior without spread: its sample is its mode
    shots, prompt = pivots.Prepared(B.encode(x), B.encode(B.clean(x))[:, None]), pivots.pivot_prompt()
    null, text = B.embed(["", prompt]).split(1)
    x0, hint = shots.draw(1, g := torch.Generator().manual_seed(3))
    assert torch.equal(hint[0], shots.hints[0, 0]) and x0.shape == (1, 4, 8, 8)
    loss = cost_timed._plain_loss(B, x, x, prompt, Tuning(batch=1), torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    torch.randint(1, (1,), generator=g), torch.randn(x0.shape, generator=g)  # which picture; the posterior's draw
    eps, t = torch.randn(x0.shape, generator=g), torch.randint(1000, (1,), generator=g)
    ours = torch.nn.functional.mse_loss(B.predict(B.scheduler.add_noise(x0, eps, t), t, text, hint, null), eps)
    assert torch.allclose(loss, ours, atol=1e-4)


def test_rows_of_a_record_part_by_part():
    rows = [
        dict(card="cpu", part="textual step", way="ours", seconds=2.0),
        dict(card="cpu", part="restoration", way="1 at once", peak=3.0),
    ]
    assert cost_timed.part_of(rows, "textual step").to_dict("index") == {"ours": {"seconds": 2.0}}


def test_class_pictures_are_imagined_once_for_a_class(monkeypatch, tmp_path):
    B, asked, real = tiny_system.build(), [], arms.imagine
    monkeypatch.setattr(paths, "RUNS", tmp_path)

    def counted(B, prompt, seeds, *args, **options):
        asked.extend(seeds)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return real(B, prompt, seeds, *args, **options)

    monkeypatch.setattr(arms, "imagine", counted)
    plan = arms.Plan(prior=7, steps=3, textual=Tuning(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        asked.append(-1)
        person.imagined(B, "a photo of a man", plan)
    made = person.imagined(B, "a photo of a man", plan)
    assert made.shape == (7, 3, SIZE, SIZE) and asked == [
        -1,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        4,
        5,
        6,
    ]  # what was done before the interruption is kept
    assert torch.equal(made, person.imagined(B, "a photo of a man", plan)) and len(asked) == 11
    person.imagined(B, "a photo of a woman", plan)
    person.imagined(B.with_(G=tiny_system.build(seed=1).G), "a photo of a man", plan)
    assert len(asked) == 11 + 2 * 7  # another class, another G


def test_bf16_restores_the_same_picture_but_for_rounding():
    from lib.restoration.sampling import restore

    B, x = tiny_system.build(), tiny_system.pictures(2, 1)
    plain, rounded = (restore(B, x, seeds=[0, 1], steps=4, levers=precision.parse(words)) for words in ("", "bf16"))
    assert rounded.dtype == torch.float32 and 0 < (plain - rounded).abs().mean() < 0.02
