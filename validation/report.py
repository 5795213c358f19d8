"""docs/validation.md, its figures and benchmarks/results/validation.json, from the results of the cases."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from validation.calibration import ERROR, calibration, spreads
from validation.cases import Store
from validation.checks import FAMILY_ERROR, Check, failures, sigma_limit
from validation.figures import draw

HEAD = """# Physical validation

Does a simulation sample what its options say? This page compares every integrator and barostat that `mace-md run` offers with
theory. It is written by one command from the numbers in `benchmarks/results/validation.json`; `tests/physics` makes the same
checks with fewer samples, and shows that they find bugs that were planted for them.

    python -m validation --structure water.pdb --model MACE.model --report .

{verdict}

## How to read it

- **Sigma** is the deviation from theory in standard errors. These are from the means of ten batches of each series, so that
  they include the autocorrelation; as ten batches know their own error to a quarter only, the deviation is one of Student's t, and is given
  as the normal deviation of the same p-value. So are tests of a whole distribution (Kolmogorov-Smirnov, on samples
  2.5 statistical inefficiencies apart; chi-square), which have no sign.
- **The rule for the pass line was set before the runs.** {num} statistical checks are made. So that a correct program fails any of them with a
  probability of {error:.0%} at most (Bonferroni), none may exceed **{limit:.2f} sigma** (p = {p_limit:.1e}). The mean volume of an
  ideal gas has the line of OpenMM's own tests, 3 sigma. Of {num} correct results, {two:.1f} are expected beyond 2 sigma and {three:.1f}
  beyond 3; found: {found_two} and {found_three}.
- **All deviations together** are a check of their own: errors that are too small, or a bias that many checks share, stay below
  the line of each and show here.
{together}
- **Fixed lines**: halving the time step divides the fluctuation of the conserved energy by 4, within 25 % (GROMACS); the drift of
  the conserved energy over a run stays below one standard deviation of the kinetic energy.
- The ratio of the distributions at two temperatures or two pressures is known exactly, whatever the system is (Shirts, JCTC 9, 909):
  given is the slope of its logarithm, by maximum likelihood. Distributions of kinetic energies are judged by
  [physical_validation](https://physical-validation.readthedocs.io) (Merz and Shirts, PLoS ONE 13, e0202764), whose
  ensemble check gives the same deviations for independent samples (`tests/physics/test_deviations.py`).

## What is simulated

All of it goes through the objects of `mace-md run`: the MACE force in OpenMM (native kernels), `make_dynamics`, `make_barostat`,
`make_system`, the loop over steps.

- **Rare gas**: a two-layer MACE whose first layer is fitted to a pair potential like argon's and whose second adds a many-body part.
  Neon and argon atoms in turn interact alike, so that equipartition between masses is tested. 32 atoms, 8 fs.
- **Two-atom molecules**: the same crystal with neighbours joined by harmonic bonds of OpenMM; the barostat scales molecules.
- **Ideal gas**: a MACE with all its weights and a scale of zero. &lt;V&gt; = (N + 1) kT / P, and a variance of (N + 1) (kT / P)^2. A
  force that depends on the shape of the box only keeps it from wandering off.
- **Harmonic crystal**: the rare gas at 0.5 K, against its own Hessian (finite differences of the plain PyTorch model).
- **Ring polymers**: theory for 8 beads, not for infinitely many. At constant pressure the zero-point motion of a stiff crystal
  presses it apart by a quarter of the width of its volume's distribution; the row says where the classical mean would be.
- **A published model**, where its cases are in the table: MACE_SPICE (float32) and 31 water molecules.

## Bugs that were planted

`tests/physics/test_planted_bugs.py` runs the same checks on simulations with one mistake, and on the same simulations without it.

| mistake | check that fails |
|---|---|
| forces 1 % too large, energy right | fluctuation on halving the step |
| neighbour list built when an atom has moved the skin, not half of it | fluctuation on halving the step |
| velocity Verlet without its second half-kick | fluctuation on halving the step |
| barostat scales atoms where molecules are meant | mean volume of an ideal gas |
| bonds missing in the System, so that each atom is a molecule | mean volume of an ideal gas |
| three degrees of freedom too many in the thermostat | kinetic energy, mean |
| Berendsen's weak coupling in place of velocity rescaling | kinetic energy, width and distribution |
| kT of the bath in kcal/mol | kinetic energy, mean |

"""  # noqa: E501


def write_report(root: Path, results: dict, store: Store, published: tuple[Path, Path] | None) -> None:
    """Write the three kinds of files below the checkout `root`."""
    (root / "benchmarks" / "results" / "validation.json").write_text(json.dumps(results, indent=1) + "\n")
    nve = json.loads((root / "benchmarks" / "results" / "nve.json").read_text())
    draw(store, published, root / "docs")
    (root / "docs" / "validation.md").write_text(text(results, nve))


def all_checks(results: dict) -> list[Check]:
    """Every check of every case, in the order of the report."""
    return [Check(**check) for case in results["cases"].values() for check in case["checks"]]


def text(results: dict, nve: dict) -> str:
    """The page, in Markdown; `nve`: results of benchmarks/nve.py, longer runs of water at constant energy."""
    every = all_checks(results)
    sigmas = np.array([check.sigma for check in every if check.sigma is not None])
    limit = sigma_limit(len(sigmas))
    failed = failures(every)
    verdict = f"**Result: all of {len(every)} checks pass.**"
    if not calibration(replicated(results)).passes:
        verdict = "**Result: the deviations are not spread as those of correct results would be.**"
    if failed:
        verdict = f"**Result: {len(failed)} of {len(every)} checks fail: {', '.join(c.quantity for c in failed)}.**"
    parts = [
        HEAD.format(
            verdict=verdict,
            num=len(sigmas),
            error=FAMILY_ERROR,
            limit=limit,
            p_limit=2 * stats.norm.sf(limit),
            two=len(sigmas) * 2 * stats.norm.sf(2),
            three=len(sigmas) * 2 * stats.norm.sf(3),
            found_two=int((np.abs(sigmas) > 2).sum()),
            found_three=int((np.abs(sigmas) > 3).sum()),
            together=_together(results),
        )
    ]
    parts += ["## Summary\n\n", *_summary(results, limit), "\n"]
    parts.append("![Distributions](validation-distributions.svg)\n\n![Energy in NVE](validation-nve.svg)\n\n")
    parts += ["## Deviations of each kind\n\n", *_spread(results), "\n"]
    parts.append("## Every check\n")
    for title, cases in _by_integrator(results).items():
        parts.append(f"\n### {title}\n")
        for case in cases:
            parts.append(f"\n{case['matter'][0].upper()}{case['matter'][1:]}\n\n")
            if "note" in case:
                parts.append(f"*{case['note']}*\n\n")
            parts += _table(case["checks"], limit)
    parts += _constant_energy(nve)
    if results["not_run"]:
        parts.append(f"\nPlanned and not run for this page: {', '.join(results['not_run'])}.\n")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts.append(f"\nMade with {versions}; OpenMM's Reference platform, one thread.\n")
    return "".join(parts)


def _constant_energy(nve: dict) -> list[str]:
    """What benchmarks/nve.py measured."""
    parts = [f"\n### Verlet (NVE), {nve['atoms']} atoms of water, {nve['model'].removesuffix('.model')}\n\n"]
    ratios = " and ".join(f"{ratio:.2f}" for ratio in nve["fluctuation_ratio_on_halving_dt"])
    parts.append(
        f"From `benchmarks/nve.py`: halving the step (1, 0.5, 0.25 fs) divides the fluctuation by {ratios}.\n\n"
    )
    parts.append(
        "| precision | step, fs | length, ps | drift, meV/atom/ps | fluctuation, meV/atom |\n|---|---|---|---|---|\n"
    )
    for run in nve["runs"]:
        if run["picoseconds"] >= 20:
            drift, rest = run["drift_meV_per_atom_per_ps"], run["fluctuation_meV_per_atom"]
            parts.append(
                f"| {run['dtype']} | {run['timestep_fs']} | {run['picoseconds']:g} | {drift:+.5f} | {rest:.4f} |\n"
            )
    return parts


def replicated(results: dict) -> list[Check]:
    """Every check of every case of the report and of its replicas, which have other seeds; not of cases with a note."""
    cases = [case for replica in (results["cases"], *(results["replicas"])) for case in replica.values()]
    return [Check(**check) for case in cases if "note" not in case for check in case["checks"]]


def _together(results: dict) -> str:
    """What the calibration of this report, and with all its replicas, comes to."""
    rows = [("this report", calibration(replicated({**results, "replicas": []})))]
    if results["replicas"]:
        name = f"this report and {len(results['replicas'])} more with other seeds"
        rows.append((name, calibration(replicated(results))))
    text = []
    for name, found in rows:
        text.append(
            f"Of {name}, {found.count} deviations that do not depend on each other have a mean square of "
            f"**{found.mean_square:.2f}** (1 expected, {found.low:.2f} to {found.high:.2f} in 95 % of correct reports, "
            f"p = {found.p_square:.2g}) and p-values that are uniform with p = {found.p_uniform:.2g} "
            f"(Kolmogorov-Smirnov): {'pass' if found.passes else '**fail**'}, the line being p > {ERROR}."
        )
    return textwrap.fill(" ".join(text), 118, initial_indent="  ", subsequent_indent="  ")


def _spread(results: dict) -> list[str]:
    """The table of mean squares."""
    rows = [
        "Mean square of the deviations in standard errors. The range is that of independent ones; it is wider for a "
        "kind in which some share their samples.\n\n| checks of | number | mean square | 95 % of correct results |\n"
        "|---|---|---|---|\n"
    ]
    rows += [
        f"| {row.kind} | {row.count} | {row.mean_square:.2f} | {row.low:.2f} to {row.high:.2f} |\n"
        for row in spreads(replicated(results))
    ]
    return rows


def _by_integrator(results: dict) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for case in results["cases"].values():
        groups.setdefault(case["integrator"][0].upper() + case["integrator"][1:], []).append(case)
    return groups


def _summary(results: dict, limit: float) -> list[str]:
    rows = ["| integrator or barostat | checks | largest deviation | of | p | result |\n|---|---|---|---|---|---|\n"]
    for title, cases in _by_integrator(results).items():
        found = [Check(**check) for case in cases for check in case["checks"]]
        statistical = [check for check in found if check.sigma is not None]
        bad = [c for c in found if c.passes is False or (c.sigma is not None and not abs(c.sigma) <= limit)]
        worst, name, p = "-", "-", "-"
        if statistical:
            check = max(statistical, key=lambda one: abs(one.sigma))
            worst, name, p = f"{check.sigma:+.2f} sigma", check.quantity, f"{check.p_value:.2g}"
        verdict = "pass" if not bad else "**fail**: " + ", ".join(check.quantity for check in bad)
        rows.append(f"| {title} | {len(found)} | {worst} | {name} | {p} | {verdict} |\n")
    return rows


def _table(found: Sequence[dict], limit: float) -> list[str]:
    rows = ["| quantity | found | theory | sigma | p | result |\n|---|---|---|---|---|---|\n"]
    for values in found:
        check = Check(**values)
        sigma = p = ""
        good = check.passes is not False
        if check.sigma is not None:
            sigma, p = f"{check.sigma:+.2f}", f"{check.p_value:.2g}"
            good = good and abs(check.sigma) <= limit
        verdict = "pass" if good else "**fail**"
        rows.append(f"| {check.quantity} | {check.found} | {check.expected} | {sigma} | {p} | {verdict} |\n")
    return rows
