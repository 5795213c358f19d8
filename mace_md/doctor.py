"""`mace-md doctor`: what works here, what is missing, and the line that mends it.

Whatever can crash a process (plug-ins, drivers, compiled kernels) is tried in a subprocess: a crash is a finding.
"""

import configparser
import json
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from mace_md.config import DoctorConfig
from mace_md.provenance import OPENMMTORCH_WHEELS, device, version_of

TESTED = {"torch": ("2.12.1",), "e3nn": ("0.4.4", "0.6.0"), "openmm": ("8.6.1",)}

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
    findings = [_machine(), *_packages(), _openmmtorch_wheel()]
    findings += _platforms()
    findings += [_probe("TorchForce", TORCH_FORCE_PROBE, BROKEN), _probe("PythonForce", PYTHON_FORCE_PROBE, NOTE)]
    return [*findings, _kernels()]


# ---------------------------------------------------------------------------------------------- packages


def requirements() -> list[Requirement]:
    """The packages mace-md needs: from the installed metadata, or from setup.cfg in a bare checkout."""
    try:
        lines = [line for line in metadata.requires("mace-md") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        parser = configparser.ConfigParser()
        parser.read(Path(__file__).parent.parent / "setup.cfg")
        lines = parser.get("options", "install_requires", fallback="").split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def _machine() -> Finding:
    found = device()
    gpu = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    gpus = ", ".join(gpu.stdout.split("\n")[:-1]) if gpu is not None and gpu.returncode == 0 else "no NVIDIA GPU"
    python = f"Python {platform.python_version()}"
    return Finding(OK, "machine", f"{python}, {found['processor']}, {found['cores']} cores, {gpus}")


def _packages() -> list[Finding]:
    return [_package(requirement) for requirement in requirements()]


def _package(requirement: Requirement) -> Finding:
    name, version = requirement.name, version_of(requirement.name)
    mend = f"pip install '{requirement}'"
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
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None


def run_probe(code: str) -> tuple[bool, str]:
    """Run Python code in a fresh process: whether it worked, and its last line (or what killed it)."""
    done = _run([sys.executable, "-W", "ignore", "-c", code])
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
    mend = _wheel_line() if "openmmtorch" in line else "pip install --force-reinstall 'mace-md[cpu]'"
    return Finding(status, what, line, mend)


def _platforms() -> list[Finding]:
    worked, line = run_probe(PLATFORMS_PROBE)
    if not worked:
        return [Finding(BROKEN, "OpenMM platforms", line, "pip install --force-reinstall openmm")]
    names, failures = json.loads(line)
    findings = [Finding(OK, "OpenMM platforms", ", ".join(names))]
    findings += [Finding(NOTE, "OpenMM plug-ins not loaded", reason) for reason in _missing_libraries(failures)]
    gpu = _run(["nvidia-smi", "-L"])
    if "CUDA" not in names and gpu is not None and gpu.returncode == 0 and "GPU" in gpu.stdout:
        findings.append(
            Finding(NOTE, "CUDA", "there is an NVIDIA GPU, but OpenMM has no CUDA platform", "pip install '.[cuda12]'")
        )
    return findings


def _missing_libraries(failures: list[str]) -> list[str]:
    """What the plug-ins that did not load were waiting for, without the plug-ins that waited for another plug-in."""
    reasons = {failure.strip().removeprefix("Error loading library ").partition(": ")[2] for failure in failures}
    return sorted(reason for reason in reasons if reason and not reason.startswith("libOpenMM"))


KERNELS_PROBE = "from mace_md.ops.energy_forces import load_library; print('built, running on ' + load_library())"


def _kernels() -> Finding:
    worked, line = run_probe(KERNELS_PROBE)
    if worked:
        return Finding(OK, "native kernels", line)
    return Finding(NOTE, "native kernels", line, "install a C++17 compiler (g++) and repeat the pip install line")
