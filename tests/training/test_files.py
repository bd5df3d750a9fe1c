import gzip
import os
import pickle
import shutil
import tarfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from deepvit_edu import data
from deepvit_edu.augment import Views, take_views
from deepvit_edu.data import DataError
from deepvit_edu.training.batches import StepSampler
from deepvit_edu.training.file_batches import EveryNth, ImageFiles, Keys, TestView, TrainView, load, read_all
from deepvit_edu.training.image_files import find_files, find_validation
from deepvit_edu.training.processes import Processes
from tests.data.test_pictures import tiny_imagenet
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
    (root / "elsewhere.tar").rename(missing)
    whole = find_files(root, ALONE, 3)[0]
    index = next((root / "train").glob("_*"))
    assert len(whole) == 24
    for content in (index.read_bytes(), index.read_bytes()[:50], b"[]", b'{"tars": 3}'):
        index.write_bytes(content)
        assert find_files(root, ALONE, 3)[0] == whole


def test_tars_that_have_not_changed_are_looked_through_once(root, monkeypatch):
    tar_up(root, "train", per_class=True)
    expected = find_files(root, ALONE, 3)[0]
    monkeypatch.setattr("deepvit_edu.data.tars._look_through", lambda *_: pytest.fail("looked through again"))
    assert find_files(root, ALONE, 3)[0] == expected


def test_no_index_of_others_is_executed(root, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    tar_up(root, "train", per_class=True)
    for name in ("_train_tarinfos.pickle", "_train_pictures.json"):
        (root / "train" / name).write_bytes(pickle.dumps(Harmful()))
    assert len(find_files(root, ALONE, 3)[0]) == 24
    assert not (tmp_path / "written").exists()


def test_a_tar_of_tars_and_one_for_a_whole_split_hold_the_same_images(root):
    expected = find_files(root, ALONE, 3)[0]
    pixels = [np.asarray(expected.open(number)) for number in range(24)]
    tar_up(root, "train", per_class=True)
    folder = root / "train"
    with tarfile.open(root / "train.tar", "w") as outer:  # as ILSVRC2012_img_train.tar
        for path in sorted(folder.iterdir()):
            outer.add(path, path.name)
    shutil.rmtree(folder)
    found = find_files(root, ALONE, 3)[0]
    assert (found.classes, found.labels) == (expected.classes, expected.labels)
    assert all(np.array_equal(found.open(number), pixels[number]) for number in range(24))


@pytest.mark.parametrize(
    "damage", ["cut between two pictures", "cut in one", "cut in a header", "changed", "compressed"]
)
def test_a_tar_that_is_not_whole_is_refused(root, damage):
    tar_up(root, "train", per_class=True)
    path = root / "train" / f"{CLASSES[1]}.tar"
    with tarfile.open(path) as archive:
        header = archive.getmembers()[3].offset
    content = path.read_bytes()
    changed = {
        "cut between two pictures": content[:header],
        "cut in one": content[: header - 100],
        "cut in a header": content[: header + 100],
        "changed": content[: header + 5] + b"?" + content[header + 6 :],
        "compressed": gzip.compress(content),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read"):
        find_files(root, ALONE, 3)


def test_what_a_tar_holds_beside_pictures_is_told_and_hidden_files_are_not(root):
    tar_up(root, "train", per_class=True)
    with tarfile.open(root / "train" / f"{CLASSES[0]}.tar", "a") as archive:
        for name in ("._n01440764_0.JPEG", "__MACOSX/a.JPEG", "boxes.txt", "x.heic"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "n01440764_0.JPEG"
        archive.addfile(link)
    with pytest.warns(UserWarning, match=r"2 files of .*train are left out.*x\.heic, .*link\.JPEG"):
        assert len(find_files(root, ALONE, 3)[0]) == 24


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
        (empty_class, "n01443537 holds no image that is read"),
        (swap, "train has 9 images and val 24; the two look swapped"),
        (flatten_val, "val has no classes; put each class's images in a folder"),
        (rename_class, "val has 1 classes that train has not .n09999999"),
        (lambda root: shutil.rmtree(root / "val" / CLASSES[1]), "the class n01443537 in .*val holds no image"),
        (lambda root: shutil.rmtree(root / "val"), "has no folder val or test; put the images at val/CLASS/"),
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
    with pytest.warns(UserWarning, match=r"1 files of .*train are left out.*x\.heic"):
        train, val = find_files(tmp_path, ALONE)
    assert (len(train), len(val)) == (6, 6)


def test_tiny_imagenet_as_published_is_read_from_its_files(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny")
    train, val = find_files(root, ALONE)
    assert train.classes == val.classes == ["n01", "n02"]
    assert (train.labels, val.labels) == ([0] * 5 + [1] * 5, [0, 1, 0, 1])
    assert find_validation(root, ALONE).labels == val.labels
    in_memory = data.load(root, "val", img_size=8)
    found = {val.open(number).getpixel((0, 0)): val.labels[number] for number in range(4)}
    for pixels, label in zip(in_memory.images, in_memory.labels.tolist(), strict=True):
        assert found[tuple(pixels[:, 0, 0].tolist())] == label


def test_hidden_files_links_and_loops_are_read_as_in_memory(root):
    expected = find_files(root, ALONE, 3)[0]
    folder = root / "train" / CLASSES[0]
    (folder / "._n01440764_0.JPEG").write_bytes(b"of a Mac")
    (folder / "loop").symlink_to(folder)
    (root / "train" / ".cache").mkdir()
    (root / "train" / CLASSES[1]).rename(root / "elsewhere")
    (root / "train" / CLASSES[1]).symlink_to(root / "elsewhere")
    assert find_files(root, ALONE, 3)[0].names == expected.names


@pytest.mark.parametrize(
    "content", ["pipe", "long", "bomb", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, b"II*\0\xff\xff\xff\xff"]
)
def test_a_file_that_breaks_what_reads_it_is_skipped(root, content):
    files = find_files(root, ALONE, 3)[0]
    path = root / "train" / files.names[5]
    path.unlink()
    if content == "pipe":
        os.mkfifo(path)
    elif content in ("long", "bomb"):
        Image.new("1", (60_000, 1) if content == "long" else (20_000, 20_000)).save(path, format="PNG")
    else:
        path.write_bytes(content)
    _, targets = ImageFiles(files, TestView(CONFIG, 32))[5, 0]
    assert not targets.readable


def test_names_that_are_no_text_are_read(root):
    name = os.fsdecode(b"caf\xe9.JPEG")
    (root / "train" / CLASSES[0] / "n01440764_0.JPEG").rename(root / "train" / CLASSES[0] / name)
    train = find_files(root, ALONE, 3)[0]
    assert len(train.hash()) == 64
    assert train.open(train.names.index(f"{CLASSES[0]}/{name}")).size == (44, 40)
