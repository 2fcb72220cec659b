"""Building plugins: options, nested parts, registration, and the messages one gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

import flowzoo
from flowzoo import registry
from flowzoo.interfaces import BaseFlow, Splits, Step, Task
from flowzoo.options import check_options, nearest, options_of
from flowzoo.plugin import PluginSpec
from flowzoo.training.options import TrainingOptions

if TYPE_CHECKING:
    from nowhere import Unresolvable


class Toy(Task):
    """A toy task.

    With more text.
    """

    def __init__(
        self,
        features: int = 2,
        *,
        layers: int = 5,
        noise: float = 0.1,
        hidden: Sequence[int] = (8,),
        shape: tuple[int, ...] = (1,),
        name_of: str = "x",
        flag: bool = False,
        mode: Literal["a", "b"] = "a",
        part: Mapping[str, Any] | str | BaseFlow = "identity",
        training: Mapping[str, Any] | TrainingOptions | None = None,
        patience: int | None = None,
        free: Any = None,
        bare=None,  # type: ignore[no-untyped-def]
    ) -> None:
        super().__init__(features)
        if layers < 1:
            raise ValueError(f"layers: expected a positive integer, got {layers}")
        self.given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}

    def splits(self, seed: int) -> Splits:
        rows = torch.zeros(0, self.features)
        return Splits(rows, rows, rows)


class Identity(BaseFlow):
    """z = x."""

    def __init__(self, features: int, *, context_features: int = 0, strength: float = 1.0) -> None:
        super().__init__(features, context_features=context_features)
        self.strength = strength

    def _encode(self, x: Any, context: Any, chart: Any) -> Step:
        return Step(x, x.new_zeros(len(x)))

    _decode = _encode


@pytest.fixture(autouse=True)
def toys() -> Any:
    with registry.register(Toy), registry.register(Identity):
        yield


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("noise", 1, 1.0),
        ("noise", 0.5, 0.5),
        ("hidden", [64, 64], [64, 64]),
        ("hidden", (64,), (64,)),
        ("shape", [1, 8, 8], (1, 8, 8)),
        ("mode", "b", "b"),
        ("part", {"name": "identity", "strength": 2}, {"name": "identity", "strength": 2}),
        ("part", "identity", "identity"),
        ("training", {"epochs": 3}, {"epochs": 3}),
        ("patience", None, None),
        ("patience", 3, 3),
        ("free", object, object),
        ("bare", [1], [1]),
    ],
)
def test_options_that_fit(option: str, value: Any, kept: Any) -> None:
    built: Any = registry.build("task", "toy", **{option: value})
    assert built.given[option] == kept and type(built.given[option]) is type(kept)


def test_built_objects_pass_unchanged() -> None:
    part, training = Identity(2), TrainingOptions(epochs=2)
    built: Any = registry.build("task", "toy", part=part, training=training)
    assert built.given["part"] is part and built.given["training"] is training


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("layers", "five"),
        ("layers", "5"),
        ("layers", 5.0),
        ("layers", True),
        ("layers", None),
        ("layers", [5]),
        ("layers", -1),
        ("noise", "0.1"),
        ("noise", True),
        ("hidden", 64),
        ("hidden", "64"),
        ("hidden", ["a"]),
        ("hidden", [1.5]),
        ("shape", [[1]]),
        ("name_of", 3),
        ("flag", 1),
        ("flag", "yes"),
        ("mode", "c"),
        ("part", 3),
        ("part", torch.nn.Linear(1, 1)),
        ("training", 4),
        ("patience", 0.5),
        ("features", "2"),
    ],
)
def test_options_that_do_not_fit_are_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        registry.build("task", "toy", **{option: value})
    message = str(caught.value)
    assert message.startswith(f"task 'toy': {option}: expected")
    assert repr(value)[:10] in message and "\n" not in message.partition("(")[0]


def test_a_misspelt_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"task 'toy': unknown option 'layer', .*'layers'\?"):
        registry.build("task", "toy", layer=3)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ValueError, match="base-flow 'identity': missing option 'features': int"):
        registry.build("base-flow", "identity")


def test_errors_inside_the_constructor_name_the_plugin() -> None:
    class Fragile(Toy):
        def __init__(self, *, how: str) -> None:
            errors = {"type": TypeError("bad"), "value": ValueError("bad"), "zero": OSError("bad")}
            raise errors[how]

    with registry.register(Fragile):
        with pytest.raises(TypeError, match=r"^task 'fragile': bad"):
            registry.build("task", "fragile", how="type")
        with pytest.raises(ValueError, match=r"^task 'fragile': bad"):
            registry.build("task", "fragile", how="value")
        with pytest.raises(OSError, match="bad") as caught:
            registry.build("task", "fragile", how="zero")
        assert caught.value.__notes__ == ["while building task 'fragile'"]


def test_unresolvable_annotations_do_not_stop_the_others() -> None:
    class Odd(Toy):
        def __init__(self, *, layers: int = 1, odd: Unresolvable = None) -> None:
            self.odd = odd

    assert check_options(Odd, {"odd": 3}, "x") == {"odd": 3}
    with pytest.raises(ValueError, match="layers"):
        check_options(Odd, {"layers": "five"}, "x")


def test_keyword_dictionaries_name_no_option() -> None:
    class Swallows(Toy):
        def __init__(self, *, layers: int = 1, **rest: Any) -> None: ...

    assert list(options_of(Swallows)) == ["layers"]
    with pytest.raises(ValueError, match="unknown option 'layer'"):
        check_options(Swallows, {"layer": 1}, "x")


def test_dataclasses_are_checked_too() -> None:
    @dataclass
    class Data:
        layers: int
        rate: float = 0.5

    assert check_options(Data, {"layers": 2, "rate": 1}, "x") == {"layers": 2, "rate": 1.0}
    with pytest.raises(ValueError, match="rate"):
        check_options(Data, {"layers": 2, "rate": "fast"}, "x")


def test_nearest() -> None:
    assert nearest("laeyrs", ["layers", "hidden"]) == "; did you mean 'layers'?"
    assert nearest("zzz", ["layers"]) == ""


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["identity", {"name": "identity"}, {"name": "identity"}.items()])
def test_parts_by_name_and_mapping(part: Any) -> None:
    part = part if isinstance(part, str | dict) else dict(part)
    before = dict(part) if isinstance(part, dict) else part
    flow = registry.build_part("base-flow", part, features=3, context_features=2)
    assert isinstance(flow, Identity) and (flow.features, flow.context_features) == (3, 2)
    assert part == before


def test_a_built_part_is_returned_if_it_fits() -> None:
    flow = Identity(3)
    assert registry.build_part("base-flow", flow, features=3, context_features=0) is flow
    with pytest.raises(ValueError, match=r"base-flow: features: expected 2, .*Identity has 3"):
        registry.build_part("base-flow", flow, features=2)


@pytest.mark.parametrize(
    ("part", "error", "match"),
    [
        ({}, ValueError, "expected a 'name'"),
        ({"nam": "identity"}, ValueError, "'name' among .*nam"),
        ({"name": 3}, ValueError, "'name'"),
        ({"name": "identiti"}, ValueError, "did you mean 'identity'"),
        ("identiti", ValueError, "did you mean 'identity'"),
        ({"name": "identity", "strenght": 2}, ValueError, "'identity'.*did you mean 'strength'"),
        ({"name": "identity", "features": 5}, ValueError, "features: set by what contains"),
        (3, TypeError, "expected a name, a mapping with one, or a built BaseFlow, got int"),
        (None, TypeError, "got NoneType"),
        (torch.nn.Linear(1, 1), TypeError, "got Linear"),
        (Identity, TypeError, "got "),
    ],
)
def test_parts_that_do_not_fit(part: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        registry.build_part("base-flow", part, features=3)


def test_options_may_be_called_kind_name_or_part() -> None:
    class Named(Toy):
        def __init__(self, *, name: str = "", kind: str = "", part: str = "") -> None:
            self.values = (name, kind, part)

    with registry.register(Named):
        built: Any = registry.build("task", "named", name="n", kind="k", part="p")
        assert built.values == ("n", "k", "p")


# --- registering -------------------------------------------------------------------------------


def test_registering_a_class_takes_kind_name_and_summary_from_it() -> None:
    entry = registry.find("task", "toy")
    assert (entry.state, entry.distribution, entry.summary) == ("ready", "", "A toy task.")
    assert entry in registry.entries("task")
    assert registry.load("task", "toy") is Toy


def test_registering_is_undone_by_the_block_and_by_hand() -> None:
    with registry.register(Toy, name="mine"):
        assert registry.load("task", "mine") is Toy
    with pytest.raises(registry.UnknownPluginError):
        registry.load("task", "mine")
    handle = registry.register(Toy, name="mine")
    handle.undo()
    handle.undo()
    with pytest.raises(registry.UnknownPluginError, match="mine"):
        registry.load("task", "mine")


def test_registering_again_replaces_and_undo_restores() -> None:
    class Second(Toy):
        """Second."""

    with registry.register(Second, name="toy"):
        assert registry.load("task", "toy") is Second
    assert registry.load("task", "toy") is Toy


def test_undo_in_another_order_leaves_nothing_behind() -> None:
    first = registry.register(Toy, name="mine")
    second = registry.register(Toy, name="mine")
    first.undo()
    assert registry.load("task", "mine") is Toy
    second.undo()
    with pytest.raises(registry.UnknownPluginError):
        registry.load("task", "mine")


def test_registering_a_spec_imports_its_target_at_load() -> None:
    spec = PluginSpec(
        kind="base-flow", name="from-spec", summary="s", target="fake_nowhere_at_all:Thing"
    )
    with registry.register(spec):
        assert registry.find("base-flow", "from-spec").spec is spec
        with pytest.raises(registry.PluginError, match="fake_nowhere_at_all"):
            registry.load("base-flow", "from-spec")


def test_a_registered_spec_has_a_state_too() -> None:
    spec = PluginSpec(kind="task", name="new", summary="s", target="a:B", api="2.0")
    with registry.register(spec), pytest.raises(registry.PluginError, match="incompatible-api"):
        registry.load("task", "new")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"plugin": Toy, "name": "helix"}, ValueError, "installed by flowzoo"),
        ({"plugin": int}, ValueError, "expected a subclass of one of"),
        ({"plugin": Toy, "kind": "mixture"}, ValueError, "subclass of flowzoo.interfaces.Mixture"),
        ({"plugin": Toy, "kind": "taks"}, ValueError, "did you mean 'task'"),
        ({"plugin": "toy"}, TypeError, "expected a PluginSpec or a class"),
        ({"plugin": Toy, "name": ""}, ValueError, "name"),
    ],
)
def test_registrations_that_are_refused(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    before = registry.entries()
    with pytest.raises(error, match=match):
        registry.register(**arguments)
    assert registry.entries() == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MyVQFlow", "my-vq-flow"), ("Toy", "toy"), ("Snake_Case", "snake-case"), ("A1B", "a1-b")],
)
def test_names_of_classes(name: str, expected: str) -> None:
    with registry.register(type(name, (Toy,), {})) as handle:
        assert handle.entry.name == expected


def test_the_top_level_is_the_registry() -> None:
    assert flowzoo.build is registry.build and flowzoo.register is registry.register
    assert flowzoo.BaseFlow is BaseFlow
    assert set(flowzoo.__all__) <= set(dir(flowzoo))
    for name in flowzoo.__all__:
        assert getattr(flowzoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = flowzoo.biuld


# --- every built-in ----------------------------------------------------------------------------

BUILT_IN = [
    (spec.kind, spec.name)
    for spec in registry.specs()
    if spec.kind not in ("command", "executor")  # a user passes those no options
]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_refuses_a_misspelt_option_by_name(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} '{name}': unknown option 'no_such_option'"):
        registry.build(kind, name, no_such_option=1)


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_option_has_a_type_and_a_default(kind: str, name: str) -> None:
    for option in options_of(registry.load(kind, name)).values():
        assert option.annotation is not Any, f"{option.name}: not annotated or not resolvable"
        inherent = option.name == "features" or (name, option.name) == ("file", "path")
        assert inherent or not option.required, f"{option.name}: no default"
