"""Verifying results: sound results pass, and each kind of change is reported in one line."""

import json
import shutil

import numpy as np
import pytest
import yaml

from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import ARM_STAGES, FILES, RECORDS, SETTINGS
from emmeter.files.npz import write_npz
from emmeter.measure import engines
from emmeter.pipeline.verify import outputs, verify
from one_run import CONTENT, Pipeline, call

DATA = {"data": {"source": "npz:own.npz", "held_out": 8, "balanced": False}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results of one run on own images."""
    folder = tmp_path_factory.mktemp("made")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.savez(folder / "own.npz", images=images)
        pipeline = Pipeline(folder / "results", CONTENT | DATA).complete()
    return folder, pipeline


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """A copy of these results, in a working folder of its own."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Pipeline(tmp_path / "copy" / "results", made[1].content)


def lines(pipeline, **options):
    return verify(pipeline.results, **options).mismatches


def one_line(pipeline, **options):
    (line,) = lines(pipeline, **options)
    assert "\n" not in line
    return line.replace(f"{pipeline.results}/", "")


def edit(path, change):
    """Change a JSON record in place, and its folder's list of checksums to fit."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    listed(path)


def listed(path):
    """Write the list of checksums of the present files."""
    checksums.record(*(entry for entry in path.parent.iterdir() if entry.name != checksums.NAME))


def test_sound_results_pass(own):
    verified = verify(own.results)
    assert verified.mismatches == []
    assert verified.counts == {
        "runs": 4,
        "searches": 1,
        "qualities": 1,
        "denoisings": 1,
        "files": 26,
        "scores": 1,
        "rescored": 1,
        "remeasured": 1,
    }
    assert "not checked" not in verified.summary()


def test_scores_that_do_not_name_their_engine_pass(own):
    """Scores of earlier versions."""
    assert json.loads(own.record("score").read_text())["engine"] == "pixels"
    edit(own.record("score"), lambda record: record.pop("engine"))
    assert lines(own) == []


@pytest.mark.parametrize("engine", [engines.FLOATS, engines.FAISS], ids=lambda engine: engine.name)
def test_scores_of_one_engine_pass_with_another(own, monkeypatch, engine):
    monkeypatch.setattr(engines, "engines", lambda *arguments: iter([engine]))
    verified = verify(own.results)
    assert verified.mismatches == [] and verified.counts["rescored"] == 1


def test_the_command_prints_one_summary_line(own, capsys):
    assert call("emmeter.cli", "verify", str(own.results)) == 0
    out = capsys.readouterr().out
    assert out.startswith("verified: 4 folders of runs, 1 searches, ") and out.count("\n") == 1


def test_the_command_ends_with_status_1_and_a_line_for_each_mismatch(own, capsys):
    own.file("train", "training.csv").write_text("x")
    own.file("score", "gallery.npz").write_bytes(b"x")
    assert call("emmeter.cli", "--results", str(own.results), "verify") == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in out] == ["is not the file that was written (SHA-256 differs)"] * 2


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(StageError, match="holds no runs"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize("stage", FILES)
def test_a_flipped_bit_in_any_file_is_found(own, stage):
    for name in (RECORDS[stage], *FILES[stage], SETTINGS):
        path = own.folder(stage) / name
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        assert any(line.startswith(f"{path}: ") for line in lines(own)), path
        path.write_bytes(content)
    assert lines(own) == []


@pytest.mark.parametrize("stage", FILES)
def test_a_truncated_file_is_found(own, stage):
    for name in (RECORDS[stage], *FILES[stage]):
        path = own.folder(stage) / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert any(line.startswith(f"{path}: ") for line in lines(own)), path
        path.write_bytes(content)


@pytest.mark.parametrize("stage", FILES)
def test_another_setting_is_found(own, stage):
    path = own.folder(stage) / SETTINGS
    settings = yaml.safe_load(path.read_text())
    settings["seed"] = 1
    path.write_text(yaml.safe_dump(settings))
    listed(path)
    line = one_line(own)
    assert line.startswith(f"{path.relative_to(own.results)}: the settings have the key ")
    assert f", not {path.parts[-2 if stage in ARM_STAGES else -4]} " in line


@pytest.mark.parametrize("text", ["seed: -1", "seed: [", "- 1", "colour: red", ""])
def test_settings_that_are_none_are_found(own, text):
    path = own.folder("sample") / SETTINGS
    path.write_text(text)
    listed(path)
    assert one_line(own).startswith(f"{path.relative_to(own.results)}: ")


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("subset", "seed", 3),
        ("train", "seed", 3),
        ("train", "n", 30),
        ("sample", "replicate", 1),
        ("sample", "seeds", [5, 28]),
        ("score", "key", "0123456789"),
        ("emm", "key", "0123456789"),
    ],
)
def test_a_record_of_another_run_is_found(own, stage, name, value):
    edit(own.record(stage), lambda record: record.update({name: value}))
    line = one_line(own)
    assert line.startswith(f"{own.record(stage).relative_to(own.results)}: {name} is {value!r}, not ")


@pytest.mark.parametrize("stage", FILES)
@pytest.mark.parametrize("name", ["versions", "commit", "hardware", "platform", "finished", "seconds"])
def test_an_incomplete_record_is_found(own, stage, name):
    edit(own.record(stage), lambda record: record.pop(name))
    assert one_line(own) == f"{own.record(stage).relative_to(own.results)}: lacks {name}"


@pytest.mark.parametrize("stage", FILES)
def test_a_missing_record_list_or_settings_is_found(own, stage):
    for name in (RECORDS[stage], checksums.NAME, SETTINGS):
        path = own.folder(stage) / name
        content = path.read_bytes()
        path.unlink()
        assert one_line(own).startswith(f"{path.relative_to(own.results)}: "), path
        path.write_bytes(content)


def test_a_file_left_out_of_the_list_is_found(own):
    path = own.folder("sample") / checksums.NAME
    kept = [line for line in path.read_text().splitlines() if "samples.npz" not in line]
    path.write_text("\n".join(kept) + "\n")
    assert one_line(own).endswith("samples.npz: is not among the files of SHA256SUMS")
    path.write_text("nonsense\n")
    assert one_line(own).startswith(f"{path.relative_to(own.results)}: is not a list of checksums")


def test_results_of_an_earlier_version_are_derived_again_too(own):
    for path in own.results.glob("**/SHA256SUMS"):
        path.unlink()
    verified = verify(own.results)
    assert len(verified.mismatches) == 7 and all("earlier version" in line for line in verified.mismatches)
    assert (verified.counts["scores"], verified.counts["rescored"]) == (1, 1)


def test_files_that_are_gone_are_counted(own):
    own.file("train").unlink()
    own.file("sample").unlink()
    verified = verify(own.results)
    assert verified.mismatches == []
    assert verified.counts["gone"] == 2 and verified.counts["rescored"] == 0
    assert "not checked: 2 files that are no longer there" in verified.summary()


def test_data_that_are_elsewhere_are_counted(own):
    (own.results.parent / "own.npz").unlink()
    verified = verify(own.results)
    assert verified.mismatches == []
    assert "1 subsets whose data are not here" in verified.summary()
    assert verified.counts["rescored"] == 1


def test_changed_data_are_found(own):
    file = own.results.parent / "own.npz"
    with np.load(file) as archive:
        images = archive["images"]
    images[30, 0, 0] ^= 1
    np.savez(file, images=images)
    assert lines(own, scores=0) == [
        f"data.source = 'npz:own.npz': has changed since {own.folder('subset')} was drawn from it"
    ]
    file.write_bytes(b"x")
    assert "damaged" in lines(own, scores=0)[0]


def test_inputs_that_are_not_those_of_the_run_are_found(own):
    path = own.file("sample")
    with np.load(path) as archive:
        content = dict(archive)
    content["images"] = content["images"][:, ::-1]
    write_npz(path, **content)
    listed(path)
    assert lines(own, scores=0) == [f"{own.record('score')}: was made from another {path}"]


# Changes that the checksums do not show, because they were made to fit


@pytest.mark.parametrize("name", ["memorized", "ratio", "mean_distance"])
def test_a_changed_count_does_not_follow_from_the_neighbours(own, name):
    edit(own.record("score"), lambda record: record["snapshots"][1].update({name: record["snapshots"][1][name] + 1}))
    assert "its counts do not follow from" in lines(own, scores=0)[0]


def refit(own, stage, name, change):
    """Change an array of a stage's file, and its checksum in every record."""
    path = own.file(stage)
    before = checksums.sha256(path)
    with np.load(path) as archive:
        content = dict(archive)
    content[name] = change(content[name].copy())
    write_npz(path, **content)
    after = checksums.sha256(path)
    for record in own.results.glob("*/*/*/*/*.json"):
        record.write_text(record.read_text().replace(before, after))
    for record in own.results.glob("*/*/*/*/*.json"):
        listed(record)


def test_changed_neighbours_do_not_follow_from_the_samples(own):
    def change(squared):
        squared[:, 0, 5] += 1  # beyond the neighbours that are counted
        return squared

    refit(own, "score", "squared", change)
    assert lines(own, scores=0) == []
    assert "does not follow from" in one_line(own, scores=1)


def test_changed_samples_do_not_give_the_neighbours(own):
    refit(own, "sample", "images", lambda images: images ^ 1)
    assert "does not follow from" in one_line(own)


def test_a_changed_subset_is_not_what_the_data_give(own):
    refit(own, "subset", "indices", lambda indices: indices[::-1])
    assert one_line(own).endswith("subset.npz: is not the subset that its settings draw")


@pytest.mark.parametrize("change", [{"status": "above"}, {"runs": []}, {"runs": 3}])
def test_a_changed_answer_does_not_follow_from_the_scores(own, change):
    edit(own.record("emm"), lambda record: record.update(change))
    assert one_line(own).startswith(f"{own.record('emm').relative_to(own.results)}: ")


def test_a_changed_table_of_quality_does_not_follow_from_the_samples(own):
    for name in FILES["quality"]:
        path = own.file("quality", name)
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join([header, *rows, *(rows or ["20,0,1,1,,1,1,1,640\n"])[:1]]))
        listed(path)
        assert one_line(own).endswith(f"{name}: does not follow from the samples of the arm's runs")
        path.write_text("".join([header, *rows]))
        listed(path)
    assert lines(own) == []


@pytest.mark.parametrize("stage", ["quality", "denoising"])
def test_measures_of_another_outcome_of_the_search_are_found(own, stage):
    edit(own.record(stage), lambda record: record["inputs"].update({"emm.json": "0" * 64}))
    assert one_line(own).endswith(f"was made from another {own.record('emm')}".replace(f"{own.results}/", ""))


def test_quality_whose_samples_are_gone_is_counted(own):
    own.file("sample").unlink()
    verified = verify(own.results)
    assert verified.mismatches == []
    assert "1 arms' quality whose samples, logs or networks are not here" in verified.summary()


def test_the_sample_of_scores_is_that_of_the_seed(own):
    second = Pipeline(own.results, own.content, replicate=1)
    for stage in ("subset", "train", "sample", "score"):
        assert second.call(stage) == 0
    folders = {output.folder for output in outputs(own.results)}
    assert second.folder("score") in folders and len(folders) == 11
    refit(second, "score", "squared", lambda squared: squared + np.arange(10) // 9)  # only of the last neighbour
    seen = {seed: lines(own, scores=1, seed=seed) for seed in range(8)}
    assert {len(mismatches) for mismatches in seen.values()} == {0, 1}
    assert all(lines(own, scores=1, seed=seed) == mismatches for seed, mismatches in seen.items())
    assert len(lines(own, scores=2)) == 1
