"""A Sphinx extension: what the live figures load, written beside the built pages as scripts in _static/live.

plain_cifar10.js, …   a trained network each: the bytes of its .safetensors in base64, and what replacing its maps cost
start.js              where two networks look in the first picture: what a figure shows before it loads a network
samples.js            pictures, as the networks see them
photo.webp, …         the first picture with a pixel for each of the screen's, plain and sharp
first.webp            the same first view as a picture, for readers without scripts

A page opened from a folder may load scripts and pictures, but not fetch files: so all of them are scripts.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

from deepvit_edu import data
from deepvit_edu.assets import asset_path
from deepvit_edu.checkpoints import load_model
from deepvit_edu.data.pictures import read_image
from deepvit_edu.diagnostics import effects_by_block, record_attention
from deepvit_edu.experiment.measure import NUM_IMAGES
from deepvit_edu.specimens import DATA, REMEDIES, specimen_interventions

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "_static/live"
PHOTO, PHOTO_TITLE = "grace_hopper.jpg", "photo of Grace Hopper"
SEEN, SHOWN = 32, 224  # pixels along a side: for the networks, and for the reader
PHOTO_FILES = {"photo.webp": 1, "photo2x.webp": 2}  # pixels of the screen for each that is shown
START = ("plain_cifar10", "re_cifar10")
MIDDLE = 12  # the block that words are about
QUERY = 7  # the token that the figure starts with: Grace Hopper's left eye
SHAPES = 3
FIRST = "first.webp"
PLACE = re.compile(r'<div class="[^"]*\blive-networks\b[^"]*">')
RED, BLUE = (178, 24, 43), (33, 102, 172)  # weights above and below zero, as in web/live
CELL, GAP, COLUMNS = 64, 4, 6  # of the maps of one network, in pixels and maps


def specimen(name: str) -> dict:
    """What the page has to know of a trained network, by the name of its file."""
    content = asset_path(f"weights/{name}.safetensors").read_bytes()
    rows = specimen_interventions(*name.split("_"))
    losses, errors = effects_by_block(rows, "loss"), effects_by_block(rows, "loss_error")
    return {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "effects": {how: list(zip(rounded(losses[how]), rounded(errors[how]), strict=True)) for how in losses},
        "weights": base64.b64encode(content).decode(),
    }


def rounded(values: list[float], digits: int = 4) -> list[float | None]:
    """Numbers as JSON has them: NaN, where there is none, as null."""
    return [round(value, digits) if np.isfinite(value) else None for value in values]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sample(title: str, pixels: np.ndarray) -> dict:
    """A picture of uint8 (3, S, S) for the page."""
    png = encoded(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), "PNG", optimize=True)
    return {"title": title, "png": base64.b64encode(png).decode()}


def photo_path() -> str:
    """Matplotlib's photograph, which is in the public domain."""
    return get_sample_data(PHOTO, asfileobj=False)


@cache
def start() -> dict:
    """The rows of one patch of the photograph in each block, the mean over heads: (blocks, tokens)."""
    pixels = read_image(photo_path(), SEEN)
    networks = {}
    for name in START:
        model, about = load_model(asset_path(f"weights/{name}.safetensors"))
        mean, std = (torch.tensor(about[key])[:, None, None] for key in ("mean", "std"))
        images = ((torch.from_numpy(pixels.copy()) / 255 - mean) / std)[None]
        rows = torch.stack(record_attention(model, images))[:, 0, :, QUERY].mean(dim=1)
        with torch.no_grad():
            shares = model(images)[0].softmax(dim=-1)
        networks[name] = {"rows": [rounded(row, 3) for row in rows.tolist()], "shares": rounded(shares.tolist())}
    return {"title": PHOTO_TITLE, "shown": list(PHOTO_FILES), "query": QUERY, "networks": networks}


def strongest(row: np.ndarray) -> str:
    """The patch with the largest weight of a row (tokens,), in words."""
    patch = int(np.abs(row[1:]).argmax())
    return f"row {patch // 4 + 1}, column {patch % 4 + 1} ({row[1 + patch]:.2f})"


def words_of(networks: dict) -> str:
    """What the first view shows, for those who do not see it."""
    return (
        f"Two groups of 24 small maps over a {PHOTO_TITLE}: where each block of two networks looks from the patch in "
        f"row {(QUERY - 1) // 4 + 1}, column {(QUERY - 1) % 4 + 1}. Block {MIDDLE} looks most: {looks_most(networks)}."
    )


def looks_most(networks: dict) -> str:
    """Where the middle block of each network looks most, in words."""
    middle = {name.split("_")[0]: strongest(np.array(each["rows"][MIDDLE])) for name, each in networks.items()}
    return "; ".join(f"{'Re-attention' if name == 're' else name}, to {place}" for name, place in middle.items())


def shown_photo(side: int) -> Image.Image:
    """The photograph's middle as a square of so many pixels along a side."""
    with Image.open(photo_path()) as photo:
        height = round(photo.height * side / photo.width)
        top = (height - side) // 2
        return photo.resize((side, height), Image.Resampling.BICUBIC).crop((0, top, side, top + side))


def first_view(networks: dict) -> Image.Image:
    """The maps of `start` over the pale photograph, a network beside the other, each on a scale of its own."""
    pale = 153 + 0.4 * read_image(photo_path(), SEEN).mean(axis=0)  # (32, 32)
    pale = pale.repeat(CELL // SEEN, 0).repeat(CELL // SEEN, 1)[..., None]
    groups = []
    for network in networks.values():
        weights = np.array(network["rows"])[:, 1:].reshape(-1, 4, 4)
        cover = (0.9 * weights / np.abs(weights).max()).repeat(CELL // 4, 1).repeat(CELL // 4, 2)[..., None]
        maps = (1 - np.abs(cover)) * pale + np.abs(cover) * np.where(cover < 0, BLUE, RED)
        y, x = ((CELL // 4) * place for place in divmod(QUERY - 1, 4))
        outlined = maps[:, y : y + CELL // 4, x : x + CELL // 4]
        outlined[:, [0, -1]] = outlined[:, :, [0, -1]] = 0
        spaced = np.pad(maps, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        lines = spaced.reshape(-1, COLUMNS, CELL + GAP, CELL + GAP, 3).transpose(0, 2, 1, 3, 4)
        groups.append(lines.reshape(-1, COLUMNS * (CELL + GAP), 3))
    gap = np.full((len(groups[0]), 4 * GAP, 3), 255)
    return Image.fromarray(np.uint8(np.concatenate([groups[0], gap, groups[1]], axis=1)))


def with_first_view(body: str, address: str, alt: str) -> str:
    """A page's HTML with the first view where the networks would run, for readers without scripts."""
    picture = f'<noscript><img src="{escape(address)}" alt="{escape(alt)}" width="832" height="272"></noscript>'
    return PLACE.sub(lambda found: found[0] + picture, body)


def samples() -> list[dict]:
    """The photograph, and drawn shapes, each of another class."""
    images = data.load("shapes", "test", limit=64)
    firsts = {label: index for index, label in reversed(list(enumerate(images.labels.tolist())))}
    chosen = list(firsts.items())[:SHAPES]
    shapes = [sample(f"drawn shape: {images.classes[label]}", images.images[index].numpy()) for label, index in chosen]
    return [sample(PHOTO_TITLE, read_image(photo_path(), SEEN)), *shapes]


def classes_of(name: str) -> list[str]:
    """The classes that a network tells apart, as its file names them."""
    return load_model(asset_path(f"weights/{name}.safetensors"))[1]["classes"]


def write_live(folder: Path) -> None:
    """Writes all of it into a folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def script(name: str, what: str, value: object) -> None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        (folder / f"{name}.js").write_text(f"deepvitLive.{what}({text});\n", encoding="utf-8")

    for name in (f"{remedy}_{kind}" for kind in DATA for remedy in REMEDIES):
        script(name, "takeSpecimen", specimen(name))
    classes = {kind: classes_of(f"plain_{kind}") for kind in DATA}
    first = start()
    (folder / FIRST).write_bytes(encoded(first_view(first["networks"]), "WEBP", quality=60))
    script("start", "takeStart", first | {"classes": classes, "recorded": NUM_IMAGES})
    script("samples", "takeSamples", samples())
    for name, times in PHOTO_FILES.items():
        (folder / name).write_bytes(encoded(shown_photo(times * SHOWN), "WEBP", quality=18, method=6))


def write_beside_pages(app: Sphinx, error: Exception | None) -> None:
    """Write them when the pages are written."""
    if error is None and app.builder.format == "html":
        write_live(Path(app.outdir, FOLDER))


def put_first_view(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Puts it into the pages that have networks."""
    if PLACE.search(context.get("body", "")):
        address = context["pathto"](f"{FOLDER}/{FIRST}", 1)
        context["body"] = with_first_view(context["body"], address, words_of(start()["networks"]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", put_first_view)
    app.connect("build-finished", write_beside_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
