"""The rules that the repository keeps of itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("features", "online_models", "streams", "serving", "offline", "infra")
OTHERS = ("tests", "benchmarks")
PRINTING = {  # answers as JSON
    Path("infra/cli.py"),
    Path("infra/cli_alerts.py"),
    Path("infra/cli_drill.py"),
    Path("infra/cli_bundles.py"),
    Path("infra/cli_guard.py"),
    Path("infra/cli_learning.py"),
    Path("infra/cli_ops.py"),
    Path("infra/cli_rules.py"),
    Path("infra/cli_running.py"),
    Path("infra/cli_serving.py"),
    Path("infra/demo.py"),
}
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 800


def sources(folders: tuple[str, ...]) -> list[Path]:
    """Python files below top-level folders, relative to the root."""
    return sorted(
        path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_there_are_sources_to_look_at():
    assert {path.parts[0] for path in sources(PACKAGES)} >= set(PACKAGES) - {"online_models"}


def test_every_file_says_what_it_is():
    silent = [str(path) for path in sources(PACKAGES) if not ast.get_docstring(tree_of(path))]
    assert silent == []


def test_no_function_is_too_long_to_read():
    too_long = [
        f"{path}:{function.lineno} {function.name}"
        for path in sources(PACKAGES)
        for function in functions_of(tree_of(path))
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_no_file_is_too_long_to_read():
    too_long = [
        str(path)
        for path in sources(PACKAGES + OTHERS)
        if len((ROOT / path).read_text().splitlines()) > MAX_FILE_LINES
    ]
    assert too_long == []


def test_only_commands_print():
    printing = [
        f"{path}:{node.lineno}"
        for path in sources(PACKAGES)
        if path not in PRINTING
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert printing == []


def test_generated_code_is_what_the_protos_say(tmp_path):
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outs]
    names = [str(path.relative_to(ROOT)) for path in protos]
    subprocess.run([*compiler, *names], cwd=ROOT, check=True, timeout=60)
    generated = {
        path.relative_to(tmp_path): path.read_text()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    committed = {
        path.relative_to(ROOT / "protos"): path.read_text()
        for path in (ROOT / "protos").rglob("*_pb2*.py*")
        if path.suffix in (".py", ".pyi")
    }
    assert sorted(generated) == sorted(committed)
    assert [str(path) for path in generated if generated[path] != committed[path]] == []


def test_layers_import_each_other_in_one_direction():
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed in this environment")
    answer = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stdout
