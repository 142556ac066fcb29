"""Reading weights: both PyTorch formats, safetensors, hub folders; and files that are out to harm."""

import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxkd.models import pretrained

VALUES = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([1.5, -2.0], np.float16),
    "b": np.array([3.25, -0.5, 1e30], jnp.bfloat16),
    "count": np.array([7], np.int64),
}
STORAGES = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long", "float64": "Double"}


class Named:
    """Pickles as a call of a global of that name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __reduce__(self):
        return stub(self.name), self.arguments


def stub(name):
    """A function of a module that is not there, found by the pickler under this name."""
    owner, _, function = name.rpartition(".")
    module = sys.modules.get(owner)
    if hasattr(module, function):
        return getattr(module, function)
    if module is None:
        module = sys.modules[owner] = types.ModuleType(owner)
    made = types.new_class(function)
    made.__module__ = owner
    setattr(module, function, made)
    return made


@pytest.fixture(autouse=True)
def _no_stubs_left():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "torch":
            del sys.modules[name]


class Storage:
    """Pickles as a persistent id."""

    def __init__(self, dtype, key, size, *view):
        self.identity = ("storage", stub(f"torch.{STORAGES[dtype]}Storage"), key, "cpu", size, *view)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Storage) else None


def pickled(value, protocol=2):
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(storage, shape, strides, offset=0):
    return Named("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, collections.OrderedDict())


def contiguous(array):
    return tuple(stride // array.itemsize for stride in array.strides)


def state_of(values, *view):
    return collections.OrderedDict(
        (name, tensor(Storage(str(array.dtype), str(i), array.size, *view), array.shape, contiguous(array)))
        for i, (name, array) in enumerate(values.items())
    )


def write_zip(path, state, values, compression=zipfile.ZIP_STORED, extra=None):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", state if isinstance(state, bytes) else pickled(state))
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(values.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def write_legacy(path, state, values):
    keys = [str(i) for i in range(len(values))]
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, machine, state, keys):
            file.write(pickled(value))
        for array in values.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path


def check(tensors, values=VALUES):
    assert tensors.keys() == values.keys()
    for name, array in values.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


def test_zip_format(tmp_path):
    check(pretrained.read(write_zip(tmp_path / "weights.pth", state_of(VALUES), VALUES)))


def test_legacy_format(tmp_path):
    check(pretrained.read(write_legacy(tmp_path / "weights.th", state_of(VALUES, None), VALUES)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_and_a_state_dict_inside(tmp_path, protocol):
    inner = collections.OrderedDict((f"module.{name}", value) for name, value in state_of(VALUES).items())
    inner._metadata = {"": {"version": 1}}
    state = {"epoch": 3, "lr": 0.1, "best": None, "done": True, "model": inner, "names": ["x", "y"]}
    check(pretrained.read(write_zip(tmp_path / "weights.pth", pickled(state, protocol), VALUES)))


def test_views_of_one_storage_and_transposed_ones(tmp_path):
    base = {"base": np.arange(12, dtype=np.float32)}
    storage = Storage("float32", "0", 12)
    state = {
        "t": tensor(storage, (4, 3), (1, 4)),
        "row": Named(
            "torch._utils._rebuild_parameter", tensor(storage, (4,), (1,), 8), True, collections.OrderedDict()
        ),
        "one": tensor(storage, (), (), 5),
    }
    tensors = pretrained.read(write_zip(tmp_path / "weights.pth", state, base))
    np.testing.assert_array_equal(tensors["t"], base["base"].reshape(3, 4).T)
    np.testing.assert_array_equal(tensors["row"], [8, 9, 10, 11])
    assert tensors["one"] == 5


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickle_that_runs_something_is_refused(tmp_path, write):
    proof = tmp_path / "it ran"
    for call in (Named("posix.system", f"touch '{proof}'"), Named("builtins.eval", f"open({str(proof)!r}, 'w')")):
        path = write(tmp_path / "weights.pth", {"weight": call}, {})
        with pytest.raises(
            ValueError, match=r"names '(posix.system|.*eval)', which is no part .* nothing was run$"
        ) as e:
            pretrained.read(path)
        assert "\n" not in str(e.value)
    assert not proof.exists()
    # What was refused does run where it is unpickled: the test would see it.
    pickle.loads(pickled(Named("posix.system", f"touch '{proof}'")))  # noqa: S301
    assert proof.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00true",  # cut short
        b"\x80\x02.",  # nothing on the stack
        b"\x80\x02}]}s.",  # a list for a key
        b"\x80\x02X\x01\x00\x00\x00aX\x01\x00\x00\x00b\x86R.",  # calls a string
        b"\x80\x02(K\x01u.",  # SETITEMS on nothing
        b"\x80\x02h\x05.",  # a memo that was never put
        b"\x80\x02t.",  # no mark
        b"\x80\x02K\x01\x85\x85\x85R.",
        b"\x80\x02(istr\nx\n.",  # INST
        b"\x80\x02}(X\x01\x00\x00\x00au.",  # an odd number
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # a string of 2^63 bytes
        b"\x80\x02(((((((((((",
        b"\x80",
        b"\x80\xff\xfe",
    ],
)
@pytest.mark.parametrize("write", [write_zip, lambda path, data, _: path.write_bytes(data) and path])
def test_damaged_pickles_give_one_line(tmp_path, stream, write):
    with pytest.raises(ValueError, match=r"weights.pth: ") as e:
        pretrained.read(write(tmp_path / "weights.pth", stream, {}))
    assert "\n" not in str(e.value)


def test_a_storage_of_another_kind_of_number_is_refused(tmp_path):
    stub("torch.ComplexFloatStorage")
    storage = Storage("float32", "0", 1)
    storage.identity = ("storage", stub("torch.ComplexFloatStorage"), "0", "cpu", 1)
    path = write_zip(tmp_path / "weights.pth", {"a": tensor(storage, (1,), (1,))}, {"a": np.zeros(1, np.complex64)})
    with pytest.raises(ValueError, match=r"names 'torch.ComplexFloatStorage', which is no part"):
        pretrained.read(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2**40,), (1,), 0),
        ((2**40,), (0,), 0),
        ((2**20, 2**20, 2**30), (0, 0, 0), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((), (), 4),
        ((0, 2**62), (1, 1), 0),
        ((2,), (), 0),
        ((1,) * 64, (1,) * 64, 0),
    ],
)
def test_a_shape_larger_than_its_storage_is_refused(tmp_path, shape, strides, offset):
    values = {"a": np.zeros(4, np.float32)}
    state = {"a": tensor(Storage("float32", "0", 4), shape, strides, offset)}
    for write in (write_zip, write_legacy):
        with pytest.raises(ValueError, match=r"weights.pth: its tensor 'a' .*refused$"):
            pretrained.read(write(tmp_path / "weights.pth", state, values))


@pytest.mark.parametrize("negative", [((-1,), (1,), 0), ((1,), (-1,), 0), ((1,), (1,), -1), ((True,), (1,), 0)])
def test_numbers_below_0_are_refused(tmp_path, negative):
    shape, strides, offset = negative
    state = {"a": tensor(Storage("float32", "0", 4), shape, strides, offset)}
    with pytest.raises(ValueError, match="its pickle is damaged"):
        pretrained.read(write_zip(tmp_path / "weights.pth", state, {"a": np.zeros(4, np.float32)}))


def test_storages_that_promise_more_than_there_is(tmp_path):
    state = {"a": tensor(Storage("float32", "0", 2**40), (4,), (1,))}
    with pytest.raises(ValueError, match=r"its storage '0' has 16 bytes where 1099511627776 float32 are promised"):
        pretrained.read(write_zip(tmp_path / "a.pth", state, {"a": np.zeros(4, np.float32)}))
    with pytest.raises(ValueError, match=r"its storage '0' is of another size .* or it is cut short"):
        pretrained.read(write_legacy(tmp_path / "b.pth", state, {"a": np.zeros(4, np.float32)}))


def test_zip_bombs_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pth", state_of({}), {}, zipfile.ZIP_DEFLATED, {"archive/data/0": bytes(10**7)})
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"its record 'archive/.*' is compressed, which PyTorch's never are: refused$"):
        pretrained.read(path)
    # A header that lies about the size: stored, 2^32 - 2 bytes.
    path = write_zip(tmp_path / "b.pth", state_of(VALUES), VALUES)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"b.pth: its records claim more bytes than the file has: refused$"):
        pretrained.read(path)


def test_a_size_that_no_file_can_have_is_refused(tmp_path):
    huge = 2**63 - 1
    state = {"a": tensor(Storage("float32", "0", huge), (4,), (1,))}
    path = write_legacy(tmp_path / "weights.pth", state, {"a": np.zeros(4, np.float32)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 4) + bytes(16), struct.pack("<q", huge) + bytes(16)))
    with pytest.raises(ValueError, match=r"weights.pth: it is damaged"):
        pretrained.read(path)


def test_a_zip_header_that_points_nowhere_is_refused(tmp_path):
    path = write_zip(tmp_path / "weights.pth", state_of(VALUES), VALUES)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 16 : end + 20] = b"\xff\xff\xff\x7f"  # where the directory starts
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights.pth: it is damaged"):
        pretrained.read(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_files_cut_anywhere_are_refused(tmp_path, write):
    whole = write(tmp_path / "whole.pth", state_of(VALUES), VALUES).read_bytes()
    path = tmp_path / "cut.pth"
    for end in range(0, len(whole), 13):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut.pth: ") as e:
            pretrained.read(path)
        assert "\n" not in str(e.value)


def test_a_flipped_byte_of_a_zip_is_noticed(tmp_path):
    path = write_zip(tmp_path / "weights.pth", state_of(VALUES), VALUES)
    data = bytearray(path.read_bytes())
    data[data.index(VALUES["a.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        pretrained.read(path)


def test_what_has_no_state_dict_says_so(tmp_path):
    for state in ({"epoch": 1}, [1, 2], "weights"):
        with pytest.raises(ValueError, match="no tensors by name"):
            pretrained.read(write_zip(tmp_path / "weights.pth", state, {}))
    one, two = ({"x": tensor(Storage("float32", "0", 1), (1,), (1,))} for _ in range(2))
    with pytest.raises(ValueError, match="tensors under several keys, 'one', 'two'"):
        pretrained.read(write_zip(tmp_path / "weights.pth", {"one": one, "two": two}, {"x": np.zeros(1, np.float32)}))
    cycle = {}
    cycle["self"] = cycle
    with pytest.raises(ValueError, match="no tensors by name"):
        pretrained.read(write_zip(tmp_path / "weights.pth", cycle, {}))


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(VALUES, path)
    check(pretrained.read(path))
    data = path.read_bytes()
    for broken in (data[:-1], data[:20], data.replace(b"[3,4]", b"[3,9]"), b"\xff" * 7 + b"\x7f" + data[8:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"^[^:]*model.safetensors: it is no sound .safetensors file") as e:
            pretrained.read(path)
        assert "\n" not in str(e.value)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="no sound"):
        pretrained.read(path)


def test_other_files_and_none(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="there are no weights at"):
        pretrained.read(path)
    for data in (b"", b"hello, I am no weights", os.urandom(3) + b"\x00" * 20):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"neither a .safetensors nor a PyTorch file|its pickle"):
            pretrained.read(path)
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors nor pytorch_model.bin"):
        pretrained.read(tmp_path)


def test_hub_folders_shards_and_caches(tmp_path):
    cache = tmp_path / "models--org--name"
    folder = cache / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="names no revision"):
        pretrained.read(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    write_zip(folder / "pytorch_model.bin", state_of(VALUES), VALUES)
    check(pretrained.read(cache))
    one, two = dict(list(VALUES.items())[:2]), dict(list(VALUES.items())[2:])
    safetensors.numpy.save_file(one, folder / "model-1.safetensors")
    safetensors.numpy.save_file(two, folder / "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    places = dict.fromkeys(one, "model-1.safetensors") | dict.fromkeys(two, "model-2.safetensors")
    index.write_text(json.dumps({"weight_map": places}))
    check(pretrained.read(folder))
    index.write_text(json.dumps({"weight_map": places | {"gone": "model-2.safetensors"}}))
    with pytest.raises(ValueError, match="differ in gone"):
        pretrained.read(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"which is not beside it: refused"):
        pretrained.read(folder)
    index.write_text("[]")
    with pytest.raises(ValueError, match="no index of shards"):
        pretrained.read(folder)
