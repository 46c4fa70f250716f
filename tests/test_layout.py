"""Where code may be: the rooms of the package import only what lies below them, and no function or file grows long."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "genimg_jax"

# Modules of the package itself, from the ground up: each may import those before it, and every room all of them.
MODULES = ("errors", "backend", "options", "files", "progress", "directions", "averages", "contract", "core")
# Rooms, from the ground up: each may import those named, and whatever these may import.
ROOMS = {
    "observations": (),
    "data": ("observations",),
    "networks": (),
    "objectives": (),
    "samplers": (),
    "families": ("networks", "objectives", "samplers"),
    "metrics": ("networks",),
    "engine": ("families", "data", "metrics"),
    "tasks": ("samplers", "objectives", "observations"),
    "evaluation": ("engine", "tasks"),
    "sweeps": ("evaluation",),
    "reports": ("sweeps",),
    "commands": ("reports",),
}

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 280, 60


def below(room: str) -> set[str]:
    """What the room may import."""
    if room in MODULES:
        return set(MODULES[: MODULES.index(room)])
    if room == "__main__":
        return {*MODULES, *ROOMS}
    assert room in ROOMS, f"name {room} in MODULES or ROOMS, at its place"
    return {*MODULES, room}.union(*map(below, ROOMS[room]))


def imported(code: str) -> Iterator[str]:
    """The rooms and modules of this package that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide what is imported"
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        else:
            continue
        yield from (path.split(".")[1] for path in paths if path.startswith("genimg_jax."))


def upward(room: str, code: str) -> set[str]:
    return set(imported(code)) - below(room)


def sources() -> list[tuple[str, pathlib.Path]]:
    """Every file of the package, and the room that it is in."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in files]


def test_imports_point_downwards():
    wrong = {
        str(path.relative_to(ROOT)): found for room, path in sources() if (found := upward(room, path.read_text()))
    }
    assert not wrong, "these import what lies above them, or beside them"


@pytest.mark.parametrize(
    ("room", "code", "wrong"),
    [
        ("engine", "from genimg_jax.evaluation import suite", {"evaluation"}),
        ("engine", "def f():\n    import genimg_jax.reports.run_page", {"reports"}),
        ("families", "from genimg_jax import data, core", {"data"}),
        ("sweeps", "from genimg_jax.commands.train import main", {"commands"}),
        ("options", "from genimg_jax import files", {"files"}),
        ("evaluation", "from genimg_jax.networks.classifier import ImageClassifier\nimport numpy", set()),
    ],
)
def test_a_wrong_import_is_found(room, code, wrong):
    assert upward(room, code) == wrong


def missing(code: str) -> list[str]:
    """Why imports from this package fail, at the head of a file or inside a function."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "genimg_jax":
            try:
                exec(ast.unparse(node), {})
            except ImportError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("folder", ["genimg_jax", "configs", "experiments"])
def test_what_is_imported_exists(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert not {str(path.relative_to(ROOT)): found for path in files if (found := missing(path.read_text()))}


def test_a_missing_import_is_found():
    code = "import nothing\ndef f():\n    from genimg_jax.sweeps.trials import {}"
    assert missing(code.format("Trial")) == [] and len(missing(code.format("Launcher, Cell"))) == 1
    assert len(missing("from genimg_jax.nothing import f")) == 1


@pytest.mark.parametrize(("module", "rooms"), [("difflib", {"options"}), ("hashlib", {"files", "data"})])
def test_suggestions_and_digests_are_made_in_one_place(module, rooms):
    """Data hash images as they are read; all else uses `files.digest`."""
    assert {room for room, path in sources() if f"import {module}\n" in path.read_text()} == rooms


@pytest.mark.parametrize("room", ["observations", "networks", "objectives", "samplers", "metrics", "families", "tasks"])
def test_mathematics_names_no_device_and_no_compiler(room):
    named = re.compile(r"\b(gpu|cpu|tpu|cudnn|xla)\b|default_backend|optimization_barrier", re.IGNORECASE)
    found = {path.name: named.findall(path.read_text()) for name, path in sources() if name == room}
    assert not {name: names for name, names in found.items() if names}, "this belongs in genimg_jax/backend.py"


def long_functions(code: str) -> list[tuple[str, int]]:
    functions = [n for n in ast.walk(ast.parse(code)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [(f.name, f.end_lineno - f.lineno + 1) for f in functions]
    return [(name, length) for name, length in lengths if length > LINES_OF_A_FUNCTION]


@pytest.mark.parametrize("folder", ["genimg_jax", "configs", "experiments"])
def test_no_function_and_no_file_is_long(folder):
    long = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        long[str(path.relative_to(ROOT / folder))] = text.count("\n") > LINES_OF_A_FILE and text.count("\n")
        long |= {f"{path.stem}.{name}": length for name, length in long_functions(text)}
    assert not {name: length for name, length in long.items() if length}


def test_a_long_function_is_found():
    assert long_functions("def f():\n" + "    a = 0\n" * 59) == []
    assert long_functions("class A:\n    async def g():\n" + "        a = 0\n" * 60) == [("g", 61)]


def test_the_quick_suite_names_files_that_exist():
    (units,) = re.findall(r"^UNITS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [unit for unit in units.split() if not list((ROOT / "tests").glob(f"test_{unit}.py"))] == []
