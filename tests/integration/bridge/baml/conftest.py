"""A model server for each test, and the functions of two generated clients that call it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from bridge.baml.client import Client
from bridge.functions import Functions
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import variables
from tests.support import ROOT
from tests.support.raw_provider import RawProvider, raw_provider


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


def generate(folder: Path, name: str, source: str, *, with_clients: bool) -> ModuleType:
    """Generate a client from a file beside this one, and load it under a name of its own."""
    (folder / "baml_src").mkdir()
    for copied in ("clients.baml", "generators.baml") if with_clients else ("generators.baml",):
        (folder / "baml_src" / copied).write_text((ROOT / "baml_src" / copied).read_text())
    (folder / "baml_src" / source).write_text(Path(__file__).with_name(source).read_text())
    cli = Path(sys.executable).with_name("baml-cli")
    subprocess.run([cli, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    spec = importlib.util.spec_from_file_location(name, folder / "baml_client" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def other_client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A client generated from other_functions.baml."""
    folder = tmp_path_factory.mktemp("project")
    return generate(folder, "other_baml_client", "other_functions.baml", with_clients=True)


@pytest.fixture
async def provider() -> AsyncIterator[RawProvider]:
    async with raw_provider() as serving:
        yield serving


@pytest.fixture
async def first_provider() -> AsyncIterator[RawProvider]:
    """The provider that a fallback asks first."""
    async with raw_provider() as serving:
        yield serving


@pytest.fixture(scope="session")
def provider_client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A client generated from provider_functions.baml."""
    folder = tmp_path_factory.mktemp("providers")
    return generate(folder, "provider_baml_client", "provider_functions.baml", with_clients=False)


@pytest.fixture
async def provider_functions(
    provider_client: ModuleType, provider: RawProvider, first_provider: RawProvider
) -> AsyncIterator[Functions]:
    """The functions of provider_functions.baml."""
    env = variables(provider.url) | {"FIRST_BASE_URL": first_provider.url, "BEDROCK_URL": provider.url}
    loaded = Functions.load(list(Client(provider_client).methods), client=provider_client, env=env)
    yield loaded
    await loaded.close()


@pytest.fixture
async def other_functions(other_client: ModuleType, model: ModelServer) -> AsyncIterator[Functions]:
    """The functions of other_functions.baml."""
    names = ["MakePlan", "List", "Tags", "Rate", "Spell", "See", "Recall", "Replan", "Keyless", "Taste", "Anything"]
    names += ["Journey", "Mutter", "Silent"]
    loaded = Functions.load(names, client=other_client, env=variables(model.url))
    yield loaded
    await loaded.close()
