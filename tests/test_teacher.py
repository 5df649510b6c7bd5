"""What the teacher has answered is remembered, and is what it would answer again."""

from dataclasses import replace

import pytest
import torch
from models_for_tests import NO_AUGMENTATION, Counting, batch_of, half_cut, little_data, same_state, trained_resnet

from autoprune.compute.compute import Compute
from autoprune.config import AugmentConfig, FinetuneConfig
from autoprune.models import ModelSpec, build_model
from autoprune.training.batches import epoch_batches
from autoprune.training.distill import finetune, finetune_recipe
from autoprune.training.onnx_answers import OnnxAnswers
from autoprune.training.teacher import Teacher

CONFIG = FinetuneConfig(epochs=3, batch_size=64, ema_decay=0.9, augment=NO_AUGMENTATION)
IN_FLOAT32 = Compute(torch.device("cpu"), fast_bf16=False)
RECIPE = finetune_recipe(CONFIG, learning_rate=0.05)


def test_each_form_of_an_image_is_asked_for_once() -> None:
    teacher = Counting()
    remembered = Teacher(teacher, images=6, classes=2, forms=2)
    images = torch.randn(2, 6, 1, 2, 2, generator=torch.Generator().manual_seed(0))  # two forms of six images
    orders = ([[0, 1, 2], [3, 4, 5]], [[5, 0, 3], [2, 4, 1]])
    for order in (*orders, orders[0]):
        for form in (0, 1):
            for indices in order:
                batch = batch_of(images[form, indices], [0, 0, 0], indices, form)
                expected = images[form, indices].flatten(1).mean(1)
                torch.testing.assert_close(remembered(batch), torch.stack([expected, -expected], 1))
    assert teacher.asked == 12


def test_only_what_is_not_known_of_a_batch_is_asked_about() -> None:
    """Each epoch leaves out the images that fill no batch: the next one may bring them with known ones."""
    teacher = Counting()
    remembered = Teacher(teacher, images=3, classes=2, forms=1)
    images = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for indices, asked in (([0, 1], 2), ([1, 2], 3), ([2, 0], 3)):
        torch.testing.assert_close(
            remembered(batch_of(images[indices], [0, 0], indices))[:, 0], images[indices].flatten(1).mean(1)
        )
        assert teacher.asked == asked


def test_answers_that_would_fill_the_memory_and_forms_without_number_are_asked_for_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.ones(2, 1, 2, 2)
    batch = batch_of(images, [0, 0])
    monkeypatch.setattr("autoprune.training.teacher.REMEMBERED_BYTES", 16.0)  # two images, two classes, one form
    for teacher, given, asked in (
        (Teacher(Counting(), images=2, classes=2, forms=1), batch, 2),
        (Teacher(Counting(), images=2, classes=2, forms=100), batch, 4),
        (Teacher(Counting(), images=2, classes=2, forms=1), replace(batch, forms=None), 4),
    ):
        for _ in range(2):
            assert teacher(given).tolist() == [[1.0, -1.0]] * 2
        assert teacher.model.asked == asked


def test_remembering_the_teacher_changes_no_weight() -> None:
    """Two forms, so that half of the images come back as they were in the second epoch. What is not known of a batch
    is another batch for the teacher, and its answers are equal up to rounding: hence float32 and a tolerance."""
    model, data = trained_resnet(), little_data()
    config = CONFIG.model_copy(update={"epochs": 2, "augment": AugmentConfig(crop_padding=0, flip=True)})
    remembering = Teacher.of(model, data, config, compute=IN_FLOAT32)
    answers = OnnxAnswers(model, data.info)
    asking = Teacher(model, images=0, classes=0, forms=None, answers=answers, compute=IN_FLOAT32)
    remembered, asked = (
        finetune(half_cut(model), data, teacher=teacher, config=config, learning_rate=0.05, seed=0).state_dict()
        for teacher in (remembering, asking)
    )
    for name, tensor in remembered.items():
        torch.testing.assert_close(tensor, asked[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2"])
def test_answers_of_onnx_runtime_are_the_models(name: str) -> None:
    data = little_data()
    model = build_model(ModelSpec(name, 10, 1, 0.25)).eval()
    answers = OnnxAnswers(model, data.info)
    for images in (1, 5):
        batch = torch.randn(images, *data.info.input_shape).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = model(batch)
        torch.testing.assert_close(answers(batch), expected, rtol=1e-4, atol=1e-5)


def test_without_bfloat16_onnx_runtime_answers_and_the_model_only_for_features() -> None:
    data, model = little_data(), Counting()
    teacher = Teacher.of(model, data, CONFIG, compute=IN_FLOAT32)
    asked = []
    for answer in (teacher, teacher, teacher.computed):  # the first one exports it, for which it is run
        batch = replace(batch_of(torch.ones(2, *data.info.input_shape), [0, 0]), forms=None)
        assert answer(batch).tolist() == [[1.0, -1.0]] * 2
        asked.append(int(model.asked))
    assert asked[1:] == [asked[0], asked[0] + 2]


def test_a_batch_that_comes_back_is_asked_about_once_where_images_have_no_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = little_data()
    mixing = replace(RECIPE, augmentation=AugmentConfig(cutmix_size=8))
    model = Counting()
    teacher = Teacher(model, images=len(data.train), classes=2, forms=mixing.augmentation.forms)
    again = [
        batch
        for _ in range(2)
        for batch in epoch_batches(data, mixing.augmentation, batch_size=mixing.batch_size, epoch=1, seed=3)
    ]
    for batch in again:
        expected = batch.images.flatten(1).mean(1)
        torch.testing.assert_close(teacher(batch), torch.stack([expected, -expected], 1))
    assert model.asked == 512
    others = (
        (mixing, 1, 4),
        (mixing, 2, 3),
        (replace(mixing, batch_size=128), 1, 3),
        (replace(mixing, augmentation=AugmentConfig(cutmix_size=4)), 1, 3),
    )
    for recipe, epoch, seed in others:
        asked = model.asked
        for batch in epoch_batches(data, recipe.augmentation, batch_size=recipe.batch_size, epoch=epoch, seed=seed):
            teacher(batch)
        assert model.asked == asked + 512
    monkeypatch.setattr("autoprune.training.teacher.REMEMBERED_BYTES", 3 * 64 * 2 * 4.0)
    forgetful = Teacher(Counting(), images=len(data.train), classes=2, forms=None)
    for batch in again:
        forgetful(batch)
    assert forgetful.model.asked == 512 + (8 - 3) * 64


def test_networks_fine_tuned_alike_share_the_teachers_answers_and_learn_the_same() -> None:
    model, data = trained_resnet(), little_data()
    config = CONFIG.model_copy(update={"epochs": 1, "augment": AugmentConfig(cutmix_size=8)})
    teacher = Teacher.of(model, data, config)
    first, second = (
        finetune(half_cut(model), data, teacher=teacher, config=config, learning_rate=0.05, seed=0) for _ in range(2)
    )
    assert same_state(first, second)
