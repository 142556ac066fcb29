"""Weights into models, all or none; students out and in again; a start from the teacher's layers."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxkd import models
from jaxkd.models import CifarResNet, ViT, pretrained
from jaxkd.models.pretrained._names import source

from . import imagenet_cases as cases

SHAPE = (32, 32, 3)
CONFIG = {"model": "resnet8", "classes": 5, "image_shape": list(SHAPE), "note": "first"}


def drawn(module, seed=0):
    return jax.tree.map(lambda leaf: leaf + seed, cases.drawn(module, SHAPE))


@pytest.fixture(scope="module")
def resnet8():
    return drawn(CifarResNet(8, 5))


def foreign(module, variables):
    """The tensors that a model of torchvision or timm would save, made of the names the other way round."""
    tensors, parts = {}, {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        array = np.asarray(leaf)
        if path[-1] == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        name, part, _ = source(module, path[1:])
        if part is None:
            tensors[name] = np.ascontiguousarray(array)
        else:
            parts.setdefault(name, {})[part] = array
    joined = {name: np.concatenate([parts[name][i] for i in range(3)]) for name in parts}
    return tensors | {name: np.ascontiguousarray(array) for name, array in joined.items()}


def saved(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


def equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("module", [CifarResNet(8, 5), ViT(24, 2, 3, 5, distilled=True)])
def test_weights_load_into_a_module(tmp_path, module):
    variables = drawn(module)
    tensors = foreign(module, variables) | {"bn1.num_batches_tracked": np.array(3)}
    equal(pretrained.load(module, saved(tmp_path / "w.safetensors", tensors), SHAPE), variables)


def test_a_name_gets_as_many_classes_as_the_weights(tmp_path, resnet8):
    path = saved(tmp_path / "w.safetensors", foreign(CifarResNet(8, 5), resnet8))
    equal(pretrained.load("resnet8", path, SHAPE), resnet8)
    with pytest.raises(ValueError, match="no model is called 'resnet9'"):
        pretrained.load("resnet9", path, SHAPE)


def test_bfloat16_weights_come_as_the_modules_type(tmp_path, resnet8):
    module = CifarResNet(8, 5)
    halves = {name: array.astype(jnp.bfloat16) for name, array in foreign(module, resnet8).items()}
    path = saved(tmp_path / "w.safetensors", halves)
    loaded = pretrained.load(module, path, SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(jnp.float32)}
    equal(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), resnet8))
    kept = pretrained.load(module.clone(param_dtype=jnp.bfloat16), path, SHAPE)
    assert kept["params"]["stem"]["conv"]["kernel"].dtype == jnp.bfloat16


def test_what_does_not_fit_is_listed_by_name_and_nothing_is_loaded(tmp_path, resnet8):
    module = CifarResNet(8, 5)
    tensors = foreign(module, resnet8)
    del tensors["bn1.bias"], tensors["layer2.0.downsample.0.weight"]
    tensors |= {"layer9.weight": np.zeros(3, np.float32), "fc.weight": np.zeros((7, 64), np.float32)}
    tensors["conv1.weight"] = np.zeros((16, 3, 3, 3), np.int32)
    tensors["fc.bias"] = np.array([1, 2, np.nan, 4, 5], np.float32)
    path = saved(tmp_path / "w.safetensors", tensors)
    with pytest.raises(ValueError, match="do not fit") as error:
        pretrained.load(module, path, SHAPE)
    assert str(error.value) == (
        f"{path}: these weights are not loaded, they do not fit CifarResNet; "
        "missing: bn1.bias, layer2.0.downsample.0.weight; surplus: layer9.weight; "
        "mis-shaped: fc.weight makes [64,7], classifier/kernel is [64,5]; no floats: conv1.weight is int32; "
        "not finite: fc.bias"
    )


def test_weights_of_another_model_give_one_line(tmp_path, resnet8):
    path = saved(tmp_path / "w.safetensors", foreign(CifarResNet(8, 5), resnet8))
    with pytest.raises(
        ValueError, match=r"missing: blocks.0.attn.proj.bias, .* and \d+ more; surplus: bn1.bias"
    ) as error:
        pretrained.load(ViT(24, 2, 3, 5), path, SHAPE)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no foreign names are known for a MLP"):
        pretrained.load(models.MLP((4,), 5), path, SHAPE)
    odd = {"blocks.0.attn.qkv.weight": np.zeros((5, 24), np.float32), "pos_embed": np.zeros((1, 99, 24), np.float32)}
    with pytest.raises(ValueError, match=r"mis-shaped: blocks.0.attn.qkv.weight makes \[24,5\]"):
        pretrained.convert(ViT(24, 1, 3, 5), odd, SHAPE)


def test_a_student_is_saved_and_loaded_with_its_config(tmp_path, resnet8):
    path = tmp_path / "student.safetensors"
    pretrained.save(path, resnet8, CONFIG)
    student = pretrained.load_student(path)
    assert student.config == CONFIG
    assert student.module == CifarResNet(8, 5)
    equal(student.variables, resnet8)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        pretrained.save(path, resnet8, CONFIG)


def test_students_keep_bfloat16(tmp_path, resnet8):
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), resnet8)
    pretrained.save(tmp_path / "student.safetensors", halves, CONFIG)
    equal(pretrained.load_student(tmp_path / "student.safetensors").variables, halves)


def test_students_that_are_none(tmp_path, resnet8):
    path = tmp_path / "student.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no student at"):
        pretrained.load_student(path)
    with pytest.raises(ValueError, match="the config lacks classes, image_shape"):
        pretrained.save(path, resnet8, {"model": "resnet8"})
    with pytest.raises(ValueError, match=r"mis-shaped: params/classifier/bias makes \[5\], .* is \[6\]"):
        pretrained.save(path, resnet8, CONFIG | {"classes": 6})
    with pytest.raises(ValueError, match="missing: batch_stats/stage1"):
        pretrained.save(path, {"params": resnet8["params"]}, CONFIG)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, resnet8)
    with pytest.raises(ValueError, match="not finite: batch_stats/"):
        pretrained.save(path, broken, CONFIG)
    with pytest.raises(TypeError, match="not JSON serializable"):
        pretrained.save(path, resnet8, CONFIG | {"note": object()})
    assert not list(tmp_path.iterdir())
    tensors = {"x": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match='no metadata "jaxkd"'):
        pretrained.load_student(saved(path, tensors))
    odd = (
        ("{", "Expecting"),
        ("[]", "lacks model"),
        ("[" * 100_000, "recursion"),
        (json.dumps(CONFIG | {"classes": "5"}), "lacks classes"),
        (json.dumps(CONFIG | {"image_shape": [-1, "x"]}), "image_shape is"),
        (json.dumps(CONFIG), "surplus: x"),
    )
    for metadata, problem in odd:
        safetensors.numpy.save_file(tensors, path, {"jaxkd": metadata})
        with pytest.raises(ValueError, match=f"student.safetensors: .*{problem}"):
            pretrained.load_student(path)


def layers_of(variables, name="block"):
    """Where each block of a start comes from: blocks of the teacher are told by their first bias."""
    return [int(variables["params"][f"{name}{i + 1}"]["attention_norm"]["bias"][0]) for i in range(6)]


@pytest.fixture(scope="module")
def vit_teacher():
    variables = drawn(ViT(24, 12, 3, 5))
    for i in range(12):
        norm = variables["params"][f"block{i + 1}"]["attention_norm"]
        norm["bias"] = jnp.full_like(norm["bias"], i)
    return variables


def test_a_transformer_starts_from_evenly_spread_layers(vit_teacher):
    student = drawn(ViT(24, 6, 3, 5), seed=1)
    start = pretrained.init_from_teacher(student, vit_teacher)
    assert layers_of(start) == [0, 2, 4, 7, 9, 11]  # DistilBERT's of BERT base
    equal(start["params"]["tokens"], vit_teacher["params"]["tokens"])
    equal(start["params"]["block6"], vit_teacher["params"]["block12"])
    assert jax.tree.structure(start) == jax.tree.structure(student)
    assert layers_of(pretrained.init_from_teacher(student, vit_teacher, [0, 1, 2, 3, 4, 5])) == [0, 1, 2, 3, 4, 5]


def test_the_start_shares_no_buffer_with_the_teacher(vit_teacher):
    start = pretrained.init_from_teacher(vit_teacher, vit_teacher)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(vit_teacher)}
    assert not pointers & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(start)}


def test_other_classes_keep_the_students_classifier(vit_teacher):
    student = drawn(ViT(24, 6, 3, 7), seed=1)
    with pytest.raises(ValueError, match=r"copied .*: classifier/bias \(\[7\], teacher \[5\]\), .* keep=\(...\)$"):
        pretrained.init_from_teacher(student, vit_teacher)
    start = pretrained.init_from_teacher(student, vit_teacher, keep=("classifier",))
    equal(start["params"]["classifier"], student["params"]["classifier"])
    assert layers_of(start) == [0, 2, 4, 7, 9, 11]
    distilled = drawn(ViT(24, 6, 3, 5, distilled=True))
    with pytest.raises(ValueError, match=r"distillation_classifier \(not in the teacher\)"):
        pretrained.init_from_teacher(distilled, vit_teacher)


def test_a_resnet_starts_from_matching_stages():
    teacher, student = drawn(CifarResNet(20, 5)), drawn(CifarResNet(14, 5), seed=1)
    start = pretrained.init_from_teacher(student, teacher)
    for collection in ("params", "batch_stats"):
        equal(start[collection]["stem"], teacher[collection]["stem"])
        for stage in ("stage1", "stage2", "stage3"):
            # The first, with the stride and the projection, and the last.
            equal(start[collection][stage]["block1"], teacher[collection][stage]["block1"])
            equal(start[collection][stage]["block2"], teacher[collection][stage]["block3"])


def test_starts_that_cannot_be(vit_teacher):
    student = drawn(ViT(24, 6, 3, 5), seed=1)
    with pytest.raises(ValueError, match=r"layers are \[0, 12\]: they have to be 6, one for each block"):
        pretrained.init_from_teacher(student, vit_teacher, [0, 12])
    with pytest.raises(ValueError, match=r"the teacher's 0 to 11"):
        pretrained.init_from_teacher(student, vit_teacher, [0, 1, 2, 3, 4, 12])
    with pytest.raises(ValueError, match="the student has 12 layers of a stack, the teacher 6"):
        pretrained.init_from_teacher(vit_teacher, student)
    with pytest.raises(ValueError, match="keep names head, which the student has not"):
        pretrained.init_from_teacher(student, vit_teacher, keep=("head",))
    flat = {"params": {"classifier": {"bias": jnp.zeros(3)}}}
    with pytest.raises(ValueError, match="no numbered layers"):
        pretrained.init_from_teacher(flat, flat, [0])
