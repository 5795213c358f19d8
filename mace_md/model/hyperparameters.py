"""The hyper-parameters of a MACE model, under MACE's own names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mace_md.errors import InputError

INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
RADIAL_TYPES = ("bessel", "gaussian", "chebyshev")
DISTANCE_TRANSFORMS = ("none", "agnesi", "soft")
GATES = ("silu", "tanh", "abs", "none", "softplus", "relu", "sigmoid", "gelu")
FAMILIES = ("energy", "latent-ewald", "dipole", "energy-dipole", "dielectric", "polar")


@dataclass(frozen=True)
class InputEmbedding:
    """How one more input of a model, such as the total charge, becomes a vector (mace-torch's `embedding_specs`)."""

    name: str  # "total_charge", "total_spin" (the multiplicity), or another
    kind: str  # "categorical": a row of a table for each value; "continuous": a small network
    per: str  # "graph": one value for a system; "node": one for each atom
    size: int  # of the vector
    num_classes: int = 0  # rows of the table
    offset: int = 0  # added to the value to give the row
    in_size: int = 0  # numbers that a continuous input has
    bias: bool = True  # of the network

    def __post_init__(self) -> None:
        """Refuse what is inconsistent; raises InputError."""
        _check_choice("kind of input", self.kind, ("categorical", "continuous"))
        _check_choice("range of an input", self.per, ("graph", "node"))
        if self.size < 1 or (self.num_classes if self.kind == "categorical" else self.in_size) < 1:
            raise InputError(f"the embedding of {self.name} has no size")


@dataclass(frozen=True)
class ModelConfig:
    """What defines the shape of a model; together with its weights it is the model.

    All irreps have natural parity and the same number of channels for every l, as in every published MACE:
    `num_channels` = 128 and `max_L` = 1 stand for hidden irreps 128x0e + 128x1o.
    """

    atomic_numbers: tuple[int, ...]
    r_max: float  # A
    num_bessel: int = 8
    num_polynomial_cutoff: int = 5
    radial_type: str = "bessel"
    distance_transform: str = "none"
    apply_cutoff: bool = True  # True: the cutoff multiplies the radial basis; False: the radial weights
    max_ell: int = 3
    num_channels: int = 128
    max_L: int = 1
    edge_channels: int | None = None  # channels of the features that travel along edges; None: num_channels
    edge_max_L: int | None = None  # None: all of the sender's
    num_interactions: int = 2
    interactions: tuple[str, ...] = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
    correlation: tuple[int, ...] = (3, 3)
    agnostic_product: bool = False  # one set of product weights for all elements
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    MLP_channels: int = 16
    gate: str = "silu"
    last_readout_only: bool = False
    avg_num_neighbors: tuple[float, ...] = (1.0, 1.0)
    pair_repulsion: bool = False
    heads: tuple[str, ...] = ("Default",)
    edge_channels_first: bool = False  # the first layer sends edge_channels too
    last_L: int = 0  # highest l of the node features after the last layer; energies need scalars only
    bias_readout: bool = False  # the last readout has one more hidden layer, with biases
    gaussian_coefficient: float | None = None  # 1/A^2, of the Gaussian basis; None: by the distance of its centres
    embeddings: tuple[InputEmbedding, ...] = ()  # further inputs that are added to the embedding of the elements
    embedding_readout: bool = False  # an energy that is linear in the embedding
    family: str = "energy"  # what the model gives (mace_md.model.families)
    settings: dict = field(default_factory=dict)  # of the family: plain numbers, texts, and lists of them

    def __post_init__(self) -> None:
        """Refuse what is inconsistent; raises InputError."""
        for name in ("interactions", "correlation", "avg_num_neighbors"):
            if len(getattr(self, name)) != self.num_interactions:
                raise InputError(f"{name} has {len(getattr(self, name))} entries for {self.num_interactions} layers")
        _check_choice("radial_type", self.radial_type, RADIAL_TYPES)
        _check_choice("distance_transform", self.distance_transform, DISTANCE_TRANSFORMS)
        _check_choice("gate", self.gate, GATES)
        _check_choice("family", self.family, FAMILIES)
        for interaction in self.interactions:
            _check_choice("interaction block", interaction, INTERACTIONS)
        if max(self.max_L, self.last_L) > self.max_ell:
            raise InputError(f"max_L = {max(self.max_L, self.last_L)} is larger than max_ell = {self.max_ell}")
        if list(self.atomic_numbers) != sorted(set(self.atomic_numbers)):
            raise InputError(f"atomic_numbers must be ascending and distinct, got {list(self.atomic_numbers)}")
        if not self.r_max > 0:
            raise InputError(f"r_max must be positive, got {self.r_max}")
        if self.num_interactions < 1 or not self.atomic_numbers or self.num_bessel < 1 or self.num_channels < 1:
            raise InputError("a model needs layers, elements, channels and radial functions: at least one of each")
        if not self.heads:
            raise InputError("a model needs at least one head")

    def is_residual(self, layer: int) -> bool:
        """Whether the interaction block of `layer` has a skip connection around it."""
        return "Residual" in self.interactions[layer]

    def has_density(self, layer: int) -> bool:
        """Whether the messages of `layer` are normalised by the local density of neighbours."""
        return "Density" in self.interactions[layer]

    def is_nonlinear(self, layer: int) -> bool:
        """Whether the messages of `layer` go through a gate (MH-0/1, OMOL, POLAR)."""
        return "NonLinear" in self.interactions[layer]

    def out_L(self, layer: int) -> int:
        """Highest l of the node features after `layer`; for energies the last layer keeps scalars only."""
        return self.last_L if layer == self.num_interactions - 1 else self.max_L

    def in_L(self, layer: int) -> int:
        """Highest l of the node features before `layer`."""
        return 0 if layer == 0 else self.max_L

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict) -> ModelConfig:
        """The configuration that `to_dict` wrote; raises InputError for unknown, missing or malformed fields."""
        kinds = get_type_hints(ModelConfig)
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        if "embeddings" in values:
            values["embeddings"] = _input_embeddings(values["embeddings"])
        for key, value in values.items():
            if key in kinds and not _is_of_kind(value, kinds[key]):
                raise InputError(f"unreadable model hyper-parameters: {key} is {str(value)[:60]!r}")
        try:
            return ModelConfig(**values)
        except TypeError as error:
            raise InputError(f"unreadable model hyper-parameters: {error}") from None


def dipole_outputs(config: ModelConfig) -> list[int]:
    """Numbers of l = 0, 1, ... that the readouts of a model of dipoles give."""
    if config.family == "dielectric":
        return [2, 1, 1] if config.settings.get("polarizability", False) else [1, 1]
    return [0, 1] if config.family == "dipole" else [1, 1]


def _input_embeddings(values: Any) -> tuple[InputEmbedding, ...]:
    kinds = get_type_hints(InputEmbedding)
    try:
        found = tuple(InputEmbedding(**value) for value in values)
    except TypeError as error:
        raise InputError(f"unreadable model hyper-parameters: embeddings: {error}") from None
    for embedding in found:
        for key, kind in kinds.items():
            if not _is_of_kind(getattr(embedding, key), kind):
                raise InputError(f"unreadable model hyper-parameters: {key} of an embedding")
    return found


def _is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value from a file is of the kind that a field is declared with: no text for a number, no NaN."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of_kind(item, get_args(kind)[0]) for item in value)
    if isinstance(kind, UnionType):
        return any(_is_of_kind(value, arm) for arm in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    if kind is int:  # sizes and atomic numbers
        return type(value) is int and 0 <= value < 2**31
    return value is None if kind is NoneType else type(value) is kind


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}; known: {', '.join(choices)}")
