"""Methods by name: defaults are the published ones, taps those of the roles, and errors say what to do."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import learners, methods, models, networks
from jaxkd.networks import Outputs
from jaxkd.objectives import Signals

PUBLISHED = json.loads((Path(__file__).parents[1] / "losses/published_weights.json").read_text())
# The loss and the setting of the copy that a method's defaults are.
SETTINGS = {
    "kd": ("distillation_loss", "CIFAR-100"),
    "deit_hard": ("hard_teacher_label", "ImageNet, DeiT"),
    "wsld": ("weighted_soft_label", "CIFAR-100, ResNet-34/18"),
    "dkd": ("decoupled_kd", "CIFAR-100"),
    "dist": ("dist", "CIFAR-100"),
    "nkd": ("normalized_kd", "CIFAR-100, ResNet-34/18"),
    "mlkd": ("multi_level_kd", "CIFAR-100"),
    "ttm": ("transformed_teacher_matching", "CIFAR-100, VGG-13/8"),
    "fitnets": ("hint", "CIFAR-100"),
    "ft": ("factor_transfer", "CIFAR-100"),
    "vid": ("variational_information", "CIFAR-100, three stages"),
    "srd": ("projected_log_error", "ImageNet, ResNet-34/18"),
    "nd": ("norm_and_direction", "CIFAR-100, ResNet-56/20"),
    "at": ("attention_transfer", "CIFAR-100, three stages"),
    "nst": ("neuron_selectivity", "CIFAR-100"),
    "kdsvd": ("singular_value", "CIFAR-100"),
    "ofd": ("overhaul", "CIFAR-100, last layer"),
    "reviewkd": ("hierarchical_context", "CIFAR-100"),
    "ickd": ("inter_channel_correlation", "CIFAR-100, ResNet-32x4/8x4"),
    "pkt": ("probabilistic_transfer", "CIFAR-100"),
    "cc": ("correlation_congruence", "CIFAR-100"),
    "sp": ("similarity_preserving", "CIFAR-100"),
    "crd": ("contrastive_representation", "CIFAR-100"),
    "cat_kd": ("class_activation", "CIFAR-100, ResNet-32x4/8x4"),
    "sdd": ("scale_decoupled_kd", "CIFAR-100, ResNet-32x4/8x4"),
    "ofa": ("one_for_all", "CIFAR-100, CNN students"),
    "tfkd": ("teacher_free", "CIFAR-100, ResNet-18"),
}


def network(name):
    return networks.from_linen(models.create(name, 10))


def published(loss, setting):
    (entry,) = [one for one in PUBLISHED if (one["loss"], one["setting"]) == (loss, setting)]
    return entry


@pytest.mark.parametrize("name", SETTINGS)
def test_defaults_are_the_published_ones(name):
    entry, parameters = published(*SETTINGS[name]), dict(methods.find(name).parameters)
    if name == "crd":
        parameters["temperature"] = parameters["contrast_temperature"]
    for parameter, value in entry.get("arguments", {}).items():
        if parameter in parameters:
            np.testing.assert_array_equal(parameters[parameter], value, err_msg=parameter)
    if name != "kd":
        assert parameters["weight"] == entry["own"]
        assert parameters["hard"] == entry["hard"]
        assert parameters.get("soft", 0) == entry.get("soft", 0)
    if "temperature" in entry:
        assert parameters["temperature"] == entry["temperature"]


def test_defaults_of_losses_in_two_parts():
    lskd, of_lskd = methods.find("lskd").parameters, published("standardize_logits", "CIFAR-100")
    assert [lskd[one] for one in ("weight", "hard", "temperature")] == [
        of_lskd[one] for one in ("soft", "hard", "temperature")
    ]
    rkd = methods.find("rkd").parameters
    for part in ("distance", "angle"):
        entry = published(f"relational_{part}", "CIFAR-100")
        assert rkd["weight"] * rkd[part] == entry["own"]
        assert rkd["hard"] == entry["hard"]
    srrl = methods.find("srrl").parameters
    assert srrl["weight"] == published("hint", "ImageNet, SRRL, pooled features")["own"]
    assert srrl["weight"] * srrl["regression"] == published("logit_mse", "ImageNet, SRRL")["own"]


OTHERS = json.loads((Path(__file__).parent / "published_parameters.json").read_text())
# Of which no published numbers are the defaults, with the reason.
OWN = {
    "fitnets_staged": "the numbers of kd in the tables, from the hinted trunk",
    "ban": "T = 3, half and half, for labels beside the teacher; the paper has no temperature",
    "takd": "its numbers were found by search, one for each pair",
    "progressive": "no paper has it",
    "several": "the paper does not tell its numbers",
    "dml": "T = 3 with T^2; the paper has T = 1",
    "online": "no paper has it",
    "ema": "mean teachers were published for unlabelled data, with a squared distance",
}


@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry["method"])
def test_other_defaults_are_the_published_ones(entry):
    """Of methods whose losses are no functions by themselves, or that are more than a loss."""
    parameters = methods.find(entry["method"]).parameters
    assert {name: parameters[name] for name in entry["parameters"]} == entry["parameters"]
    assert entry["setting"]
    assert entry["source"]
    assert entry["from"]


def test_each_is_compared_or_says_why_not():
    in_two_parts = {"lskd", "rkd", "srrl"}
    compared = [*SETTINGS, *in_two_parts, *(entry["method"] for entry in OTHERS), *OWN]
    assert sorted(compared) == sorted(method.name for method in methods.methods())


@pytest.mark.parametrize("method", methods.methods(), ids=lambda method: method.name)
def test_each_is_documented_and_listed(method):
    assert method.name in methods.__all__
    assert "References:" in method.function.__doc__
    number = method.paper.rpartition("arXiv:")[2]
    assert number in method.function.__doc__ or "arXiv" not in method.paper


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("at", [f"stages[{i}]" for i in range(3)], [f"stages[{i}]" for i in range(3)]),
        ("fitnets", ["stages[1]"], ["stages[1]"]),
        ("sp", ["stages[2]"], ["stages[2]"]),
        ("rkd", ["penultimate"], ["penultimate"]),
        ("simkd", ["map_before_pool"], ["map_before_pool"]),
    ],
)
def test_taps_are_those_of_the_roles(name, student, teacher):
    objective = methods.create(name, network("cnn_4_8_16"), network("resnet8"))
    assert objective.taps == (tuple(student), tuple(teacher))


def test_taps_of_the_user_and_labels_that_count_nothing():
    objective = methods.at(network("mlp_4"), network("mlp_8"), student_taps="x", teacher_taps=["y"])
    assert objective.taps == (("x",), ("y",))
    objective = methods.reviewkd(
        network("cnn_4"), network("cnn_4"), steps_per_epoch=10, student_taps="stage1", teacher_taps="stage1"
    )
    assert objective.taps == (("stage1",), ("stage1",))


def test_weights_grow_over_the_epochs_of_the_warmup():
    student = network("mlp_4")
    objective = methods.dkd(student, student, steps_per_epoch=2.5, warmup=4.0, weight=8.0)
    weights = [float(apply(objective, step=step)["dkd"].weight) for step in range(12)]
    np.testing.assert_allclose(weights, [2, 2, 2, 4, 4, 6, 6, 6, 8, 8, 8, 8])
    assert apply(methods.dkd(student, student, steps_per_epoch=2.5, warmup=0), step=0)["dkd"].weight == 1


def given(rows=6, step=0, **batch):
    """Logits and maps of both, features of the maps' means, and labels."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(6, *shape))[:rows], jnp.float32)  # noqa: E731
    sides = [Outputs(draw(10), {"map": draw(4, 4, width), "vector": draw(width)}) for width in (3, 5)]
    batch = {"label": jnp.asarray([0, 3, -1, 9, 1, 2])[:rows], **batch}
    variables = [{"params": {"w": jnp.asarray(np.random.default_rng(2).normal(size=(w, 10)))}} for w in (3, 5)]
    return Signals(*sides, variables[1], batch, jnp.int32(step), jax.random.key(0), None, variables[0])


def apply(objective, step=0):
    signals = given(step=step)
    return objective.apply(objective.init(jax.random.key(0), signals), signals)[0]


BARE = network("mlp_4")._replace(roles={}, head=lambda variables, x: x @ variables["params"]["w"])
MAPS, VECTORS = ({"student_taps": tap, "teacher_taps": tap} for tap in ("map", "vector"))
HELPED = {
    "dkd": {"steps_per_epoch": 1.0},
    "lskd": {},
    "dist": {},
    "mlkd": {},
    "at": MAPS,
    "ickd": MAPS,
    "sp": MAPS,
    "srd": VECTORS,
    "ofa": {"student_taps": "map", "teacher_taps": "vector"},
    "cat_kd": MAPS,
    "sdd": MAPS | {"steps_per_epoch": 1.0},
}


@pytest.mark.parametrize("name", HELPED)
def test_padding_changes_nothing(name):
    """Two padded examples that hold NaN, and labels of no class, give what the four others do by themselves."""
    objective = methods.create(name, BARE, BARE, hard=0.0, **HELPED[name])
    whole, four = given(), given(rows=4)
    where = jnp.arange(6) < 4
    spoilt = jax.tree.map(
        lambda x: jnp.where(where.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan), (whole.student, whole.teacher)
    )
    label = jnp.where(where, whole.batch["label"], 1000)
    padded = whole._replace(student=spoilt[0], teacher=spoilt[1], batch={"label": label, "where": where})
    variables = objective.init(jax.random.key(0), four)

    @jax.jit
    @jax.value_and_grad
    def value(params, student, signals):
        terms, _, _ = objective.apply(variables | {"params": params}, signals._replace(student=student))
        return sum(term.weight * term.sum / jnp.maximum(term.count, 1) for term in terms.values())

    of_all, of_four = (value(variables.get("params", {}), x.student, x) for x in (padded, four))
    assert np.isfinite(of_four[0])
    for got, expected in zip(jax.tree.leaves(of_all), jax.tree.leaves(of_four), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dist", "mlkd", "sp", "srd", "rkd"])
def test_two_devices_see_one_batch(name):
    taps = {"sp": MAPS, "srd": VECTORS, "rkd": VECTORS}.get(name, {})
    objective = methods.create(name, BARE, BARE, hard=0.0, soft=0.0, **taps)
    signals = given()
    variables = objective.init(jax.random.key(0), signals)

    def total(terms):
        return sum(term.weight * term.sum for term in terms.values())

    def on_device(student, teacher, label):
        part = signals._replace(student=student, teacher=teacher, batch={"label": label}, axis_name="devices")
        return total(objective.apply(variables, part)[0])

    halves = jax.tree.map(
        lambda x: x.reshape(2, 3, *x.shape[1:]), (signals.student, signals.teacher, signals.batch["label"])
    )
    got = jax.vmap(on_device, axis_name="devices")(*halves)
    np.testing.assert_allclose(got, [total(objective.apply(variables, signals)[0])] * 2, rtol=1e-5)


def test_the_classifier_of_the_student_learns_from_regions():
    """SDD and CAT-KD run it on parts of the map: its gradient is that of the parts, and the teacher's has none."""
    objective = methods.cat_kd(BARE, BARE, hard=0.0, weight=1.0, size=4, **MAPS)
    signals = given()

    def value(student, weights):
        seen = signals._replace(student=Outputs(None, student), student_variables={"params": {"w": weights}})
        term = objective.apply({}, seen)[0]["cat_kd"]
        return term.sum / term.count

    x, w = signals.student.taps, signals.student_variables["params"]["w"]
    t = np.asarray(signals.teacher.taps["map"] @ signals.teacher_variables["params"]["w"], np.float64)
    difference = np.asarray(x["map"], np.float64) @ np.asarray(w, np.float64) - t
    np.testing.assert_allclose(value(x, w), np.mean(difference**2), rtol=1e-5)
    expected = 2 * np.einsum("bhwc,bhwk->ck", np.asarray(x["map"], np.float64), difference) / difference.size
    np.testing.assert_allclose(jax.grad(value, argnums=1)(x, w), expected, rtol=1e-4, atol=1e-6)


BAD = {
    "name": (lambda: methods.find("atx"), "no method is called 'atx'; nearest: at"),
    "parameter": (lambda: create("at", wait=1), "method at has no parameter wait; it has weight, hard, soft"),
    "missing": (lambda: create("dkd"), "method dkd needs steps_per_epoch: see jaxkd.methods.dkd"),
    "negative": (lambda: create("sp", weight=-1.0), "weight is -1.0: it has to lie in"),
    "no role": (lambda: create("ft"), 'takes the role "map_before_pool" of the student, which has no such role'),
    "no roles": (lambda: methods.sp(BARE, BARE), r"\(its roles: none\): take a model that has it, or name taps by"),
    "no norms": (lambda: create("ofd"), 'takes its margins from the role "norms" of the teacher'),
    "counts": (
        lambda: methods.at(network("mlp_4"), network("mlp_8_8")),
        r"1 of the student \(stages\), 2 of the teacher \(stages\[0\], stages\[1\]\): name as many of both",
    ),
    "one layer": (lambda: create("kdsvd"), "method kdsvd needs 2 layers at least, and has stages"),
    "alone": (lambda: create("byot"), "teaches shallow stages by the deepest one, and the student has stages alone"),
    "two taps": (lambda: create("sp", student_taps=("a", "b")), "takes one tap of the student, and student_taps has 2"),
    "no taps": (lambda: create("at", student_taps=()), "student_taps is empty"),
    "no head": (
        lambda: methods.cat_kd(network("cnn_4")._replace(head=None), network("cnn_4")),
        "runs the classifier of the student on parts of its map: give its network a head",
    ),
    "one position": (
        lambda: start(methods.at(network("cnn_2_2_2_2"), network("cnn_3_3_3_3")), "cnn_2_2_2_2", "cnn_3_3_3_3"),
        r'student tap "stages\[3\]" is \[4,1,1,2\], teacher tap "stages\[3\]" is \[4,1,1,3\]: ',
    ),
    "no label": (
        lambda: start(methods.nkd(network("mlp_4"), network("mlp_4"), hard=0.0), "mlp_4", "mlp_4", label=None),
        r'needs integers \[4\] as batch\["label"\]',
    ),
    "probabilities": (
        lambda: start(
            methods.nkd(network("mlp_4"), network("mlp_4"), hard=0.0), "mlp_4", "mlp_4", label=np.ones((4, 10))
        ),
        r'needs integers \[4\] as batch\["label"\], and got float',
    ),
}


def create(name, **parameters):
    return methods.create(name, network("mlp_4"), network("mlp_4"), **parameters)


def start(objective, student, teacher, **batch):
    batch = {"image": np.zeros((4, 8, 8, 1), np.float32), "label": np.zeros(4, np.int32)} | batch
    batch = {name: x for name, x in batch.items() if x is not None}
    learner = learners.distill(network(student), network(teacher), objective, optax.sgd(0.1))

    def init():
        return learner.init(jax.random.key(0), network(teacher).init(jax.random.key(0), batch), batch)

    jax.eval_shape(init)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_parameters_as_they_are_written():
    parsed = methods.parse("sdd", ["weight=1e-2", "grids=1, 2", "student_taps=a/b,stages[1]"])
    assert parsed == {"weight": 0.01, "grids": (1, 2), "student_taps": ("a/b", "stages[1]")}
    assert methods.parse("crd", ["dim=64", "variant=queue"]) == {"dim": 64, "variant": "queue"}


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("at", ["weight"], "'weight' is no parameter: write name=value"),
        ("at", ["weight="], "'weight=' is no parameter: write name=value"),
        ("at", ["weight=1", "weight=2"], "weight of method at is given twice"),
        ("at", ["weight=nan"], "weight of method at is 'nan': it has to be a number"),
        ("crd", ["dim=1.5"], "dim of method crd is '1.5': it has to be a whole number"),
        ("crd", ["n_data=5"], "n_data of method crd is the training's to say"),
        ("at", ["beta=5"], "method at has no parameter beta; it has weight"),
    ],
)
def test_parameters_that_are_none(name, texts, message):
    with pytest.raises(ValueError, match=message):
        methods.parse(name, texts)
