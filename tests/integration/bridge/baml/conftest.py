"""A model server for each test, and the functions of two generated clients that call it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from bridge.functions import Functions
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import variables
from tests.support import ROOT


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def functions(model: ModelServer) -> AsyncIterator[Functions]:
    """The functions of baml_src."""
    loaded = Functions.load(["Chat", "Code", "Title"], env=variables(model.url))
    yield loaded
    await loaded.close()


@pytest.fixture(scope="session")
def other_client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A client generated from other_functions.baml, under a name of its own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "baml_src").mkdir()
    for name in ("clients.baml", "generators.baml"):
        (folder / "baml_src" / name).write_text((ROOT / "baml_src" / name).read_text())
    source = Path(__file__).with_name("other_functions.baml")
    (folder / "baml_src" / source.name).write_text(source.read_text())
    cli = Path(sys.executable).with_name("baml-cli")
    subprocess.run([cli, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    spec = importlib.util.spec_from_file_location("other_baml_client", folder / "baml_client" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_baml_client"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def other_functions(other_client: ModuleType, model: ModelServer) -> AsyncIterator[Functions]:
    """The functions of other_functions.baml."""
    names = ["MakePlan", "List", "Tags", "Rate", "Spell", "See", "Recall", "Replan", "Keyless"]
    loaded = Functions.load(names, client=other_client, env=variables(model.url))
    yield loaded
    await loaded.close()
