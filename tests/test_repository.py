"""The repository as a whole: its lock, its imports, its workflows, its documents' commands, and what it may hold."""

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deepvit_edu import cli
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.plan import Plan
from deepvit_edu.experiment.reading import (
    ARM_OPTIONS,
    CONTRAST_OPTIONS,
    DATA_OPTIONS,
    TUNING_OPTIONS,
    experiments_in,
)
from tools.contents import PLACEHOLDER, ROOT, is_placeholder, load_yaml, pages, repository_url
from tools.measure import calibrate, imagenet_speed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BIG_OR_BINARY = (".zip", ".gz", ".tar", ".tgz", ".npz", ".npy", ".pkl", ".pt", ".pth", ".parquet", ".bin")


# The lock


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lock_lines() -> list[str]:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def locked() -> dict[str, list[Requirement]]:
    """The locked versions of each package; there are several where they differ by Python."""
    found: dict[str, list[Requirement]] = {}
    for line in lock_lines():
        if line and not line.lstrip().startswith(("#", "-e")):
            requirement = Requirement(line.split("#")[0])
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared() -> list[str]:
    """Everything that pyproject.toml asks for, extras included."""
    extras = project()["project"]["optional-dependencies"].values()
    return [*project()["project"]["dependencies"], *(name for extra in extras for name in extra)]


@pytest.mark.parametrize("declaration", declared())
def test_lock_holds_what_the_project_asks_for(declaration: str) -> None:
    wanted = Requirement(declaration)
    entries = locked().get(canonicalize_name(wanted.name), [])
    assert entries, f"{wanted.name} is not in requirements.txt: run `make lock`"
    for entry in entries:
        version = str(entry.specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{entry} does not fit {wanted}: run `make lock`"


def test_lock_is_exact_installs_the_package_and_names_no_host() -> None:
    for entries in locked().values():
        assert all(re.fullmatch(r"==[^,*]+", str(entry.specifier)) for entry in entries)
    assert "-e ." in lock_lines()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", "\n".join(lock_lines()))


def test_torch_is_held_at_the_pair_that_works() -> None:
    assert [str(entry.specifier) for entry in locked()["torch"]] == ["==2.11.0"]
    assert [str(entry.specifier) for entry in locked()["torchvision"]] == ["==0.26.0"]


def test_package_has_lower_bounds_only() -> None:
    for declaration in project()["project"]["dependencies"]:
        operators = {specifier.operator for specifier in Requirement(declaration).specifier}
        assert operators == {">="}, f"{declaration} could replace a version that a reader has"


# The package's imports


PACKAGE = ROOT / "deepvit_edu"


@cache
def files_in_reading_order() -> list[str]:
    """The files of the package as its README lists them: each may import from those above it only."""
    return re.findall(r"^\| `([\w/]+\.py)` \|", (PACKAGE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def package_files() -> list[str]:
    return sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def file_of(module: str) -> str | None:
    """The file of a dotted module of the package; None for a name that is not a module."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file.relative_to(PACKAGE).as_posix() for file in files if file.is_file()), None)


def imported_files(name: str) -> set[str]:
    """The files of the package that a file of it imports."""
    package = ("deepvit_edu", *Path(name).parts[:-1])
    imported: set[str | None] = set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {file_of(alias.name) for alias in node.names if alias.name.startswith("deepvit_edu")}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.startswith("deepvit_edu"):
                imported |= {file_of(f"{module}.{alias.name}") or file_of(module) for alias in node.names}
    return imported - {None, name}


def test_package_readme_lists_every_file_once() -> None:
    assert sorted(files_in_reading_order()) == package_files(), "deepvit_edu/README.md has a line for each file"


@pytest.mark.parametrize("name", package_files())
def test_imports_point_one_way(name: str) -> None:
    order = files_in_reading_order()
    assert name in order, f"{name} has no line in deepvit_edu/README.md: add it below all that it imports"
    later = imported_files(name) - set(order[: order.index(name)])
    assert not later, f"{name} imports {sorted(later)}, which stand below it in deepvit_edu/README.md"


# Commands, workflows, documents


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_make_help_lists_every_target() -> None:
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  ([a-z-]+) ", result.stdout, re.MULTILINE))
    assert listed == make_targets() >= {"book", "test", "help", "notebooks", "lock", "lint", "clean", "colab"}


@pytest.mark.parametrize("section", ["full", "gpu-short"])
def test_what_waits_for_a_gpu_is_declared(section: str) -> None:
    command = ["make", "--dry-run", "gpu", f"SECTION={section}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    parse, plans = cli.build_parser().parse_args, []
    for names, run in re.findall(r"for plan in (.*?); do.*?bin/deepvit-edu (run [^;]*);", printed, re.DOTALL):
        plans += [parse(shlex.split(run.replace("$plan", name))) for name in names.split()]
    assert all(load_plan(ROOT / options.plan, options.section).arms for options in plans)
    experiments = experiments_in(ROOT / "book" / "experiments")
    assert {ROOT / options.plan for options in plans} == {path for path in experiments if re.match(r"e\d+_", path.name)}
    benches = [parse(shlex.split(bench)) for bench in re.findall(r"bin/deepvit-edu (bench .*)", printed)]
    assert {options.what: options.device for options in benches} == dict.fromkeys(
        ("models", "data", "whole-models"), "cuda"
    )
    (calibration,) = re.findall(r"tools\.measure\.calibrate (.*)", printed)
    assert calibrate.build_parser().parse_args(shlex.split(calibration)).device == "cuda"
    (trial,) = re.findall(r"tools\.measure\.imagenet_speed (.*)", printed)
    assert imagenet_speed.build_parser().parse_args(shlex.split(trial)).device == "cuda"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_real_commands_and_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    commands = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert commands
    assert commands <= make_targets()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), f"{name} links to {link}, which is not there"


def test_every_target_is_explained_where_it_is_needed() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "book" / "appendix").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"make\s([a-z-]+)", text))
    assert make_targets() <= named, f"no document names {make_targets() - named}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_write_commands_that_can_be_given(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    modules = re.findall(r"python -m ((?:tools|deepvit_edu)(?:\.\w+)+)", text)
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name} names {module}, which is not there"
    commands = re.findall(r"(?:`|^)deepvit-edu ([^`\n]+)", text, re.MULTILINE)
    assert len(commands) > 5
    for words in map(shlex.split, commands):
        if len(words) > 1 and "--help" not in words:
            cli.build_parser().parse_args(words)
        else:  # a command's name alone
            with pytest.raises(SystemExit, match="0"):
                cli.build_parser().parse_args([words[0], "--help"])


def test_contributing_has_every_key_of_a_plan() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    experiments = text[text.index("## Experiments") : text.index("## Full ImageNet")]
    parts = {field.name for field in fields(Plan)} - {"name", "section"} | {"sections"}
    options = (*DATA_OPTIONS, *ARM_OPTIONS, *CONTRAST_OPTIONS, *TUNING_OPTIONS)
    assert {key for key in (*parts, *options) if f"`{key}`" not in experiments} == set()


def test_workflows_run_make_targets_and_ci_only() -> None:
    commands = [
        step["run"]
        for file in workflows()
        for job in load_yaml(file)["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert "bash .ci/run" in commands
    for command in set(commands) - {"bash .ci/run"}:
        program, target, *_ = command.split()
        assert program == "make"
        assert target in make_targets()


def run_tool(name: str, *arguments: str) -> None:
    """Run a tool of this environment; its complaint is the failure's text."""
    tool = Path(sys.executable).with_name(name)
    result = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_workflows_and_metadata_are_valid() -> None:
    run_tool("yamllint", "--strict", "-c", ".yamllint.yml", "_config.yml", "_toc.yml", ".github", "CITATION.cff")
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, workflows()))
    run_tool("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")


def test_ci_script_is_valid_and_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


def test_what_runs_the_notebooks_in_colab_needs_few_packages():
    """`make colab-image` installs a handful beside Colab's own, and none that builds the book."""
    missing = ("jupyter_cache", "psutil", "sphinx", "myst_nb", "playwright", "sphinx_exercise", "xdist", "PIL")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); import tests.book.conftest, tests.book.test_colab"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]


# The book's configuration


def test_every_page_of_the_contents_has_a_source() -> None:
    assert [page for page in pages() if not (ROOT / f"{page}.md").is_file()] == []


def test_address_stands_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPVIT_EDU_REPOSITORY", raising=False)
    address = repository_url()
    generated = {f"{page}.ipynb" for page in pages()}
    holders = [name for name in tracked_files() if name not in generated and address in text_of(name)]
    assert set(holders) <= {"_config.yml"}
    monkeypatch.setenv("DEEPVIT_EDU_REPOSITORY", "https://github.com/someone/book/")
    assert repository_url() == "https://github.com/someone/book"


def test_publishing_with_the_placeholder_fails() -> None:
    command = [sys.executable, "-m", "tools.book.build", "--publish", "--check-only"]

    def publish(address: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "DEEPVIT_EDU_REPOSITORY": address}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = publish(f"https://github.com/{PLACEHOLDER}/book")
    assert refused.returncode == 1
    assert "placeholder" in refused.stderr
    assert publish("https://github.com/someone/book").returncode == 0
    assert not is_placeholder("https://github.com/someone/DOWNERS")


# What the repository holds


@cache
def tracked_files() -> list[str]:
    """The files that git holds or would add; in a copy without git there is nothing to look at."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("This is no git checkout: what it holds cannot be listed.")
    return [name for name in result.stdout.splitlines() if (ROOT / name).is_file()]


def text_of(name: str) -> str:
    """A file's text, empty for one that holds no text."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_data_set_and_nothing_big() -> None:
    for name in tracked_files():
        if name.startswith(("web/vendor/", "tests/reference/")):  # of others; small tensors that tests compare with
            continue
        assert (ROOT / name).stat().st_size < 2_000_000, f"{name} is too big for the repository"
        assert not name.endswith(
            (".zip", ".gz", ".tar", ".tgz", ".npz", ".npy", ".pkl", ".pt", ".pth", ".parquet", ".bin")
        )
        assert not name.lower().endswith((".jpg", ".jpeg")), f"{name}: pictures of data sets stay outside"


def test_no_private_paths() -> None:
    for name in tracked_files():
        if not name.startswith("web/vendor/") and name != "tests/test_repository.py":
            assert not re.search(r"(?<![\w.])/(work|root|home/\w+)/", text_of(name)), f"{name} names a private path"


def test_licences_are_there() -> None:
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Creative Commons Attribution 4.0" in (ROOT / "LICENSE-text").read_text(encoding="utf-8")
    assert "MIT License" in (ROOT / "web" / "vendor" / "katex" / "LICENSE").read_text(encoding="utf-8")
