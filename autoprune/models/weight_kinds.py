"""Files that hold no weights which can be read, known by their first bytes; each kind with the way out."""

import json
import zipfile
from pathlib import Path

from autoprune.errors import listed

HOW_TO_SAVE = "where the model was made, save its weights alone: torch.save(model.state_dict(), 'weights.pt')"
HEAD_BYTES = 512
FEWEST_BYTES = 9  # of safetensors: the length of the JSON in 8 bytes, then the JSON
LONGEST_INDEX = 2**24  # bytes of JSON
LISTED = 4
TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # near the beginning of what older torch.save wrote
ZIP = b"PK\x03\x04"
ARCHIVE = "{}, not weights; unpack it and give the file of weights in it"
AGAIN = "copy or save it again"
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x93NUMPY", "a NumPy array without a name, not a state dict; {how}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (of Keras, or h5py), not weights of a PyTorch model; {how}"),
    (0, b"\x1f\x8b", ARCHIVE.format("a gzip archive")),
    (0, b"BZh", ARCHIVE.format("a bzip2 archive")),
    (0, b"\xfd7zXZ\x00", ARCHIVE.format("an xz archive")),
    (0, b"\x28\xb5\x2f\xfd", ARCHIVE.format("a zstd archive")),
    (0, b"7z\xbc\xaf\x27\x1c", ARCHIVE.format("a 7z archive")),
    (0, b"Rar!", ARCHIVE.format("a rar archive")),
    (257, b"ustar", ARCHIVE.format("a tar archive")),
    (0, b"GGUF", "a GGUF file, not weights of a PyTorch model; {how}"),
    (4, b"TFL3", "a TensorFlow Lite model, not weights of a PyTorch model; {how}"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, without the weights; fetch them: git lfs pull"),
    (0, b"<", f"a web page or XML, not weights; download the file itself, and {AGAIN}"),
)


def is_safetensors(path: Path) -> bool:
    return _head(path)[8:9] == b"{"


def unreadable(path: Path) -> str | None:
    """What `path` is if it holds no weights that can be read, and what to do; None for safetensors and torch files.

    Records of a torch file must lie there as `torch.save` writes them, uncompressed and apart: a small file of others
    can fill any memory.
    """
    head, size = _head(path), path.stat().st_size
    if size < FEWEST_BYTES:
        return f"is too short to hold weights; {AGAIN}" if size else f"is empty; {AGAIN}"
    for start, signature, kind in SIGNATURES:
        if head[start:].startswith(signature):
            return f"is {kind.format(how=HOW_TO_SAVE)}"
    if head.startswith(b"{"):
        return _json_kind(path)
    if head.startswith(ZIP):
        return _zip_kind(path, size)
    if head[8:9] == b"{" or TORCH_MAGIC in head:
        return None
    if head.startswith(b"\x80"):
        return f"is a pickle that torch.save did not write: it may run code, and is never read; {HOW_TO_SAVE}"
    return f"is neither safetensors nor what torch.save writes, or its beginning is damaged; {AGAIN}, or {HOW_TO_SAVE}"


def _json_kind(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(LONGEST_INDEX)
    try:
        shards = sorted(set(json.loads(text)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"is text, not weights; {HOW_TO_SAVE}"
    return (
        f"is the index of weights that lie in {len(shards)} other files ({listed(map(str, shards), most=LISTED)}); "
        f"join them into one: state = {{}}; for each: state.update(safetensors.torch.load_file(FILE)); then "
        f"safetensors.torch.save_file(state, 'weights.safetensors')"
    )


def _zip_kind(path: Path, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return f"is cut off or damaged: what an archive ends with is missing; {AGAIN}"
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            f"holds more than tensors: it is a TorchScript program, which is never run; save its weights alone: "
            f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt')"
        )
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return (
            f"holds more than tensors: it is an exported program, which is never run; save its weights alone: "
            f"torch.save(torch.export.load('{path.name}').state_dict, 'weights.pt')"
        )
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        if names and all(name.endswith(".npy") for name in names):
            return (
                f"is a NumPy archive; make a state dict of it: torch.save({{name: torch.from_numpy(array) for name, "
                f"array in numpy.load('{path.name}').items()}}, 'weights.pt')"
            )
        return f"is {ARCHIVE.format('a zip archive')} ({listed(names, most=LISTED)})"
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        return f"is compressed, which torch.save never does, and may unpack to any size; {HOW_TO_SAVE}"
    if sum(record.file_size for record in records) > size:
        return f"is damaged: its records would need more bytes than the file has; {AGAIN}"
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
