"""The installed package: types and dependencies."""

import importlib
import inspect
import pkgutil
import re
import unittest
from pathlib import Path
from typing import get_type_hints

import lastmile


class Package(unittest.TestCase):
    def test_all_functions_have_types(self):
        self.assertTrue((Path(lastmile.__file__).parent / "py.typed").exists())
        modules = [importlib.import_module(f"lastmile.{one.name}") for one in pkgutil.iter_modules(lastmile.__path__)]
        self.assertGreaterEqual(len(modules), 12)
        for module in modules:
            functions = [one for _, one in inspect.getmembers(module, inspect.isfunction)]
            for _, one in inspect.getmembers(module, inspect.isclass):
                functions += [method for _, method in inspect.getmembers(one, inspect.isfunction)]
            for function in functions:
                if not function.__module__.startswith("lastmile"):
                    continue
                hints = get_type_hints(function)
                wanted = set(inspect.signature(function).parameters) - {"self", "cls"} | {"return"}
                # Generated methods of a dataclass are typed by its fields.
                if not function.__name__.startswith("__") or function.__qualname__.endswith("__init__"):
                    self.assertLessEqual(wanted - {"return"}, set(hints), f"{module.__name__}.{function.__qualname__}")

    def test_dependencies(self):
        project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
        [line] = re.findall(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
        self.assertEqual(re.findall(r'"([a-z]+)', line), ["cryptography", "websockets"])
        names = [name for name in dir(lastmile) if name[0].isupper() or name == "connect"]
        self.assertLessEqual(set(lastmile.__all__), set(names))
