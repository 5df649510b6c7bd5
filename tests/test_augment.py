"""AugmentConfig moves pixels and changes none."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from autoprune.config import AugmentConfig
from autoprune.data import DataInfo, normalise, views
from autoprune.data.augment import augment, check_augmentation, draw, mixed_labels
from autoprune.errors import DataError

SIZE = 5
# Each pixel of an image is told by its value, 1..25; 0 is padding.
IMAGE = torch.arange(1, SIZE * SIZE + 1, dtype=torch.uint8).view(1, 1, SIZE, SIZE)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(images: Tensor, augmentation: AugmentConfig, seed: int) -> Tensor:
    size = (images.shape[2], images.shape[3])
    return augment(images, augmentation, draw(len(images), size, augmentation, generator(seed)))


def all_crops(image: Tensor, padding: int, *, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Each result that the definition allows: image (C, H, W) to (row offset, column offset, flipped)."""
    _, height, width = image.shape
    padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    crops = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + height, column : column + width]
            crops[crop.numpy().tobytes()] = (row, column, False)
            if flip:
                crops[crop.flip(-1).numpy().tobytes()] = (row, column, True)
    return crops


@given(st.integers(0, 2**31), st.integers(0, 3), st.booleans(), st.integers(1, 4))
def test_every_result_is_a_crop_of_the_padded_source(seed: int, padding: int, flip: bool, channels: int) -> None:
    images = torch.randint(1, 256, (9, channels, SIZE, SIZE + 2), dtype=torch.uint8, generator=generator(seed))
    before = images.clone()
    out = augmented(images, AugmentConfig(crop_padding=padding, flip=flip), seed)
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    for source, result in zip(images, out, strict=True):
        assert result.contiguous().numpy().tobytes() in all_crops(source, padding, flip=flip)


def test_all_offsets_and_flips_are_drawn_and_no_others() -> None:
    crops = all_crops(IMAGE[0], 2, flip=True)
    out = augmented(IMAGE.repeat(3000, 1, 1, 1), AugmentConfig(crop_padding=2), 0)
    drawn = [crops[image.contiguous().numpy().tobytes()] for image in out]
    assert len(set(drawn)) == 5 * 5 * 2
    assert 1350 < sum(flipped for _, _, flipped in drawn) < 1650  # 5.5 standard deviations


def test_the_same_generator_gives_the_same_batch_and_a_flip_twice_is_none() -> None:
    images = torch.randint(0, 256, (64, 3, 6, 7), dtype=torch.uint8, generator=generator(1))
    flip_alone = AugmentConfig(crop_padding=0, flip=True)
    once = augmented(images, flip_alone, 2)
    assert not torch.equal(once, images)
    assert torch.equal(augmented(once, flip_alone, 2), images)


def test_no_augmentation_is_the_identity() -> None:
    images = torch.randint(0, 256, (4, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(augmented(images, AugmentConfig(crop_padding=0, flip=False), 0), images)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_square_of_the_size_given_is_erased(size: int) -> None:
    images = torch.full((2000, 2, 9, 9), 7, dtype=torch.uint8)
    out = augmented(images, AugmentConfig(crop_padding=0, flip=False, erase_size=size), 0)
    assert out.dtype == torch.uint8
    assert set(out.unique().tolist()) == {0, 7}
    erased = out == 0
    assert torch.equal(erased[:, 0], erased[:, 1])  # all channels together
    rows, columns = erased[:, 0].any(2).sum(1), erased[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, erased[:, 0].sum((1, 2)))  # a rectangle
    assert rows.max() == columns.max() == size
    assert (rows >= (size + 1) // 2).all()  # cut at the border by half at most
    assert erased[:, 0].any(0).all()  # anywhere


@pytest.mark.parametrize("size", [1, 4, 9, 30])
def test_a_mixed_image_shows_its_classes_in_the_shares_of_its_label(size: int) -> None:
    """Each image is of a class and a colour of its own, so that its pixels tell whose they are."""
    count, side = 12, 9
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, side, side)
    augmentation = AugmentConfig(crop_padding=0, flip=True, cutmix_size=size)
    draws = draw(count, (side, side), augmentation, generator(size))
    out = augment(images, augmentation, draws)
    assert out.dtype == torch.uint8 and torch.equal(out[:, 0], out[:, 1])
    labels = mixed_labels(torch.arange(count), count, (side, side), augmentation, draws)
    shown = torch.stack([(out[:, 0] == label).float().mean((1, 2)) for label in range(count)], 1)
    torch.testing.assert_close(labels, shown)
    own = labels.diagonal()
    assert ((1 - own) * side**2 <= size**2 + 1e-4).all()
    assert (own < 1).all()  # the centre of the square lies within the image


def test_images_get_their_square_as_often_as_asked_for_and_the_others_are_as_without() -> None:
    count, side = 2000, 9
    images = torch.randint(0, 256, (count, 2, side, side), dtype=torch.uint8, generator=generator(0))
    labels = torch.arange(count) % 10
    plain = augmented(images, AugmentConfig(), 1)
    for half in (AugmentConfig(cutmix_size=5, square_prob=0.5), AugmentConfig(erase_size=5, square_prob=0.5)):
        always = augmented(images, half.model_copy(update={"square_prob": 1.0}), 1)
        draws = draw(count, (side, side), half, generator(1))
        out = augment(images, half, draws)
        has_square = draws.has_square
        assert 900 < int(has_square.sum()) < 1100
        assert torch.equal(out[has_square], always[has_square])
        assert torch.equal(out[~has_square], plain[~has_square])
        if half.cutmix_size:
            mixed = mixed_labels(labels, 10, (side, side), half, draws)
            assert torch.equal(mixed[~has_square], torch.nn.functional.one_hot(labels, 10)[~has_square].float())
            assert (mixed[has_square].max(1).values < 1).float().mean() > 0.8  # the rest got one of their own class


def test_a_mixed_image_has_no_forms_and_only_one_square() -> None:
    augmentation = AugmentConfig(cutmix_size=2)
    assert augmentation.forms is None
    with pytest.raises(ValidationError, match="not both"):
        AugmentConfig(erase_size=2, cutmix_size=2)


def test_normalise_by_hand() -> None:
    info = DataInfo("x", ("a", "b"), 2, 1, 2, mean=(0.5, 0.2), std=(0.25, 0.1))
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    out = normalise(images, info)
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]), atol=1e-6)
    batch = normalise(torch.zeros(2, 2, 4, 4, dtype=torch.uint8), info)
    assert batch.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(0, 2**31), st.integers(0, 2), st.booleans())
def test_equal_forms_are_equal_images(seed: int, padding: int, flip: bool) -> None:
    """No pixel of the image has its like, so that no two forms look alike."""
    augmentation = AugmentConfig(crop_padding=padding, flip=flip)
    draws = draw(40, (SIZE, SIZE), augmentation, generator(seed))
    forms = draws.forms(augmentation)
    assert forms is not None and augmentation.forms == (2 * padding + 1) ** 2 * (1 + flip)
    assert int(forms.min()) >= 0 and int(forms.max()) < augmentation.forms
    seen = [image.contiguous().numpy().tobytes() for image in augment(IMAGE.repeat(40, 1, 1, 1), augmentation, draws)]
    for first in range(40):
        assert [form == forms[first] for form in forms] == [image == seen[first] for image in seen]


def test_an_erased_square_has_no_forms() -> None:
    augmentation = AugmentConfig(erase_size=2)
    assert augmentation.forms is None
    assert draw(3, (SIZE, SIZE), augmentation, generator(0)).forms(augmentation) is None


def test_views_are_the_image_moved_by_half_the_padding_and_mirrored() -> None:
    def moved(rows: int, columns: int) -> Tensor:
        out = torch.zeros_like(IMAGE)
        for row in range(SIZE):
            for column in range(SIZE):
                if 0 <= row - rows < SIZE and 0 <= column - columns < SIZE:
                    out[0, 0, row, column] = IMAGE[0, 0, row - rows, column - columns]
        return out

    for padding, step in ((1, 1), (2, 1), (3, 2), (4, 2)):
        plain = [moved(*move) for move in ((0, 0), (step, 0), (-step, 0), (0, step), (0, -step))]
        for flip, expected in ((False, plain), (True, [*plain, *(image.flip(-1) for image in plain)])):
            augmentation = AugmentConfig(crop_padding=padding, flip=flip, erase_size=3)  # nothing is erased
            found = list(views(IMAGE.repeat(2, 1, 1, 1), augmentation))
            assert len(found) == augmentation.views == len(expected)
            for view, image in zip(found, expected, strict=True):
                assert torch.equal(view, image.repeat(2, 1, 1, 1))


@pytest.mark.parametrize(("flip", "count"), [(False, 1), (True, 2)])
def test_views_without_padding_do_not_move(flip: bool, count: int) -> None:
    found = list(views(IMAGE, AugmentConfig(crop_padding=0, flip=flip)))
    assert len(found) == AugmentConfig(crop_padding=0, flip=flip).views == count
    assert torch.equal(found[0], IMAGE)
    assert torch.equal(found[-1], IMAGE.flip(-1) if flip else IMAGE)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"crop_padding": 20}, r"train\.augment\.crop_padding=20: the images are 9x6 pixels.*; give less than 6"),
        ({"crop_padding": 6}, r"train\.augment\.crop_padding=6: "),
        ({"erase_size": 7}, r"train\.augment\.erase_size=7: .*; give at most 6"),
        ({"cutmix_size": 7}, r"train\.augment\.cutmix_size=7: "),
        ({"crop_padding": 5, "erase_size": 6}, None),
        ({}, None),
    ],
)
def test_augmentation_that_leaves_nothing_is_refused(changes: dict[str, int], part: str | None) -> None:
    info = DataInfo("x", ("a", "b"), 1, 9, 6, mean=(0.5,), std=(0.5,))
    if part is None:
        check_augmentation(AugmentConfig(**changes), info, "train.augment")
        return
    with pytest.raises(DataError, match=part):
        check_augmentation(AugmentConfig(**changes), info, "train.augment")
