"""The plan: runs counted once, operations of known networks, expected time, and every scale of config/."""

import json
import math
import re
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emmeter.data import datasets
from emmeter.diffusion import operations, sampling
from emmeter.diffusion.unet import UNet
from emmeter.errors import SettingsError
from emmeter.files import checksums, layout, writing
from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.search import ladder, replay
from emmeter.pipeline import calibration, compiling
from emmeter.pipeline import plan as module
from emmeter.pipeline.calibration import calibrate, jobs_at_once, rates
from emmeter.pipeline.costs import OFF, PER_RUN, Assumed, Cost, Costs, Speed, expected_emm
from emmeter.pipeline.index import Index, index_of
from emmeter.pipeline.plan import PER_WORKFLOW, Planned, amount, duration, plan, show, span, text
from emmeter.settings import keys
from emmeter.settings.configuration import load, read
from emmeter.settings.sections import Execution, Setup
from emmeter.settings.studies import Settings
from emmeter.settings.validation import read_setup
from emmeter.training.trainer import Trainer
from one_run import call

ROOT = Path(__file__).parents[2]
FIT = yaml.safe_load((ROOT / "config.yaml").read_text()).get("fit")
OTHERS = {"studies.yaml", "own_images.yaml", Path(str(FIT)).name}  # of which the second needs images
OVERLAYS = [path for path in sorted((ROOT / "config").glob("*.yaml")) if path.name not in OTHERS]

BASE: dict[str, Any] = {
    "data": {"source": "digits", "held_out": 0},
    "network": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4]},
    "training": {"duration": "1000 images", "batch_size": 32, "snapshots": [0.5, 1.0]},
    "sampling": {"images": 40, "steps": 5},
    "search": {"n_min": 10, "n_max": 640, "start": 40},
}


def configuration(studies: dict[str, dict[str, dict[str, Any]]], **sections: Any) -> Settings:
    return read(BASE | sections | {"studies": {name: {"arms": arms} for name, arms in studies.items()}})


def planned(settings: Settings) -> list[Planned]:
    return plan(settings, index_of(settings, Path("results")))


def images(study: Planned) -> int:
    return sum(cost.images for cost in study.new.values())


# Runs


def test_runs_that_studies_share_are_counted_once():
    arms = {"plain": {}, "wide": {"network.channels": 16}}
    first, second, third = planned(
        configuration({"one": arms, "two": arms, "three": {"wide": arms["wide"], "far": {"seed": 1}}})
    )
    assert first.runs == len(first.new) > 8  # two searches of four confirming runs and more
    assert (second.arms, second.runs, second.new) == (2, first.runs, {})
    assert (third.runs, len(third.new)) == (first.runs, first.runs // 2)


def test_arms_of_one_study_share_their_runs_too():
    (study,) = planned(configuration({"one": {"plain": {}, "again": {"search.slope": 2.5}}}))
    (alone,) = planned(configuration({"one": {"plain": {}}}))
    assert (study.arms, study.new) == (2, alone.new)


def test_arms_that_differ_in_sampling_train_once_and_sample_each():
    (alone,) = planned(configuration({"one": {"plain": {}}}))
    both, later = planned(
        configuration({"one": {"plain": {}, "steps": {"sampling.steps": 10}}, "two": {"more": {"sampling.steps": 18}}})
    )
    assert images(both) == images(alone) > 0
    assert images(later) == 0
    sampling = [sum(cost.sample_flops for cost in study.new.values()) for study in (alone, both, later)]
    assert sampling == [sampling[0], sampling[0] * (9 + 19) // 9, sampling[0] * 35 // 9]
    disk = [sum(cost.disk for cost in study.new.values()) for study in (alone, later)]
    assert disk[1] < disk[0]  # no weights again


def test_arms_that_differ_in_scoring_share_everything():
    (study,) = planned(configuration({"one": {"plain": {}, "loose": {"scoring.threshold": 0.5}}}))
    (alone,) = planned(configuration({"one": {"plain": {}}}))
    assert study.new == alone.new


def test_optimum_costs_no_training():
    (study,) = planned(configuration({"one": {"optimum": {"diffusion.denoiser": "optimum"}}}))
    assert study.runs > 0
    assert {(cost.images, cost.train_flops, cost.sample_flops) for cost in study.new.values()} == {(0, 0, 0)}
    assert all(cost.disk > 0 for cost in study.new.values())
    assert max(run.n for _, run in study.new) == 640  # the optimum memorizes at every size


def test_grid_asks_for_every_size_and_replicate():
    search = {"rule": "grid", "grid": [20, 50, 100], "replicates": 2}
    (study,) = planned(configuration({"one": {"plain": {}}}, search=search))
    assert sorted(run for _, run in study.new) == [RunId(n, r) for n in (20, 50, 100) for r in (0, 1)]
    assert [len(chain) for chain in study.longest] == [1]  # all at once


@pytest.mark.parametrize("confirm", [0, 4])
def test_a_search_waits_for_its_locating_runs_and_one_that_confirms(confirm):
    (study,) = planned(configuration({"one": {"plain": {}}}, search=BASE["search"] | {"confirm": confirm}))
    assert [len(chain) for chain in study.longest] == [study.runs - confirm + (confirm > 0)]


# Costs


def index_for(run: dict[str, Any]) -> tuple[Index, Setup]:
    settings = configuration({"one": {"plain": {}}}, **run)
    return index_of(settings, Path("results")), settings.studies[0].arms[0].setup


@pytest.mark.parametrize(
    ("training", "n", "seen", "snapshots"),
    [
        ({"duration": "1000 images", "batch_size": 32, "snapshots": [0.5, 1.0]}, 50, 1024, 2),  # whole batches
        ({"duration": "30 epochs", "batch_size": 50, "snapshots": [1.0]}, 100, 3000, 1),
        ({"duration": "30 epochs", "batch_size": 50, "snapshots": [1.0], "ema_decays": [0.9, 0.5]}, 200, 6000, 1),
    ],
)
@pytest.mark.parametrize("network", [BASE["network"], {"channels": 16, "multipliers": [2], "blocks": 2, "dropout": 0}])
def test_costs_of_a_known_network(training, n, seen, snapshots, network):
    index, setup = index_for(
        {"training": training, "network": network | {"attention": [4] if "blocks" not in network else []}}
    )
    cost, forward = Costs(index).run(setup, n), operations.planned(setup.network, (1, 8, 8))[0]
    assert (cost.images, cost.train_flops) == (seen, 3 * forward * seen)
    assert cost.sample_flops == forward * (2 * 5 - 1) * 40 * snapshots
    parameters = sum(p.numel() for p in UNet(setup.network, 8, 1).parameters())
    weights = 4 * parameters * snapshots * len(setup.training.ema_decays)
    per_image = 64 + 10 * 12 + 4  # pixels, ten neighbours, one count of copies
    assert cost.disk == weights + 40 * snapshots * per_image + 2 * n * 64


@pytest.mark.parametrize(("guidance", "times"), [(0, 1), (1, 1), (3, 2)])
def test_guidance_doubles_the_cost_of_sampling_and_no_other(guidance, times):
    labelled = {"data": {"source": "digits", "labels": "true"}, "training": BASE["training"] | {"label_dropout": 0.1}}
    (index, plain), (other, guided) = (
        index_for(labelled | {"sampling": BASE["sampling"] | {"guidance": w}}) for w in (1, guidance)
    )
    cost, more = Costs(index).run(plain, 50), Costs(other).run(guided, 50)
    assert more.sample_flops == times * cost.sample_flops
    assert (more.train_flops, more.disk) == (cost.train_flops, cost.disk)
    assert compiling.evaluations(other, guided) == times * compiling.evaluations(index, plain)


def test_another_arms_training_is_free():
    index, run = index_for({})
    costs = Costs(index)
    cost, shared = costs.run(run, 50), costs.run(run, 50, trained=True)
    assert (shared.images, shared.train_flops, shared.sample_flops) == (0, 0, cost.sample_flops)
    assert 0 < shared.disk < cost.disk


def test_a_network_is_counted_once(monkeypatch):
    index, setup = index_for({})
    costs = Costs(index)
    first = costs.run(setup, 50)
    monkeypatch.setattr(operations, "planned", lambda *_: pytest.fail("counted again"))
    assert costs.run(setup.model_copy(update={"seed": 0}), 50) == first


# The assumed curve


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("slope", [1.5, 2.5])
def test_assumed_curve_falls_through_the_level_half_an_octave_above_the_start(epsilon, slope):
    setup = read_setup({"search": {"start": 1000, "epsilon": epsilon, "slope": slope}, "sampling": {"images": 10**6}})
    curve = Assumed(setup)
    assert OFF == 0.5
    assert curve.emm == pytest.approx(1000 * math.sqrt(2))
    assert curve[RunId(1414, 3)].ratio == pytest.approx(1 - epsilon, abs=2e-4)
    falls = [curve[RunId(n, 0)].logit - curve[RunId(2 * n, 1)].logit for n in (500, 1000, 2000)]
    assert falls == pytest.approx([slope] * 3, abs=0.01)
    assert logit(curve[RunId(707, 0)].ratio) == pytest.approx(logit(1 - epsilon) + slope, abs=0.01)


def test_assumed_optimum_memorizes_everything():
    curve = Assumed(read_setup({"diffusion": {"denoiser": "optimum"}, "sampling": {"images": 20}}))
    assert curve[RunId(50_000, 0)] == Count(20, 20)


@pytest.mark.parametrize("start", [100, 1000, 50_000])
@pytest.mark.parametrize("parallel", [1, 3])
def test_assumed_searches_end(start, parallel):
    setup = read_setup({"search": {"start": start, "parallel": parallel}})
    trail = replay(setup.search, ladder(setup.search, 1, 50_000), Assumed(setup))
    assert trail.finished
    assert trail.status == ("crossing" if start < 50_000 else "above")
    assert len(trail.runs) <= 4 + 3 * parallel


# Time

SPEED = Speed(train=1e9, sample=2e9, start=3.0, jobs=2)
costs = st.builds(
    Cost, st.just(0), st.integers(0, 10**12), st.integers(0, 10**12), st.just(0)
)  # images, operations of training and of sampling, bytes


@st.composite
def studies(draw):
    runs = draw(st.lists(costs, min_size=1, max_size=12))
    new = {("key", RunId(10, i)): cost for i, cost in enumerate(runs)}
    return Planned("study", 1, len(runs), new, [draw(st.lists(st.sampled_from(runs), max_size=4, unique=True))])


def test_seconds_of_a_run_by_hand():
    assert SPEED.seconds(Cost(100, 5 * 10**9, 4 * 10**9, 0)) == pytest.approx(3 + 5 + 3 + 2 + PER_RUN)
    assert SPEED.seconds(Cost(0, 0, 4 * 10**9, 0)) == pytest.approx(3 + 2 + PER_RUN)  # no training, no job for it


def test_quality_is_part_of_the_duration_until_it_has_been_measured(tmp_path):
    settings = configuration({"a": {"x": {}, "y": {"data.labels": "unique"}}, "b": {"x": {}}})
    index = index_of(settings, tmp_path / "results")
    first, second = plan(index.settings, index)
    assert first.quality > second.quality == 0  # the arm of the second study is one of the first
    measuring = Planned("a", 1, 0, {}, [], quality=8.0)
    assert duration([measuring], SPEED) == PER_WORKFLOW + 8.0 / SPEED.jobs
    for setup in (arm.setup for arm in index.settings.studies[0].arms):
        folder = layout.arm_folder(index.results, "quality", keys.key("quality", setup))
        folder.mkdir(parents=True)
        (folder / "quality.json").write_text("{}")
    assert [study.quality for study in plan(index.settings, index)] == [0, 0]
    off = configuration({"a": {"x": {}}}, quality={"enabled": False})
    assert planned(off)[0].quality == 0


def test_networks_for_quality_take_their_time(tmp_path):
    def quality(names):
        return planned(configuration({"a": {"x": {}}}, quality={"features": names}))[0].quality

    (tmp_path / "network.pt").touch()
    assert quality(["pixels", f"torchscript:{tmp_path}/network.pt"]) > quality(["pixels"]) + 1


def test_duration_by_hand():
    run = Cost(1, 10**9, 2 * 10**9, 0)
    assert SPEED.seconds(run) == pytest.approx(8 + PER_RUN)
    four = Planned("a", 1, 4, {("k", RunId(10, i)): run for i in range(4)}, [[run]])
    assert duration([four], SPEED) == pytest.approx(PER_WORKFLOW + 2 * (8 + PER_RUN))
    assert duration([four, Planned("b", 1, 3, {}, [[run] * 3])], SPEED) == pytest.approx(
        PER_WORKFLOW + 3 * (8 + PER_RUN)
    )
    assert duration([], SPEED) == PER_WORKFLOW


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(studies(), min_size=1, max_size=4), st.integers(1, 8))
def test_duration_is_bounded_by_chains_and_work_and_more_jobs_are_never_slower(plans, jobs):
    speed = Speed(1e9, 2e9, 3.0, jobs)
    seconds = duration(plans, speed)
    work = sum(speed.seconds(cost) for study in plans for cost in study.new.values())
    assert seconds - PER_WORKFLOW >= max(sum(map(speed.seconds, study.longest[0])) for study in plans) - 1e-6
    assert seconds - PER_WORKFLOW >= work / jobs - 1e-6
    assert duration(plans, Speed(1e9, 2e9, 3.0, jobs + 1)) <= seconds
    assert duration(plans, Speed(2e9, 4e9, 3.0, jobs)) <= seconds


@pytest.mark.parametrize(("cores", "threads", "expected"), [(8, 1, 8), (8, 3, 2), (1, 4, 1)])
def test_jobs_at_once(cores, threads, expected):
    assert jobs_at_once(cores, threads) == expected


def test_jobs_at_once_of_this_machine():
    assert jobs_at_once(None, 1) >= 1


# Text


def lines_of(shown: str) -> tuple[str, list[list[str]], str]:
    """Split a plan into its head, the cells of its table without the headings, and its assumptions."""
    head, table, rest = shown.split("\n\n")
    heading, *lines = ([cell for cell in re.split(r" {2,}", line) if cell] for line in table.splitlines())
    assert heading == ["study", "time", "arms", "runs", "done", "new runs", "images trained", "disk", "PFLOP"]
    return head, lines, rest


def test_text_has_one_row_per_study_and_their_total():
    plans = planned(configuration({"one": {"plain": {}}, "two": {"plain": {}, "wide": {"network.channels": 16}}}))
    head, cells, rest = lines_of(text(plans, SPEED))
    assert [line[0] for line in cells] == ["one", "two", "all"]
    assert [int(line[2]) for line in cells] == [1, 2, 3]
    new = [len(plans[0].new), len(plans[1].new), len(plans[0].new | plans[1].new)]
    assert [int(line[3]) for line in cells] == [plans[0].runs, plans[1].runs, new[2]]
    assert [int(line[4]) for line in cells] == [0, 0, 0]
    assert [int(line[5]) for line in cells] == new
    seen = [int(line[6].replace(",", "")) for line in cells]
    assert seen == [images(plans[0]), images(plans[1]), images(plans[0]) + images(plans[1])]
    assert cells[2][1] == span(duration(plans, SPEED))
    assert head == f"{new[2]} runs: about {span(duration(plans, SPEED))}"
    assert "2 jobs at once" in rest and "1 GFLOP/s in training and 2 in sampling" in rest


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (10, "10 seconds"), (89, "89 seconds"), (90, "1.5 minutes"), (138, "2.3 minutes"), (19.3 * 60, "19 minutes"),
        (90 * 60, "1.5 hours"), (47.4 * 3600, "47 hours"), (48 * 3600, "2 days"), (123 * 86400, "120 days"),
        (1234 * 365.25 * 86400, "1,200 years"),
    ],
)  # fmt: skip
def test_times_have_two_digits_and_their_usual_unit(seconds, expected):
    assert span(seconds) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 MB"), (26.4e6, "26 MB"), (1.81e9, "1.8 GB"), (130e9, "130 GB"), (1.8e12, "1.8 TB")]
)
def test_bytes_have_two_digits(size, expected):
    assert amount(size) == expected


# Finished runs


def write_score(folder: Path, setup: Setup, run: RunId, count: Count) -> None:
    """Write a score as its stage does, as far as the search reads it."""
    path = layout.run_folder(folder, "score", keys.key("score", setup), run.n, run.replicate) / "score.json"
    snapshots = [{"memorized": count.memorized, "images": count.images}]
    writing.write_json(path, {"snapshots": snapshots})
    checksums.record(path)


def test_what_is_done_is_counted_and_the_rest_follows_from_it(tmp_path, monkeypatch):
    """The runs show a curve whose EMM is three octaves above the assumed one."""
    monkeypatch.setattr(Costs, "network", lambda *_: (10**9, 10**6))
    studies = {"one": {"plain": {}}, "two": {"plain": {}, "wide": {"network.channels": 16}}}
    settings = configuration(studies, sampling={"images": 4000, "steps": 5})
    setup, index = settings.studies[0].arms[0].setup, index_of(settings, tmp_path)
    truth = Assumed(
        setup.model_copy(update={"search": setup.search.model_copy(update={"start": 8 * setup.search.start})})
    )
    sizes = index.sizes[keys.key("emm", setup)]
    path = replay(setup.search, sizes, truth).runs
    left = []
    for count, made in enumerate([None, *path]):
        if made is not None:
            write_score(tmp_path, setup, made, truth[made])
        first, second = plan(settings, index)
        assert (len(first.done), len(second.done)) == (count, count)
        assert (first.runs, second.arms) == (count + len(first.new), 2)
        assert len(first.longest[0]) <= len(first.new)
        left.append(len(first.new))
        expected = {run for _, run in first.new}
        assert not expected & set(path[:count])
        if count >= 3:  # then one run is near the line, and shows where it is
            assert expected == set(path[count:])
    assert left[-1] == 0 and left[0] > 0
    head, cells, _ = lines_of(text([first], SPEED))
    assert head == f"{len(path)} runs, {len(path)} already done: nothing is left to train or sample"
    assert cells[0][1] == "none"
    head, cells, _ = lines_of(text([first, second], SPEED))
    total = len(path) + len(second.new)
    assert head == f"{total} runs, {len(path)} already done: about {span(duration([first, second], SPEED))}"
    assert cells[2][3:6] == [str(total), str(len(path)), str(len(second.new))]


def test_a_finished_plan_calibrates_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "calibrate", lambda *_: pytest.fail("calibrated"))
    settings = configuration({"one": {"plain": {}}})
    setup, index = settings.studies[0].arms[0].setup, index_of(settings, tmp_path)
    for run in replay(setup.search, index.sizes[keys.key("emm", setup)], Assumed(setup)).runs:
        write_score(tmp_path, setup, run, Assumed(setup)[run])
    shown = show(settings, index)
    assert "already done: nothing is left" in shown
    assert "GFLOP/s" not in shown


def test_a_damaged_score_is_not_done(tmp_path):
    settings = configuration({"one": {"plain": {}}})
    setup, index = settings.studies[0].arms[0].setup, index_of(settings, tmp_path)
    first = replay(setup.search, index.sizes[keys.key("emm", setup)], Assumed(setup)).runs[0]
    write_score(tmp_path, setup, first, Assumed(setup)[first])
    assert len(plan(settings, index)[0].done) == 1
    path = layout.run_folder(tmp_path, "score", keys.key("score", setup), first.n, first.replicate) / "score.json"
    path.write_text(path.read_text() + " ")
    assert len(plan(settings, index)[0].done) == 0


def test_a_score_of_another_threshold_is_not_done_but_its_samples_are(tmp_path):
    other = {"loose": {"scoring.threshold": 0.5}}
    settings = configuration({"one": {"plain": {}}, "two": other})
    setup, index = settings.studies[0].arms[0].setup, index_of(settings, tmp_path)
    for run in replay(setup.search, index.sizes[keys.key("emm", setup)], Assumed(setup)).runs:
        write_score(tmp_path, setup, run, Assumed(setup)[run])
        for stage in ("train", "sample"):
            folder = layout.run_folder(tmp_path, stage, keys.key(stage, setup), run.n, run.replicate)
            writing.write_json(folder / layout.RECORDS[stage], {})
    first, second = plan(settings, index)
    assert not first.new and len(second.new) == len(first.done)
    assert {(cost.images, cost.train_flops, cost.sample_flops) for cost in second.new.values()} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("copies", "low", "high"),
    [
        ({}, 56, 57),
        ({20: 40}, 56, 57),  # far above the line, and expected there
        ({100: 40}, 141, 142),
        ({40: 0}, 28, 29),
        ({20: 40, 320: 0}, 79, 81),
        ({160: 36}, 150, 165),  # on the line
        ({160: 36, 20: 40}, 150, 165),
    ],
)
def test_the_expected_emm_follows_from_finished_runs(copies, low, high):
    counts = {RunId(n, 0): Count(memorized, 40) for n, memorized in copies.items()}
    setup = read_setup(BASE | {"search": BASE["search"] | {"start": 40}})
    assert low <= expected_emm(setup, counts) <= high


# Showing


def test_show_takes_the_throughput_it_is_given(monkeypatch, capsys):
    monkeypatch.setattr(module, "calibrate", lambda *_: pytest.fail("calibrated"))
    settings = configuration({"one": {"plain": {}}})
    shown = show(settings, index_of(settings, Path("results")), 4, 20)
    assert shown == text(planned(settings), Speed(20e9, 20e9, 3.0, 4))
    assert capsys.readouterr().err == ""


def test_a_calibration_is_announced_before_anything_is_counted(monkeypatch, capsys):
    def announced(*_: object) -> Speed:
        assert capsys.readouterr().err.count("about 10 seconds") == 1
        return SPEED

    monkeypatch.setattr(module, "plan", lambda *arguments: announced() and plan(*arguments))
    monkeypatch.setattr(module, "calibrate", lambda *_: SPEED)
    settings = configuration({"one": {"plain": {}}})
    show(settings, index_of(settings, Path("results")))


def test_a_calibration_on_gpus_runs_as_many_jobs_as_they_have_slots(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    calls = []
    monkeypatch.setattr(module, "calibrate", lambda *arguments: calls.append(arguments) or SPEED)
    chosen = configuration({"one": {"plain": {}}}, execution={"gpus": [4, 6], "jobs_per_gpu": 3})
    show(chosen, index_of(chosen, Path("results")), 16)
    show(chosen, index_of(chosen, Path("results")), 2)
    (_, device, threads, jobs, claim), (*_, fewer, _) = calls
    assert (device, threads.threads, jobs, fewer) == ("cuda", 1, 6, 2)
    assert claim[:3] == [sys.executable, "-m", "emmeter.machine.slots"]
    assert " ".join(claim[3:]) == "--devices 4,6 --jobs-per-gpu 3 --count 1 --"


def test_a_claim_stands_before_the_calibrating_command(monkeypatch, tmp_path):
    rates = '{"train": 4e9, "sample": 6e9, "start": 2.5, "packages": 0}'
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, f"echo '{rates}'"))
    claim = ["/bin/sh", "-c", f'echo "$2" "$3" >> {tmp_path}/calls; exec "$@"', "sh"]
    assert calibrate(Setup(), "cuda", Execution(), 2, claim) == Speed(4e9, 6e9, 2.5, 2)
    assert (tmp_path / "calls").read_text() == "-m emmeter.pipeline.plan\n" * 2


def test_the_command_plans_files_and_the_stage_json(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    # In an empty folder, because this project's own results count as done.
    assert call("emmeter.cli", "--results", str(tmp_path), "plan", "--throughput", "20", "--cores", "1") == 0
    out = capsys.readouterr().out
    head, cells, rest = lines_of(out.rstrip("\n"))
    assert head.endswith(" minutes") and (cells[0][0], cells[0][2]) == ("conditioning", "4")
    assert "1 jobs at once" in rest
    content = BASE | {"studies": {"one": {"arms": {"plain": {}}}}}
    monkeypatch.setattr(module, "calibrate", lambda *_: SPEED)
    assert call("emmeter.pipeline.plan", "--config", json.dumps(content)) == 0
    assert [line[0] for line in lines_of(capsys.readouterr().out.rstrip("\n"))[1]] == ["one", "all"]


# Every scale


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "default")
def test_every_selected_study_plans_at_every_scale(overlay, monkeypatch):
    """Counting a hundred networks takes a minute, so every network costs the same here."""
    monkeypatch.setattr(Costs, "network", lambda *_: (10**9, 10**6))
    settings = read(load([overlay] if overlay else [], ROOT))
    index = index_of(settings, Path("results"), data_needed=False)
    plans = plan(settings, index)
    assert [study.study for study in plans] == settings.selected
    assert not set(index.impossible) & set(settings.selected)
    assert all(study.arms > 0 and study.runs > 0 and len(study.longest) == study.arms for study in plans)
    assert len(lines_of(text(plans, SPEED))[1]) == len(plans) + 1
    assert math.isfinite(duration(plans, SPEED))


def test_scales_are_found():
    assert {"laptop", "paper"} <= {path.stem for path in OVERLAYS}


# Calibration


@pytest.fixture
def short(monkeypatch):
    """A calibration of a fifth of a second, which leaves torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(calibration, "CALIBRATION", 0.2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "data",
    [
        {"source": "digits", "held_out": 0},
        {"source": "digits", "held_out": 0, "classes": [0, 1, 2]},  # sizes are multiples of 3
        {"source": "digits", "held_out": 0, "classes": [3], "balanced": False},
    ],
    ids=str,
)
@pytest.mark.usefixtures("short")
def test_measure_gives_rates(data):
    began = time.time()
    measured = rates(read_setup(BASE | {"data": data}), "cpu", 1, began)
    assert set(measured) == {"start", "train", "sample", "packages"} and not measured["packages"]
    assert 0 <= measured["start"] <= time.time() - began
    assert measured["train"] > 0 and measured["sample"] > 0


def test_measure_divides_the_operations_of_its_work_by_its_time(monkeypatch):
    """On a clock where a training step takes two seconds and sampling four: 3 x 32 and 3 x 40 forward passes."""
    clock = [0.0]
    monkeypatch.setattr(calibration, "CALIBRATION", 100.0)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(time=time.time, perf_counter=lambda: clock[0]))
    monkeypatch.setattr(operations, "forward", lambda *_: 10**6)
    step, sample = Trainer.advance, sampling.generate

    def advance(trainer):
        clock[0] += 2
        return step(trainer)

    def generate(denoise, drawn, levels, batch, device):
        clock[0] += 4
        evaluations = []
        images = sample(lambda *x: evaluations.append(len(x[0])) or denoise(*x), drawn, levels, batch, device)
        assert sum(evaluations) == 3 * 40
        return images

    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(sampling, "generate", generate)
    measured = rates(read_setup(BASE), "cpu", 1, time.time())
    assert (measured["train"], measured["sample"]) == pytest.approx((96e6 / 2, 120e6 / 4))


@pytest.mark.usefixtures("short")
def test_a_step_that_takes_too_long_has_fewer_images(monkeypatch):
    """As of the paper's network on a CPU, where a step of 512 images takes minutes, and more memory than there is."""
    clock, step, batches = [0.0], Trainer.advance, []
    monkeypatch.setattr(calibration, "CALIBRATION", 10.0)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(time=time.time, perf_counter=lambda: clock[0]))
    monkeypatch.setattr(operations, "forward", lambda *_: 10**6)

    def advance(trainer):
        clock[0] += 0.5 * trainer.setup.training.batch_size  # 6e6 operations a second
        batches.append(trainer.setup.training.batch_size)
        return step(trainer)

    def generate(denoise, drawn, levels, batch, device):
        clock[0] += 0.25 * 3 * len(drawn.seeds)
        assert len(drawn.seeds) <= 4

    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(sampling, "generate", generate)
    content = BASE | {"training": BASE["training"] | {"batch_size": 512}}
    measured = rates(read_setup(content), "cpu", 1, time.time())
    assert (measured["train"], measured["sample"]) == pytest.approx((6e6, 4e6))
    assert max(batches) <= 5


NAMED = ("digits", "cifar10", "cifar100", "svhn", "mnist", "fashion_mnist")


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("more", [{}, {"mixture": "cifar10", "mixture_share": 0.2, "resolution": 8}])
@pytest.mark.usefixtures("short")
def test_named_data_are_not_read(monkeypatch, source, more):
    monkeypatch.setattr(datasets, "load", lambda *_: pytest.fail("read"))
    if more and source in ("digits", "mnist", "fashion_mnist"):
        more = more | {"mixture": "digits"}
    side = more.get("resolution", 8 if source == "digits" else 28 if "mnist" in source else 32)
    network = {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [side]}
    setup = read_setup(BASE | {"data": {"source": source, "root": "/nowhere", **more}, "network": network})
    assert rates(setup, "cpu", 1, time.time())["train"] > 0


@pytest.mark.parametrize("source", ["folder:nowhere", "npz:nowhere.npz"])
def test_own_images_that_are_not_there_are_one_line(monkeypatch, capsys, tmp_path, source):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(load(folder=ROOT) | {"fit": None}))
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump({"data": {"source": source}}))
    monkeypatch.chdir(tmp_path)
    assert call("emmeter.cli", "plan", "overlay.yaml") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: studies.conditioning.arms.unconditional and 3 more: ")
    assert f"data.source = '{source}': nowhere" in line


def test_the_paper_s_scale_is_planned_without_its_data(monkeypatch, tmp_path):
    """Counting a hundred networks takes a minute, so every network costs the same here."""
    monkeypatch.setattr(Costs, "network", lambda *_: (10**9, 10**6))
    calls = []
    monkeypatch.setattr(module, "calibrate", lambda run, *_: calls.append(run) or SPEED)
    settings = read(load([ROOT / "config/paper.yaml"], ROOT))
    assert "538 runs" in show(settings, index_of(settings, tmp_path, data_needed=False))
    assert calibration.made_up(calls[0]).images.shape[1:] == (3, 32, 32)


def test_a_base_that_does_not_fit_is_not_what_is_calibrated(tmp_path):
    arms = {"plain": {"data.source": "digits", "data.labels": "true"}}
    settings = configuration({"one": {"arm": arms["plain"]}}, data={"source": "folder:nowhere"})
    setup = calibration.calibrated(settings)
    assert setup is not None and (setup.data.source, setup.data.labels) == ("digits", "none")
    optimum = configuration({"one": {"arm": {"diffusion.denoiser": "optimum"}}}, diffusion={"denoiser": "optimum"})
    assert calibration.calibrated(optimum) is None
    assert "GFLOP/s" not in show(optimum, index_of(optimum, tmp_path))


def fake_python(folder: Path, body: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_calibrate_averages_its_processes(monkeypatch, tmp_path):
    rates = '{"train": 4e9, "sample": 6e9, "start": 2.5, "packages": 2}'
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, f"echo \"$@\" >> {tmp_path}/calls; echo '{rates}'"))
    assert calibrate(Setup(), "cpu", Execution(), 3) == Speed(4e9, 6e9, 2.5, 3, True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 3 and all(call.endswith("--batch 500") for call in calls)
    calibrate(Setup(), "cpu", Execution(compile="never"), 1)
    assert "--batch" not in (tmp_path / "calls").read_text().splitlines()[-1]


def test_a_failed_calibration_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, "exit 1"))
    with pytest.raises(SettingsError, match="--throughput"):
        calibrate(Setup(), "cpu", Execution(), 2)


@pytest.mark.usefixtures("short")
def test_the_calibrating_process_prints_its_rates(capsys):
    options = ["--calibrate", read_setup(BASE).model_dump_json(), "--device", "cpu", "--threads", "1"]
    assert call("emmeter.pipeline.plan", *options) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"start", "train", "sample", "packages"}


@pytest.mark.parametrize(("option", "value"), [("cores", 0), ("cores", -1), ("throughput", 0.0), ("throughput", -3.0)])
def test_amounts_that_make_no_sense_are_refused(option, value):
    settings = read(load(folder=ROOT))
    with pytest.raises(SettingsError, match=f"^--{option} {value:g}: must be positive$"):
        show(settings, index_of(settings, Path("results")), **{option: value})
