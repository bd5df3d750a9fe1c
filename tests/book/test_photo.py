"""A photograph is prepared in the page as `read_image` prepares it: what is drawn here is compared pixel by pixel."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from deepvit_edu.data.pictures import read_image
from tools.contents import ROOT

SOURCE = (ROOT / "web/photo.js").read_text(encoding="utf-8")
READ = """async (encoded) => {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  return Array.from(await readPhoto(new Blob([bytes]), 32));
}"""


def drawing(wide: int, high: int) -> Image.Image:
    """Stripes that grow finer, noise and edges: what resizing can get wrong."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:high, :wide] / min(wide, high)
    colours = [np.sin(40 * x * x + 9 * y), np.cos(60 * x * y), np.sign(np.sin(25 * (x + y)))]
    noise = rng.normal(scale=0.2, size=(high, wide, 3))
    return Image.fromarray(np.uint8(np.clip(127 + 110 * (np.stack(colours, -1) + noise), 0, 255)))


@pytest.fixture(scope="module")
def in_page(browser):
    """A function from a file's bytes to the pixels (3, 32, 32) that the page makes of them."""
    page = browser.new_page()
    page.add_script_tag(content=SOURCE)

    def read(content: bytes) -> np.ndarray:
        return np.array(page.evaluate(READ, base64.b64encode(content).decode())).reshape(3, 32, 32)

    yield read
    page.close()


def difference(in_page, path) -> int:
    return np.abs(in_page(path.read_bytes()) - read_image(path, 32).astype(int)).max()


@pytest.mark.parametrize(
    ("wide", "high"), [(32, 32), (20, 31), (64, 65), (512, 600), (1024, 1024), (1500, 700), (300, 1000)]
)
def test_page_and_package_agree_within_one_level(in_page, tmp_path, wide, high):
    drawing(wide, high).save(tmp_path / "x.png")
    assert difference(in_page, tmp_path / "x.png") <= 1


@pytest.mark.parametrize(("wide", "high"), [(2400, 1600), (1100, 1300), (4000, 3000)])
def test_large_photographs_agree_within_four_levels(in_page, tmp_path, wide, high):
    drawing(wide // 8, high // 8).resize((wide, high), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=92)
    assert difference(in_page, tmp_path / "x.jpg") <= 4


def test_a_photograph_on_its_side_stands(in_page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    drawing(300, 200).save(tmp_path / "x.jpg", quality=95, exif=exif)
    assert difference(in_page, tmp_path / "x.jpg") <= 1


def test_a_browser_that_falsifies_pixels_is_told_of(browser, tmp_path):
    drawing(40, 40).save(tmp_path / "x.png")
    page = browser.new_page()
    page.add_script_tag(content=SOURCE)
    page.evaluate("""() => {
      const honest = OffscreenCanvasRenderingContext2D.prototype.getImageData;
      OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...place) {
        const found = honest.apply(this, place);
        found.data[0] ^= 1;
        return found;
      };
    }""")
    with pytest.raises(Exception, match="gives pages false pixels"):
        page.evaluate(READ, base64.b64encode((tmp_path / "x.png").read_bytes()).decode())
    page.close()


def test_the_bound_tells_the_browsers_own_resizing(browser, tmp_path):
    """What `drawImage` alone would do is far off: the test can fail."""
    buffer = io.BytesIO()
    drawing(512, 512).save(buffer, "PNG")
    page = browser.new_page()
    pixels = page.evaluate(
        """async (encoded) => {
          const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
          const brush = new OffscreenCanvas(32, 32).getContext("2d");
          brush.drawImage(await createImageBitmap(new Blob([bytes])), 0, 0, 32, 32);
          return Array.from(brush.getImageData(0, 0, 32, 32).data);
        }""",
        base64.b64encode(buffer.getvalue()).decode(),
    )
    page.close()
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    theirs = np.array(pixels).reshape(32, 32, 4)[..., :3].transpose(2, 0, 1)
    assert np.abs(theirs - read_image(tmp_path / "x.png", 32).astype(int)).max() > 4
