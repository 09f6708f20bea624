"""README says what the repository holds: its commands, its notebooks, and the recorded numbers."""
import re

import pandas as pd

from lib import paths, quality, record, results, show

README = (paths.ROOT / "README.md").read_text()


def test_every_notebook_is_on_the_map_and_every_link_leads_somewhere():
    links = set(re.findall(r"\]\(((?!http)[^)]+)\)", README))
    assert {f"notebooks/{path.name}" for path in paths.NOTEBOOKS.glob("*.ipynb")} <= links
    assert [link for link in links if not (paths.ROOT / link).exists()] == []


def test_every_command_exists():
    targets = re.findall(r"^([a-z]+):.*##", (paths.ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z]+)", README.replace("make, a package", ""))) <= set(targets)
    assert all((paths.ROOT / file).is_file() for file in re.findall(r"-f (params/\w+\.yaml)", README) if file != "params/FILE.yaml")


def test_the_table_is_that_of_the_recorded_study():
    table = re.search(r"<!-- study -->\n(.*?)\n<!-- /study -->", README, re.S).group(1)
    assert results.markdown(pd.DataFrame(record.read(paths.RESULTS / "03_study" / "record.json")["metrics"])) in table


def test_the_costs_are_those_of_the_recorded_run():
    costs = re.search(r"<!-- costs -->\n(.*?)\n<!-- /costs -->", README, re.S).group(1)
    assert costs == results.costs(record.read(paths.RESULTS / "00_start_here" / "record.json"))


def test_the_quality_is_the_recorded_one():
    table = re.search(r"<!-- quality -->\n(.*?)\n<!-- /quality -->", README, re.S).group(1)
    recorded = record.read(paths.RESULTS / "10_pretrain_tiny_system" / "record.json")["metrics"][0]
    assert table == show.markdown(quality.against_bars(recorded))


def test_torch_is_pinned_as_everywhere():
    pinned = re.search(r'"(torch==[^"]+)"', (paths.ROOT / "pyproject.toml").read_text()).group(1)
    assert set(re.findall(r"torch==[\d.]+", README)) == {pinned}
