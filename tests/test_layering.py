"""Each room imports only from rooms above it; ray only in runtime; the command line imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import chexworld_ray

PACKAGE = Path(chexworld_ray.__file__).parent
BOTTOM = {"errors", "addresses", "hashing", "config", "recipes", "folders", "regular_files", "storage", "trust", "spot"}
ORDER = [
    BOTTOM,
    {"shards"},
    {"phantoms"},
    {"views"},
    {"models"},
    {"objectives"},
    {"metrics"},
    {"training"},
    {"evaluation"},
    {"analysis"},
    {"reports"},
    {"benchmarks"},
    {"runtime"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: number for number, names in enumerate(ORDER) for name in names}
FORBIDDEN = {
    "ray": set(LAYER) - {"runtime"},
    "torch": BOTTOM | {"shards", "phantoms"},
    "timm": set(LAYER) - {"models"},
}


def imports(file: Path) -> list[tuple[str, bool]]:
    """(module, at the top of the file) of every import."""
    found = []
    tree = ast.parse(file.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "chexworld_ray"
                else [node.module]
            )
            found += [(name, id(node) in top) for name in names]
    return found


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if room(file) != "__init__"]


def test_every_room_is_in_a_layer() -> None:
    assert {room(file) for file in modules()} <= set(LAYER)


def test_layers_import_only_upwards() -> None:
    crossed = []
    for file in modules():
        for name, _ in imports(file):
            parts = name.split(".")
            if parts[0] == "chexworld_ray" and len(parts) > 1 and parts[1] in LAYER:
                mine, theirs = LAYER[room(file)], LAYER[parts[1]]
                if theirs > mine or (theirs == mine and mine and parts[1] != room(file)):
                    crossed.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert not crossed


def test_heavy_libraries_stay_in_their_rooms() -> None:
    crossed = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in modules()
        for name, _ in imports(file)
        if room(file) in FORBIDDEN.get(name.split(".")[0], set())
    ]
    assert not crossed


def test_command_line_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, chexworld_ray.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'timm', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


def test_processes_that_hold_no_model_start_without_its_libraries() -> None:
    """Each would start seconds later, and hold hundreds of megabytes for nothing. In one process: what imports least
    comes first."""
    without = {
        "torch": "runtime.segments runtime.ingest runtime.board reports.data_card shards.check training.run",
        "timm": "runtime.pretrain reports.comparison",  # pretrain: its driver, and Ray Train's controller
    }
    code = (
        "import importlib, sys\n"
        "for line in sys.argv[1:]:\n"
        "    heavy, *names = line.split()\n"
        "    for name in names:\n"
        "        importlib.import_module(f'chexworld_ray.{name}')\n"
        "        if heavy in sys.modules: sys.exit(f'{name} imports {heavy}')\n"
    )
    lines = [f"{heavy} {names}" for heavy, names in without.items()]
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_stay_small() -> None:
    long_files = {str(f.relative_to(PACKAGE)): n for f in modules() if (n := len(f.read_text().splitlines())) > 400}
    assert not long_files
    long_functions = [
        f"{file.relative_to(PACKAGE)}:{node.name}"
        for file in modules()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long_functions
