"""README's "Full size", command by command, on weights of reduced width: convert, tune, restore, measure."""

import json
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import in_process
import numpy as np
import pytest
import tiny_system
import torch
from safetensors.torch import load_file
from test_convert import files, hub, originals  # noqa: F401 (fixtures)
from tiny_pack import write_recogniser

from lib import load_personal, load_system, paths
from lib.errors import WeightsError
from lib.metrics import headline, pyiqa_metrics
from lib.models import weight_files
from lib.people import procedural
from lib.people.picture_files import load_picture, save_picture
from lib.restoration import baselines
from lib.runs import folders, parameters, runner
from lib.studies import arms, cost_counted
from lib.training.trainer import Training
from lib.training.tunable import published_tensors, tunable

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
    "DEGRADATIONS": 2,
    "OPTIONS": '["bfloat16 channels_last"]',
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
        face, differences = tiny_system.pictures(1, 0, SIZE), tiny_system.pictures(shots, len(part), SIZE)
        for k, picture in enumerate(0.85 * face + 0.15 * differences):  # alike, as pictures of one person are
            save_picture(at / "somebody" / part / f"{k}.png", picture)
    card = {"name": "somebody", "class_noun": "woman", "real": True, "source": "drawn by a test", "terms": "CC0"}
    (at / "somebody" / "person.yaml").write_text(json.dumps(card))
    photographs_of(procedural.people_of("test", 2, start=40), at / "photographs", card | {"real": False})
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
    """Stands for `hf download OWNER/MODEL FILE --local-dir FOLDER`, which needs a network."""
    model, name, option, folder = words
    assert option == "--local-dir" and weight_files.PUBLISHED[name][1].endswith(f"/{model}")
    (home / folder).mkdir(exist_ok=True)
    (home / folder / name).write_bytes((files / name).read_bytes())


@pytest.fixture(scope="module")
def done(files, home):  # noqa: F811
    """Every command of README, in order: the folder, executed notebook and record of each run."""
    runs, environment = [], {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "hub"), "OMP_NUM_THREADS": "1"}
    for words in COMMANDS:
        if words[:2] == ["hf", "download"]:
            download(words[2:], files, home)
        elif words[:2] == ["python", "-c"]:  # likewise: the very line that a missing pack asks for
            assert (
                words[2] == "import insightface; insightface.app.FaceAnalysis('buffalo_l')"
                and words[2] in (paths.ROOT / "lib" / "people" / "insightface_packs.py").read_text()
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
            runs.append(executed(words[3:], home, in_kernel=not runs))
    return runs


def executed(words, home, in_kernel):
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
        if in_kernel:
            patch.setenv("PYTHONPATH", str(home / "site"))  # where a stand-in of spandrel lies
        else:
            patch.syspath_prepend(home / "site")
            patch.setattr(runner, "_papermill", in_process.papermill)
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
    B = load_system(home / "weights" / "sd21-diffbir")
    assert (B.size, B.fold, B.tokenizer.model_max_length) == (SIZE, 1, 77)
    facts = {file["file"]: file["sha256"] for source in B.provenance["sources"] for file in source["files"]}
    assert weight_files.sha256(home / "weights" / "v1_face.pth") in facts.values() and len(facts) > 5


def test_both_pivots_are_tuned_restored_and_measured(done, home):
    one, B = done[0], load_system(home / "weights" / "sd21-diffbir")
    B_p = load_personal(one.folder / "personal", B)
    assert B_p.personal.prompt == "a photo of a sks woman" and B_p.personal.gamma == 0.5
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
    assert one.parameters["PRECISION"] == "bfloat16" and one.parameters["RECIPE"] == "realesrgan"


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
    B = load_system(home / "weights" / "sd21-diffbir")
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
    block = re.sub(r"runs/00_start_here/\w+-\w+/personal", str(done[3].folder / "personal"), block)
    exec(block, scope := {})
    assert scope["restored"].shape == (2, 3, SIZE, SIZE)


def test_the_person_is_pasted_back_into_a_photograph_and_others_are_restored_blind(done, home):
    made = load_picture(done[4].folder / "restored" / "party-photograph.png").astype(int)
    given = load_picture(home / "photographs" / "inputs" / "party.png").astype(int)
    changed = np.abs(made - given).max(2)[70:190]
    assert made.shape == given.shape and done[4].parameters["OTHERS"] == "blind"
    assert (
        (changed[:, 60:180] > 0).mean() > 0.9 and (changed[:, 300:420] > 0).mean() > 0.9 and not changed[:, :20].any()
    )


def test_the_six_arms_run(done):
    assert {row["arm"] for row in done[1].metrics} == {"input", *arms.ARMS}


def test_the_published_code_s_choices_are_those_that_were_run(done, home):
    one, E = done[2], load_system(home / "weights" / "sd21-diffbir").E
    assert (one.parameters["GAMMA"], one.parameters["TEXTUAL_RATE"]) == (0.0, 1e-6)
    kept, base = load_file(one.folder / "personal" / "control.safetensors"), E.state_dict()
    changed = {name for name, tensor in kept.items() if not torch.equal(tensor, base[name])}
    assert changed and changed <= published_tensors(E) < {name for name, _ in E.named_parameters()}


def test_the_route_for_small_cards_makes_adapters_that_peft_opens(done, home):
    folder = done[3].folder / "personal"
    assert (folder / "unet" / "adapter_model.safetensors").is_file() and (
        folder / "control" / "adapter_config.json"
    ).is_file()
    assert sum(file.stat().st_size for file in folder.rglob("*")) < sum(
        file.stat().st_size for file in (done[0].folder / "personal").rglob("*")
    )
    assert json.loads((folder / "personal.json").read_text())["changed"] == ["G", "E"]


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
    assert found["RECIPE"] == "realesrgan" and found["DEGRADATIONS"] > 8  # eq. 9 twice, many draws (section V.A)
    assert found == parameters.from_file(paths.PARAMS / "full.yaml", parameters.find("04_dual_pivot_ablation"))
    assert not found.get("LORA") and parameters.from_file(paths.PARAMS / "full_adapters.yaml", notebook)["LORA"] == 3


def test_adapters_of_one_person_are_at_most_ten_megabytes():
    B = cost_counted.full_size()
    kept = sum(
        2 * p.numel()
        for network in (B.G, B.E)
        for p in tunable(network, Training(lora=3)).parameters()
        if p.requires_grad
    )
    assert 8e6 < kept < 1e7


# ---- metrics at other sizes than 128 px ----


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
