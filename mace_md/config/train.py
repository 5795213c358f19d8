"""Options of `mace-md train`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.errors import UsageError
from mace_md.options.declare import flag, option
from mace_md.options.reading import settle

INHERIT = "inherit"  # as the level of theory: that of the model that training starts from
_STAGE_TWO = ("stage_two", (True,))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settled):
    """`mace-md train`."""

    data: tuple[Path, ...] = option(
        help="labelled frames: extended XYZ (or what ASE reads), .npz in rMD17's layout, .h5 of mace-md",
        positional=True,
        group="data",
        common=True,
        on_restart="free",
    )
    valid: tuple[Path, ...] | None = option(
        None,
        help="files of validation frames",
        shown_default="part of the data",
        common=True,
        on_restart="free",
    )
    valid_fraction: float | None = option(
        None,
        above=0,
        help="part of the data for validation",
        shown_default="0.05",
        common=True,
    )
    valid_count: int | None = option(None, at_least=1, help="number of frames for validation")
    valid_index: Path | None = option(
        None, help="file of frame numbers, counted from 0, for validation", on_restart="free"
    )
    split_seed: int = option(0, at_least=0, help="seed of the division into training and validation frames")
    train_count: int | None = option(
        None, at_least=1, help="train on so many frames, drawn with --split-seed", shown_default="all that are left"
    )
    energy_key: str | None = shared.key("energies", "REF_energy or energy", group="labels and their units")
    forces_key: str | None = shared.key("forces", "REF_forces or forces")
    stress_key: str | None = shared.key("stresses", "REF_stress or stress")
    virials_key: str | None = shared.key("virials", "REF_virials or virials")
    config_type_key: str = shared.config_type_key()
    head_key: str = option("head", help="name of the readout head that a frame belongs to")
    energy_unit: str | None = shared.energy_unit()
    length_unit: str | None = shared.length_unit()
    forces_unit: str | None = shared.forces_unit()
    stress_unit: str | None = shared.stress_unit()
    missing_labels: str = option(
        "refuse", choices=("refuse", "ignore"),
        help="frames without a label that has a weight: refuse them, or train on what is there",
    )  # fmt: skip
    check_data: str = shared.check_data()
    config_type_weights: tuple[str, ...] = option(
        (), help="weights of kinds of configurations, such as liquid=2,dimer=0.5", shown_default="1 each"
    )
    level_of_theory: str = option(
        "unknown",
        help="what the labels were computed with, kept in the model; inherit: as those of the model of --start-from, "
        "with their dispersion",
        on_restart="free",
    )

    start_from: str | None = option(
        None,
        name_or_path=True,
        shown_default="random weights",
        aliases=("--from",),
        help="model whose weights training starts from: a name, a .model or a .mace file",
        group="fine-tuning",
        common=True,
        on_restart="free",
    )
    head: str | None = option(None, help="head of that model, if it has several")
    freeze: tuple[str, ...] = option(
        (), shown_default="none",
        help="weights that stay as they are: embedding, interactions, products, readouts, or those of one layer, such "
        "as interactions.0",
    )  # fmt: skip
    replay: tuple[Path, ...] | None = option(
        None, help="frames labelled as that model was trained, or by it (mace-md label), to hold it to what it knew, "
        "on a second head",
        on_restart="free",
    )  # fmt: skip
    replay_count: int | None = option(
        None, at_least=2, help="most frames of replay, drawn with --split-seed", shown_default="all"
    )
    replay_weight: float = option(1.0, above=0, help="weight of a frame of replay; one of the data has 1")
    e0s: str | None = option(
        None,
        choices=("auto", "isolated", "least-squares", "mean", "model", "refit"),
        shown_default="auto",
        help="energies of isolated atoms: from their frames in the data, fitted to the energies, the mean energy per "
        "atom for every element, those of --start-from, or these moved by a fit of what they leave of the energies; "
        "auto is isolated where the data have all of them, else model, else least-squares",
        group="energies of isolated atoms",
        common=True,
    )
    e0s_file: Path | None = option(
        None,
        instead_of="e0s",
        help='file with them: JSON such as {"H": -13.6}, or labelled frames of single atoms',
        on_restart="free",
    )
    r_max: float | None = option(
        None,
        unit="A",
        above=0,
        help="cutoff radius",
        shown_default="5",
        group="the model",
        common=True,
    )
    num_channels: int | None = option(
        None,
        at_least=1,
        help="channels of every feature",
        shown_default="64",
        common=True,
    )
    max_L: int | None = option(
        None,
        at_least=0,
        help="highest l of the messages",
        shown_default="1",
        common=True,
    )
    max_ell: int | None = option(None, at_least=0, help="highest l of the harmonics of edges", shown_default="3")
    correlation: int | None = option(None, at_least=1, help="factors in a product: body order - 1", shown_default="3")
    num_interactions: int | None = option(None, at_least=1, help="layers", shown_default="2")
    num_bessel: int | None = option(None, at_least=1, help="radial basis functions", shown_default="8")
    num_polynomial_cutoff: int | None = option(None, at_least=2, help="power of the cutoff", shown_default="5")
    radial_MLP: tuple[int, ...] | None = option(
        None, at_least=1, help="widths of the radial network", shown_default="64,64,64"
    )
    pair_repulsion: bool = option(False, help="add the Ziegler-Biersack-Littmark repulsion of the cores")
    scale: str = option(
        "rms-forces", choices=("rms-forces", "std-energy", "none"), help="unit of the model's energies, from the data"
    )
    shift: str = option(
        "none", choices=("none", "mean"), help="energy added to every atom: none keeps isolated atoms at their E0s"
    )

    loss: str = option(
        "mse",
        choices=("mse", "huber", "universal"),
        help="shape of the loss",
        group="loss",
    )
    energy_weight: float = option(
        1.0,
        at_least=0,
        help="weight of the energy per atom, in eV",
        common=True,
    )
    forces_weight: float = option(
        100.0,
        at_least=0,
        help="weight of the forces",
        common=True,
    )
    stress_weight: float | None = option(None, at_least=0, help="weight of the stress", shown_default="1 if labelled")
    huber_delta: float = option(0.01, above=0, help="where huber and universal turn from square to linear")
    epochs: int = option(
        500,
        at_least=1,
        help="passes over the data",
        group="optimisation",
        common=True,
        on_restart="free",
    )
    batch_size: int = option(
        10,
        at_least=1,
        help="frames in a step, of all processes together",
        common=True,
    )
    valid_batch_size: int = option(20, at_least=1, help="frames evaluated at once in validation", on_restart="free")
    lr: float | None = option(
        None,
        above=0,
        help="learning rate",
        shown_default="0.01; 0.001 with --start-from",
        common=True,
    )
    optimizer: str = option(
        "adamw", choices=("adamw", "adam"), help="Adam with decoupled weight decay, or with decay in the gradient"
    )
    amsgrad: bool = option(True, help="the AMSGrad variant")
    weight_decay: float = option(5e-7, at_least=0, help="decay of the weights of products and the maps before")
    clip_grad: float | None = option(10.0, at_least=0, help="largest norm of the gradient; 0 is no limit")
    ema: float = option(0.99, at_least=0, help="decay of the moving average of the weights; 0 is none")
    scheduler: str = option("plateau", choices=("plateau", "exponential", "none"), help="how the learning rate falls")
    lr_factor: float = option(0.8, above=0, help="factor of the plateau scheduler")
    lr_patience: int = option(50, at_least=0, help="epochs without improvement before the factor")
    lr_decay: float = option(0.9993, above=0, help="factor an epoch of the exponential scheduler")
    patience: int = option(2048, at_least=1, help="epochs without improvement before the stage ends", on_restart="free")
    stage_two: bool = option(
        True,
        help="raise the energy weight for the last quarter, at a lower learning rate",
        group="second stage",
    )
    stage_two_start: int | None = option(
        None,
        at_least=1,
        only_if=_STAGE_TWO,
        help="epochs before the second stage",
        shown_default="3/4 of --epochs",
        on_restart="free",
    )
    stage_two_lr: float | None = option(
        None, above=0, only_if=_STAGE_TWO, fill=1e-3, help="learning rate of the second stage"
    )
    stage_two_energy_weight: float | None = option(
        None, at_least=0, only_if=_STAGE_TWO, fill=1000.0, help="weight of the energy in the second stage"
    )
    stage_two_forces_weight: float | None = option(
        None, at_least=0, only_if=_STAGE_TWO, fill=100.0, help="weight of the forces in the second stage"
    )
    stage_two_stress_weight: float | None = option(
        None,
        at_least=0,
        only_if=_STAGE_TWO,
        help="weight of the stress in the second stage",
        shown_default="10 if labelled",
    )
    seed: int | None = option(
        None,
        at_least=0,
        help="seed of the first weights and of the order",
        shown_default="1",
        group="seeds, precision and hardware",
        common=True,
        on_restart="free",
    )
    seeds: tuple[int, ...] | None = option(
        None,
        at_least=0,
        instead_of="seed",
        help="train one model for each: a committee, in folders seed-1, ...",
        on_restart="free",
    )
    dtype: str = shared.dtype("float32")
    kernels: str = shared.kernels()
    device: str = shared.device()
    threads: int | None = shared.threads()

    output: Path | None = option(
        None,
        help="output folder",
        shown_default="the name of the data + '-training'",
        group="output and restarts",
        common=True,
        on_restart="free",
    )
    restart: bool = option(
        False,
        cli_only=True,
        help="continue the training in the output folder",
        common=True,
        on_restart="free",
    )
    max_hours: float | None = shared.max_hours()
    checkpoint_interval: int = option(1, at_least=1, help="epochs between checkpoints", on_restart="free")
    config: Path | None = shared.config(common=True)
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()

    def __post_init__(self) -> None:
        settle(self)
        ways = [name for name in ("valid", "valid_fraction", "valid_count", "valid_index") if getattr(self, name)]
        if len(ways) > 1:
            raise UsageError(f"give {' or '.join(map(flag, ways))}, not both.")
        if self.lr is None:
            object.__setattr__(self, "lr", 0.01 if self.start_from is None else 0.001)
        if self.level_of_theory == INHERIT and self.start_from is None:
            raise UsageError(f"--level-of-theory {INHERIT} needs --start-from, whose level of theory it takes over.")
        if self.replay and self.start_from is None:
            raise UsageError("--replay needs --start-from: it holds a trained model to what it knew.")
        for name, value in (("stage_two_start", max(1, self.epochs * 3 // 4)), ("seed", 1)):
            needed = self.stage_two if name == "stage_two_start" else self.seeds is None
            if getattr(self, name) is None and needed:
                object.__setattr__(self, name, value)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self.data[0].name.split('.')[0]}-training"))
