"""The catalogue of losses: in step with the library, its docstrings, the README, and the published weights."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxkd import jobs, losses, objectives
from jaxkd.losses import catalogue

LOSSES = catalogue.losses()
BY_NAME = {loss.name: loss for loss in LOSSES}
FAMILIES = ("logits", "features", "relations", "transformers", "detection")
# Of what no weight was published, with the reason.
UNPUBLISHED = {"cka": "it was published as a comparison"}
README = (Path(__file__).parents[2] / "README.md").read_text()
# Written from the papers' code and configurations; "from" says where each line is from, "needs" what the weight holds
# for only.
PUBLISHED = json.loads((Path(__file__).parent / "published_weights.json").read_text())


def as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


def references(name):
    """The docstring's references, on one line."""
    _, _, text = (inspect.getdoc(getattr(losses, name)) or "").partition("References:")
    return " ".join(text.split())


def test_names_are_those_of_the_library():
    assert sorted(loss.name for loss in LOSSES) == sorted(losses.__all__)
    assert {loss.family for loss in LOSSES} == set(FAMILIES)


def test_the_readme_has_a_row_a_family():
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", README, re.MULTILINE)
    listed = {family: re.findall(r"`(\w+)`", names) for family, names in rows}
    assert listed == {family: [loss.name for loss in catalogue.losses(family)] for family in FAMILIES}


@pytest.mark.parametrize("name", BY_NAME)
def test_papers_are_those_of_the_docstrings(name):
    loss = BY_NAME[name]
    first = re.split(r"(?<=\d) (?=\w+ et al\.|\w+, )", references(name))[0]
    if not loss.paper:
        assert not first
        return
    author = re.split(r" et al\.| and |, ", loss.paper)[0]
    assert first.startswith(author)
    assert f", {loss.year}, http" in first
    assert re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", first)[:1] == [loss.arxiv] * bool(loss.arxiv)


@pytest.mark.parametrize("name", BY_NAME)
def test_entries_are_about_what_is_there(name):
    loss = BY_NAME[name]
    assert bool(loss.weights or loss.part_of) != (name in UNPUBLISHED)
    assert set(loss.part_of) <= set(losses.__all__) - {name}
    parameters = inspect.signature(getattr(losses, name)).parameters
    for weights in loss.weights:
        assert set(weights.arguments) <= set(parameters)
        assert (weights.temperature is None) == (weights.soft == 0)
        assert weights.setting
        assert weights.source
        # Each variant has weights of its own: which one a weight goes with has to be said, be it the default.
        assert ("variant" in weights.arguments) == ("variant" in parameters)
        if variant := weights.arguments.get("variant"):
            assert f'"{variant}"' in getattr(losses, name).__doc__
        for other in re.findall(r"[a-z]+_[a-z_]+", weights.beside):
            assert other in losses.__all__
    for objective in loss.objectives:
        source = inspect.getsource(inspect.getmodule(getattr(objectives, objective)))
        assert f"losses.{name}" in source or name == "distillation_loss", "of its parts, each over its own examples"


def test_weights_are_the_published_ones():
    expected = {
        (line["loss"], line["setting"]): (
            *(as_tuple(line[weight]) for weight in ("own", "hard")),
            *(as_tuple(line.get(weight, default)) for weight, default in (("soft", 0), ("temperature", None))),
            {name: as_tuple(value) for name, value in line.get("arguments", {}).items()},
            line["source"],
        )
        for line in PUBLISHED
    }
    assert len(expected) == len(PUBLISHED), "a setting is there twice"
    assert all(line["from"] for line in PUBLISHED)
    found = {
        (loss.name, w.setting): (w.own, w.hard, w.soft, w.temperature, dict(w.arguments), w.source)
        for loss in LOSSES
        for w in loss.weights
    }
    assert found == expected
    beside = {(loss.name, w.setting): w.beside for loss in LOSSES for w in loss.weights}
    for line in PUBLISHED:
        assert line.get("needs", "") in beside[line["loss"], line["setting"]]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_list_is_complete_and_fits(width):
    text = jobs.describe_losses(width=width)
    assert max(map(len, text.splitlines())) <= width
    blocks = {block.split()[0]: block for block in text.split("\n\n")}
    for loss in LOSSES:
        block = blocks[loss.name]
        assert all(str(x) in block for x in (loss.paper, loss.year or "", loss.arxiv, *loss.part_of, *loss.objectives))
        rows = re.findall(r"  (\S+) +(\S+) +(-|\? |[\d.-]+(?: at [\d.-]+)?)(?:  |$)", block, re.MULTILINE)
        assert len(rows) >= len(loss.weights), block
        for weights in loss.weights:
            assert "variant" not in weights.arguments or f"variant={weights.arguments['variant']}" in block
    assert [line.split()[0] for line in text.splitlines() if line.endswith("---")] == list(FAMILIES)


def test_numbers_are_in_their_columns():
    lines = jobs.describe_losses(family="features", width=100).splitlines()
    header = next(line for line in lines if "KD at T" in line)
    row = lines[next(i for i, line in enumerate(lines) if line.startswith("cosine_embedding")) + 1]
    assert [row[header.index(c) :].split("  ")[0] for c in ("own", "CE", "KD at T")] == ["1", "2", "5 at 2"]
    assert "2000 " in "\n".join(lines), "never 2e+03"


def test_one_loss_with_its_formula_and_sources():
    text = jobs.describe_losses("transformed_teacher_matching", width=100)
    assert text.startswith("jaxkd.losses.transformed_teacher_matching(student_logits, teacher_logits, exponent=0.1, *,")
    for words in ("logits; Zheng and Yang", "arXiv:2402.11148", "zkxufo/TTM", "45", "variant=wttm", "L = KL(p' || q)"):
        assert words in text


def test_programs_read_the_same():
    records = json.loads(jobs.losses_as_json())
    assert [record["name"] for record in records] == [loss.name for loss in LOSSES]
    for record, loss in zip(records, LOSSES, strict=True):
        assert record["weights"] == json.loads(json.dumps([w._asdict() for w in loss.weights]))
    (one,) = json.loads(jobs.losses_as_json("decoupled_kd"))
    assert (one["year"], one["weights"][0]["arguments"]["beta"]) == (2022, 8)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("rkd", ["relational_distance", "relational_angle"]),
        ("CRD", ["contrastive_representation"]),
        ("pkt", ["probabilistic_transfer"]),
        ("vid", ["variational_information"]),
        ("gkd", ["generalized_jsd"]),
        ("srd", ["projected_log_error"]),
        ("at", ["attention_transfer", "attention_map"]),
        ("kd", ["soft_label_kl", "softmax_with_temperature", "distillation_loss", "soft_cross_entropy"]),
        ("nst", ["neuron_selectivity"]),
        ("TinyBERT", ["attention_mse"]),
        ("minilm", ["attention_relation"]),
        ("kd++", ["norm_and_direction"]),
        ("SimKD", ["hint"]),
        ("review", ["hierarchical_context"]),
        ("relational-angle", ["relational_angle"]),
    ],
)
def test_a_loss_is_found_by_what_its_paper_or_objective_goes_by(asked, names):
    assert [loss.name for loss in catalogue.find(asked)] == names
    assert [record["name"] for record in json.loads(jobs.losses_as_json(asked))] == names
    text = jobs.describe_losses(asked)
    assert text.startswith(f"jaxkd.losses.{names[0]}(") if len(names) == 1 else all(name in text for name in names)


@pytest.mark.parametrize("name", BY_NAME)
def test_columns_break_between_words(name):
    """At the width of most terminals; where a word is wider than its column, after a sign that it has."""
    for weights in BY_NAME[name].weights:
        text = jobs.describe_losses(name, width=80)
        for repository in weights.source.split(", "):
            pieces = re.split(r"(?<=[/-])", repository)
            assert all(piece in text for piece in pieces), repository
        for argument in weights.arguments:
            assert all(piece in text for piece in re.split(r"(?<=_)", argument)), argument


def test_unknown_names_are_told_with_the_nearest():
    for asked, said in (("distance", "nearest: relational_distance"), ("mse", "nearest: logit_mse, margin_mse")):
        with pytest.raises(ValueError, match=f"no loss is called '{asked}'; {said}"):
            catalogue.find(asked)
    with pytest.raises(ValueError, match="'xyzzy'; `jaxkd losses` lists them all"):
        catalogue.find("xyzzy")
    with pytest.raises(ValueError, match=r"no loss is called 'decoupld_kd'; nearest: decoupled_kd, scale_decoupled_kd"):
        catalogue.find("decoupld_kd")
    with pytest.raises(ValueError, match=r"no family is called 'maps'; there are logits, features, relations"):
        catalogue.losses("maps")
    with pytest.raises(ValueError, match="a loss or a family, not both"):
        jobs.describe_losses("hint", "features")


def test_importing_losses_does_not_import_it():
    code = (
        "import sys, jaxkd.losses; sys.exit(any('catalogue' in name or '_published' in name for name in sys.modules))"
    )
    root = str(Path(losses.__file__).parents[2])
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"], check=True)
