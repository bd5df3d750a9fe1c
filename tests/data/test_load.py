import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepvit_edu import data
from deepvit_edu.data import image_set
from deepvit_edu.data.catalogue import SOURCES

from .archives import cifar10_files, cifar100_files, md5, tar_of, write_images


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(tmp_path / "cache"))


def write_files(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# The ladder


def test_shapes_needs_nothing():
    images = data.load("shapes", "val", limit=30, img_size=40)
    assert images.split == "test"
    assert images.images.shape == (30, 3, 40, 40)
    assert images.describe() == "shapes (test): 30 images of 40 × 40 pixels in 10 classes, drawn on the spot."


def test_list_and_available(tmp_path):
    assert data.list_datasets() == ["shapes", "framed-quarter", "cifar10", "cifar100", "imagenette"]
    assert data.available("shapes")
    assert not data.available("cifar10")
    write_images(tmp_path / "cifar10")
    assert data.available("cifar10", root=tmp_path)
    assert not data.available("cifar10", root=tmp_path / "nowhere")
    assert not data.available("no such set")


def test_root_comes_from_the_environment_and_argument_wins(tmp_path, monkeypatch):
    write_images(tmp_path / "a" / "cifar10", count=3)
    write_images(tmp_path / "b" / "cifar10", count=4)
    monkeypatch.setenv("DEEPVIT_EDU_DATA", str(tmp_path / "a"))
    assert len(data.load("cifar10", "train")) == 6
    assert len(data.load("cifar10", "train", root=tmp_path / "b")) == 8


def test_unknown_names_splits_and_roots(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        data.load("cifar1o", "train")
    with pytest.raises(ValueError, match="did you mean 'train'"):
        data.load("shapes", "trian")
    with pytest.raises(FileNotFoundError, match="data root"):
        data.load("cifar10", "train", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        data.load("shapes", "train", limit=0)


def test_without_download_the_sentence_says_where_it_looked(tmp_path):
    with pytest.raises(data.DataError, match="DEEPVIT_EDU_DATA") as caught:
        data.load("cifar10", "train", root=tmp_path, download=False)
    assert str(tmp_path) in str(caught.value)
    assert "shapes" in str(caught.value)


# The set


def test_image_set_subset_hash_and_device(tmp_path):
    images = data.load("shapes", "train", limit=20)
    some = images.subset([3, 1])
    assert torch.equal(some.images, images.images[[3, 1]])
    assert len(images.subset(images.labels == images.labels[0])) == (images.labels == images.labels[0]).sum()
    assert some.hash() != images.hash() == data.load("shapes", "train", limit=20).hash()
    relabelled = replace(images, labels=(images.labels + 1) % 10, _hash=None)
    assert relabelled.hash() != images.hash()
    assert images.to("cpu").hash() == images.hash()


# Folders of images


def test_folder_of_images(tmp_path):
    folder = write_images(tmp_path / "pets")
    images = data.load(folder, "test", img_size=16)
    assert images.images.shape == (12, 3, 16, 16)
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [0] * 6 + [1] * 6
    assert (images.name, images.rung, images.split) == ("pets", "folder", "test")
    brightness = images.images.float().mean((1, 2, 3))
    assert brightness[:6].max() < brightness[6:].min()  # the labels belong to their images
    assert data.load("pets", "train", root=tmp_path).images.shape == (12, 3, 32, 32)


def test_pixels_are_not_changed_where_the_size_fits(tmp_path):
    folder = write_images(tmp_path / "pets", count=1)
    expected = np.asarray(Image.open(folder / "train" / "dog" / "000.png")).transpose(2, 0, 1)
    assert np.array_equal(data.load(folder, "train").images[1].numpy(), expected)


def test_shorter_side_is_resized_and_the_centre_kept(tmp_path):
    folder = write_images(tmp_path / "wide", count=1)
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[:, 20:60] = 200  # exactly what a centre crop keeps
    Image.fromarray(picture).save(folder / "train" / "cat" / "000.png")
    image = data.load(folder, "train", img_size=20).images[0]
    assert image.shape == (3, 20, 20)
    assert image[:, :, 2:-2].min() > 190


def test_usual_size_is_the_median_and_at_most_224(tmp_path):
    assert data.load(write_images(tmp_path / "a", size=(64, 48)), "train").img_size == 48
    assert data.load(write_images(tmp_path / "b", size=(300, 260), count=1), "train").img_size == 224


def test_test_and_val_stand_in_for_each_other(tmp_path):
    folder = write_images(tmp_path / "pets", splits=("train", "val"), count=2)
    assert len(data.load(folder, "test")) == len(data.load(folder, "val")) == 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_grey_and_palette_images_become_colour(tmp_path, mode):
    images = data.load(write_images(tmp_path / "pets", mode=mode, count=2), "train")
    assert images.images.shape == (4, 3, 32, 32)
    if mode in "L1":
        assert torch.equal(images.images[:, 0], images.images[:, 2])


def test_jpeg_is_told_apart(tmp_path):
    write_images(tmp_path / "a" / "cifar10", suffix=".jpg")
    write_images(tmp_path / "b" / "cifar10", suffix=".png")
    assert data.load("cifar10", "train", root=tmp_path / "a").name == "CIFAR-10 (JPEG)"
    images = data.load("cifar10", "train", root=tmp_path / "b")
    assert images.name == "CIFAR-10"
    assert images.mean == SOURCES["cifar10"].mean


def test_limit_keeps_the_shares_and_is_the_same_for_a_seed(tmp_path):
    folder = write_images(tmp_path / "pets", count=20)
    some = data.load(folder, "train", limit=10, seed=1)
    assert some.labels.bincount().tolist() == [5, 5]
    assert some.hash() == data.load(folder, "train", limit=10, seed=1).hash()
    assert some.hash() != data.load(folder, "train", limit=10, seed=2).hash()


def test_unreadable_images_are_left_out_with_one_warning(tmp_path):
    folder = write_images(tmp_path / "pets", count=101, size=(8, 8))
    (folder / "train" / "dog" / "005.png").write_bytes(b"not an image")
    cut = folder / "train" / "dog" / "100.png"
    cut.write_bytes(cut.read_bytes()[:60])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = data.load(folder, "train")
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    assert "2 of 202 images cannot be read" in str(caught[0].message)
    assert "005.png" in str(caught[0].message)
    assert images.labels.bincount().tolist() == [101, 99]
    assert images.images.float().mean((1, 2, 3))[101:].min() > 60  # no black image in their place


def test_too_many_unreadable_images_are_an_error(tmp_path):
    folder = write_images(tmp_path / "pets", count=10)
    (folder / "train" / "dog" / "005.png").write_bytes(b"")
    with pytest.raises(data.DataError, match="1 of 20 images cannot be read"):
        data.load(folder, "train")


def test_faults_of_a_folder_are_one_sentence_each(tmp_path):
    folder = write_images(tmp_path / "pets", splits=("train",))
    with pytest.raises(data.DataError, match="no folder test or val"):
        data.load(folder, "test")
    (folder / "train" / "eel").mkdir()
    with pytest.raises(data.DataError, match="eel holds no image"):
        data.load(folder, "train")
    (tmp_path / "bare" / "train").mkdir(parents=True)
    with pytest.raises(data.DataError, match="has no classes"):
        data.load(tmp_path / "bare", "train")
    write_images(folder / "more", splits=("test",), classes=("cat", "fox"))
    (folder / "more" / "test").rename(folder / "test")
    with pytest.raises(data.DataError, match=r"classes that train has not \(fox\)"):
        data.load(folder, "test")


def test_labels_follow_the_classes_of_train(tmp_path):
    folder = write_images(tmp_path / "pets", classes=("cat", "dog", "eel"), splits=("train",), count=2)
    write_images(tmp_path / "part", classes=("eel",), splits=("val",), count=2)
    (tmp_path / "part" / "val").rename(folder / "val")
    images = data.load(folder, "val")
    assert images.classes == ["cat", "dog", "eel"]
    assert images.labels.tolist() == [2, 2]


def test_a_set_too_large_for_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image_set, "MEMORY_LIMIT", 10_000)
    folder = write_images(tmp_path / "pets")
    with pytest.raises(data.DataError, match="`limit` or `img_size`"):
        data.load(folder, "train")
    assert len(data.load(folder, "train", limit=3)) == 3
    with pytest.raises(data.DataError, match="of memory"):
        data.load("shapes", "train", limit=4)


# CIFAR as its authors publish it


def test_published_cifar10(tmp_path):
    files = cifar10_files()
    write_files(tmp_path / "cifar-10-batches-py", files)
    images = data.load("cifar10", "train", root=tmp_path)
    first = pickle.loads(files["data_batch_1"])
    assert images.images.shape == (100, 3, 32, 32)
    assert np.array_equal(images.images[3].numpy().ravel(), first["data"][3])
    assert images.labels[:20].tolist() == first["labels"]
    assert (images.name, images.rung, images.classes[2]) == ("CIFAR-10", "folder", "class 2")
    assert len(data.load("cifar10", "test", root=tmp_path)) == 20
    assert data.load("cifar10", "test", root=tmp_path, limit=10, img_size=48).images.shape == (10, 3, 48, 48)


def test_published_cifar100(tmp_path):
    write_files(tmp_path / "cifar100" / "cifar-100-python", cifar100_files())
    images = data.load("cifar100", "test", root=tmp_path)
    assert (len(images), images.num_classes) == (20, 100)


def test_archive_in_the_root_is_checked_and_unpacked_into_the_cache(tmp_path, monkeypatch):
    archive = tar_of(cifar10_files(), "cifar-10-batches-py")
    root = tmp_path / "root"
    write_files(root, {"cifar-10-python.tar.gz": archive})
    with pytest.raises(data.DataError, match="MD5"):
        data.load("cifar10", "train", root=root)
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], md5=md5(archive)))
    assert data.load("cifar10", "train", root=root).rung == "folder"
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    write_files(tmp_path / "cifar-10-batches-py", cifar10_files() | {"test_batch": pickle.dumps(Harmful(), protocol=2)})
    with pytest.raises(data.DataError, match="no CIFAR file has"):
        data.load("cifar10", "test", root=tmp_path)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"nonsense", cifar10_files()["test_batch"][:500], pickle.dumps({"data": 3}), pickle.dumps([1])),
        *(b"h\x05.", b"}K\x01K\x02u.", b"]K\x01b.", b"\x80\x04\x8a\xff\xff", b"(" * 100),
        pickle.dumps({"data": [[1]], "labels": [10**30]}),
    ],
)
def test_a_broken_batch_is_named(tmp_path, content):
    write_files(tmp_path / "cifar-10-batches-py", cifar10_files() | {"test_batch": content})
    with pytest.raises(data.DataError, match="unpack"):
        data.load("cifar10", "test", root=tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(data.DataError, match="test_batch is missing"):
        data.load("cifar10", "test", root=tmp_path)
