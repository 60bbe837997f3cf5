"""The rules of docs/architecture.md that import-linter cannot say: includes, compiled modules, light imports, links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cryobox"
CXX_SUFFIXES = {".cpp", ".hpp", ".h", ".cu", ".cuh"}

MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


# Asking the core what it is built with touches no pixel; the ledger and `--version` record the answer.
NO_PIXELS = {"cryobox.core.build_facts", "cryobox.core.fftw_version"}


def imported_by(path: Path) -> set[str]:
    """Every module that `path` imports, anywhere in it, and every module that it names in a string to import later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(re.findall(r"^cryobox(?:\.\w+)+$", node.value))
    return names - NO_PIXELS


def imports_room(names: set[str], room: str) -> bool:
    return any(name == room or name.startswith(room + ".") for name in names)


def files_that_include(header: str) -> list[str]:
    pattern = re.compile(rf'^\s*#\s*include\s*[<"]{re.escape(header)}[>"]', re.MULTILINE)
    sources = [path for path in sorted((ROOT / "cpp").rglob("*")) if path.suffix in CXX_SUFFIXES]
    assert sources, "no C++ sources found: this test would prove nothing"
    return [path.relative_to(ROOT).as_posix() for path in sources if pattern.search(path.read_text())]


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def test_fftw_is_included_in_one_file() -> None:
    assert files_that_include("fftw3.h") == ["cpp/src/fft_fftw.cpp"]


@pytest.mark.parametrize("header", ["cufft.h", "cuda_runtime.h", "cuda_fp16.h"])
def test_cuda_headers_are_included_only_under_cuda(header: str) -> None:
    assert [name for name in files_that_include(header) if not name.startswith("cpp/cuda/")] == []


def test_pybind11_is_included_only_in_the_bindings() -> None:
    headers = ["pybind11/pybind11.h", "pybind11/numpy.h", "pybind11/stl.h", "Python.h"]
    users = {name for header in headers for name in files_that_include(header)}
    assert users
    assert {name for name in users if not name.startswith("cpp/bindings/")} == set()


@pytest.mark.parametrize("compiled", ["cryobox._core", "cryobox._cuda"])
def test_only_core_and_gpu_see_the_compiled_modules(compiled: str) -> None:
    users = {module for module, path in MODULES.items() if imports_room(imported_by(path), compiled)}
    assert users <= {"cryobox.core", "cryobox.gpu"}


def test_only_tasks_and_a_particle_source_see_both_files_and_pixels() -> None:
    both = {
        module
        for module, path in MODULES.items()
        if imports_room(imported_by(path), "cryobox.formats") and imports_room(imported_by(path), "cryobox.core")
    }
    assert both <= {"cryobox.engine.task", "cryobox.restacking.pixels", "cryobox.source"}


def test_only_verification_imports_the_reference() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if imports_room(imported_by(path), "cryobox.reference") and not module.startswith("cryobox.reference")
    }
    assert {module for module in users if not imports_room({module}, "cryobox.verification")} == set()


def test_only_the_command_line_knows_its_libraries() -> None:
    users = {m for m, p in MODULES.items() if any(imports_room(imported_by(p), lib) for lib in ("typer", "click"))}
    assert {module for module in users if not imports_room({module}, "cryobox.cli")} == set()


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


# What a plain interpreter of this environment loads anyway is not our doing.
@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import cryobox", "numpy gemmi mrcfile yaml tifffile pandas typer rich matplotlib scipy"),
        ("import cryobox; cryobox.Recipe(box=64)", "numpy gemmi mrcfile yaml pandas typer rich matplotlib scipy"),
        ("from cryobox import extract", "gemmi mrcfile yaml tifffile pandas typer rich matplotlib scipy"),
        ("from cryobox import run", "tifffile pandas typer rich matplotlib scipy jinja2 distributed mpi4py"),
    ],
)
def test_importing_loads_nothing_that_is_not_needed(statement: str, heavy: str) -> None:
    assert (modules_loaded_by(statement) - modules_loaded_by("pass")) & set(heavy.split()) == set()


def test_every_public_name_can_be_had() -> None:
    import cryobox

    assert [name for name in cryobox.__all__ if not hasattr(cryobox, name)] == []
    assert set(dir(cryobox)) == set(cryobox.__all__)


def packages() -> list[str]:
    return [module for module, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("package", packages())
def test_no_module_bears_the_name_of_a_public_name_of_its_package(package: str) -> None:
    """Importing such a module would put it in the place of the function."""
    depth = package.count(".") + 1
    modules = {
        name.rsplit(".", 1)[1] for name in MODULES if name.startswith(f"{package}.") and name.count(".") == depth
    }
    tree = ast.parse(MODULES[package].read_text())
    offered = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            offered |= set(ast.literal_eval(node.value))
    assert modules & offered == set()


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import cryobox

    with pytest.raises(AttributeError, match="module 'cryobox' has no attribute 'extrakt'"):
        cryobox.extrakt  # noqa: B018


def test_no_tracked_file_names_a_package_host_or_a_path_of_one_machine() -> None:
    # One letter of each stands in brackets, so that this file does not itself name them.
    forbidden = re.compile(
        r"py[p]i\.org|pythonh[o]sted|anac[o]nda\.org|n[p]mjs|deb[.]debian|/[w]ork/|/[r]oot/|/tmp/[v]env|\.py[e]nv"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        for match in forbidden.finditer(text_of(path) or "")
    ]
    assert found == []


FIRST_LINE = {
    ".py": r'r?"""\S.{14,}',
    ".pyi": r'r?"""\S.{14,}|# .{15,}',
    **dict.fromkeys(CXX_SUFFIXES, r"///? .{15,}"),
    ".md": r"# \S+",
    ".cmake": r"# .{15,}",
    ".toml": r"# .{15,}",
    ".yml": r"# .{15,}",
    ".yaml": r"# .{15,}",
    "CMakeLists.txt": r"# .{15,}",
    "Makefile": r"# .{15,}",
    ".clang-format": r"# .{15,}",
    ".clang-tidy": r"# .{15,}",
}


def test_the_first_line_of_every_file_says_what_it_is_for() -> None:
    silent = []
    for path in tracked_files():
        rule = FIRST_LINE.get(path.name) or FIRST_LINE.get(path.suffix)
        lines = (text_of(path) or "").splitlines()
        if lines and lines[0].startswith("#!"):  # a script says it on the second line
            lines, rule = lines[1:], r"# .{15,}"
        # An empty __init__.py or py.typed has nothing to say.
        if rule and lines and not re.match(rule, lines[0]):
            silent.append(f"{path.relative_to(ROOT)}: {lines[0]}")
    assert silent == []


def test_every_relative_link_in_a_document_leads_to_a_file() -> None:
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)")
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in tracked_files()
        if page.suffix == ".md"
        for target in link.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FILE = 80, 540


def test_functions_and_modules_are_short_enough_to_be_read() -> None:
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if text.count("\n") > MOST_LINES_OF_A_FILE:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                begin = first.end_lineno + 1 if is_docstring else node.lineno
                if node.end_lineno - begin > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    sources = [path for path in sorted((ROOT / "cpp").rglob("*")) if path.suffix in CXX_SUFFIXES]
    counts = {path.relative_to(ROOT): path.read_text().count("\n") for path in sources}
    long += [f"{path}: {count} lines" for path, count in counts.items() if count > MOST_LINES_OF_A_FILE]
    assert long == []


def test_a_pixel_option_is_named_in_few_files() -> None:
    """`scale_const` as the measure: where facts travel as values, an option is not named in every room."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "cpp").rglob("*.?pp"), *(ROOT / "cpp").rglob("*.cu*")]
    naming = sorted(path.relative_to(ROOT).as_posix() for path in files if "scale_const" in path.read_text())
    assert len(naming) <= 10, naming


def test_every_program_beside_the_package_can_be_loaded() -> None:
    """What no test runs else would break unseen when a module of the package moves."""
    for path in sorted((ROOT / "bench").glob("*.py")):
        if path.name != "__main__.py":
            import_module(f"bench.{path.stem}")
    guided = (ROOT / "tests" / "fuzz" / "long_run.py").read_text()
    for name in re.findall(r'"((?:formats|folder|engine)\.\w+)"', guided):
        import_module(f"cryobox.{name}")
