"""Studies that fit every scale: relative values, skip masks, files laid over files, arms left out, claims as data."""

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from snakemake.utils import update_config

from emmeter.data import datasets, feasibility
from emmeter.errors import SettingsError
from emmeter.settings.configuration import FILES, files, load, read
from emmeter.settings.overrides import override
from emmeter.settings.sections import Setup
from emmeter.settings.sources import is_own, respelled
from emmeter.settings.studies import Settings
from emmeter.settings.types import Span
from emmeter.settings.validation import lookup, read_setup

ROOT = Path(__file__).parents[2]


def study(arms: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A configuration with one study, s, of these arms (`a` and `b`, both the base, where none are given)."""
    return {"studies": {"s": {"arms": arms or {"a": None, "b": None}, **keys}}}


def faults(content: Any) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read(content)
    return str(error.value).splitlines()


def value_of(base: dict[str, Any], **overrides: Any) -> Any:
    """The one overridden setting, resolved and validated; its dots are written as two underscores."""
    ((name, value),) = overrides.items()
    dotted = name.replace("__", ".")
    return lookup(read_setup(override(base, {dotted: value})), dotted)


# Relative values

RELATIVE: list[tuple[dict[str, Any], str, str, Any]] = [
    # whole numbers
    ({}, "network.channels", "times 3/2", 192),
    ({}, "network.channels", "times 0.5", 64),
    ({}, "network.channels", "times 1.25", 160),
    ({}, "network.blocks", "add 2", 4),
    ({}, "network.blocks", "add -1", 1),
    ({}, "network.blocks", "add 0", 2),
    ({"network": {"channels": "16"}}, "network.channels", "times 2", 32),  # a base value as text
    ({"network": None}, "network.blocks", "add 1", 3),  # a section whose lines are commented out
    ({"data": {"resolution": 32}}, "data.resolution", "times 1/4", 8),
    ({"seed": 3}, "seed", "add 4", 7),
    # others: as decimals, where 0.1 + 0.2 is 0.3
    ({}, "training.learning_rate", "times 5", 1e-3),
    ({}, "training.learning_rate", "times 1/3", 2e-4 / 3),
    ({"network": {"dropout": 0.1}}, "network.dropout", "add 0.2", 0.3),
    ({}, "diffusion.p_mean", "times 1/2", -0.6),
    ({}, "search.epsilon", "times 1/2", 0.05),
    # every element of a list
    ({"network": {"attention": [16, 8]}}, "network.attention", "times 1/2", [8, 4]),
    ({}, "network.multipliers", "add 1", [3, 3, 3]),
    ({"training": {"ema_decays": [0.9, 0.5]}}, "training.ema_decays", "times 1/2", [0.45, 0.25]),
    # spans keep their unit
    ({}, "training.duration", "times 3/2", "60000 epochs"),
    ({"training": {"duration": "14_400 images"}}, "training.duration", "times 1/3", "4800 images"),
    ({"training": {"lr_ramp": "2.5%"}}, "training.lr_ramp", "times 0.1", "0.25 %"),
    ({}, "training.ema_ramp", "times 0", "0 epochs"),
    # hints of the search are rounded
    ({}, "search.start", "times 1/3", 333),
    ({}, "search.start", "times 2/3", 667),
    ({}, "search.n_min", "add 0.9", 101),
    ({"search": {"grid": [10, 15]}}, "search.grid", "times 1/4", [2, 4]),
]


@pytest.mark.parametrize(("base", "key", "text", "expected"), RELATIVE, ids=[f"{k} {t}" for _, k, t, _ in RELATIVE])
def test_relative_values_compute_with_the_base(base, key, text, expected):
    before = copy.deepcopy(base)
    value = lookup(read_setup(override(base, {key: text})), key)
    assert value == expected
    assert type(value) is type(expected)
    assert base == before


@given(st.integers(1, 10**6), st.integers(1, 50), st.integers(1, 50))
def test_whole_numbers_come_out_whole_or_are_refused(size, over, under):
    text = f"times {over}/{under}"
    exact = Fraction(size * over, under)
    if exact.denominator == 1:
        assert value_of({"training": {"batch_size": size}}, training__batch_size=text) == exact
    else:
        with pytest.raises(SettingsError, match=f"training.batch_size = '{text}': gives .* from {size}, which is not"):
            value_of({"training": {"batch_size": size}}, training__batch_size=text)


@given(st.integers(100, 10**6), st.integers(1, 50), st.integers(1, 50))
def test_sizes_of_the_search_are_rounded_to_the_nearest(size, over, under):
    base = {"search": {"n_min": 2, "n_max": 10**9, "start": size}}
    value = value_of(base, search__start=f"times {over}/{under}")
    assert abs(value - Fraction(size * over, under)) <= Fraction(1, 2)


@given(
    st.decimals(0, 10**9, places=4),
    st.sampled_from(["images", "epochs", "%"]),
    st.integers(0, 1000),
    st.integers(1, 10**6),
)
def test_spans_are_multiplied_and_still_spans(amount, unit, over, under):
    span = Span.parse(
        value_of({"training": {"lr_ramp": f"{amount} {unit}"}}, training__lr_ramp=f"times {over}/{under}")
    )
    assert span.unit == unit
    assert span.amount == pytest.approx(float(Fraction(amount) * over / under), rel=1e-13)


@pytest.mark.parametrize("amount", [1e-7, 1e16, 123456.5])
def test_spans_of_any_size_are_read_again_from_their_text(amount):
    assert Span.parse(str(Span(amount, "images"))) == Span(amount, "images")


def test_relative_values_of_arms_start_from_the_base_of_their_study():
    content = study(
        {"x1": {}, "x3": {"training.learning_rate": "times 3", "network.blocks": "add 1"}},
        base={"training.learning_rate": "times 2", "network.blocks": "add 2"},
    )
    two, three = read(content | {"training": {"learning_rate": 1e-3}}).studies[0].arms
    assert (two.setup.training.learning_rate, two.setup.network.blocks) == (2e-3, 4)
    assert (three.setup.training.learning_rate, three.setup.network.blocks) == (6e-3, 5)


def test_an_arms_relative_values_do_not_see_each_other():
    """Each is computed from the base, so that their order does not matter."""
    for overrides in (
        {"search.n_max": 900, "search.start": "times 1/2"},
        {"search.start": "times 1/2", "search.n_max": 900},
    ):
        setup = read(study({"a": overrides})).studies[0].arms[0].setup
        assert (setup.search.start, setup.search.n_max) == (500, 900)


IMPOSSIBLE: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "data.resolution", "times 1/2", "needs a number to compute with; the base value is None"),
    ({}, "sampling.ema_decay", "add 0.1", "needs a number to compute with; the base value is None"),
    ({}, "network.skips", "times 2", "needs a number to compute with; the base value is None"),
    ({}, "data.source", "times 2", "needs a number to compute with; the base value is 'cifar10'"),
    ({}, "training.decoupled", "times 2", "needs a number to compute with; the base value is False"),
    ({}, "training.duration", "add 2", "needs a number to compute with; the base value is '40000 epochs'"),
    ({}, "search.grid", "times 2", "needs a number to compute with; the base value is []"),
    ({}, "network.blocks", "times 1/3", "gives 0.666667 from 2, which is not a whole number"),
    ({}, "network.blocks", "add 0.5", "gives 2.5 from 2, which is not a whole number"),
    ({}, "network.attention", "times 1/3", "gives 5.33333 from [16], which is not a whole number"),
]


@pytest.mark.parametrize(("base", "key", "text", "rule"), IMPOSSIBLE, ids=[f"{k} {t}" for _, k, t, _ in IMPOSSIBLE])
def test_impossible_relative_values_are_one_line_with_key_and_value(base, key, text, rule):
    with pytest.raises(SettingsError) as error:
        override(base, {key: text})
    assert str(error.value) == f"{key} = {text!r}: {rule}"
    assert faults(base | study({"a": {key: text}})) == [f"studies.s.arms.a: {error.value}"]
    assert faults(base | study(base={key: text})) == [f"studies.s.base: {error.value}"]


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("network.blocks", "times 1/0", "network.blocks = 'times 1/0': must be a valid integer"),
        ("training.learning_rate", "times 2/0", "training.learning_rate = 'times 2/0': must be a valid number"),
        ("training.duration", "times 1/0", "training.duration = 'times 1/0': must be a span"),
        ("network.blocks", "times two", "network.blocks = 'times two': must be a valid integer"),
        ("network.blocks", "add", "network.blocks = 'add': must be a valid integer"),
        ("network.blocks", "add  1", "network.blocks = 'add  1': must be a valid integer"),
        ("network.blocks", "plus 1", "network.blocks = 'plus 1': must be a valid integer"),
        ("network.blocks", "times 1e2", "network.blocks = 'times 1e2': must be a valid integer"),
        # read, but what comes out is out of range
        ("network.blocks", "times 0", "network.blocks = 0: must be greater than or equal to 1"),
        ("network.channels", "times 1/128", "network.channels = 1: must be greater than or equal to 4"),
        ("training.duration", "times -1", "training.duration = '-40000 epochs': must be a span"),
        ("search.start", "times 1/100", "search.start = 10: must lie between n_min = 100"),
    ],
)
def test_what_is_not_relative_or_leaves_the_range_is_named(key, text, words):
    (line,) = faults(study({"a": {key: text}}))
    assert line.startswith(f"studies.s.arms.a: {words}")


def test_text_that_only_looks_relative_stays_text():
    assert value_of({}, data__root="times two") == "times two"


def test_override_refuses_sections_and_unknown_keys():
    with pytest.raises(SettingsError, match=r"^network: is a section; override its keys one by one, as network\.KEY$"):
        override({}, {"network": {"blocks": 3}})
    with pytest.raises(SettingsError, match=r"^network\.block: is not a key of network; did you mean 'blocks'\?$"):
        override({}, {"network.block": "add 1"})


# Skip masks


@pytest.mark.parametrize(
    ("base", "overrides", "flags"),
    [
        ({}, {"network.skips": "keep 1 4"}, [1, 0, 0, 1, 0, 0, 0, 0, 0]),
        ({}, {"network.skips": "keep 1 2 3"}, [1, 1, 1, 0, 0, 0, 0, 0, 0]),
        ({}, {"network.skips": "keep 9"}, [0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ({}, {"network.skips": "keep 4 1 4"}, [1, 0, 0, 1, 0, 0, 0, 0, 0]),
        ({"network": {"multipliers": [1, 2], "blocks": 1}}, {"network.skips": "keep 4"}, [0, 0, 0, 1]),
        # an arm that changes its network has the mask of the changed one, whichever is written first
        ({}, {"network.skips": "keep 1 12", "network.blocks": "add 1"}, [1] + [0] * 10 + [1]),
        ({}, {"network.blocks": "add 1", "network.skips": "keep 1 12"}, [1] + [0] * 10 + [1]),
        ({}, {"network.skips": "keep 2", "network.multipliers": [1], "network.blocks": 1}, [0, 1]),
        # the base's own mask does not matter
        ({"network": {"skips": [1] * 9}}, {"network.skips": "keep 3", "network.multipliers": [2]}, [0, 0, 1]),
    ],
)
def test_masks_have_the_length_of_the_arms_own_network(base, overrides, flags):
    assert read(base | study({"a": overrides})).studies[0].arms[0].setup.network.skips == flags


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_masks_keep_exactly_what_they_name(levels, blocks, data):
    count = levels * (blocks + 1)
    kept = data.draw(st.lists(st.integers(1, count), min_size=1, max_size=6))
    base = {"network": {"multipliers": [1] * levels, "blocks": blocks}}
    mask = value_of(base, network__skips="keep " + " ".join(map(str, kept)))
    assert len(mask) == count
    assert {index for index, flag in enumerate(mask, 1) if flag} == set(kept)
    too_large = f"keep {' '.join(map(str, [*kept, count + 1]))}"
    with pytest.raises(SettingsError) as error:
        override(base, {"network.skips": too_large})
    assert str(error.value) == f"network.skips = {too_large!r}: the network has {count} skip connections"


def test_masks_of_a_study_follow_its_base():
    content = study({"a": {"network.skips": "keep 4"}}, base={"network.multipliers": [1, 2], "network.blocks": 1})
    assert read(content).studies[0].arms[0].setup.network.skips == [0, 0, 0, 1]
    content["studies"]["s"]["arms"]["a"]["network.skips"] = "keep 5"
    assert faults(content) == ["studies.s.arms.a: network.skips = 'keep 5': the network has 4 skip connections"]


@pytest.mark.parametrize(
    "text",
    ["keep", "keep ", "keep 0", "keep 01", "keep -1", "keep 1,2", "keep  1", "keep 1 ", "Keep 1", "cut 1", "101", ""],
)
def test_malformed_masks_are_named(text):
    line = f"network.skips = {text!r}: must be flags such as [1, 0, 1], or text such as 'keep 1 4'"
    assert faults(study({"a": {"network.skips": text}})) == [f"studies.s.arms.a: {line}"]


# Files


def project(folder: Path, *overlays: str, studies: str = "", own: str = "", **others: str) -> dict[str, Any]:
    """What is loaded from a project of these texts, and files OTHERS.yaml beside them."""
    (folder / "config").mkdir(exist_ok=True)
    (folder / FILES[0]).write_text(studies)
    (folder / FILES[1]).write_text(own)
    for name, text in others.items():
        (folder / f"{name}.yaml").write_text(text)
    paths = [folder / f"overlay-{index}.yaml" for index in range(len(overlays))]
    for path, text in zip(paths, overlays, strict=True):
        path.write_text(text)
    return load(paths, folder)


def test_later_files_win_key_by_key(tmp_path):
    merged = project(
        tmp_path,
        "network: {blocks: 3}\nsampling: {images: 7}",
        "network: {attention: [4]}\nsampling: null\nseed: {x: 1}",
        studies="studies: {s: {title: one, arms: {a: {seed: 1}, b: {seed: 2}}}}",
        own="seed: 1\nnetwork: {blocks: 2, channels: 8, attention: [16, 8]}\nstudies: {s: {arms: {b: {seed: 3}}}}",
    )
    assert merged == {
        "studies": {"s": {"title": "one", "arms": {"a": {"seed": 1}, "b": {"seed": 3}}}},
        "seed": {"x": 1},
        "network": {"blocks": 3, "channels": 8, "attention": [4]},  # lists are replaced as a whole
        "sampling": None,
    }


TREES = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    # Snakemake keeps a value where an empty mapping is laid over it, which means nothing in our settings.
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), TREES, max_size=3), min_size=2, max_size=4))
def test_files_are_laid_as_snakemake_lays_them(tmp_path_factory, trees):
    own, *overlays = map(yaml.safe_dump, trees)
    expected: dict[str, Any] = {}
    for tree in copy.deepcopy(trees):
        update_config(expected, tree)
    assert project(tmp_path_factory.getbasetemp(), *overlays, own=own) == expected


def test_files_of_nothing_are_nothing(tmp_path):
    assert project(tmp_path, "", "# a comment\n", studies="{}", own="seed: 1") == {"seed": 1}


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tseed: 1", "%"])
def test_what_is_not_yaml_is_one_line_with_the_file(tmp_path, text):
    with pytest.raises(SettingsError, match=r"overlay-0\.yaml: is not YAML \(.+\)") as error:
        project(tmp_path, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("training:\n  seed: 1\n\tduration: 1 images", "line 3 is indented with a tab; use spaces"),
        ("seed: 1\n  name: a", "line 2, column 7: mapping values are not allowed here"),
    ],
)
def test_the_line_that_is_not_yaml_is_named(tmp_path, text, why):
    with pytest.raises(SettingsError) as error:
        project(tmp_path, text)
    assert str(error.value).endswith(f"overlay-0.yaml: is not YAML ({why})")


def test_bytes_that_are_not_text_are_one_line_with_the_file(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"seed: \xff\xfe")
    project(tmp_path)
    with pytest.raises(SettingsError, match=r"bytes\.yaml: is not YAML \(.+\)"):
        load([tmp_path / "bytes.yaml"], tmp_path)


@pytest.mark.parametrize("text", ["- seed: 1", "seed", "3", "[]", "0", "false", "''"])
def test_what_is_not_a_mapping_is_one_line_with_the_file(tmp_path, text):
    with pytest.raises(SettingsError) as error:
        project(tmp_path, text)
    assert str(error.value) == f"{tmp_path / 'overlay-0.yaml'}: must be a mapping of settings"


def test_the_fit_lies_over_the_projects_files_and_under_overlays(tmp_path):
    texts = {"studies": "a: 1\nb: 1\nc: 1", "own": "b: 2\nc: 2\nfit: scale.yaml", "scale": "b: 3\nc: 3"}
    assert project(tmp_path, **texts) == {"a": 1, "b": 3, "c": 3, "fit": "scale.yaml"}
    assert project(tmp_path, "c: 4", **texts) == {"a": 1, "b": 3, "c": 4, "fit": "scale.yaml"}


def test_an_overlay_of_another_scale_drops_or_replaces_the_fit(tmp_path):
    texts = {"own": "b: 2\nfit: small.yaml", "small": "b: 3\nd: 3", "large": "b: 5"}
    assert project(tmp_path, "fit: null", **texts) == {"b": 2, "fit": None}
    assert project(tmp_path, "fit: large.yaml", **texts) == {"b": 5, "fit": "large.yaml"}


def test_a_missing_fit_is_one_line(tmp_path):
    with pytest.raises(SettingsError, match=r"^fit = 'nowhere.yaml': no such file$"):
        project(tmp_path, own="fit: nowhere.yaml")


def test_given_settings_lie_on_top_and_add_their_keys_last(tmp_path):
    """Snakemake puts the keys of overlays first."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/studies.yaml").write_text("studies: {b: 1, a: 2}")
    (tmp_path / "config.yaml").write_text("seed: 1\ndata: {source: c, labels: d}\nfit: small.yaml")
    (tmp_path / "small.yaml").write_text("search: {n_max: 3}")
    (tmp_path / "large.yaml").write_text("search: {n_max: 4}")
    given = {"new": 1, "data": {"root": "r", "labels": "a"}, "studies": {"a": 3, "c": 4}, "fit": "large.yaml"}
    config = load(folder=tmp_path, given=given)
    assert list(config) == ["studies", "seed", "data", "fit", "search", "new"]
    assert list(config["studies"].items()) == [("b", 1), ("a", 3), ("c", 4)]
    assert list(config["data"].items()) == [("source", "c"), ("labels", "a"), ("root", "r")]
    assert config["search"] == {"n_max": 4}
    assert files(config, tmp_path) == [
        tmp_path / "config/studies.yaml",
        tmp_path / "config.yaml",
        tmp_path / "large.yaml",
    ]
    assert "search" not in load(folder=tmp_path, given={"fit": "null"})  # text, as Snakemake hands it on


# Arms left out


def test_arms_are_left_out():
    content = study({"a": {}, "b": {"seed": 1}, "c": {"seed": 2}}, without=["b"])
    assert [(arm.name, arm.setup.seed) for arm in read(content).studies[0].arms] == [("a", 0), ("c", 2)]


def test_an_arm_that_does_not_fit_can_be_left_out():
    content = study({"a": {}, "b": {"network.skips": "keep 99"}})
    assert faults(content) == ["studies.s.arms.b: network.skips = 'keep 99': the network has 9 skip connections"]
    content["studies"]["s"]["without"] = ["b"]
    assert [arm.name for arm in read(content).studies[0].arms] == ["a"]


@pytest.mark.parametrize(
    ("without", "line"),
    [
        (["random-1O"], "studies.s.without = 'random-1O': is not an arm of the study; did you mean 'random-10'?"),
        (["zzz"], "studies.s.without = 'zzz': is not an arm of the study; allowed: none, random-10"),
        (["none", "random-10"], "studies.s.without = ['none', 'random-10']: leaves no arm"),
    ],
)
def test_unknown_arms_and_all_arms_cannot_be_left_out(without, line):
    assert faults(study({"none": {}, "random-10": {}}, without=without)) == [line]


# Findings


def claim(expect: str = "more", arms: list[str] | None = None, **keys: Any) -> dict[str, Any]:
    return {"claim": "as claimed", "expect": expect, "arms": arms or ["a", "b"], **keys}


def test_findings_about_arms_left_out_are_dropped():
    findings = {
        "kept": claim(arms=["a", "b"]),
        "first": claim(arms=["c", "a"]),
        "last": claim("increasing", ["a", "b", "c"]),
        "alone": claim("proportional", ["a"]),
    }
    arms = {"a": {}, "b": {}, "c": {}}
    whole, less = (read(study(arms, findings=findings, without=without)).studies[0] for without in ([], ["c"]))
    assert list(whole.findings) == ["kept", "first", "last", "alone"]
    assert list(less.findings) == ["kept", "alone"]
    assert less.findings["kept"].arms == ["a", "b"]
    assert (less.findings["kept"].margin, less.findings["kept"].source) == (1.25, "")


@pytest.mark.parametrize("without", [[], ["c"]])
def test_findings_about_unknown_arms_are_refused_with_the_nearest(without):
    content = study({"wide": {}, "narrow": {}, "c": {}}, findings={"f": claim(arms=["wide", "narow"])}, without=without)
    (line,) = faults(content)
    assert line == "studies.s.findings.f.arms = 'narow': is not an arm of the study; did you mean 'narrow'?"


@pytest.mark.parametrize("expect", ["more", "less", "same", "increasing", "decreasing", "proportional", "forecast"])
def test_every_claim_has_its_number_of_different_arms(expect):
    names = ["a", "b", "c", "d"]
    row = ({2, 3, 4}, "2 or more")
    needed, rule = {
        "proportional": ({1}, "1"), "increasing": row, "decreasing": row, "forecast": ({4}, "4 or more")
    }.get(expect, ({2}, "2"))  # fmt: skip
    for count in (1, 2, 3, 4):
        content = study(dict.fromkeys(names), findings={"f": claim(expect, names[:count])})
        if count in needed:
            assert read(content).studies[0].findings["f"].arms == names[:count]
        else:
            assert faults(content) == [
                f"studies.s.findings.f.arms = {names[:count]}: must be {rule} different arms for expect: {expect}"
            ]
    (line,) = faults(study(dict.fromkeys(names), findings={"f": claim(expect, ["a", "a"])}))
    assert line == f"studies.s.findings.f.arms = ['a', 'a']: must be {rule} different arms for expect: {expect}"


def test_a_list_among_the_arms_of_a_claim_is_their_mean():
    names = ["a", "b", "c"]
    content = study(dict.fromkeys(names), findings={"f": claim("same", [["a", "b"], "c"])})
    finding = read(content).studies[0].findings["f"]
    assert (finding.sides, finding.names) == ([("a", "b"), ("c",)], names)
    assert (
        not read(study(dict.fromkeys(names), findings=content["studies"]["s"]["findings"], without=["b"]))
        .studies[0]
        .findings
    )


@pytest.mark.parametrize(
    ("arms", "rule"),
    [
        ([["a", "b"], "a"], "must be 2 different arms for expect: same"),
        ([["a", "b"], "c", "d"], "must be 2 different arms for expect: same"),
        ([["a", "e"], "c"], "is not an arm of the study"),
    ],
)
def test_means_of_arms_that_make_no_claim(arms, rule):
    (line,) = faults(study(dict.fromkeys("abcd"), findings={"f": claim("same", arms)}))
    assert line.startswith("studies.s.findings.f.arms = ") and rule in line


@pytest.mark.parametrize("more", [{"at": 10}, {"expect": "forecast"}])
def test_means_of_arms_are_compared_by_emm_only(more):
    arms = [["a", "b"], "c"] if "at" in more else [["a", "b"], "c", "d", "e"]
    (line,) = faults(study(dict.fromkeys("abcde"), findings={"f": claim("same", arms) | more}))
    assert "a mean of several arms is compared by EMM only" in line


@pytest.mark.parametrize(
    ("finding", "start", "hint"),
    [
        (claim("mor"), "studies.s.findings.f.expect = 'mor':", "did you mean 'more'?"),
        (claim(True), "studies.s.findings.f.expect = True:", "'proportional'"),
        (claim("same", margin=1), "studies.s.findings.f.margin = 1:", "must be greater than 1"),
        (claim("same", margin=0.8), "studies.s.findings.f.margin = 0.8:", "must be greater than 1"),
        (claim("same", margin=11), "studies.s.findings.f.margin = 11:", "must be less than or equal to 10"),
        (claim() | {"arms": []}, "studies.s.findings.f.arms = []:", "at least 1"),
        (claim(margins=2), "studies.s.findings.f.margins:", "did you mean 'margin'?"),
        ({"expect": "more", "arms": ["a", "b"]}, "studies.s.findings.f.claim:", "is missing"),
        ({"claim": "x", "arms": ["a", "b"]}, "studies.s.findings.f.expect:", "is missing"),
        ("wider is more", "studies.s.findings.f = 'wider is more':", "must be"),
    ],
)
def test_bad_findings_are_one_line_each(finding, start, hint):
    (line,) = faults(study(findings={"f": finding}))
    assert line.startswith(start)
    assert hint in line


# One spelling per path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a folder `a/c`, a link `l` to it, and a folder PHOTOS."""
    folder = tmp_path / "project"
    (folder / "a" / "c").mkdir(parents=True)
    (folder / "PHOTOS").mkdir()
    (folder / "l").symlink_to("a/c")
    (tmp_path / "link").symlink_to("project")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PHOTOS", "PHOTOS"),
        ("PHOTOS/", "PHOTOS"),
        ("PHOTOS/.", "PHOTOS"),
        ("./PHOTOS", "PHOTOS"),
        (".//./PHOTOS//", "PHOTOS"),
        ("a//c", "a/c"),
        ("a/../PHOTOS", "PHOTOS"),
        ("a/c/../../PHOTOS", "PHOTOS"),
        ("l/../PHOTOS", "l/../PHOTOS"),  # a link leads elsewhere
        ("a/none/../PHOTOS", "a/none/../PHOTOS"),
        ("{here}/PHOTOS", "PHOTOS"),
        ("{here}/../project/PHOTOS/", "PHOTOS"),
        ("{here}/../link/PHOTOS", "PHOTOS"),
        ("../project/PHOTOS", "PHOTOS"),
        ("../link/PHOTOS", "PHOTOS"),
        ("{here}", "."),
        ("./", "."),
        ("..", ".."),
        ("../other", "../other"),
        ("/data/photos", "/data/photos"),
        ("/data//photos/", "/data/photos"),
        ("//data/photos", "/data/photos"),
        ("/../data", "/data"),
        ("/", "/"),
        ("~/photos/", "~/photos"),
        ("~/../x", "~/../x"),
        ("./~x", "./~x"),
        ("{x}$y z", "{x}$y z"),
    ],
)
def test_a_place_has_one_spelling(here, text, expected):
    text = text.replace("{here}", str(here))
    assert respelled(f"folder:{text}") == f"folder:{expected}"
    assert respelled(f"npz:{expected}") == f"npz:{expected}"


def test_every_spelling_has_the_key_of_the_plain_one(here):
    def runs(source: str) -> list[Setup]:
        base = {"data": {"source": source, "mixture": f"{source}/b.npz"}}
        settings = read(base | study(arms={"a": {}, "b": {"data.mixture": f"{source}//b.npz"}}))
        return [settings.base, *(arm.setup for arm in settings.studies[0].arms)]

    assert runs("folder:./PHOTOS/") == runs("folder:PHOTOS") == runs(f"folder:{here}/PHOTOS")
    assert {setup.data.mixture for setup in runs("folder:PHOTOS/")} == {"folder:PHOTOS/b.npz"}


# What is left to the data


def test_relative_values_of_what_is_left_to_the_data():
    left = {"network": {"attention": None}, "search": {"n_max": None}, "diffusion": {"sigma_data": None}}
    (decided,) = read(left | study(arms={"a": {"network.attention": "times 1/2"}})).studies
    assert (decided.faults, decided.arms[0].setup.network.attention) == ([], None)  # chosen for the arm's own images
    (line,) = faults(left | study(arms={"a": {"search.n_max": "times 1/2"}}))
    assert line.endswith("needs a number to compute with; the base value is None")
    (line,) = faults({"search": {"n_max": None, "n_min": 50, "start": 20}} | study())
    assert line == "search.start = 20: must be at least n_min = 50"


# The catalogue

OVERLAYS = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "studies.yaml")
SCALES = ["config.yaml alone", *OVERLAYS]


@pytest.fixture(scope="module", params=SCALES)
def catalogue(request) -> Settings:
    overlays = [] if request.param not in OVERLAYS else [ROOT / "config" / request.param]
    return read(load(overlays, ROOT))


def test_every_overlay_keeps_all_studies(catalogue):
    named = list(yaml.safe_load((ROOT / FILES[0]).read_text())["studies"])
    assert [study.name for study in catalogue.studies][: len(named)] == named  # an overlay may add some of its own
    assert "conditioning" in catalogue.selected


def test_every_study_cites_a_source_and_varies_its_factor(catalogue):
    for study in catalogue.studies:
        assert study.source, study.name
        assert study.title != study.name
        if study.name != "mitigation":  # whose arms change one setting each
            values = [lookup(arm.setup, study.factor) for arm in study.arms]
            texts = [type(value).__str__ for value in values]
            assert BaseModel.__str__ not in texts, f"{study.name}: a section without a short text is no factor"
            assert len(set(map(repr, values))) > 1 or len(study.arms) == 1, study.name
        assert len({arm.setup.model_dump_json() for arm in study.arms}) == len(study.arms), (
            f"{study.name}: arms are alike"
        )


def test_every_selected_arm_fits_its_data(catalogue):
    """As the workflow checks before it starts; facts of named data sets are known without their files."""
    if is_own(catalogue.base.data.source):
        pytest.skip("test_own_images has images for it")
    chosen = [study for study in catalogue.studies if study.name in catalogue.selected]
    faults = {
        (study.name, arm.name): lines
        for study in chosen
        for arm in study.arms
        if (lines := feasibility.faults(arm.setup, datasets.describe(arm.setup.data)))
    }
    assert faults == {}


def test_a_missing_overlay_is_one_line(tmp_path):
    with pytest.raises(SettingsError, match=r"gone\.yaml: cannot be read \(No such file or directory\)$"):
        load([tmp_path / "gone.yaml"], folder=ROOT)
