"""Backends by URL scheme: found through entry points, loaded lazily, and blamed by name when broken."""

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from later import ConfigError, PluginError, UnknownScheme
from later.backends.memory import Memory
from later.core.ports import BrokerCapabilities, StorageCapabilities
from later.runtime.plugins import InstalledBackend, Plugins, installed_backends

PASSWORD = "hunter2"
GOOD = """
    from later.backends.memory import Memory
    from later.core.hookspecs import hookimpl

    @hookimpl
    def later_storage(url):
        return Memory()
"""

_numbers = itertools.count()

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a distribution that offers a scheme; returns the name of its module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(scheme: str, source: str = GOOD, *, distribution: str = "acme-later", attribute: str = "") -> str:
        module = f"acme_later_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[later.backends]\n{scheme} = {module}{attribute}\n")
        return module

    return make


def storage(url: str) -> object:
    return Plugins().storage(url)


def test_built_in_backends_use_the_same_door() -> None:
    plugins = Plugins()
    assert isinstance(plugins.storage("memory://one"), Memory)
    assert isinstance(plugins.broker("memory://one"), Memory)
    assert hasattr(plugins.storage("sqlite:///x.sqlite3"), "open_storage")


def test_a_third_party_backend(install: Install) -> None:
    module = install("acme")
    assert isinstance(storage("acme://host"), Memory)
    assert isinstance(storage("ACME://host"), Memory)
    assert module in sys.modules


def test_a_backend_may_be_an_object(install: Install) -> None:
    source = """
        from later.backends.memory import Memory
        from later.core.hookspecs import hookimpl

        class Plugin:
            @hookimpl
            def later_storage(self, url):
                return Memory()

        plugin = Plugin()
    """
    install("acme", source, attribute=":plugin")
    assert isinstance(storage("acme://"), Memory)


def test_only_the_scheme_asked_for_is_imported(install: Install) -> None:
    module = install("acme", "raise AssertionError")
    storage("memory://")
    assert module not in sys.modules


def test_each_app_has_plugins_of_its_own(install: Install) -> None:
    install("acme")
    one, other = Plugins(), Plugins()
    one.storage("acme://")
    assert one._manager is not other._manager
    other.storage("acme://")
    assert one.storage("acme://") is not one.storage("acme://")


def test_a_plugin_is_only_asked_for_its_own_scheme(install: Install) -> None:
    install("acme")
    install(
        "none", "from later.core.hookspecs import hookimpl\n@hookimpl\ndef later_storage(url): ...", distribution="b"
    )
    plugins = Plugins()
    plugins.storage("acme://")
    with pytest.raises(ConfigError, match=r"none:// cannot be a storage: b 1\.2 offers none"):
        plugins.storage("none://")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://u:hunter2@h", r'pip install "later-jobs\[redis\]"'),
        ("rediss://u:hunter2@h", r'pip install "later-jobs\[redis\]"'),
        ("valkey://u:hunter2@h", r'pip install "later-jobs\[redis\]"'),
        ("postgres://u:hunter2@h", r'pip install "later-jobs\[postgres\]"'),
        ("postgresql://u:hunter2@h", r'pip install "later-jobs\[postgres\]"'),
        ("amqp://u:hunter2@h", r'pip install "later-jobs\[rabbitmq\]"'),
        ("amqps://u:hunter2@h", r'pip install "later-jobs\[rabbitmq\]"'),
        (
            "mongodb://u:hunter2@h",
            r"`later backends` lists .*; else install a plugin that answers to it",
        ),
        ("rabbitmq://u:hunter2@h", r"did you mean amqp://\? `later backends` lists"),
        ("postgress://u:hunter2@h", r"did you mean postgres://\?"),
        ("reddis://u:hunter2@h", r"did you mean redis://\?"),
    ],
)
def test_an_unknown_scheme_says_what_to_install(
    url: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Without what is installed here, be it adapters that later versions bring along.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for ask in (Plugins().storage, Plugins().broker):
        with pytest.raises(UnknownScheme, match=advice) as caught:
            ask(url)
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", ["", "  ", "\n"])
@pytest.mark.parametrize("kind", ["storage", "broker"])
def test_a_variable_that_is_set_to_nothing(kind: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"the {kind} is an empty text, as of a variable"):
        getattr(Plugins(), kind)(url)


@pytest.mark.parametrize("url", ["localhost", "localhost:5672", "amqp:/hunter2", "amqp//guest:hunter2@localhost"])
def test_what_is_no_url_of_a_broker(url: str) -> None:
    with pytest.raises(ConfigError, match=r"the broker is not a URL: .*amqp://") as caught:
        Plugins().broker(url)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", ["jobs.sqlite3", "://x", "redis:hunter2", "C:\\jobs.sqlite3", " sqlite:///x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a URL") as caught:
        storage(url)
    assert PASSWORD not in str(caught.value)


def test_two_distributions_for_one_scheme(install: Install) -> None:
    install("acme")
    install("acme", distribution="other-later")
    with pytest.raises(PluginError, match=r"acme:// is offered by acme-later 1\.2 and other-later 1\.2"):
        storage("acme://")
    errors = {each.distribution: each.error for each in installed_backends() if each.scheme == "acme"}
    assert set(errors) == {"acme-later", "other-later"}
    assert all(error is not None and "is offered by" in error for error in errors.values())


def test_a_backend_that_does_not_import(install: Install) -> None:
    install("acme", "import not_installed_anywhere")
    with pytest.raises(PluginError, match=r"from acme-later 1\.2 does not load: .*not_installed_anywhere") as caught:
        storage("acme://")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_known_backend_without_its_driver_says_what_to_install(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acmedb", "import not_installed_anywhere")
    monkeypatch.setitem(__import__("later.runtime.plugins", fromlist=["_EXTRAS"])._EXTRAS, "acmedb", "redis")
    with pytest.raises(PluginError, match=r'pip install "later-jobs\[redis\]"'):
        storage("acmedb://")
    assert [each.extra for each in installed_backends() if each.scheme == "acmedb"] == ["redis"]


def test_an_entry_point_that_names_nothing(install: Install) -> None:
    install("acme", attribute=":missing")
    with pytest.raises(PluginError, match=r"acme-later 1\.2 does not load: AttributeError"):
        storage("acme://")


def test_a_misspelt_hook(install: Install) -> None:
    install("acme", GOOD.replace("later_storage", "later_storages"))
    with pytest.raises(PluginError, match=r"acme-later 1\.2 does not follow the hooks: .*later_storages"):
        storage("acme://")


def test_a_hook_with_another_argument(install: Install) -> None:
    install("acme", GOOD.replace("(url)", "(address)"))
    with pytest.raises(PluginError, match=r"acme-later 1\.2 does not follow the hooks"):
        storage("acme://")


def test_a_plugin_without_hooks(install: Install) -> None:
    install("acme", "x = 1")
    with pytest.raises(PluginError, match=r"acme-later 1\.2 implements neither later_storage nor later_broker"):
        storage("acme://")


def test_a_hook_that_raises_shows_no_url(install: Install) -> None:
    install("acme", GOOD.replace("return Memory()", "raise ValueError(url)"))
    with pytest.raises(PluginError, match=r"acme-later 1\.2 raised ValueError") as caught:
        storage(f"acme://user:{PASSWORD}@host")
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_hook_that_refuses_the_url(install: Install) -> None:
    install(
        "acme",
        GOOD.replace("return Memory()", 'raise ConfigError("no host")').replace(
            "import Memory", "import Memory\n    from later import ConfigError"
        ),
    )
    with pytest.raises(ConfigError, match="no host"):
        storage("acme://")


def test_a_hook_that_returns_something_else(install: Install) -> None:
    install("acme", GOOD.replace("return Memory()", "return 42"))
    with pytest.raises(PluginError, match=r"acme-later 1\.2 returned a int without open_storage\(\)"):
        storage("acme://")


def test_a_storage_that_is_no_broker(install: Install) -> None:
    install("acme")
    with pytest.raises(ConfigError, match=r"acme:// cannot be a broker: acme-later 1\.2 offers none"):
        Plugins().broker("acme://")


def test_installed_backends(install: Install) -> None:
    install("acme")
    install("broken", "import not_installed_anywhere", distribution="broken-later")
    found = {each.scheme: each for each in installed_backends()}
    assert found["memory"].distribution == "later-jobs"
    assert found["memory"].error is None
    assert (found["acme"].distribution, found["acme"].version, found["acme"].error) == ("acme-later", "1.2", None)
    assert "ModuleNotFoundError" in (found["broken"].error or "")
    assert found["broken"].extra is None


WITH_CAPABILITIES = (
    GOOD
    + """
    from later.core.ports import BrokerCapabilities, StorageCapabilities

    STORAGE = StorageCapabilities(durable=True, shared=True, shared_between_hosts=False, push=False)
    BROKER = BrokerCapabilities(durable=True, shared=True, priority=False)

    @hookimpl
    def later_capabilities(scheme):
        return [STORAGE]
"""
)


def listed(scheme: str) -> InstalledBackend:
    [found] = [each for each in installed_backends() if each.scheme == scheme]
    return found


def test_the_kinds_and_capabilities_of_installed_backends(install: Install) -> None:
    install("acme", WITH_CAPABILITIES)
    found = listed("acme")
    assert (found.error, found.storage, found.broker, found.broker_capabilities) == (None, True, False, None)
    assert found.storage_capabilities == StorageCapabilities(
        durable=True, shared=True, shared_between_hosts=False, push=False
    )
    assert listed("memory").broker_capabilities == BrokerCapabilities(durable=False, shared=False, priority=True)


def test_a_backend_need_not_tell_its_capabilities(install: Install) -> None:
    install("acme")
    install("other", WITH_CAPABILITIES.replace("[STORAGE]", "None"), distribution="other-later")
    for scheme in ("acme", "other"):
        found = listed(scheme)
        assert (found.error, found.storage, found.storage_capabilities) == (None, True, None)


@pytest.mark.parametrize("wrong", ["STORAGE", "[42]", "[BROKER]", "[STORAGE, STORAGE]", "1 / 0"])
def test_wrong_capabilities_break_the_listing_of_that_backend_only(install: Install, wrong: str) -> None:
    install("acme", WITH_CAPABILITIES.replace("[STORAGE]", wrong))
    assert "later_capabilities of the backend for acme:// from acme-later 1.2" in (listed("acme").error or "")
    assert listed("memory").error is None
    assert isinstance(storage("acme://"), Memory)


def test_a_plugin_that_only_tells_capabilities(install: Install) -> None:
    install("acme", WITH_CAPABILITIES.replace("@hookimpl", "", 1))
    assert "implements neither" in (listed("acme").error or "")


def test_a_plugin_that_exits_breaks_nothing_else(install: Install) -> None:
    install("acme", "import sys; sys.exit(3)")
    assert "acme-later 1.2 does not load: SystemExit: 3" in (listed("acme").error or "")
    assert listed("memory").error is None


def test_importing_later_imports_no_backend_and_nothing_heavy() -> None:
    script = """
        import sys
        before = set(sys.modules)
        import later
        heavy = ["pluggy", "sqlite3", "asyncio", "importlib.metadata", "concurrent.futures.thread", "click", "rich",
                 "uuid_utils", "later.backends", "later.runtime.server"]
        print([name for name in heavy if name in set(sys.modules) - before])
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
