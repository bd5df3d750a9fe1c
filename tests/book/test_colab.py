"""The Colab case: each learner's notebook alone, where only PyTorch is installed, outside the checkout.

Slow (an environment of 5 GB), so it runs by `make colab` only.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tools.contents import ROOT, notebook_pages

pytestmark = [pytest.mark.colab, pytest.mark.timeout(1200)]

# What Colab brings; pip because its kernels have it.
PRESENT = ("torch", "torchvision", "numpy", "matplotlib", "ipykernel")
HELD = ("torch", "torchvision", "numpy")  # what the set-up cell may not change
STATE = f"import importlib.metadata as m; print({{name: m.version(name) for name in {HELD}}})"


def run(*command: str | Path) -> str:
    """Run a command and return what it prints; a failure shows its errors."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    if shutil.which("uv"):
        run("uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    else:
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds PyTorch and what a kernel needs, not the book's package.

    Where DEEPVIT_EDU_COLAB_PYTHON names a Python, its packages are there as they are: `make colab-image`.
    """
    folder = tmp_path_factory.mktemp("colab") / "environment"
    python = folder / "bin" / "python"
    if image := os.environ.get("DEEPVIT_EDU_COLAB_PYTHON"):
        run(image, "-m", "venv", "--system-site-packages", folder)
        run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3")
        return python
    lock = folder.with_name("lock.txt")
    lock.write_text((ROOT / "requirements.txt").read_text(encoding="utf-8").replace("-e .", ""), encoding="utf-8")
    if shutil.which("uv"):
        run("uv", "venv", "--quiet", "--seed", "--python", sys.executable, folder)
        run("uv", "pip", "install", "--quiet", "--python", python, "-c", lock, *PRESENT)
    else:
        run(sys.executable, "-m", "venv", folder)
        run(python, "-m", "pip", "install", "--quiet", "-c", lock, *PRESENT)
    run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3")
    return python


@pytest.fixture(scope="module")
def assets(serve: Callable[[Path], str]) -> str:
    """The address of a server that has the book's folder, as the published repository would."""
    return serve(ROOT / "book")


ASSET_CALLS = ("asset_path(", "asset_folder(", "load_specimen(", "specimen_record(", "book_ledger(", "book_published(")


@pytest.mark.parametrize("notebook_page", notebook_pages())
def test_notebook_runs_where_only_torch_is(
    notebook_page: str,
    wheel: Path,
    environment: Path,
    assets: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = run(environment, "-c", STATE)
    subprocess.run([environment, "-m", "pip", "uninstall", "--quiet", "--yes", "deepvit-edu"], check=False)
    for name in [name for name in os.environ if name.startswith(("DEEPVIT_EDU", "PYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DEEPVIT_EDU_SOURCE", str(wheel))
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEEPVIT_EDU_ASSETS", assets)
    monkeypatch.setenv("JUPYTER_PATH", str(environment.parent.parent / "share" / "jupyter"))
    notebook = nbformat.read(ROOT / f"{notebook_page}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import deepvit_edu, sys\nprint(sys.prefix, deepvit_edu.__file__)"))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    prefix, package = notebook.cells[-1].outputs[0].text.split()
    assert Path(prefix) == environment.parent.parent, "the kernel ran in another environment"
    assert "site-packages" in package
    assert run(environment, "-c", STATE) == before, "the set-up cell changed PyTorch"
    code = "\n".join(cell.source for cell in notebook.cells)
    fetched = any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    uses_assets = any(call in code for call in ASSET_CALLS)
    if "except AssetError" not in code:  # such a page does without a record that nobody has made yet
        assert fetched == uses_assets, "the records and trained models did not come from the repository"
