"""Named arrays from published weight files: safetensors, and what `torch.save` writes, without executing it.

A .pth file is a pickle, a program that may call anything. Here its instructions are only listed (`pickletools`) and
the few that describe a dictionary of tensors are followed; any other instruction, or any name that is not one of
PyTorch's own for tensors, is refused. Both layouts are read: the zip archive, and the one before PyTorch 1.6.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genimg_jax.errors import CheckpointError

STORAGES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("<i1"),
    "torch ByteStorage": np.dtype("<u1"),
    "torch BoolStorage": np.dtype("?"),
}
TENSOR, DICTIONARY, PARAMETER = (
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"


class _Name(NamedTuple):
    """A function or class that the file names. It is never looked up."""

    name: str


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    pass


def _storage(name: tuple) -> _Storage:
    kind, dtype, key, _, count, *_ = name
    if kind != "storage" or not isinstance(dtype, _Name) or dtype.name not in STORAGES:
        raise ValueError(f"it stores {dtype}")
    return _Storage(STORAGES[dtype.name], str(key), int(count))


def _call(function: Any, arguments: tuple) -> Any:
    match function, arguments:
        case _Name(name), () if name == DICTIONARY:
            return {}
        case _Name(name), (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if name == TENSOR:
            return _Tensor(storage, offset, shape, strides)
        case _Name(name), (_Tensor() as tensor, *_) if name == PARAMETER:
            return tensor
    raise ValueError(f"it calls {getattr(function, 'name', function)}")


def _read(stream: BinaryIO | bytes) -> Any:
    """Follow the instructions of one pickle. Raises ValueError for an unsupported instruction, with its name."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = max(i for i, value in enumerate(stack) if isinstance(value, _Mark))
        values = stack[place + 1 :]
        del stack[place:]
        return values

    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_Mark())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode.name])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                values = tuple(stack[-size:])
                del stack[-size:]
                stack.append(values)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of a dictionary: versions of the modules it came from
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                values = since_mark()
                stack[-1].update(zip(values[::2], values[1::2], strict=True))
            case unknown:
                raise ValueError(f"it uses the instruction {unknown}")
    raise ValueError("it has no end")


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    """A copy of the tensor's elements, of which none may lie outside the storage."""
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((offset, *strides, *shape), default=0) < 0 or (math.prod(shape) and last >= len(data) // size):
        raise ValueError("a tensor reaches beyond its data")
    flat = np.frombuffer(data, storage.dtype)
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * size for s in strides], writeable=False)
    return view.astype(storage.dtype.newbyteorder("="))


def _zip_archive(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(stream)
    (description,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
    folder = description.removesuffix("data.pkl")
    entries = [description, *(n for n in archive.namelist() if n.startswith(f"{folder}data/"))]
    if any(archive.getinfo(name).compress_type != zipfile.ZIP_STORED for name in entries):
        raise ValueError("it is compressed, which PyTorch's files never are")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it is big-endian")
    return _read(archive.read(description)), lambda storage: archive.read(f"{folder}data/{storage.key}")


def _legacy(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    if _read(stream) != LEGACY_MAGIC:
        raise ValueError("it does not begin as PyTorch's files do")
    _read(stream)  # protocol version
    if not _read(stream)["little_endian"]:
        raise ValueError("it is big-endian")
    contents, keys = _read(stream), _read(stream)
    sizes = {t.storage.key: t.storage.dtype.itemsize for t in contents.values() if isinstance(t, _Tensor)}
    data = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        data[key] = stream.read(count * sizes[key])
    return contents, lambda storage: data[storage.key]


def _torch_file(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        contents, fetch = (_zip_archive if start == ZIP_MAGIC else _legacy)(stream)
        if isinstance(contents, dict) and isinstance(contents.get("state_dict"), dict):
            contents = contents["state_dict"]
        if not isinstance(contents, dict) or not all(isinstance(t, _Tensor) for t in contents.values()):
            raise ValueError("it holds something other than a dictionary of tensors")
        return {str(name): _array(tensor, fetch(tensor.storage)) for name, tensor in contents.items()}


# The exceptions that a damaged file can raise. RuntimeError is that of an encrypted archive.
_DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, or of a dictionary of tensors that `torch.save` wrote (.pth, .pt, .bin).

    Raises `CheckpointError` for a file that is missing, damaged, or that would have to be executed to be read.
    """
    path = Path(path)
    try:
        return load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no weight file {path}; download it and give its path.") from None
    except _DAMAGE as error:
        raise CheckpointError(f"the weight file {path} cannot be read: {error}.") from error
