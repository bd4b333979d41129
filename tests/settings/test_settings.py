"""The configuration: what is refused and in which words, what is read from text, how arms and studies resolve."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from emmeter.errors import SettingsError
from emmeter.settings.configuration import RULES, load, read
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings
from emmeter.settings.types import Span
from emmeter.settings.validation import lookup, read_setup
from emmeter.settings.written import json_schema

ROOT = Path(__file__).parents[2]


def config(**sections: Any) -> dict[str, Any]:
    return {"studies": {"factors": {"arms": {"arm": None}}}} | sections


def with_arm(overrides: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A configuration with one arm with these dotted overrides."""
    return config(studies={"factors": {"arms": {"arm": overrides}}}, **sections)


def faults(content: Any) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read(content)
    return error.value.lines


# What is refused: section, key, value, start of the line, part of the hint

BAD: list[tuple[dict[str, Any], str, str]] = [
    # unknown keys, with the nearest name or all of them
    ({"netwrk": {}}, "netwrk", "did you mean 'network'?"),
    ({"zzz": 1}, "zzz", "allowed: seed, data, model, network"),
    ({"network": {"chanels": 8}}, "network.chanels", "did you mean 'channels'?"),
    ({"training": {"batchsize": 8}}, "training.batchsize", "did you mean 'batch_size'?"),
    ({"training": {"ema_decay": 0.9}}, "training.ema_decay", "did you mean 'ema_decays'?"),
    ({"sampling": {"qqq": 8}}, "sampling.qqq", "allowed: images, steps"),
    ({"execution": {"thread": 2}}, "execution.thread", "did you mean 'threads'?"),
    ({"studies": {"s": {"titel": "x", "arms": {"a": {}}}}}, "studies.s.titel", "did you mean 'title'?"),
    # wrong choices
    ({"network": {"architecture": "ddpmp"}}, "network.architecture = 'ddpmp'", "did you mean 'ddpmpp'?"),
    ({"diffusion": {"preconditioning": "VP"}}, "diffusion.preconditioning = 'VP'", "'vp', 've', 'edm' or 'flow'"),
    ({"training": {"optimizer": "adamw"}}, "training.optimizer = 'adamw'", "did you mean 'adam'?"),
    ({"training": {"order": "random"}}, "training.order = 'random'", "'shuffled' or 'fixed'"),
    ({"scoring": {"snapshot": "first"}}, "scoring.snapshot = 'first'", "'last' or 'best'"),
    ({"execution": {"device": "gpu"}}, "execution.device = 'gpu'", "'auto', 'cpu' or 'cuda'"),
    ({"data": {"source": "cifar"}}, "data.source = 'cifar'", "did you mean 'cifar10'?"),
    ({"data": {"source": "npz:"}}, "data.source = 'npz:'", "npz:PATH"),
    ({"network": {"skips": [2, *[1] * 8]}}, "network.skips.0 = 2", "must be 0 or 1"),
    ({"network": {"skips": ["null", *[1] * 8]}}, "network.skips.0 = 'null'", "must be 0 or 1"),
    ({"training": {"batch_size": "null"}}, "training.batch_size = 'null'", "integer"),
    ({"data": {"labels": "random"}}, "data.labels = 'random'", "random-K with K >= 1"),
    ({"data": {"labels": "random-0"}}, "data.labels = 'random-0'", "random-K with K >= 1"),
    ({"data": {"labels": "uniqe"}}, "data.labels = 'uniqe'", "did you mean 'unique'?"),
    ({"data": {"duplicates": {"sharr": 0.1}}}, "data.duplicates.sharr", "did you mean 'share'?"),
    ({"data": {"duplicates": {"share": 1.5, "times": 2}}}, "data.duplicates.share = 1.5", "less than or equal to 1"),
    ({"data": {"duplicates": {"share": 0.1, "times": 0}}}, "data.duplicates.times = 0", "greater than or equal to 1"),
    ({"data": {"duplicates": {"share": 0.1}}}, "data.duplicates.times = 1", "must be at least 2 beside share = 0.1"),
    ({"data": {"duplicates": {"times": 10}}}, "data.duplicates.share = 0", "must be above 0 beside times = 10"),
    ({"run": ["other"]}, "run = 'other'", "allowed: factors"),
    ({"run": ["factor"]}, "run = 'factor'", "did you mean 'factors'?"),
    *(
        ({"execution": {"gpus": value}}, f"execution.gpus = {value!r}", "must be auto, none, a number from 1 to 1024")
        for value in (
            0,
            -1,
            1.5,
            True,
            "all",
            "0,1",
            [],
            [0, 0],
            [0, "00"],
            [-1],
            [True],
            [1.0],
            {"0": 1},
            ["GPU-../x"],
            ["cuda:0"],
            [[0]],
        )
    ),
    ({"execution": {"jobs_per_gpu": 0}}, "execution.jobs_per_gpu = 0", "greater than or equal to 1"),
    ({"training": {"gpus": 0}}, "training.gpus = 0", "greater than or equal to 1"),
    # wrong kinds
    ({"network": {"channels": 16.0}}, "network.channels = 16.0", "integer"),
    ({"network": {"channels": True}}, "network.channels = True", "integer"),
    ({"network": {"blocks": "2.5"}}, "network.blocks = 2.5", "integer"),
    ({"network": {"skips": "111"}}, "network.skips = '111'", "list"),
    ({"network": 3}, "network = 3", "must be"),
    ({"run": 3}, "run = 3", "list"),
    ({"run": []}, "run = []", "at least 1"),
    ({"run": "other"}, "run = 'other'", "allowed: factors"),
    ({"scoring": {"distinct": "yes"}}, "scoring.distinct = 'yes'", "boolean"),
    ({"data": {"labels": False}}, "data.labels = False", "string"),
    ({"training": {"learning_rate": "fast"}}, "training.learning_rate = 'fast'", "number"),
    ({"training": {"duration": 40_000}}, "training.duration = 40000", 'needs a unit, such as "40000 images"'),
    ({"training": {"lr_ramp": "200"}}, "training.lr_ramp = '200'", 'needs a unit, such as "200 images"'),
    ({"training": {"duration": True}}, "training.duration = True", "string"),
    # keys at the wrong place
    ({"epsilon": 0.2}, "epsilon", "write search: {epsilon: 0.2}, or --config 'search={epsilon: 0.2}'"),
    ({"search.epsilon": 0.2}, "search.epsilon", "write search: {epsilon: 0.2}"),
    ({"precision": "tf32"}, "precision", "is a key of training and sampling; write training: {precision: tf32} or "),
    ({"width": {"arms": {"a": {}}}}, "width", "is a study; write it below studies:"),
    ({"seed": "1/3"}, "seed = 0.3333333333333333", "integer"),
    ({"studies": None}, "studies = None", "must be"),
    ({"studies": {"s": {}}}, "studies.s.arms", "missing"),
    ({"studies": {"s": {"arms": ["a"]}}}, "studies.s.arms = ['a']", "must be"),
    ({"studies": {"s": {"arms": {"a": 5}}}}, "studies.s.arms.a = 5", "must be"),
    # outside the range
    ({"seed": -1}, "seed = -1", "greater than or equal to 0"),
    ({"network": {"channels": 7}}, "network.channels = 7", "multiple of 2"),
    ({"network": {"dropout": 1}}, "network.dropout = 1", "less than 1"),
    ({"network": {"architecture": "dit", "channels": 10}}, "network.channels = 10", "divisible by 4 (network.arch"),
    ({"network": {"architecture": "dit", "channels": 8, "heads": 3}}, "network.channels = 8", "by network.heads = 3"),
    ({"network": {"architecture": "dit", "skips": [1] * 9}}, "network.skips = [1, 1,", "has no skip connections"),
    ({"training": {"learning_rate": 0}}, "training.learning_rate = 0", "greater than 0"),
    ({"training": {"learning_rate": "nan"}}, "training.learning_rate = 'nan'", "finite"),
    ({"training": {"learning_rate": float("inf")}}, "training.learning_rate = inf", "finite"),
    ({"training": {"ema_decays": [0.9, 1.0]}}, "training.ema_decays.1 = 1.0", "less than 1"),
    ({"training": {"ema_decays": []}}, "training.ema_decays = []", "at least 1"),
    ({"sampling": {"steps": 1}}, "sampling.steps = 1", "greater than or equal to 2"),
    ({"scoring": {"threshold": 1}}, "scoring.threshold = 1", "less than 1"),
    ({"scoring": {"threshold": "1/0"}}, "scoring.threshold = '1/0'", "number"),
    ({"scoring": {"neighbours": 1}}, "scoring.neighbours = 1", "greater than or equal to 2"),
    ({"search": {"epsilon": 1.2}}, "search.epsilon = 1.2", "less than 1"),
    ({"execution": {"threads": 0}}, "execution.threads = 0", "greater than or equal to 1"),
    ({"figures": {"width": 100}}, "figures.width = 100", "less than or equal to 20"),
    ({"data": {"classes": [0, -1]}}, "data.classes.1 = -1", "greater than or equal to 0"),
    # spans
    ({"training": {"duration": "2 %"}}, "training.duration = '2 %'", '"40000 epochs"'),
    ({"training": {"duration": "0 images"}}, "training.duration = '0 images'", "positive"),
    ({"training": {"duration": "-5 epochs"}}, "training.duration = '-5 epochs'", '"40000 images"'),
    ({"training": {"lr_ramp": "5 percent"}}, "training.lr_ramp = '5 percent'", '"2 %"'),
    # keys that must agree
    ({"network": {"skips": [1] * 8}}, "network.skips = [1, 1, 1, 1, 1, 1, 1, 1]", "must have 9 flags"),
    ({"network": {"skips": []}}, "network.skips = []", "must have 9 flags"),
    ({"training": {"snapshots": [0.5]}}, "training.snapshots = [0.5]", "end with 1.0"),
    ({"training": {"snapshots": [0.5, 0.5, 1]}}, "training.snapshots", "increasing"),
    ({"training": {"ema_decays": [0.9, 0.9]}}, "training.ema_decays = [0.9, 0.9]", "must not repeat"),
    ({"sampling": {"ema_decay": 0.5}}, "sampling.ema_decay = 0.5", "training.ema_decays = [0.99929]"),
    ({"sampling": {"sigma_min": 90}}, "sampling.sigma_min = 90", "below sigma_max = 80"),
    ({"search": {"n_min": 200, "n_max": 100}}, "search.n_min = 200", "below n_max = 100"),
    ({"search": {"start": 5}}, "search.start = 5", "between n_min = 100"),
    ({"search": {"rule": "grid"}}, "search.grid = []", "increasing sizes"),
    ({"search": {"rule": "grid", "grid": [20, 10]}}, "search.grid = [20, 10]", "increasing sizes"),
    ({"search": {"confirm": 2}}, "search.confirm = 2", "0 or at least 4"),
    # studies and arms
    ({"studies": {"a b": {"arms": {"a": {}}}}}, "studies.a b", "identifier"),
    ({"studies": {"train": {"arms": {"a": {}}}}}, "studies.train", "none of all, plan, subset, train"),
    ({"studies": {"s": {"arms": {"a/b": {}}}}}, "studies.s.arms.a/b", "letters, digits"),
    ({"studies": {"s": {"factor": "data.lable", "arms": {"a": {}}}}}, "studies.s.factor: data.lable", "'labels'"),
]


@pytest.mark.parametrize(("section", "start", "hint"), BAD, ids=[start for _, start, _ in BAD])
def test_bad_settings_are_one_line_each(section, start, hint):
    lines = faults(config() | section)
    assert len(lines) == 1, lines
    assert lines[0].startswith((f"{start}:", f"{start} = ", start + " "))
    assert hint in lines[0]
    assert "pydantic" not in lines[0]


def test_faults_are_all_reported_at_once():
    lines = faults(config(network={"chanels": 8, "blocks": 0}, seed=-1))
    assert [line.split(":")[0].split(" =")[0] for line in lines] == ["seed", "network.blocks", "network.chanels"]


@pytest.mark.parametrize("content", [None, [], "x", 3])
def test_a_configuration_is_a_mapping(content):
    assert faults(content) == [f"configuration = {content!r}: must be a mapping of settings"]


def test_long_values_are_cut():
    (line,) = faults(config(network={"architecture": "x" * 500}))
    assert len(line) < 200


@pytest.mark.parametrize("name", ["none", "nonesuch", "listen", "dictionary", "literally"])
def test_unknown_keys_of_any_name_are_named(name):
    (line,) = faults(config(**{name: 1}))
    assert line.startswith(f"{name}: is not a key")


@pytest.mark.parametrize("name", ["none", "list_of_widths", "dictionary"])
def test_faults_of_studies_of_any_name_are_named(name):
    (line,) = faults(config(studies={name: {"titel": "x", "arms": {"a": {}}}}))
    assert line.startswith(f"studies.{name}.titel: is not a key of studies.{name}; did you mean 'title'?")


@pytest.mark.parametrize("key", ["duration", "lr_ramp", "ema_ramp"])
def test_infinite_spans_are_refused(key):
    (line,) = faults(config(training={key: "1e400 images"}))
    assert line.startswith(f"training.{key} = '1e400 images': must be")


# Arms


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"data.lables": "none"}, "data.lables: is not a key of data; did you mean 'labels'?"),
        ({"dta.labels": "none"}, "dta.labels: is not a section; did you mean 'data'?"),
        ({"training.learning_rate": 0}, "training.learning_rate = 0: must be greater than 0"),
        ({"network.skips": [1, 0]}, "network.skips = [1, 0]: must have 9 flags (3 levels x (2 blocks + 1)), not 2"),
        ({"sampling.ema_decay": 0.5}, "sampling.ema_decay = 0.5: must be one of training.ema_decays = [0.99929]"),
        ({"search.start": 10}, "search.start = 10: must lie between n_min = 100 and n_max = 50000"),
        ({"execution.threads": 2}, "execution.threads: is not a section; "),
        ({"seed.x": 2}, "seed.x: seed is a value and has no keys"),
    ],
)
def test_faults_of_an_arm_name_it(overrides, expected):
    (line,) = faults(with_arm(overrides))
    assert line.startswith(f"studies.factors.arms.arm: {expected}")


def test_faults_of_several_arms_and_studies_are_reported_together():
    studies = {
        "one": {"arms": {"good": {}, "bad": {"network.channels": 3}}, "factor": "network.chanels"},
        "two": {"arms": {"worse": {"network.blocks": 0, "seed": -1}}},
    }
    starts = [line.split(":")[0] for line in faults(config(studies=studies))]
    assert starts == ["studies.one.factor", "studies.one.arms.bad", "studies.two.arms.worse", "studies.two.arms.worse"]


MISFITS = {"one": {"arms": {"good": {}}}, "two": {"arms": {"fits": {}, "not": {"search.start": 150}}}}


def test_values_that_do_not_fit_the_base_are_faults_of_selected_studies_alone():
    """A base setting may be changed for one study even if other studies, which are not selected, do not allow it."""
    content = config(studies=MISFITS, search={"n_min": 200}, run=["one"])
    one, two = read(content).studies
    (line,) = map(str, two.faults)
    assert line.startswith("studies.two.arms.not: search.start = 150: must lie between n_min = 200")
    assert ([arm.name for arm in two.arms], one.faults) == (["fits"], [])
    assert faults(content | {"run": ["two"]}) == faults(content | {"run": "all"}) == [line]
    assert all(not study.faults for study in read(content | {"search": {}}).studies)
    assert [str(fault) for fault in read(content | {"run": "all"}, asked=["one"]).studies[1].faults] == [line]
    with pytest.raises(SettingsError, match=r"studies\.two\.arms\.not"):
        read(content, asked=["two"])


@pytest.mark.parametrize("part", ["base", "arms"])
@pytest.mark.parametrize("name", ["search.strat", "search"])
def test_misnamed_settings_of_any_study_are_faults(part, name):
    content = {"base": {}, "arms": {"a": {}}}
    (content["arms"]["a"] if part == "arms" else content["base"])[name] = 150
    (line,) = faults(config(studies={"one": {"arms": {"good": {}}}, "two": content}, run=["one"]))
    assert line.startswith(f"studies.two.{'arms.a' if part == 'arms' else part}: {name}: ")


def test_a_study_whose_base_does_not_fit_has_no_arms():
    study = {"base": {"network.blocks": "times 1/3"}, "arms": {"a": {}}}
    _, two = read(config(studies={"one": {"arms": {"good": {}}}, "two": study}, run=["one"])).studies
    assert (two.arms, [(fault.where, fault.key) for fault in two.faults]) == (
        [],
        [("studies.two.base", "network.blocks")],
    )


def test_arms_are_the_base_with_overrides():
    content = config(
        data={"source": "digits", "held_out": 3},
        network={"channels": 16},
        studies={
            "labels": {
                "factor": "data.labels",
                "arms": {"plain": None, "true": {"data.labels": True, "network.skips": [0] * 9, "seed": 4}},
            }
        },
    )
    before = json.dumps(content)
    settings = read(content)
    plain, labels = settings.studies[0].arms
    assert plain.setup == settings.base
    assert (labels.setup.data.source, labels.setup.data.held_out, labels.setup.data.labels) == ("digits", 3, "true")
    assert (labels.setup.network.channels, labels.setup.network.skips, labels.setup.seed) == (16, [0] * 9, 4)
    assert settings.base.data.labels == "none"
    assert json.dumps(content) == before


def test_overrides_may_reach_into_sections_that_base_leaves_out():
    setup = read(with_arm({"search.start": 500})).studies[0].arms[0].setup
    assert setup.search.start == 500
    assert setup.search.n_max == 50_000


def test_a_section_as_override_is_merged_or_refused():
    content = with_arm({"data": {"labels": "unique"}}, data={"source": "digits"})
    try:
        setup = read(content).studies[0].arms[0].setup
    except SettingsError:
        return
    assert (setup.data.labels, setup.data.source) == ("unique", "digits")


# Numbers as text, defaults


def test_numbers_may_come_as_text():
    """YAML 1.1 reads 4e-3 as text, and --config quotes."""
    content = yaml.safe_load(
        """
        seed: "7"
        network: {channels: "16", dropout: 1e-1}
        training: {learning_rate: 4e-3, batch_size: "1_000", snapshots: [1/3, 2/3, 1]}
        scoring: {threshold: 1/3}
        sampling: {sigma_max: 8e1, ema_decay: "0.99929"}
        """
    )
    assert content["training"]["learning_rate"] == "4e-3"  # YAML 1.1 indeed
    setup = read_setup(content)
    assert (setup.seed, setup.network.channels, setup.network.dropout) == (7, 16, 0.1)
    assert (setup.training.learning_rate, setup.training.batch_size) == (4e-3, 1000)
    assert setup.training.snapshots == [1 / 3, 2 / 3, 1.0]
    assert setup.scoring.threshold == 1 / 3
    assert setup.sampling.sigma_max == 80
    assert setup == read_setup(json.loads(json.dumps(setup.model_dump())))


def test_nulls_and_flags_may_come_as_text():
    """As --config gives them."""
    given = {"data": {"resolution": "null"}, "network": {"embedding": "null", "skips": ["1", "0", *["1"] * 7]}}
    setup = read_setup(given)
    assert (setup.data.resolution, setup.network.embedding) == (None, None)
    assert setup.network.skips == [1, 0, *[1] * 7]
    assert read_setup({"network": {"skips": "null"}}).network.skips is None
    studies = {"one": {"arms": {"plain": "null", "all": {"network.skips": "null"}}}}
    plain, every = read(config(studies=studies, network={"skips": "null"})).studies[0].arms
    assert plain.setup == every.setup
    assert given["data"] == {"resolution": "null"}


def test_booleans_may_come_as_text():
    """As --config gives them; other words are refused."""
    setup = read_setup({"data": {"balanced": "false"}, "training": {"decoupled": "True"}})
    assert (setup.data.balanced, setup.training.decoupled) == (False, True)


def test_sections_without_lines_have_their_defaults():
    """YAML reads a section whose lines are all commented out as null."""
    settings = read(with_arm({"network.blocks": 3}, network=None, execution=None))
    assert settings.base.network == Setup().network
    assert settings.studies[0].arms[0].setup.network.blocks == 3


def test_labels_true_may_be_yaml_boolean():
    assert read_setup({"data": {"labels": True}}).data.labels == "true"


def test_defaults_are_the_papers():
    setup = Setup()
    assert (setup.network.channels, setup.network.multipliers, setup.network.blocks) == (128, [2, 2, 2], 2)
    assert (setup.network.dropout, setup.diffusion.preconditioning) == (0.13, "vp")
    assert (setup.training.duration, setup.training.batch_size, setup.training.learning_rate) == (
        "40000 epochs",
        512,
        2e-4,
    )
    assert (setup.training.lr_ramp, setup.training.ema_ramp) == ("200 epochs", "200 epochs")
    assert (setup.sampling.images, setup.sampling.steps, setup.sampling.rho) == (10_000, 18, 7.0)
    assert (setup.scoring.threshold, setup.search.epsilon) == (1 / 3, 0.1)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("40000 images", 40_000, "images"),
        ("40_000images", 40_000, "images"),
        (" 2.5 % ", 2.5, "%"),
        ("1e6 images", 1e6, "images"),
        ("0.5 epochs", 0.5, "epochs"),
    ],
)
def test_spans_are_read(text, amount, unit):
    assert Span.parse(text) == Span(amount, unit)


@pytest.mark.parametrize("text", ["", "40000", "images", "40,000 images", "1 image", "-1 images", "_1 images", None, 5])
def test_other_spans_are_refused(text):
    with pytest.raises(ValueError, match="must be a span"):
        Span.parse(text)


def test_spans_in_images():
    assert Span.parse("200 epochs").images(50) == 10_000
    assert Span.parse("200 images").images(50) == 200
    assert Span.parse("5 %").images(50, 4000) == 200


# Frozen, selected, looked up


def test_settings_are_frozen():
    settings = read(config())
    for target, name in [(settings, "selected"), (settings.base, "seed"), (settings.base.network, "channels")]:
        with pytest.raises(ValidationError):
            setattr(target, name, getattr(target, name))


def test_run_selects_studies():
    studies = {name: {"arms": {"a": {}}} for name in ("one", "two", "three")}
    assert read(config(studies=studies)).selected == ["one", "two", "three"]
    assert read(config(studies=studies, run="all")).selected == ["one", "two", "three"]
    assert read(config(studies=studies, run="two")).selected == ["two"]  # as --config run=two gives it
    chosen = read(config(studies=studies, run=["three", "one"]))
    assert chosen.selected == ["three", "one"]
    assert read(config(studies=studies, run=["two", "one", "two"])).selected == ["two", "one"]
    assert [study.name for study in chosen.studies] == ["one", "two", "three"]


def test_names_of_arms_may_hold_numbers_and_signs():
    names = ["0.99929", "random-10", "a_b", "2+2", "10"]
    settings = read(config(studies={"s": {"arms": dict.fromkeys(names)}}))
    assert [arm.name for arm in settings.studies[0].arms] == names


@pytest.mark.parametrize("name", RULES)
def test_studies_may_not_be_called_like_rules(name):
    (line,) = faults(config(studies={name: {"arms": {"a": {}}}}))
    assert line.startswith(f"studies.{name}: ")


def test_lookup():
    setup = read_setup({"network": {"channels": 16}})
    assert lookup(setup, "network.channels") == 16
    assert lookup(setup, "seed") == 0
    for name, hint in [("network.chanel", "'channels'"), ("netwrk.channels", "'network'")]:
        with pytest.raises(SettingsError, match=f"{name}: is not .*{hint}"):
            lookup(setup, name)


def test_schema_knows_every_key():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    beside = {"name", "execution", "figures", "studies", "audits", "fit", "run"}
    assert set(schema["properties"]) == {*Setup.model_fields, *beside}
    json.dumps(schema)


def test_the_embedded_configuration_is_valid():
    settings = read(load(folder=ROOT))
    assert isinstance(settings, Settings)
    assert settings.base.data.source == "digits"
