"""`mace-md doctor`: what works here, what is missing, and the line that mends it.

Whatever can crash a process (plug-ins, drivers, compiled kernels) is tried in a subprocess: a crash is a finding.
"""

import configparser
import json
import platform
import signal
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from mace_md import child
from mace_md.config import DoctorConfig
from mace_md.provenance import OPENMMTORCH_WHEELS, device, version_of

TESTED = {"torch": ("2.10.0", "2.11.0", "2.12.1"), "openmm": ("8.6.1",)}
# Imported where they are used, so that a run without these things works without them.
USED_FOR = {
    "h5py": "HDF5 data", "matplotlib": "the figures of a training", "mdtraj": "selections of atoms",
    "pdbfixer": "--hydrogens add", "pymbar": "errors of means",
    "rdkit": "--smiles, SDF files", "tqdm": "train, evaluate and label",
}  # fmt: skip

OK, NOTE, BROKEN = "ok", "note", "BROKEN"  # a note is worth knowing; only BROKEN makes the exit code 1


@dataclass(frozen=True)
class Finding:
    status: str
    what: str
    detail: str
    mend: str = ""


def main(config: DoctorConfig) -> int:
    """Print the findings; 1 when something that every run needs is broken, else 0."""
    findings = examine()
    if config.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.status:>6}  {finding.what}: {finding.detail}")
            if finding.mend:
                print(f"        mend: {finding.mend}")
        broken = sum(finding.status == BROKEN for finding in findings)
        print(f"\n{broken} broken" if broken else "\neverything that a run needs works")
    return int(any(finding.status == BROKEN for finding in findings))


def examine() -> list[Finding]:
    """All findings, in the order of the chain: machine, packages, OpenMM, the force, the kernels."""
    gpus = gpu_names()
    findings = [_machine(gpus), *_packages(), _openmmtorch_wheel()]
    findings += _platforms(gpus)
    findings += [_probe("TorchForce", TORCH_FORCE_PROBE, BROKEN), _probe("PythonForce", PYTHON_FORCE_PROBE, NOTE)]
    findings.append(_kernels())
    if gpus and findings[-1].status == OK:
        findings.append(_kernels_on_gpu())
    return findings


# ---------------------------------------------------------------------------------------------- packages


def requirements() -> list[Requirement]:
    """The packages mace-md needs: from the installed metadata, or from setup.cfg in a bare checkout."""
    try:
        lines = [line for line in metadata.requires("mace-md") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        parser = configparser.ConfigParser()
        parser.read(Path(__file__).parents[2] / "setup.cfg")
        lines = parser.get("options", "install_requires", fallback="").split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def gpu_names() -> list[str]:
    """The NVIDIA GPUs of this machine, as its driver has them."""
    found = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return found.stdout.strip().splitlines() if found is not None and found.returncode == 0 else []


def _machine(gpus: list[str]) -> Finding:
    found = device()
    python = f"Python {platform.python_version()}"
    named = ", ".join(gpus) or "no NVIDIA GPU"
    return Finding(OK, "machine", f"{python}, {found['processor']}, {found['cores']} cores, {named}")


def _packages() -> list[Finding]:
    return [_package(requirement) for requirement in requirements()]


def _package(requirement: Requirement) -> Finding:
    name, version = requirement.name, version_of(requirement.name)
    mend = f"pip install '{requirement}'"
    if version is None and name in USED_FOR:
        return Finding(NOTE, name, f"not installed; needed for {USED_FOR[name]}", mend)
    if version is None:
        return Finding(BROKEN, name, "not installed", mend)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(BROKEN, name, f"{version} is outside {requirement.specifier}", mend)
    tested = TESTED.get(name, (version,))
    return Finding(OK, name, version if version in tested else f"{version} (tested with {', '.join(tested)})")


def _openmmtorch_wheel() -> Finding:
    found = {name: version_of(name) for name in OPENMMTORCH_WHEELS if version_of(name) is not None}
    if len(found) == 1:
        return Finding(OK, "OpenMM-Torch", " ".join(*found.items()))
    if found:
        clash = f"{' and '.join(found)} overwrite each other"
        return Finding(BROKEN, "OpenMM-Torch", clash, f"pip uninstall -y {' '.join(found)}; {_wheel_line()}")
    return Finding(NOTE, "OpenMM-Torch", "no pip wheel found (a conda package shows up below)", _wheel_line())


def _wheel_line() -> str:
    return "pip install acellera-openmmtorch-cpu   (or -cu12, -cu13 for an NVIDIA GPU)"


# ---------------------------------------------------------------------------------------------- subprocesses


def _run(command: list[str], timeout: float = 120.0) -> subprocess.CompletedProcess | None:
    """The finished process, or None when it could not be started or took too long."""
    try:
        return child.finished(command, timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None


def run_probe(code: str) -> tuple[bool, str]:
    """Run Python code in a fresh process: whether it worked, and its last line (or what killed it)."""
    done = _run(child.run_code(code))
    if done is None:
        return False, "did not finish within two minutes"
    if done.returncode < 0:
        return False, f"the process was killed by {signal.Signals(-done.returncode).name}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
    return done.returncode == 0, lines[-1]


_THREE_ATOMS = """
import openmm
system = openmm.System()
for _ in range(3):
    system.addParticle(1.0)
system.addForce(force)
positions = [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.2, 0.3)]
good = []
for index in range(openmm.Platform.getNumPlatforms()):
    platform = openmm.Platform.getPlatform(index)
    if platform.getName() not in ("CPU", "CUDA"):
        continue
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    energy, forces = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
    wrong = max(abs(forces[i][k] + 2 * positions[i][k]) for i in range(3) for k in range(3))
    if not (abs(energy - 0.14) < 1e-5 and wrong < 1e-5):
        raise SystemExit(f"{platform.getName()}: energy {energy}, expected 0.14; largest error of a force {wrong}")
    good.append(platform.getName())
print("energy and forces of three atoms are right on " + ", ".join(good))
"""

TORCH_FORCE_PROBE = (
    """
import os, tempfile
import torch, openmm, openmmtorch
class Squares(torch.nn.Module):
    def forward(self, positions):
        return torch.sum(positions**2)
path = os.path.join(tempfile.mkdtemp(), "squares.pt")
torch.jit.trace(Squares(), torch.zeros(3, 3)).save(path)  # tracing needs no source file, scripting does
force = openmmtorch.TorchForce(path)
os.remove(path), os.rmdir(os.path.dirname(path))
"""
    + _THREE_ATOMS
)

PYTHON_FORCE_PROBE = (
    """
import openmm
def compute(state):
    positions = state.getPositions(asNumpy=True)._value
    return (positions**2).sum(), -2 * positions
force = openmm.PythonForce(compute)
"""
    + _THREE_ATOMS
)

PLATFORMS_PROBE = """
import json, openmm
names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
print(json.dumps([names, list(openmm.Platform.getPluginLoadFailures())]))
"""


def _probe(what: str, code: str, status: str) -> Finding:
    worked, line = run_probe(code)
    if worked:
        return Finding(OK, what, line)
    mend = _wheel_line() if "openmmtorch" in line else "repeat the README's pip install line, with --force-reinstall"
    return Finding(status, what, line, mend)


def _platforms(gpus: list[str]) -> list[Finding]:
    worked, line = run_probe(PLATFORMS_PROBE)
    if not worked:
        return [Finding(BROKEN, "OpenMM platforms", line, "pip install --force-reinstall openmm")]
    names, failures = json.loads(line)
    worked, line = run_probe(TORCH_CUDA_PROBE)
    torch_cuda, torch_gpus, reason = json.loads(line) if worked else (None, [], line)
    # Without a driver this one is always missing, which the line on CUDA says better.
    missing = [reason for reason in _missing_libraries(failures) if gpus or not reason.startswith("libcuda.so")]
    return [
        Finding(OK, "OpenMM platforms", ", ".join(names)),
        *(Finding(NOTE, "OpenMM plug-ins not loaded", reason) for reason in missing),
        cuda_finding(gpus, names, torch_cuda, torch_gpus, reason, openmm_cuda()),
    ]


def openmm_cuda() -> str | None:
    """The installed wheel with OpenMM's CUDA platform, which is the same as CUDA's version in its name."""
    return next((f"OpenMM-CUDA-{n}" for n in (13, 12) if version_of(f"OpenMM-CUDA-{n}") is not None), None)


def cuda_finding(
    gpus: list[str],
    platforms: list[str],
    torch_cuda: str | None,
    torch_gpus: list[str],
    reason: str,
    wheel: str | None,
) -> Finding:
    """What a run on a GPU would find.

    gpus: of the driver; platforms: of OpenMM; torch_cuda: version of CUDA that torch was built for; torch_gpus: those
    it sees; reason: why it sees none; wheel: of OpenMM's CUDA platform.
    """
    built = f"torch is built for CUDA {torch_cuda}" if torch_cuda else "torch is built without CUDA"
    extra = f"cuda{(torch_cuda or '13').partition('.')[0]}"
    mend = f"pip install -e '.[{extra}]', and no other of cpu, cuda12, cuda13"
    has = wheel is not None or "CUDA" in platforms
    plug_in = f"OpenMM's CUDA plug-in is {'installed' if has else 'not installed'}{f' ({wheel})' if wheel else ''}"
    if not gpus:
        return Finding(OK, "CUDA", f"no NVIDIA driver or no GPU here, so runs use the processor; {built}; {plug_in}")
    if torch_cuda is None:
        mend = f"install torch for CUDA (https://pytorch.org), then {mend}"
        return Finding(NOTE, "CUDA", f"there is a GPU, but {built}", mend)
    if not torch_gpus:
        return Finding(NOTE, "CUDA", f"there is a GPU, but torch does not see it: {reason or 'it gives no reason'}",
                       f"a driver for CUDA {torch_cuda} or later, or a torch for the CUDA of this driver")  # fmt: skip
    if wheel is not None and not wheel.endswith(extra.removeprefix("cuda")):
        return Finding(NOTE, "CUDA", f"{built}, and {wheel} is for another", f"pip uninstall -y {wheel}; {mend}")
    if "CUDA" not in platforms:
        return Finding(NOTE, "CUDA", f"there is a GPU, but OpenMM has no CUDA platform; {plug_in}", mend)
    return Finding(OK, "CUDA", f"{built} and sees {', '.join(torch_gpus)}; OpenMM has its CUDA platform")


def _missing_libraries(failures: list[str]) -> list[str]:
    """What the plug-ins that did not load were waiting for, without the plug-ins that waited for another plug-in."""
    reasons = {failure.strip().removeprefix("Error loading library ").partition(": ")[2] for failure in failures}
    return sorted(reason for reason in reasons if reason and not reason.startswith("libOpenMM"))


TORCH_CUDA_PROBE = """
import json, warnings, torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    seen = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if seen else []
capabilities = ["sm_%d%d" % torch.cuda.get_device_capability(i) for i in range(len(names))]
reason = " ".join(str(said[-1].message).split())[:200] if said else ""
print(json.dumps([torch.version.cuda, [f"{n} ({c})" for n, c in zip(names, capabilities)], reason]))
"""

KERNELS_PROBE = """
from mace_md.ops.energy_forces import forget_lists, load_library
forget_lists()  # says so when the library is older than the package
print("built, running on " + load_library())
"""


# A small model with random weights, on eight atoms; compiling its kernels takes some seconds, once.
KERNELS_ON_GPU_PROBE = """
import torch
from mace_md.model.build import build_model
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.potential import make_potential
device = "cuda"
config = ModelConfig(atomic_numbers=(1, 8), r_max=3.5, num_bessel=4, num_channels=4, max_ell=2, max_L=1,
                     radial_MLP=(8,), MLP_channels=4, avg_num_neighbors=(6.0, 6.0))
model = build_model(config, seed=1, dtype=torch.float32)
x = torch.tensor([[i & 1, (i >> 1) & 1, i >> 2] for i in range(8)]) * torch.tensor([0.13, 0.14, 0.15])
found = []
for kernels in ("native", "reference"):
    potential = make_potential(model, [1, 8] * 4, periodic=False, kernels=kernels)[0].to(device)
    found.append(potential(x.to(device))[1].detach().cpu())
wrong = float((found[0] - found[1]).abs().max() / found[1].abs().max())
if not wrong < 1e-4:
    raise SystemExit(f"forces deviate from those of PyTorch by {wrong:.2g} of the largest")
print(f"compiled; forces of eight atoms are those of PyTorch to {wrong:.1g} of the largest")
"""


def _kernels_on_gpu() -> Finding:
    worked, line = run_probe(KERNELS_ON_GPU_PROBE)
    mend = "" if worked else "take --kernels reference, and report this line"
    return Finding(OK if worked else NOTE, "native kernels on the GPU", line, mend)


def _kernels() -> Finding:
    worked, line = run_probe(KERNELS_PROBE)
    if worked:
        return Finding(OK, "native kernels", line)
    return Finding(NOTE, "native kernels", line, "install a C++17 compiler (g++) and repeat the pip install line")
