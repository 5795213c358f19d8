"""The `mace-md models` command: the published models, their licences, and how to get them."""

from __future__ import annotations

import sys
from pathlib import Path

from mace_md.config import DEFAULT_MODEL, ModelsConfig
from mace_md.errors import UsageError
from mace_md.model.reading import zoo


def main(config: ModelsConfig) -> int:
    """Do what `config.action` says; the exit code is 1 when a check failed."""
    if config.action == "list":
        _list(config.cache or zoo.cache_folder())
        return 0
    if config.name is None:
        raise UsageError(f"`mace-md models {config.action}` needs a name; `mace-md models list` shows them")
    if config.action == "check":
        return _check(config)
    if config.action == "pull":
        _pull(config)
    else:
        _show(config)
    return 0


def _check(config: ModelsConfig) -> int:
    """Test a model on small random structures: derivatives, symmetries, batches, cutoffs."""
    from mace_md.model.families.checks import check_model
    from mace_md.model.reading.checkpoint import load_model
    from mace_md.model.settle import settle

    checks = check_model(settle(load_model(config.name, head=config.head)))
    width = max(len(check.law) for check in checks)
    for check in checks:
        verdict = "passed" if check.passed else "FAILED"
        print(f"{verdict}  {check.law.ljust(width)}  {check.deviation:.1e} (allowed {check.allowed:.0e}) {check.unit}")
    failed = sum(not check.passed for check in checks)
    print(f"{len(checks) - failed} of {len(checks)} passed")
    return int(failed > 0)


def _list(cache: Path) -> None:
    """The models by what they are for, in lines that a narrow terminal holds."""
    print(f"{'NAME':<24}{'LICENCE':<9}{'CUTOFF':<9}{'LEVEL OF THEORY':<27}FETCHED")
    for (use, elements), models in zoo.by_use().items():
        print(f"\n{use}\n({elements})")
        for model in models:
            name = f"{model.name} *" if model.name in zoo.RECOMMENDED else model.name
            fetched = "bundled" if model.bundled else "yes" if model.path(cache).exists() else "no"
            licence, theory = model.licence.split(" (")[0], model.level_of_theory.split(" (SPICE)")[0]
            print(f"{name:<24}{licence:<9}{_cutoff(model):<9}{theory:<27}{fetched}")
    print(
        f"""
* is the one to try first. Energies of the molecules' models include
dispersion, those of the materials' do not (--dispersion d3bj adds it).
{DEFAULT_MODEL} comes with mace-md, for first runs and tests: a run takes
it when no --model is given. ASL: academic use only, no commercial use,
https://github.com/gabor1/ASL. `mace-md models show NAME` says more, and
`mace-md models pull NAME` fetches the file to (--cache, $MACE_MD_CACHE)
{cache}"""
    )


def _pull(config: ModelsConfig) -> None:
    model = zoo.find_model(config.name)
    print(f"{model.name}: {model.licence_line()}")
    show = sys.stderr.isatty() and not config.quiet
    path = zoo.fetch(model, config.cache, _progress if show else None)
    if model.bundled:
        print(f"{path}  comes with mace-md, nothing to fetch")
        return
    print(f"{path}  {'SHA-256 as published elsewhere' if model.sha256 else 'SHA-256 unknown: not checked'}")


def _progress(done: int, total: int | None) -> None:
    share = f"{100 * done // total} % of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
    print(f"\r{share}", end="" if done != total else "\n", file=sys.stderr, flush=True)


def _show(config: ModelsConfig) -> None:
    path = Path(config.name).expanduser()
    if path.exists():
        _show_file(path)
        return
    model = zoo.find_model(config.name)
    target = model.path(config.cache)
    if model.bundled:
        _show_file(target)
        return
    _print_table(
        {
            "name": model.name,
            "address": model.url,
            "file": f"{target} ({'fetched' if target.exists() else 'not fetched'})",
            "licence": model.licence,
            "elements": model.elements,
            "cutoff": _cutoff(model),
            "level of theory": model.level_of_theory,
            "dispersion": model.dispersion,
            "further inputs": model.inputs,
            "range": model.range,
            "good for": model.good_for,
            "please cite": model.citation,
            "size": f"{model.size} bytes" if model.size else "unknown",
            "SHA-256": model.sha256 or "unknown",
        }
    )


def _show_file(path: Path) -> None:
    from ase.data import chemical_symbols

    from mace_md.model.families import FAMILIES
    from mace_md.model.reading.checkpoint import describe_model

    config, info, provenance = describe_model(path)
    hidden = "+".join(f"{config.num_channels}x{l}{'eo'[l % 2]}" for l in range(config.max_L + 1))
    _print_table(
        {
            "file": info.path,
            "SHA-256": info.sha256,
            "licence": info.licence,
            "level of theory": info.level_of_theory,
            "dispersion": info.dispersion,
            "please cite": info.citation,
            "elements": " ".join(chemical_symbols[z] for z in config.atomic_numbers),
            "heads": ", ".join(config.heads),
            "cutoff": f"{config.r_max:g} A",
            "layers": f"{config.num_interactions}, hidden irreps {hidden}, max_ell {config.max_ell}",
            "correlation": ", ".join(map(str, config.correlation)),
            "blocks": ", ".join(config.interactions),
            "radial": f"{config.num_bessel} {config.radial_type}, transform {config.distance_transform}",
            "ZBL repulsion": "yes" if config.pair_repulsion else "no",
            "gives": ", ".join(FAMILIES[config.family].gives),
            "range": FAMILIES[config.family].range,
            "further inputs": ", ".join(embedding.name for embedding in config.embeddings) or _inputs(config.family),
            "precision": info.dtype,
            **{f"trained with {key}": _in_words(key, value) for key, value in provenance.items()},
        }
    )


def _in_words(key: str, value: object) -> str:
    """Something of a model's provenance as text; texts of several lines begin on a line of their own."""
    if isinstance(value, dict):
        parts = [f"{name} {_in_words('', inner)}" for name, inner in value.items()]
        if key == "data":
            parts = [f"{name} (SHA-256 {str(inner)[:12]}...)" for name, inner in value.items()]
        return ", ".join(parts)
    if isinstance(value, (list, tuple)):
        return ", ".join(_in_words("", inner) for inner in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "none" if value is None else str(value).strip()
    return "\n" + "\n".join(f"    {line}" for line in text.splitlines()) if "\n" in text else text


def _inputs(family: str) -> str:
    return {"polar": "total charge, spin multiplicity", "dielectric": "total charge"}.get(family, "none")


def _print_table(rows: dict) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name.ljust(width)}  {value}")


def _cutoff(model: zoo.PublishedModel) -> str:
    return "unknown" if model.r_max is None else f"{model.r_max:g} A"
