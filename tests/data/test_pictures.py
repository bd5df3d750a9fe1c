import os
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from deepvit_edu import data
from deepvit_edu.data.pictures import ENDINGS, as_rgb, pictures_in, read_image

from .archives import write_images

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        (RAMP.astype(np.uint16), ".png"),
        (RAMP.astype(np.uint16), ".tif"),
        (RAMP.astype(np.int32), ".tif"),
        ((RAMP / 65535).astype(np.float32), ".tif"),
    ],
)
def test_pictures_of_more_than_8_bits_keep_their_greys(tmp_path, pixels, ending):
    Image.fromarray(pixels).save(tmp_path / f"x{ending}")
    read = read_image(tmp_path / f"x{ending}", 64)
    assert abs(read.mean() - 127.5) < 1
    assert len(np.unique(read)) >= 255
    assert np.array_equal(read[0], read[2])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 70_000, np.int32), "its mode is I, whole numbers from 70000 to 70000"),
        (np.full((8, 8), 200.0, np.float32), "its mode is F, floats from 200 to 200, and not 0 to 1"),
        (np.full((8, 8), np.nan, np.float32), "its mode is F"),
    ],
)
def test_numbers_that_no_rule_fits_are_refused_by_name(tmp_path, pixels, message):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif cannot be read: {message}"):
        read_image(tmp_path / "x.tif", 8)


def photo_on_its_side() -> tuple[Image.Image, Image.Exif]:
    """Red on the left and blue on the right, to be shown with red on top."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40], pixels[:, 40:] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(pixels), exif


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    image, exif = photo_on_its_side()
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "x.jpg", 32)
    assert read[0, 2, 16] > 200 > 50 > read[2, 2, 16]
    with Image.open(tmp_path / "x.jpg") as opened:
        assert as_rgb(opened, upright=False).size == (80, 40)


@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0" + b"\xff" * 4, b"MM\0*\0\0\0\x08\0\x05\x01"])
def test_a_photograph_with_damaged_exif_is_read_as_it_is_stored(tmp_path, exif):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.jpg", quality=95)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + exif)
    assert np.array_equal(read_image(tmp_path / "a.jpg", 8), read_image(tmp_path / "plain.jpg", 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_of_holding_a_camera_is_undone_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert np.array_equal(read_image(tmp_path / "a.png", 8), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("wide", "high"), [(1600, 1200), (800, 600), (500, 400)])
def test_a_large_photograph_is_what_its_whole_file_gives(tmp_path, wide, high):
    y, x = np.mgrid[:high, :wide] / high
    stripes = np.stack([np.sin(75 * (x + y)), np.sin(90 * (x + 3 * y)), np.sin(60 * (2 * x + y))], axis=-1)
    Image.fromarray(np.uint8(127 + 110 * np.sign(stripes))).save(tmp_path / "x.jpg", quality=92)
    with Image.open(tmp_path / "x.jpg") as whole:
        small = whole.resize((round(32 * wide / high), 32), Image.Resampling.BICUBIC)
    left = (small.width - 32) // 2
    expected = np.asarray(small.crop((left, 0, left + 32, 32))).astype(int)
    assert np.abs(read_image(tmp_path / "x.jpg", 32).transpose(1, 2, 0) - expected).max() <= 4


def test_what_is_no_picture_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        read_image(tmp_path / "x.png", 8)
    Image.new("1", (100, 100)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"huge\.png cannot be read: .*exceeds limit"):
        read_image(tmp_path / "huge.png", 8)
    Image.new("L", (2, 900)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match=r"long\.png would be 8 × 3600 pixels"):
        read_image(tmp_path / "long.png", 8)


def test_one_huge_picture_among_many_is_left_out_without_a_size_too(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "pets", count=60)
    Image.new("1", (1000, 1000)).save(folder / "train" / "cat" / "000.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.warns(UserWarning, match="1 of 120 images cannot be read"):
        assert len(data.load(folder, "train")) == 119


def test_endings_are_those_of_pillow():
    assert {".jpg", ".jfif", ".jpe", ".jp2", ".tga", ".pgm", ".webp", ".tiff", ".gif"} <= set(ENDINGS)
    assert not {".pdf", ".eps", ".h5", ".mpg"} & set(ENDINGS)


@pytest.mark.parametrize(("ending", "kind"), [(".jfif", "JPEG"), (".JPE", "JPEG"), (".tga", "TGA"), (".pgm", "PPM")])
def test_pictures_of_every_ending_are_read(tmp_path, ending, kind):
    folder = write_images(tmp_path / "pets", count=3)
    for path in list(folder.glob("*/*/*.png")):
        with Image.open(path) as image:
            image.convert("L").save(path.with_suffix(ending), format=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load(folder, "train")) == 12


def test_what_no_rule_takes_is_counted_and_named(tmp_path):
    folder = write_images(tmp_path / "pets", count=3)
    (folder / "train" / "cat" / "a.heic").write_bytes(b"")
    (folder / "train" / "loose.png").write_bytes(b"")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._a.png"):  # what systems and people put beside pictures
        (folder / "train" / "cat" / name).write_bytes(b"")
    (folder / "train" / "__MACOSX").mkdir()
    with pytest.warns(UserWarning, match=r"2 files of .*train are left out.*a\.heic.*loose\.png") as told:
        images = data.load(folder, "train")
    assert len(told) == 1
    assert (len(images), images.classes) == (6, ["cat", "dog"])


def test_a_name_that_would_steer_the_terminal_is_written_out(tmp_path):
    folder = write_images(tmp_path / "pets", count=2)
    (folder / "train" / "cat" / "x\x1b[31m.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat/x\\x1b\[31m\.heic"):
        data.load(folder, "train")


def test_a_folder_of_pictures_that_are_not_read_is_an_error_that_names_them(tmp_path):
    folder = write_images(tmp_path / "pets", count=3, splits=("train",))
    for path in (folder / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(data.DataError, match=r"dog holds no image that is read, but .*000\.heic"):
        data.load(folder, "train")


def test_links_are_followed_once_and_loops_end(tmp_path):
    folder = write_images(tmp_path / "pets", count=3, splits=("train",))
    os.symlink(folder / "train" / "cat", folder / "train" / "dog" / "loop")
    os.symlink(folder / "train" / "dog", folder / "train" / "cat" / "loop")
    pictures, _ = pictures_in(folder / "train" / "cat")
    assert len(pictures) == 6
    os.symlink(tmp_path / "pets" / "train" / "cat", tmp_path / "other")
    assert len(pictures_in(tmp_path / "other")[0]) == 6


# Splits


def tiny_imagenet(folder):
    """As its archive unpacks, with two classes."""
    stream = np.random.default_rng(0)
    for name in ("n01", "n02"):
        (folder / "train" / name / "images").mkdir(parents=True)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
        for number in range(5):
            pixels = stream.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / "images" / f"{name}_{number}.JPEG")
    for split in ("val", "test"):
        (folder / split / "images").mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / split / "images" / f"{split}_{number}.JPEG")
    rows = [f"val_{number}.JPEG\tn0{1 + number % 2}\t0\t0\t7\t7" for number in range(4)]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (folder / "wnids.txt").write_text("n01\nn02\n")
    return folder


def test_tiny_imagenet_is_read_as_it_is_published(tmp_path):
    folder = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    assert len(data.load(folder, "train")) == 10
    with pytest.warns(UserWarning, match=r"test has 1 classes that train has not .*val is taken instead"):
        images = data.load(folder, "test")
    assert images.labels.tolist() == [0, 0, 1, 1]
    red = images.images[:, 0].float().mean((1, 2)).round(decimals=-1)
    assert red.tolist() == [0, 120, 60, 180]  # the labels belong to their pictures
    assert data.load(folder, "val").classes == ["n01", "n02"]


def test_a_list_of_labels_that_does_not_fit_is_told(tmp_path):
    folder = tiny_imagenet(tmp_path / "tiny")
    labels = folder / "val" / "val_annotations.txt"
    labels.write_text("other.JPEG\tn01\n")
    with pytest.raises(data.DataError, match="holds none of the pictures"):
        data.load(folder, "val")
    labels.write_text("val_0.JPEG\tn03\n")
    with pytest.raises(data.DataError, match=r"classes that train has not \(n03\)"):
        data.load(folder, "val")
    labels.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        data.load(folder, "val")


def test_a_list_of_labels_as_other_programs_save_it_is_read(tmp_path):
    folder = tiny_imagenet(tmp_path / "tiny")
    labels = folder / "val" / "val_annotations.txt"
    expected = data.load(folder, "val").labels.tolist()
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    (folder / "val" / "._val_annotations.txt").write_bytes(b"\0\xff of a Mac")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load(folder, "val").labels.tolist() == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG\tn02", "val_0.JPEG is there twice, as n01 and as n02"),
        ("val_0.JPEG n01", "its line 5 is not a picture's name, a tab and a class"),
        ("val_9.JPEG\t", "its line 5 is not"),
    ],
)
def test_a_list_of_labels_with_a_mistake_is_refused(tmp_path, line, message):
    folder = tiny_imagenet(tmp_path / "tiny")
    with open(folder / "val" / "val_annotations.txt", "a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=rf"val_annotations.txt cannot be read: {message}"):
        data.load(folder, "val")


def test_pictures_that_a_list_names_and_that_are_not_there_are_counted(tmp_path):
    folder = tiny_imagenet(tmp_path / "tiny")
    (folder / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.warns(UserWarning, match=r"1 pictures that a list in .*val names are not there \(val_2.JPEG\)"):
        assert len(data.load(folder, "val")) == 3


def test_one_class_in_two_spellings_is_one_class(tmp_path):
    folder = write_images(tmp_path / "pets", classes=("caf\u00e9", "dog"), count=2)
    (folder / "test" / "caf\u00e9").rename(folder / "test" / "cafe\u0301")  # as a Mac packs it
    assert data.load(folder, "test").classes == ["caf\u00e9", "dog"]
    assert data.load(folder, "test").labels.tolist() == [0, 0, 1, 1]
    write_images(tmp_path / "more", classes=("caf\u00e9",), count=2)
    (tmp_path / "more" / "test" / "caf\u00e9").rename(folder / "test" / "caf\u00e9")
    with pytest.raises(data.DataError, match="the class caf\u00e9 twice, spelt in two ways"):
        data.load(folder, "test")


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "validation"), ("train", "valid")])
def test_splits_have_their_usual_names(tmp_path, train, test):
    folder = write_images(tmp_path / "pets", splits=(train, test), count=2)
    assert len(data.load(folder, "train")) == len(data.load(folder, "test")) == 4


def test_labels_outside_the_classes_are_told():
    images = data.load("shapes", "train", limit=20)
    with pytest.raises(data.DataError, match="has the label 12, and 10 classes"):
        data.ImageSet(images.images, images.labels + 3, images.classes, "x", "folder", "train")
    with pytest.raises(data.DataError, match="20 images and 19 labels"):
        data.ImageSet(images.images, images.labels[1:], images.classes, "x", "folder", "train")
