"""Components by name: the built-in and user-defined classes and functions that a config can name.

A name is one of

- a word: built in (`BUILT_IN`), or registered by an installed package as an entry point of the
  group `prdp_hpc.<group>`, e.g.
  `[project.entry-points."prdp_hpc.physics"] shallow_water = "ocean:SWE"`;
- `package.module:Name`: imported as usual;
- `file.py:Name`: the file is executed, and its folder is added to Python's path; a relative path
  starts at the folder of the config.

A name refers to a class or function. Its attribute `Config`, a pydantic model, validates the other
keys of its section; without this attribute the keys are passed on unchanged. A name may also refer
to such a model whose class attribute `component` ("package.module:Name") locates the class. Then a
config is validated without loading torch, MPI or PETSc, which is how the built-in ones work.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from prdp_hpc.config.errors import ConfigError, nearest
from prdp_hpc.config.torch_components import OPTIMIZERS, RATES

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "physics": {
        "heat": "prdp_hpc.config.physics:HeatSection",
        "allen_cahn": "prdp_hpc.config.physics:AllenCahnSection",
        "nonlinear_diffusion": "prdp_hpc.config.physics:NonlinearDiffusionSection",
        "burgers": "prdp_hpc.config.physics:BurgersSection",
        "navier_stokes": "prdp_hpc.config.physics:NavierStokesSection",
        "poisson": "prdp_hpc.config.physics:PoissonSection",
    },
    "networks": {
        "mlp": "prdp_hpc.config.networks:MLPSection",
        "resnet": "prdp_hpc.config.networks:ResNetSection",
        "unet": "prdp_hpc.config.networks:UNetSection",
    },
    "tasks": {
        "emulator": "prdp_hpc.config.experiment:EmulatorConfig",
        "inverse": "prdp_hpc.config.inverse_tasks:InverseConfig",
        "corrector": "prdp_hpc.config.experiment:CorrectorConfig",
        "amortised_inversion": "prdp_hpc.config.amortised:AmortisedInversionConfig",
        "field_inversion": "prdp_hpc.config.inverse_tasks:FieldInversionConfig",
    },
    "formats": {
        "hdf5": "prdp_hpc.data.reader:TrajectoryFile",
        "pdebench": "prdp_hpc.config.formats:PDEBenchSection",
        "the_well": "prdp_hpc.config.formats:TheWellSection",
        "apebench": "prdp_hpc.config.formats:APEBenchSection",
        "numpy": "prdp_hpc.config.formats:NumPySection",
        "netcdf": "prdp_hpc.config.formats:NetCDFSection",
        "zarr": "prdp_hpc.config.formats:ZarrSection",
    },
    "optimizers": {
        "adam": "prdp_hpc.tasks.recipe:adam",
        **{name: f"prdp_hpc.config.torch_components:{name}" for name in OPTIMIZERS},
    },
    "inversion_optimizers": {
        "adam": "prdp_hpc.tasks.recipe:adam",
        "lbfgs": "prdp_hpc.config.inversion:LBFGSSection",
    },
    "rates": {
        "exponential": "prdp_hpc.tasks.recipe:exponential",
        "cosine": "prdp_hpc.tasks.recipe:cosine",
        "plateau": "prdp_hpc.config.torch_components:ReduceLROnPlateau",
        **{name: f"prdp_hpc.config.torch_components:{name}" for name in RATES},
    },
    "losses": {
        "squared": "prdp_hpc.config.losses:SquaredSection",
        "absolute": "prdp_hpc.config.losses:AbsoluteSection",
        "huber": "prdp_hpc.config.losses:HuberSection",
        "relative_l2": "prdp_hpc.config.losses:RelativeL2Section",
        "h1": "prdp_hpc.config.losses:H1Section",
        "spectral": "prdp_hpc.config.losses:SpectralSection",
    },
    "trackers": {
        "tensorboard": "prdp_hpc.config.tracking:TensorBoardSection",
        "wandb": "prdp_hpc.config.tracking:WandBSection",
        "mlflow": "prdp_hpc.config.tracking:MLflowSection",
    },
    "schedules": {
        "prdp": "prdp_hpc.refinement.coordinator:Coordinator",
        "gradient": "prdp_hpc.refinement.gradient_coordinator:GradientCoordinator",
        "constant": "prdp_hpc.refinement.schedules:ConstantSchedule",
        "manual": "prdp_hpc.refinement.schedules:ManualSchedule",
    },
}
"""The built-in names of each group with the object that each refers to, as "module:Name"."""

OWN = "package.module:Name or file.py:Name for user code"


@dataclass(frozen=True)
class Component:
    """The object that a name in a config refers to.

    Attributes
    ----------
    name : the name in the resolved config, in which the path of a file is absolute.
    where : "module:Name" of the object to import.
    built_in : whether the name is one of `BUILT_IN`.
    """

    name: str
    where: str
    built_in: bool = False

    @property
    def label(self) -> str:
        """The name without its file or module."""
        return self.name.rpartition(":")[2]

    @property
    def target(self) -> Any:
        """The class, or the model that locates it; imported on first use."""
        return load_object(self.where)

    @property
    def model(self) -> type[BaseModel] | None:
        """The pydantic model of its keys, or None if any keys are accepted."""
        model = self.target if _is_model(self.target) else getattr(self.target, "Config", None)
        return model if _is_model(model) else None

    def load(self) -> Any:
        """Return the class itself, also if the name refers to a model."""
        where = getattr(self.target, "component", None) if _is_model(self.target) else None
        return self.target if where is None else load_object(where)

    def record(self) -> dict[str, str]:
        """The entry in a run folder: the name, and for user code its file and hash."""
        module = sys.modules.get(getattr(self.target, "__module__", ""))
        file = None if self.built_in else getattr(module, "__file__", None)
        if file is None:
            return {"name": self.name}
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        return {"name": self.name, "file": str(file), "sha256": digest}


def known_names(group: str) -> list[str]:
    """The words of a group: first the built-in ones, then those of installed packages."""
    return list(dict.fromkeys([*BUILT_IN[group], *_registered(group)]))


@cache
def _registered(group: str) -> dict[str, str]:
    """The names that installed packages register, with "module:Name" of their objects."""
    points = entry_points(group=f"prdp_hpc.{group}")
    return {point.name: f"{point.module}:{point.attr}" for point in points}


def resolve(group: str, name: str, folder: Path, has_steps: bool | None = None) -> Component:
    """The component with the name `name`; relative files start at `folder`.

    `has_steps`: accept only built-in PDEs with time steps (True) or without (False). Raises
    `ConfigError` for an unknown name.
    """
    if ":" in name:
        return _own(name, folder)
    if name in BUILT_IN[group] and _fits(group, name, has_steps):
        return Component(name, BUILT_IN[group][name], built_in=True)
    words = fitting_names(group, has_steps)
    if name not in words:
        known = ", ".join(map(repr, words))
        raise ConfigError(f"{name!r} is not known here, choose one of {known}, or {OWN}")
    return Component(name, _registered(group)[name])


@dataclass(frozen=True)
class Named:
    """A name in a config: its group, and the key that holds it in a section of its own keys."""

    group: str
    name: str
    has_steps: bool | None = None
    key: str | None = None


@dataclass(frozen=True)
class Found:
    """A component, or the error of its name; `section` validates its keys, if it has any."""

    component: Component | None = None
    section: type[BaseModel] | None = None
    problem: str = ""


def resolve_all(names: Iterable[Named], folder: Path) -> list[Found]:
    """The components of all names of a config; relative files start at `folder`."""
    found = []
    for one in names:
        try:
            component = resolve(one.group, one.name, folder, one.has_steps)
        except ConfigError as error:
            found.append(Found(problem=str(error)))
            continue
        section = None if one.key is None else section_model(component, one.key)
        found.append(Found(component, section))
    return found


def fitting_names(group: str, has_steps: bool | None = None) -> list[str]:
    """The words of a group; for PDEs only those with time steps, or those without."""
    return [word for word in known_names(group) if _fits(group, word, has_steps)]


def _fits(group: str, word: str, has_steps: bool | None) -> bool:
    if has_steps is None or word not in BUILT_IN[group]:
        return True
    return bool(load_object(BUILT_IN[group][word]).has_steps is has_steps)


def load_object(where: str) -> Any:
    """The object "package.module:Name"; raises `ConfigError` if the module does not have it."""
    module_name, _, attribute = where.partition(":")
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        own = [key for key, value in vars(module).items() if _is_defined_in(value, module)]
        hint = f"; {nearest(attribute, own)}" if own else ""
        raise ConfigError(f"{where!r}: the module has no {attribute!r}{hint}")
    return found


@lru_cache(maxsize=256)
def section_model(component: Component, key: str) -> type[BaseModel]:
    """The pydantic model of a section whose key `key` names the component."""
    model = component.model
    extra = "allow" if model is None else (model.model_config.get("extra") or "forbid")
    namespace = {
        "__module__": __name__,
        "__annotations__": {key: str, "naming_key": ClassVar[str]},
        "__doc__": None if model is None else model.__doc__,
        # A resolved config has the names of the fields, also of those with an alias.
        "model_config": ConfigDict(
            extra=extra,
            frozen=True,
            protected_namespaces=(),
            use_attribute_docstrings=False,
            populate_by_name=True,
        ),
        "component_loader": staticmethod(component.load),
        "own_keys": own_keys,
        "naming_key": key,
        key: component.name,
    }
    title, bases = component.label if model is None else model.__name__, (model or BaseModel,)
    made: type[BaseModel] = types.new_class(title, bases, {}, lambda own: own.update(namespace))
    return made


def component_of(section: Any) -> Any:
    """The class that a validated section names."""
    return section.component_loader()


def own_keys(section: Any) -> dict[str, Any]:
    """The keys of a validated section without the one that names its component."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    values |= section.model_extra or {}
    return {key: value for key, value in values.items() if key != section.naming_key}


def _own(name: str, folder: Path) -> Component:
    where, _, attribute = name.rpartition(":")
    if where.endswith(".py"):
        file = (folder / Path(where).expanduser()).resolve()
        found = Component(f"{file}:{attribute}", f"{_module_of(file)}:{attribute}")
    else:
        _import(where, name)
        found = Component(name, name)
    found.target  # noqa: B018 - raises `ConfigError` now if the name does not exist
    return found


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f"{name!r}: there is no module {error.name!r}: install it, add its folder to "
            "PYTHONPATH, or give the file, e.g. path/to/file.py:Name"
        ) from None


def _module_of(file: Path) -> str:
    """The name of the module of a file, which is executed once per process."""
    if not file.is_file():
        there = sorted(other.name for other in file.parent.glob("*.py"))
        hint = f"; {nearest(file.name, there)}" if there else ""
        raise ConfigError(f"{file}: no such file{hint}")
    # Files with the same name in different folders are different modules.
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return name
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name


def _is_defined_in(value: Any, module: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
