"""README says what the repository holds: its commands, its notebooks, and the recorded numbers."""

import json
import re

import pandas as pd

from lib import paths
from lib.runs import figures, record
from lib.studies import held_out_tables, one_step, photo_checks, release_checks, statistics
from lib.studies.arms import SWAP, SWAP_MODEL
from lib.user_study import reports

README = (paths.ROOT / "README.md").read_text()


def test_every_notebook_is_on_the_map_and_every_link_leads_somewhere():
    links = set(re.findall(r"\]\(((?!http)[^)]+)\)", README))
    assert {f"notebooks/{path.name}" for path in paths.NOTEBOOKS.glob("*.ipynb")} <= links
    assert [link for link in links if not (paths.ROOT / link).exists()] == []


def test_every_command_exists():
    targets = re.findall(r"^([a-z]+):.*##", (paths.ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z]+)", README.replace("make, a package", ""))) <= set(targets)
    assert all(
        (paths.ROOT / file).is_file()
        for file in re.findall(r"-f (params/\w+\.yaml)", README)
        if file != "params/FILE.yaml"
    )


def test_the_table_is_that_of_the_recorded_study():
    table = re.search(r"<!-- study -->\n(.*?)\n<!-- /study -->", README, re.S).group(1)
    assert (
        statistics.markdown(pd.DataFrame(record.read(paths.RESULTS / "04_study" / "record.json")["metrics"])) in table
    )


def test_the_costs_are_those_of_the_recorded_run():
    costs = re.search(r"<!-- costs -->\n(.*?)\n<!-- /costs -->", README, re.S).group(1)
    assert costs == statistics.costs(record.read(paths.RESULTS / "00_start_here" / "record.json"))


def test_the_costs_of_a_real_person_are_those_of_the_recorded_run():
    costs = re.search(r"<!-- photocosts -->\n(.*?)\n<!-- /photocosts -->", README, re.S).group(1)
    assert costs == statistics.costs(record.read(paths.RESULTS / "00_photo" / "record.json"))


def test_the_one_step_table_is_that_of_the_recorded_study():
    table = re.search(r"<!-- onestep -->\n(.*?)\n<!-- /onestep -->", README, re.S).group(1)
    recorded = record.read(paths.RESULTS / "06_one_step" / "record.json")["metrics"]
    assert table == figures.markdown(one_step.summary(recorded))


def test_the_gains_of_real_people_are_the_recorded_ones():
    block = re.search(r"<!-- photo -->\n(.*?)\n<!-- /photo -->", README, re.S).group(1)
    rows = record.read(paths.RESULTS / "13_held_out_photographs" / "record.json")["metrics"]
    assert figures.markdown(held_out_tables.headline(rows)) in block


def test_the_arms_on_real_people_and_the_autoencoders_limit_are_the_recorded_ones():
    block = re.search(r"<!-- photoarms -->\n(.*?)\n<!-- /photoarms -->", README, re.S).group(1)
    rows = record.read(paths.RESULTS / "13_held_out_photographs" / "record.json")["metrics"]
    assert block == figures.markdown(held_out_tables.by_arm(rows))
    limits = pd.DataFrame([row for row in rows if "what" in row and row["person"] == "obama"])
    good, kept = (limits[limits.what == what].groupby("scorer").value.mean() for what in ("photograph", "autoencoder"))
    words = " ".join(README.split())
    assert "have {:.2f} and {:.2f} to the mean of the others".format(*good) in words
    assert "and {:.2f} and {:.2f} after the autoencoder alone".format(*kept) in words


def test_what_readme_says_of_the_arms_and_of_longer_tuning_is_recorded():
    rows = record.read(paths.RESULTS / "13_held_out_photographs" / "record.json")["metrics"]
    people, words = held_out_tables.with_all_arms(rows), " ".join(README.split())
    arms = first_numbers(held_out_tables.by_arm(rows).filter(like="identity"))
    assert f"Tuning E alone gains at most {arms.xs('encoder-only', level='arm').max().max():.2f}" in words
    of_them = [row for row in rows if row["person"] in people]
    inside, around = (held_out_tables.summary(of_them, "dual pivot", arm).difference for arm in (SWAP, SWAP_MODEL))
    gains = first_numbers(inside.filter(like="identity ").to_frame())
    assert f"identity is {gains.min().min():.2f} to {gains.max().max():.2f} higher than with a G" in words
    lows = inside.filter(like="identity ").str.extract(r"\[([^,]+)")[0].astype(float)
    assert (lows > 0).sum() == 3 and "three of four intervals above zero" in words
    psnr = first_numbers(around.filter(like="psnr").to_frame())
    assert psnr.min().min() > 0.5 and "when E is tuned around the swapped G" in words.replace("When E", "when E")
    variants = held_out_tables.variants(rows).xs("3 times the steps", level="tuning").loc[people]
    more = first_numbers(variants.filter(like="identity"), r"\(([^ ]+)")
    assert f"raise identity by another {more.min().min():.3f} to {more.max().max():.3f} at about half a dB" in words
    assert first_numbers(variants[["PSNR (dB)"]], r"\(([^ ]+)").stack().between(-0.65, -0.45).all()


def first_numbers(table, pattern=r"^([^ ]+)"):
    """The first number of every cell, or the one that the pattern finds."""
    return table.apply(lambda column: column.str.extract(pattern)[0].astype(float))


def test_the_quality_of_the_photo_system_is_the_recorded_one():
    block = re.search(r"<!-- photoquality -->\n(.*?)\n<!-- /photoquality -->", README, re.S).group(1)
    rows = record.read(paths.RESULTS / "12_photo_system" / "record.json")["metrics"]
    assert figures.markdown(photo_checks.headline(rows)) in block


def test_the_quality_is_the_recorded_one():
    table = re.search(r"<!-- quality -->\n(.*?)\n<!-- /quality -->", README, re.S).group(1)
    recorded = record.read(paths.RESULTS / "10_pretrain_tiny_system" / "record.json")["metrics"][0]
    assert table == figures.markdown(release_checks.against_thresholds(recorded))


def test_the_user_studys_figures_are_the_recorded_ones():
    words = re.search(r"<!-- load -->(.*?)<!-- /load -->", README, re.S).group(1)
    (row,) = record.read(paths.RESULTS / "08_load" / "record.json")["metrics"]
    assert " ".join(words.split()) == reports.load_words(row)
    table = re.search(r"<!-- observers -->\n(.*?)\n<!-- /observers -->", README, re.S).group(1)
    simulated = record.read(paths.RESULTS / "08_user_study" / "record.json")["metrics"]
    assert table == figures.markdown(reports.promises(simulated))


def stored(start):
    """The numbers of each row of the table that notebook 22 stores in the cell that begins so: row name -> floats."""
    cells = json.loads((paths.NOTEBOOKS / "22_cost_of_a_person.ipynb").read_text())["cells"]
    cell = next(c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).startswith(start))
    lines = "".join(cell["outputs"][0]["data"]["text/plain"]).splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return {
        row[0]: [float(x.replace(",", "")) for x in " ".join(row[1:]).split()]
        for row in rows
        if re.search(r"\d$", row[-1]) and len(row) > 1
    }


def test_the_figures_of_the_full_size_are_those_that_notebook_22_counted():
    cells = ("memory = cost_counted.memory", "cost_counted.expected(", "disk = cost_counted")
    memory, arithmetic, disk = map(stored, cells)
    (_, bf16, checkpointing), adapters = memory["G, full weights"], memory["G, LoRA 3"][2]
    assert f"at most {bf16} GB (of the 25.8" in README
    assert f"{checkpointing} GB with `-p GRADIENT_CHECKPOINTING" in README
    assert f"; {adapters} GB with adapters of rank 3" in README
    tflop, seconds = (arithmetic["textual"][k] + arithmetic["model"][k] for k in (1, 2))
    assert f"are {tflop:.0f} TFLOP, {seconds:.0f} s of an H200" in README
    assert (
        f"doubles the textual step, {2 * arithmetic['textual'][1] + arithmetic['model'][1]:.0f} TFLOP in all" in README
    )
    assert f"class, are {arithmetic['class images'][1]:.0f} TFLOP" in README
    full, adapted = disk["full weights"][0], disk["LoRA 3"][0]
    assert f"and {adapted:.0f} MB a person instead of {full / 1000:.1f} GB" in README
    G, E = (disk[f"checkpoint of {one}, full weights"][0] / 1000 for one in ("G", "E"))
    assert f"checkpoints of {G:.1f} GB (G) and {E:.1f} GB (E)" in README  # each written beside the last one of its own
    assert f"leave {2 * G:.0f} GB\nof disk for notebook 00, {2 * G + 4 * E:.0f} GB for the six arms" in README


def test_torch_is_pinned_as_everywhere():
    pinned = re.search(r'"(torch==[^"]+)"', (paths.ROOT / "pyproject.toml").read_text()).group(1)
    assert set(re.findall(r"torch==[\d.]+", README)) == {pinned}
