"""The rules of the house, read from the source: who imports whom, and what nobody writes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowzoo import registry

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "flowzoo"
PLUGINS = ROOT / "plugins" / "flowzoo_plugins"
BENCH = ROOT / "benchmarks" / "flowzoo_bench"
PACKAGES = (CORE, PLUGINS, BENCH)
FILES = sorted(file for package in PACKAGES for file in package.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 450


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def _name(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return ""


def forbidden_imports(tree: ast.AST, file: Path) -> list[str]:
    """Imports against the arrows flowzoo_bench -> flowzoo <- flowzoo_plugins."""
    top = next(package for package in PACKAGES if file.is_relative_to(package))
    package = ".".join((top.name, *file.parent.relative_to(top).parts))
    found = []
    for line, name in imports(tree, package):
        first, _, rest = name.partition(".")
        wrong = {
            CORE: first in ("flowzoo_plugins", "flowzoo_bench"),
            PLUGINS: first == "flowzoo_bench" or (first == "flowzoo_plugins" and bool(rest)),
            BENCH: first == "flowzoo_plugins",
        }[top]
        if top == PLUGINS and first == "flowzoo_plugins":
            own = file.relative_to(PLUGINS).parts[0]
            wrong = rest.split(".")[0] not in ("", own)
        if wrong:
            found.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    return found


def forbidden_code(tree: ast.AST, where: str) -> list[str]:
    """Code that runs what a file holds, and assertions that ``python -O`` removes."""
    found = []
    for line, name in imports(tree, ""):
        if name.split(".")[0] in ("pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"):
            found.append(f"{where}:{line} imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{where}:{node.lineno} assert")
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        if name in ("eval", "exec", "yaml.load", "joblib.load", "torch.hub.load"):
            found.append(f"{where}:{node.lineno} {name}")
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        weights_only = keywords.get("weights_only")
        if isinstance(weights_only, ast.Constant) and weights_only.value is False:
            found.append(f"{where}:{node.lineno} weights_only=False")
        if name == "torch.load" and weights_only is None:
            found.append(f"{where}:{node.lineno} torch.load without weights_only=True")
        allow_pickle = keywords.get("allow_pickle")
        if isinstance(allow_pickle, ast.Constant) and allow_pickle.value is True:
            found.append(f"{where}:{node.lineno} allow_pickle=True")
    return found


def text_in_the_locales_encoding(tree: ast.AST, where: str) -> list[str]:
    """Text files read or written in whatever encoding the caller's locale has."""
    arguments_before_it = {"read_text": 0, "write_text": 1}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = _name(node.func).rpartition(".")
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr  # of any expression
        if any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        if name in arguments_before_it and len(node.args) <= arguments_before_it[name]:
            found.append(f"{where}:{node.lineno} {name} without an encoding")
        if name == "open" and owner not in ("os", "tarfile"):
            given = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            modes = [m.value for m in given if isinstance(m, ast.Constant)]
            if not any(isinstance(mode, str) and "b" in mode for mode in modes):
                found.append(f"{where}:{node.lineno} open without an encoding")
    return found


def test_arrows_run_one_way() -> None:
    assert len(FILES) > 50
    assert [line for file in FILES for line in forbidden_imports(_tree(file), file)] == []


def test_no_code_that_runs_data_and_no_assert() -> None:
    lines = [forbidden_code(_tree(file), str(file.relative_to(ROOT))) for file in FILES]
    assert [line for found in lines for line in found] == []


def test_text_files_have_an_encoding() -> None:
    lines = [
        text_in_the_locales_encoding(_tree(file), str(file.relative_to(ROOT)))
        for file in (*FILES, *TESTS)
    ]
    assert [line for found in lines for line in found] == []


def test_files_are_short() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (CORE / "a.py", "import flowzoo_plugins"),
        (CORE / "a.py", "def f():\n    from flowzoo_bench.tasks import x"),
        (CORE / "a.py", "import importlib\nimportlib.import_module('flowzoo_plugins.vq_flows')"),
        (PLUGINS / "vq_flows" / "a.py", "from flowzoo_plugins.base_flows import maf"),
        (PLUGINS / "vq_flows" / "a.py", "from flowzoo_plugins import base_flows"),
        (PLUGINS / "vq_flows" / "a.py", "from ..base_flows import maf"),
        (PLUGINS / "vq_flows" / "a.py", "import flowzoo_bench.tasks"),
        (BENCH / "a.py", "from flowzoo_plugins.vq_flows import VQFlow"),
    ],
)
def test_the_arrow_check_sees(file: Path, code: str) -> None:
    assert forbidden_imports(ast.parse(code), file)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (CORE / "a.py", "from flowzoo.interfaces import Task\nimport torch"),
        (PLUGINS / "vq_flows" / "a.py", "from flowzoo_plugins.vq_flows.charts import x"),
        (PLUGINS / "vq_flows" / "a.py", "from .charts import x\nfrom . import charts"),
        (BENCH / "tasks" / "a.py", "from flowzoo_bench.seeds import seed\nimport flowzoo"),
    ],
)
def test_the_arrow_check_lets_pass(file: Path, code: str) -> None:
    assert forbidden_imports(ast.parse(code), file) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "assert x",
        "eval('1')",
        "torch.load(f, weights_only=False)",
        "torch.load(f)",
        "yaml.load(f)",
        "joblib.load(f)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_code_check_sees(code: str) -> None:
    assert forbidden_code(ast.parse(code), "x")


def test_the_code_check_lets_pass() -> None:
    code = "model.eval()\ntorch.load(f, weights_only=True)\nnp.load(f)\njson.load(f)"
    assert forbidden_code(ast.parse(code), "x") == []


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text()",
        "(a / 'b').write_text(x)",
        "open('x')",
        "path.open()",
        "path.open('a')",
        "open('x', mode='w')",
    ],
)
def test_the_encoding_check_sees(code: str) -> None:
    assert text_in_the_locales_encoding(ast.parse(code), "x")


def test_the_encoding_check_lets_pass() -> None:
    code = (
        "a.read_text('utf-8')\na.write_text(x, encoding='utf-8')\nopen('x', 'rb')\n"
        "a.open('ab')\nos.open(a, os.O_RDONLY)\na.open(encoding='utf-8')"
    )
    assert text_in_the_locales_encoding(ast.parse(code), "x") == []


def _tree(file: Path) -> ast.AST:
    return ast.parse(file.read_text("utf-8"), str(file))


# --- importing changes nothing -----------------------------------------------------------------

SNAPSHOT = """
import importlib, os, random, sys, warnings, logging
import numpy, torch, matplotlib
def state():
    return {{
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": str(numpy.random.get_state()),
        "python rng": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "validate": torch.distributions.Distribution._validate_args,
        "warnings": list(warnings.filters),
        "numpy errors": numpy.geterr(),
        "print options": str(numpy.get_printoptions()),
        "matplotlib": str(dict(dict.items(matplotlib.rcParams))),
        "logging": (logging.getLogger().level, len(logging.getLogger().handlers)),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
    }}
import sklearn, scipy.stats
changed = []
for package, names in {packages!r}.items():
    before = state()
    for name in names:
        importlib.import_module(name)
    after = state()
    changed += [(package, key) for key in before if before[key] != after[key]]
sys.exit(f"changed: {{changed}}" if changed else 0)
"""


def modules(package: Path) -> list[str]:
    """Every module of a package but its ``__main__`` files."""
    return [
        ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted(package.rglob("*.py"))
        if file.name != "__main__.py"
    ]


@pytest.mark.slow
def test_importing_every_module_leaves_the_process_alone_and_is_silent() -> None:
    packages = {package.name: modules(package) for package in PACKAGES}
    done = python(SNAPSHOT.format(packages=packages))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_built_in_specs_import_no_torch() -> None:
    values = sorted(e.value for e in registry.entries() if e.distribution == "flowzoo")
    light = sorted({value.partition(":")[0] for value in values})
    code = (
        f"import importlib, sys\nfor name in {light!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_loading_every_built_in_leaves_slow_libraries_alone() -> None:
    """Adapters, plots and scikit-learn are imported when they are used, not when they are named."""
    kinds = ("base-flow", "partitioner", "mixture")
    code = (
        "import sys\nfrom flowzoo import registry\n"
        f"for kind in {kinds!r}:\n"
        "    for spec in registry.specs(kind): registry.load(kind, spec.name)\n"
        "heavy = {'nflows', 'normflows', 'zuko', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
