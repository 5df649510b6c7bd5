"""Pictures that are deep, huge, long, or none: what is read is right, what is not is named or counted."""

import os
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from autoprune.config import DataConfig
from autoprune.data import imagefolder, load_search_data, load_test_split, pictures
from autoprune.errors import DataError
from autoprune.foundation import progress

RNG = np.random.default_rng(1)
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by the number of channels


def write_png16(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits a channel, (H, W, C): Pillow itself writes them of one channel only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_tiff16(path: Path, pixels: np.ndarray, *, order: str, compressed: bool) -> None:
    """A TIFF of 16 bits in RGB, with `order` of bytes "<" or ">"."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    padded = data + b"\0" * (len(data) % 2)
    bits_at = 8 + len(padded)
    short, long = (f"{order}HHIH2x", f"{order}HHII")
    entries = [
        struct.pack(long, 256, 4, 1, width),
        struct.pack(long, 257, 4, 1, height),
        struct.pack(long, 258, 3, channels, bits_at),
        struct.pack(short, 259, 3, 1, 8 if compressed else 1),
        struct.pack(short, 262, 3, 1, 2),
        struct.pack(long, 273, 4, 1, 8),
        struct.pack(short, 277, 3, 1, channels),
        struct.pack(long, 278, 4, 1, height),
        struct.pack(long, 279, 4, 1, len(data)),
    ]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0" * 4
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, bits_at + 2 * channels)
    path.write_bytes(start + padded + struct.pack(f"{order}{channels}H", *[16] * channels) + directory)


def folder_of(root: Path, write: Callable[[Path, int], None], *, suffix: str = "png") -> DataConfig:
    """Two classes of two pictures in each of train and test; `write` gets a path and a number 0..3."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                write(root / split / name / f"{number}.{suffix}", number + 2 * (name == "b"))
    return DataConfig(name=f"imagefolder:{root}", search_images=2)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.setattr(progress, "_shown", True)
    return lambda: capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_png_pixels_are_read_whole(tmp_path: Path, channels: int) -> None:
    pixels = RNG.integers(0, 2**16, (6, 8, channels))
    write_png16(tmp_path / "x.png", pixels)
    header = pictures.read_header(tmp_path / "x.png")
    assert (header.is_grey, header.deep) == (channels < 3, "whole")
    with Image.open(tmp_path / "x.png") as picture:
        found = pictures._deep_pixels(tmp_path / "x.png", picture)
    assert np.array_equal(found.colours, pixels[..., :3] if channels > 2 else pixels[..., 0])
    if channels in (2, 4):
        assert np.array_equal(found.alpha, pixels[..., -1] >> 8)
    else:
        assert found.alpha is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_deep_tiff_pixels_are_read_whole(tmp_path: Path, order: str, compressed: bool) -> None:
    pixels = RNG.integers(0, 2**16, (6, 8, 3))
    write_tiff16(tmp_path / "x.tif", pixels, order=order, compressed=compressed)
    assert pictures.read_header(tmp_path / "x.tif").deep == "whole"
    with Image.open(tmp_path / "x.tif") as picture:
        assert np.array_equal(pictures._deep_pixels(tmp_path / "x.tif", picture).colours, pixels)


@pytest.mark.parametrize(
    ("peak", "shift", "told"),
    [
        (255, 0, "hold pixels up to 255; they are taken as they are"),
        (1023, 2, "hold pixels up to 1023; they are divided by 4"),
        (4095, 4, "divided by 16"),
        (65535, 8, "divided by 256"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pixels_are_scaled_by_what_train_holds(
    tmp_path: Path, said: Callable[[], str], peak: int, shift: int, told: str, channels: int
) -> None:
    def write(path: Path, number: int) -> None:
        write_png16(path, np.full((4, 5, channels), peak * (number + 1) // 4))

    config = folder_of(tmp_path, write)
    images = imagefolder.load(tmp_path, "train", image_size=None).images
    assert images[:, 0, 0, 0].tolist() == [(peak * number // 4) >> shift for number in (1, 2, 3, 4)]
    assert f"{tmp_path}/train: 4 pictures of more than 8 bits {told}"[-len(told) :] in said()
    write_png16(tmp_path / "test" / "a" / "0.png", np.full((4, 5, channels), peak // 8))
    # The test split goes by the scale of train, though it might hold less.
    assert load_test_split(config).images[:, 0, 0, 0].tolist()[0] == (peak // 8) >> shift


def test_float_pixels_are_scaled_and_odd_ones_refused(tmp_path: Path, said: Callable[[], str]) -> None:
    def write(path: Path, number: int) -> None:
        Image.fromarray(np.full((4, 5), number / 3, dtype=np.float32)).save(path)

    config = folder_of(tmp_path, write, suffix="tiff")
    assert imagefolder.load(tmp_path, "train", image_size=None).images[:, 0, 0, 0].tolist() == [0, 85, 170, 255]
    assert "4 pictures of more than 8 bits hold pixels up to 1; they are times 255" in said()
    for value, part in ((-1.0, "from -1 to -1"), (np.nan, "that are NaN or infinite")):
        Image.fromarray(np.full((4, 5), value, dtype=np.float32)).save(tmp_path / "train" / "a" / "0.tiff")
        with pytest.raises(DataError, match=rf"0\.tiff: holds pixels {part}; save it as an 8-bit picture"):
            load_search_data(config)


def test_test_pictures_of_another_scale_are_refused(tmp_path: Path) -> None:
    config = folder_of(tmp_path, lambda path, number: write_png16(path, np.full((4, 5, 1), 50 * number)))
    write_png16(tmp_path / "test" / "b" / "1.png", np.full((4, 5, 1), 40_000))
    with pytest.raises(DataError, match=r"1\.png: holds pixels up to 40000, the training pictures up to 150"):
        load_test_split(config)


def test_a_test_split_on_another_scale_is_refused_and_not_black(tmp_path: Path) -> None:
    def write(path: Path, number: int) -> None:
        top = 65_535 if "train" in path.parts else 255
        write_png16(path, np.linspace(0, top, 20).astype(int).reshape(4, 5, 1))

    config = folder_of(tmp_path, write)
    load_search_data(config)
    with pytest.raises(DataError, match=r"test: 4 of 4 .* come out black: .*train/.* up to 65535, .*0\.png up to 255"):
        load_test_split(config)


def test_one_hot_pixel_does_not_set_the_scale_of_all(tmp_path: Path) -> None:
    def write(path: Path, number: int) -> None:
        pixels = np.full((8, 8, 1), 200)
        pixels[0, 0] = 65_535 if number == 3 else 0
        write_png16(path, pixels)

    config = folder_of(tmp_path, write)
    with pytest.raises(DataError, match=r"^data\.name: .*b/1\.png holds .* 65535, .*a/0\.png up to 200"):
        load_search_data(config)


def test_a_black_picture_among_others_is_named(tmp_path: Path, said: Callable[[], str]) -> None:
    config = folder_of(tmp_path, lambda path, number: write_png16(path, np.full((4, 5, 1), 20_000 * number)))
    load_search_data(config)
    assert "1 of 4 pictures of more than 8 bits come out black" in said()


def test_how_opaque_a_deep_picture_is_sets_no_scale(tmp_path: Path) -> None:
    def write(path: Path, number: int) -> None:
        pixels = np.full((4, 5, 4), 60 + 60 * number)
        pixels[..., 3] = 65_535
        write_png16(path, pixels)

    folder_of(tmp_path, write)
    assert imagefolder.load(tmp_path, "train", image_size=None).images[:, 0, 0, 0].tolist() == [60, 120, 180, 240]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "deep"])
def test_transparent_parts_are_shown_on_white(tmp_path: Path, said: Callable[[], str], mode: str) -> None:
    def write(path: Path, number: int) -> None:
        alpha = np.full((4, 5), 255, dtype=np.uint8)
        alpha[0] = 0  # of a black picture the first row cannot be seen
        if mode == "deep":
            pixels = np.zeros((4, 5, 4))
            pixels[..., 3] = alpha * 257.0
            write_png16(path, pixels)
        elif mode == "P":
            picture = Image.fromarray((alpha == 0).astype(np.uint8))
            picture.putpalette([0] * 768)
            picture.save(path, transparency=1)
        else:
            picture = Image.new(mode, (5, 4))
            picture.putalpha(Image.fromarray(alpha))
            picture.save(path)

    folder_of(tmp_path, write)
    images = imagefolder.load(tmp_path, "train", image_size=None).images
    assert images[:, :, 0].unique().tolist() == [255]
    assert images[:, :, 1:].unique().tolist() == [0]
    assert f"{tmp_path}/train: 4 of 4 pictures have transparent parts, which are shown on white" in said()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pictures_are_turned_upright_and_it_is_said(tmp_path: Path, said: Callable[[], str], suffix: str) -> None:
    gradient = Image.fromarray(np.add.outer(np.arange(6) * 40, np.arange(4) * 10).astype(np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[pictures.ORIENTATION_TAG] = orientation
        gradient.save(tmp_path / f"x.{suffix}", exif=exif)
        with Image.open(tmp_path / f"x.{suffix}") as there:
            expected = np.asarray(ImageOps.exif_transpose(there))
        found = pictures.decode(tmp_path / f"x.{suffix}", mode="L", image_size=None)
        assert np.array_equal(found.pixels, expected)
    folder_of(tmp_path / "all", lambda path, number: gradient.save(path, exif=exif), suffix="jpg")
    imagefolder.load(tmp_path / "all", "train", image_size=None)
    assert "4 of 4 pictures are turned upright, as their EXIF orientation says" in said()


def test_a_deep_picture_is_turned_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION_TAG] = 6
    pixels = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2730
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    deep = pictures.Deep(is_whole=True, peak=65_535, peak_in=tmp_path)
    found = pictures.decode(tmp_path / "x.png", mode="L", image_size=None, deep=deep)
    assert np.array_equal(found.pixels, np.rot90(pixels >> 8, -1))


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_of_several_frames_the_first_is_read_and_it_is_said(
    tmp_path: Path, said: Callable[[], str], suffix: str
) -> None:
    def write(path: Path, number: int) -> None:
        frames = [Image.new("L", (5, 4), value) for value in (10 * number, 200, 250)]
        frames[0].save(path, save_all=number > 0, append_images=frames[1:])

    folder_of(tmp_path, write, suffix=suffix)
    images = imagefolder.load(tmp_path, "train", image_size=None).images
    assert images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert "3 of 4 pictures hold several frames or pages, of which the first alone is read" in said()


def test_pictures_that_are_enlarged_are_counted(tmp_path: Path, said: Callable[[], str]) -> None:
    folder_of(tmp_path, small)
    imagefolder.load(tmp_path, "train", image_size=32)
    assert "4 of 4 pictures are enlarged to data.image_size=32, the smallest from 6 pixels" in said()
    imagefolder.load(tmp_path, "train", image_size=6)
    assert "enlarged" not in said()


def small(path: Path, number: int) -> None:
    Image.new("L", (8, 6), 10 + number).save(path)


def test_pictures_one_folder_deeper_are_read_and_it_is_said(tmp_path: Path, said: Callable[[], str]) -> None:
    config = folder_of(tmp_path, small)
    (tmp_path / "train" / "b" / "more" / "still").mkdir(parents=True)
    small(tmp_path / "train" / "b" / "more" / "still" / "z.png", 9)
    (tmp_path / "train" / "b" / ".hidden").mkdir()
    small(tmp_path / "train" / "b" / ".hidden" / "z.png", 9)
    data = load_search_data(config)
    assert len(data.train) + len(data.search) == 5
    assert f"{tmp_path}/train: 1 of 5 pictures lie in folders within class folders; they are read too" in said()


def test_other_suffixes_are_read_or_counted(tmp_path: Path, said: Callable[[], str]) -> None:
    config = folder_of(tmp_path, small)
    folder = tmp_path / "train" / "a"
    for suffix in ("tif", "TIFF", "gif", "jfif", "tga", "ppm"):
        Image.new("L", (8, 6), 7).save(folder / f"more.{suffix}", format="JPEG" if suffix == "jfif" else None)
    for name in ("a.npy", "b.npy", "c.eps", "none"):
        (folder / name).write_text("%!PS")
    small(tmp_path / "train" / "stray.png", 1)
    data = load_search_data(config)
    assert len(data.train) + len(data.search) == 4 + 6
    told = said()
    assert f"{tmp_path}/train: 5 files are left out: " in told
    assert all(part in told for part in ("2 .npy", "1 .eps", "1 without a suffix", "1 no class"))


def test_only_ordinary_files_are_opened(
    tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder_of(tmp_path, small)
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("train/a/fifo.png")
    (tmp_path / "train" / "a" / "folder.png").mkdir()
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "a" / "circle").symlink_to(tmp_path / "train")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("train/a/socket.png")
        data = load_search_data(config)
    assert len(data.train) + len(data.search) == 4
    told = said()
    assert "4 files are left out: " in told
    assert "3 not an ordinary file" in told
    assert "1 linked folder" in told


def test_a_picture_that_needs_another_program_is_none(tmp_path: Path) -> None:
    """By its content: Pillow hands PostScript to Ghostscript, whatever the file is called."""
    config = folder_of(tmp_path, small)
    (tmp_path / "train" / "a" / "0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    with pytest.raises(DataError, match=r"0\.png: not a readable picture"):
        load_search_data(config)


def test_folders_of_one_name_in_two_spellings(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for split, name in (("train", composed), ("train", "tea"), ("test", decomposed), ("test", "tea")):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(3):
            small(tmp_path / split / name / f"{number}.png", 100 * (name == "tea"))
    config = DataConfig(name=f"imagefolder:{tmp_path}", search_images=2)
    assert load_search_data(config).info.classes == (composed, "tea")
    test = load_test_split(config)
    assert ((test.images[:, 0, 0, 0] > 100) == (test.labels == 1)).all()
    (tmp_path / "train" / decomposed).mkdir()
    with pytest.raises(DataError, match="train: two classes are called"):
        load_search_data(config)


@pytest.mark.parametrize("name", ["a,b", "line\nbreak", "quo\"te's", "😀", "日本", "<b>&amp;", " ", "$x$", "-o"])
def test_any_text_may_name_a_class(tmp_path: Path, name: str) -> None:
    config = folder_of(tmp_path, small)
    for split in ("train", "test"):
        (tmp_path / split / "b").rename(tmp_path / split / name)
    assert set(load_search_data(config).info.classes) == {"a", name}
    assert len(load_test_split(config)) == 4


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    config = folder_of(tmp_path, small)
    (tmp_path / "train" / "b").rename(tmp_path / "train" / os.fsdecode(b"\xff\xfe"))
    with pytest.raises(DataError, match=r"train: '\\udcff\\udcfe' is no text that a file can hold"):
        load_search_data(config)


@pytest.mark.parametrize("name", ["imagefolder:~nobody/x", "imagefolder:" + "x" * 200, "x" * 200])
def test_names_that_are_no_folders_get_one_message(name: str) -> None:
    for load in (load_search_data, load_test_split):
        with pytest.raises(DataError) as caught:
            load(DataConfig(name=name))
        assert "no such folder" in str(caught.value) or "unknown; use" in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_folder_without_splits_says_what_it_holds(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", small)
    with pytest.raises(DataError, match=r"train: no such folder; .* holds photos$"):
        load_search_data(DataConfig(name=f"imagefolder:{tmp_path}"))


def test_a_large_jpeg_is_decoded_small_and_right(tmp_path: Path) -> None:
    gradient = np.tile(np.linspace(0, 255, 3000).astype(np.uint8), (2000, 1))
    Image.fromarray(gradient).convert("RGB").save(tmp_path / "x.jpg", quality=95)
    array = pictures.decode(tmp_path / "x.jpg", mode="L", image_size=50).pixels
    # The centre square: columns 500 to 2500 of 3000.
    assert np.abs(array.mean(0) - np.linspace(255 * 520 / 3000, 255 * 2480 / 3000, 50)).max() < 3


MEMORY = """
import re, sys
from pathlib import Path
from autoprune.config import DataConfig
from autoprune.data import load_search_data
from autoprune.errors import DataError
try:
    config = DataConfig(name="imagefolder:" + sys.argv[1], search_images=2, image_size=512)
    print(load_search_data(config).info.input_shape)
except DataError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def loading(root: Path) -> tuple[str, int]:
    """What loading in a process of its own printed, and the most memory that it had, in MiB."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, root], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    text, mebibytes = ended.stdout.strip().rsplit("\n", 1)
    return text, int(mebibytes)


def test_a_long_strip_takes_no_more_memory_than_its_centre(tmp_path: Path) -> None:
    folder_of(tmp_path, small)
    Image.new("L", (1, 60_000)).save(tmp_path / "train" / "a" / "long.png")
    Image.new("L", (60_000, 1)).save(tmp_path / "train" / "b" / "wide.png")
    text, mebibytes = loading(tmp_path)
    assert text == "(1, 512, 512)"
    assert mebibytes < 600


@pytest.mark.slow
def test_many_huge_pictures_take_the_memory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    folder_of(tmp_path, small)
    Image.new("RGB", (13_000, 13_000)).save(tmp_path / "train" / "a" / "x0.jpg")
    for number in range(1, 16):
        os.link(tmp_path / "train" / "a" / "x0.jpg", tmp_path / "train" / "a" / f"x{number}.jpg")
    text, mebibytes = loading(tmp_path)
    assert text == "(3, 512, 512)"
    assert mebibytes < 800


def test_a_picture_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    folder_of(tmp_path, small)
    for size, part in ((13_000, "13000x13000 pixels are more than are read (67,108,864)"), (14_000, "far too many")):
        Image.new("1", (size, size)).save(tmp_path / "train" / "a" / "x.png")
        text, mebibytes = loading(tmp_path)
        assert text.startswith(f"{tmp_path}/train/a/x.png: {part}")
        assert "make it smaller" in text
        assert mebibytes < 600


def test_a_set_beyond_the_memory_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "MEMORY_SHARE", 1e-12)
    with pytest.raises(
        DataError, match=r"train: 4 pictures of 8x6 in 1 channel\(s\) take .*set a smaller data\.image_siz"
    ):
        load_search_data(folder_of(tmp_path, small))
