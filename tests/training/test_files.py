import os
import shutil
import tarfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions

from deepvit_edu.augment import Views, take_views
from deepvit_edu.data import DataError
from deepvit_edu.training import image_files
from deepvit_edu.training.batches import StepSampler
from deepvit_edu.training.file_batches import EveryNth, ImageFiles, Keys, TestView, TrainView, load, read_all
from deepvit_edu.training.image_files import find_files
from deepvit_edu.training.processes import Processes
from tests.training.helpers import CLASSES, make_imagenet, make_label_maps, small_setup

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
HALF = (0.5, 0.5, 0.5)
CONFIG = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "crop_pct": 0.9}


@pytest.fixture
def root(tmp_path):
    return make_imagenet(tmp_path / "imagenet")


def tar_up(root, split, per_class):
    """Packs a split into one tar a class, or into two shards, and removes the folders."""
    folder = root / split
    for number, name in enumerate(CLASSES):
        shard = folder / (f"{name}.tar" if per_class else f"shard{number % 2}.tar")
        with tarfile.open(shard, "a") as archive:
            for file in sorted((folder / name).iterdir()):
                archive.add(file, arcname=file.name if per_class else f"{name}/{file.name}")
        shutil.rmtree(folder / name)


def test_folder_is_read(root):
    train, val = find_files(root, ALONE, 3)
    assert (len(train), len(val), train.classes) == (24, 9, list(CLASSES))
    assert [val.labels.count(label) for label in range(3)] == [3, 3, 3]
    assert train.hash() != val.hash()


@pytest.mark.parametrize("per_class", [True, False])
def test_tar_files_hold_the_same_images(root, per_class):
    expected = find_files(root, ALONE, 3)[0]
    pixels = [ImageFiles(expected, TestView(CONFIG, 32))[number, 0][0] for number in range(24)]
    tar_up(root, "train", per_class)
    found = find_files(root, ALONE, 3)[0]
    pictures = ImageFiles(found, TestView(CONFIG, 32))
    assert (found.labels, found.classes) == (expected.labels, expected.classes)
    assert all(torch.equal(pictures[number, 0][0], pixels[number]) for number in range(24))


def test_tars_and_folders_number_the_classes_alike(tmp_path, monkeypatch):
    root = make_imagenet(tmp_path / "imagenet", classes=("1", "2", "10"))
    monkeypatch.setattr("tests.training.test_files.CLASSES", ("1", "2", "10"))
    monkeypatch.setattr(image_files, "OPEN_TARS", 1)  # then a tar is opened for each image
    tar_up(root, "train", per_class=True)
    train, val = find_files(root, ALONE, 3)
    assert train.classes == val.classes == ["1", "10", "2"]
    of_second = [name for name, label in zip(train.names, train.labels, strict=True) if label == 1]
    assert {PurePosixPath(name).name.split("_")[0] for name in of_second} == {"10"}
    assert ImageFiles(train, TestView(CONFIG, 32))[5, 0][0].shape == (3, 32, 32)


def test_the_index_of_tars_follows_them(root):
    tar_up(root, "train", per_class=True)
    missing = root / "train" / f"{CLASSES[1]}.tar"
    missing.rename(root / "elsewhere.tar")
    with pytest.raises(DataError):
        find_files(root, ALONE, 3)
    os.utime(next((root / "train").glob("_*")), (1, 1))  # long ago
    (root / "elsewhere.tar").rename(missing)
    assert len(find_files(root, ALONE, 3)[0]) == 24
    index = next((root / "train").glob("_*"))
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(DataError, match=f"delete {index}"):
        find_files(root, ALONE, 3)


def remove_class(root):
    shutil.rmtree(root / "train" / CLASSES[1])


def empty_class(root):
    for file in (root / "train" / CLASSES[1]).iterdir():
        file.unlink()


def swap(root):
    (root / "train").rename(root / "other")
    (root / "val").rename(root / "train")
    (root / "other").rename(root / "val")


def flatten_val(root):
    for file in (root / "val").rglob("*.JPEG"):
        file.rename(root / "val" / file.name)
    for name in CLASSES:
        (root / "val" / name).rmdir()


def rename_class(root):
    (root / "val" / CLASSES[1]).rename(root / "val" / "n09999999")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_class, "train has 2 classes and the model 3"),
        (empty_class, "the class n01443537 in .* holds no image"),
        (swap, "train has 9 images and val 24; the two look swapped"),
        (flatten_val, "val has no class folders"),
        (rename_class, "different classes .n01443537 is in one only.; labels would be shifted"),
        (lambda root: shutil.rmtree(root / "val"), "has no val; put a folder"),
        (lambda root: shutil.rmtree(root), "there is no folder"),
    ],
)
def test_folder_that_is_not_the_data_set_is_refused(root, spoil, message):
    spoil(root)
    with pytest.raises(DataError, match=message):
        find_files(root, ALONE, 3)


def test_a_steps_images_and_seeds_do_not_depend_on_the_number_of_processes(root):
    recipe = small_setup(total_batch=8, batch_size=2, epochs=2, cooldown_epochs=0).recipe
    files = find_files(root, ALONE, 3)[0].subset(torch.arange(21))

    def steps(count):
        samplers = [list(Keys(StepSampler(files, recipe, Processes(rank, count, CPU)), 0)) for rank in range(count)]
        per_step = recipe.accumulation(count)
        return [
            {tuple(batch) for batches in samplers for batch in batches[at : at + per_step]}
            for at in range(0, len(samplers[0]), per_step)
        ]

    alone = steps(1)
    assert len(alone) == 2 * (21 // 8)
    assert steps(2) == steps(4) == alone
    first_epoch = [key[0] for step in alone[:2] for batch in step for key in batch]
    assert len(set(first_epoch)) == 16
    resumed, whole = (list(Keys(StepSampler(files, recipe, ALONE), first)) for first in (3, 0))
    assert resumed == whole[3 * 4 :]


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_every_nth_covers_each_image_once(count):
    keys = [key for rank in range(count) for batch in EveryNth(11, 3, Processes(rank, count, CPU)) for key in batch]
    assert sorted(number for number, _ in keys) == list(range(11))


def test_an_image_depends_on_its_seed_alone(root):
    files = find_files(root, ALONE, 3)[0]
    pictures = ImageFiles(files, TrainView(small_setup().recipe, 32, HALF))
    (first, facts), (again, _), (other, _) = pictures[4, 7], pictures[4, 7], pictures[4, 8]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert first.shape == (3, 32, 32)
    assert facts.readable
    assert facts.numbers == 4


def test_the_view_that_is_told_is_the_view_that_is_seen(root):
    recipe = small_setup(auto_augment="", color_jitter=0, smallest_crop=0.5).recipe
    files = find_files(root, ALONE, 3)[0]
    # Colours that change smoothly, so that the two ways of resizing agree.
    ramps = np.mgrid[0:240:40j, 0:240:44j].round().astype(np.uint8)
    whole = Image.fromarray(np.stack([*ramps, np.zeros_like(ramps[0])], axis=2))
    whole.save(root / "train" / files.names[0], format="PNG")
    for seed in range(6):
        seen, facts = ImageFiles(files, TrainView(recipe, 32, HALF))[0, seed]
        image = torch.as_tensor(np.array(whole)).permute(2, 0, 1).float()[None]
        expected = take_views(image, Views(facts.crops[None], facts.mirrored[None]), 32)[0]
        assert (seen.float() - expected).abs().mean() < 3


def test_strongest_posterizing_makes_black_and_no_error(root):
    view = TrainView(small_setup(auto_augment="rand-m10-inc1", smallest_crop=1).recipe, 32, HALF)
    pictures = ImageFiles(find_files(root, ALONE, 3)[0], view)
    brightest = [pictures[0, seed][0].max() for seed in range(100)]
    assert 0 in brightest


def test_unreadable_image_is_named_and_replaced(root):
    files = find_files(root, ALONE, 3)[0]
    (root / "train" / files.names[5]).write_bytes(b"no image")
    _, targets = ImageFiles(files, TestView(CONFIG, 32))[5, 0]
    assert (targets.numbers, targets.readable) == (5, False)
    for name in files.names:
        (root / "train" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"10 images from .* cannot be read"):
        ImageFiles(files, TestView(CONFIG, 32))[5, 0]


def test_loader_normalises_and_brings_label_maps(root, tmp_path):
    maps = make_label_maps(tmp_path / "maps", root)
    files = find_files(root, ALONE, 3)[0]
    pictures = ImageFiles(files, TestView(CONFIG, 32), maps)
    batch = next(load(pictures, EveryNth(24, 4, ALONE), CPU, 0))
    assert batch.images.shape == (4, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (files.mean, files.std))
    assert torch.allclose(batch.images[0], (pictures[0, 0][0] / 255 - mean) / std, atol=1e-5)
    assert batch.label_maps.shape == (4, 2, 3, 3, 3)
    assert batch.numbers.tolist() == [0, 1, 2, 3]
    next(maps.rglob("*.pt")).unlink()
    with pytest.raises(DataError, match="there is no label map"):
        [pictures[number, 0] for number in range(24)]


def test_some_of_the_images_stay_their_own(root):
    files = find_files(root, ALONE, 3)[0]
    some = files.limited(9)
    assert [some.labels.count(label) for label in range(3)] == [3, 3, 3]
    assert some.hash() != files.hash()
    assert files.limited(100) is files
    in_memory, whole = read_all(some, 32), read_all(files, 32)
    places = [files.names.index(name) for name in some.names]
    assert torch.equal(in_memory.images, whole.images[places])
    assert in_memory.labels.tolist() == some.labels


def test_a_folder_of_the_data_root_is_found_by_its_name(root, monkeypatch):
    monkeypatch.setenv("DEEPVIT_EDU_DATA", str(root.parent))
    train, val = find_files("imagenet", ALONE)
    assert (train.name, len(train), len(val)) == ("imagenet", 24, 9)


def test_pictures_of_every_ending_are_read_from_their_files_and_others_are_told(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for ending, kind in ((".jpg", "JPEG"), (".jfif", "JPEG"), (".webp", "WEBP")):
                Image.new("RGB", (8, 8)).save(folder / f"x{ending}", format=kind)
    (tmp_path / "train" / "a" / "x.heic").write_bytes(b"")
    before = get_img_extensions()
    with pytest.warns(UserWarning, match=r"1 files of .*train are left out.*x\.heic"):
        train, val = find_files(tmp_path, ALONE)
    assert (len(train), len(val)) == (6, 6)
    assert get_img_extensions() == before
