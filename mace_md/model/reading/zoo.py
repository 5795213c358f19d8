"""Models by name, bundled and published: where they are, what they were trained on, under which licence, how fetched.

What could not be verified is None here and "unknown" in what people see. A SHA-256 is given where at least two public
projects recorded the same one independently. This module knows no torch: the list appears at once.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import glob
import hashlib
import http.client
import logging
import os
import platform
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mace_md.config import DEFAULT_MODEL
from mace_md.errors import InputError

_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main"
_TIMEOUT = 60  # s without a byte
_LARGEST = 2 * 1024**3  # bytes of a model whose size is not known here
_PART = ".part"  # suffix of a download that goes on
_OLD = 24 * 3600  # s, after which a download of another machine is given up
_DATA = Path(__file__).parents[1] / "data"  # the files that come with the package
_log = logging.getLogger("mace_md")

MIT = "MIT"
ASL = "ASL (academic use only, no commercial use): https://github.com/gabor1/ASL"
_CITE_OFF = "Kovacs et al., arXiv:2312.15211"
_CITE_MP = "Batatia et al., arXiv:2401.00096"
_CITE_MH = "Batatia et al., arXiv:2510.25380"
_CITE_OMOL = "Levine et al., arXiv:2505.08762"
_CITE_POLAR = "arXiv:2602.19411"
_CITE_ANI = "Kovacs et al., J. Chem. Phys. 159, 044118 (2023)"
_ORGANIC = "H C N O F P S Cl Br I"
_NO_DISPERSION = "not included"


@dataclass(frozen=True)
class PublishedModel:
    """One published checkpoint, or one that comes with the package (`bundled`)."""

    name: str
    url: str  # of a bundled model: its place in the package
    licence: str
    elements: str  # symbols, or how many
    r_max: float | None  # A
    level_of_theory: str
    dispersion: str
    citation: str
    sha256: str | None = None
    size: int | None = None  # bytes
    bundled: bool = False
    advice: str | None = None  # a line for the log of every run with this model
    inputs: str = "none"  # beside the structure
    range: str = "short"  # of its energies
    good_for: str = "unknown"

    @property
    def file_name(self) -> str:
        """Name of the file, in the cache as at its source."""
        return self.url.rsplit("/", 1)[1]

    def path(self, folder: Path | None = None) -> Path:
        """Where the file is, or will be when it is fetched: in the package, or in the cache (`folder` if given)."""
        return (_DATA if self.bundled else folder or cache_folder()) / self.file_name

    def facts(self) -> dict[str, str]:
        """What a `ModelInfo` takes over from here."""
        return {
            "name": self.name,
            "licence": self.licence,
            "level_of_theory": self.level_of_theory,
            "dispersion": self.dispersion,
            "citation": self.citation,
        }

    def licence_line(self) -> str:
        """One line for the log."""
        return f"licence {self.licence}; please cite {self.citation}"


def _foundation(name: str, file: str, **facts) -> PublishedModel:
    """A model of mace-foundations, whose file nobody recorded with a hash that could be compared."""
    common = {"licence": ASL, "elements": "89 elements", "r_max": 6.0, "dispersion": _NO_DISPERSION}
    return PublishedModel(name, f"{_FOUNDATIONS}/{file}", **(common | facts))


def _off(name: str, file: str, r_max: float, sha256: str, size: int | None = None) -> PublishedModel:
    theory = "wB97M-D3(BJ)/def2-TZVPPD"
    return PublishedModel(name, f"{_OFF}/{file}", ASL, _ORGANIC, r_max, theory, "included", _CITE_OFF, sha256, size)


def _mp(
    name: str,
    url: str,
    sha256: str | None,
    size: int | None = None,
    licence: str = MIT,
    r_max: float | None = 6.0,
    theory: str = "PBE+U",
) -> PublishedModel:
    return PublishedModel(name, url, licence, "89 elements", r_max, theory, _NO_DISPERSION, _CITE_MP, sha256, size)


MODELS = (
    PublishedModel(
        DEFAULT_MODEL,
        f"mace_md/model/data/{DEFAULT_MODEL}.mace",
        MIT,
        "H Li C N O F Na Mg P S Cl K Ca Br I",
        4.5,
        "wB97M-D3(BJ)/def2-TZVPPD (SPICE), by distillation",
        "included",
        "mace-md (docs/default_model.md) and Eastman et al., Sci. Data 10, 11 (2023)",
        sha256="af135a545dc38178dfb5388317e1596b1296e0c216de689bd5373da99fca0601",
        size=635784,
        bundled=True,
        advice=(
            "a small model for first runs and tests; for results take a published model, for example --model "
            "mace-off23-medium (`mace-md models list`). docs/default_model.md says what this one is not for"
        ),
    ),
    _off(
        "mace-off23-small",
        "mace_off23/MACE-OFF23_small.model",
        4.5,
        "165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f",
        7347350,
    ),
    _off(
        "mace-off23-medium",
        "mace_off23/MACE-OFF23_medium.model",
        5.0,
        "4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7",
    ),
    _off(
        "mace-off23-large",
        "mace_off23/MACE-OFF23_large.model",
        5.0,
        "a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4",
    ),
    _off(
        "mace-off24-medium",
        "mace_off24/MACE-OFF24_medium.model",
        6.0,
        "e5ccf5837f685899811a68754e7c994393bfd1a81720393b03c643b46c70bc69",
        18375569,
    ),
    _mp(
        "mace-mp-0-small",
        f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
        32581838,
    ),
    _mp(
        "mace-mp-0-medium",
        f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
        44422970,
    ),
    # Two files are called "large" in the wild: this one, and the one that mace-torch's alias fetches.
    _mp("mace-mp-0-large", f"{_MP}/mace_mp_0/2024-01-07-mace-128-L2_epoch-199.model", None, None),
    _mp("mace-mp-0-large-2022.9", f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model", None, None),
    _mp(
        "mace-mp-0b-small",
        f"{_MP}/mace_mp_0b/mace_agnesi_small.model",
        "7e3a0abcaf41e03a80e69f778e1b11b29de1cca704783dc25917a736392f8cf0",
        67603120,
    ),
    _mp(
        "mace-mp-0b-medium",
        f"{_MP}/mace_mp_0b/mace_agnesi_medium.model",
        "ab8baff639a8f295f3eccad3d3ccf574efb6fb63220bd52cd88664211569e521",
        79447096,
    ),
    _mp(
        "mace-mp-0b2-small",
        f"{_MP}/mace_mp_0b2/mace-small-density-agnesi-stress.model",
        "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
        67622684,
    ),
    _mp(
        "mace-mp-0b2-medium",
        f"{_MP}/mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
        79462798,
    ),
    _mp(
        "mace-mp-0b2-large",
        f"{_MP}/mace_mp_0b2/mace-large-density-agnesi-stress.model",
        "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
        98544548,
        r_max=5.0,
    ),
    _mp(
        "mace-mp-0b3-medium",
        f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model",
        "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
        79472952,
    ),
    _mp(
        "mace-mpa-0-medium",
        f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model",
        "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
        79462305,
    ),
    _mp(
        "mace-omat-0-small",
        f"{_MP}/mace_omat_0/mace-omat-0-small.model",
        "0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
        67630500,
        licence=ASL,
    ),
    _mp(
        "mace-omat-0-medium",
        f"{_MP}/mace_omat_0/mace-omat-0-medium.model",
        "d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
        licence=ASL,
    ),
    _mp(
        "mace-matpes-pbe-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        "e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
        licence=ASL,
        theory="PBE (no +U)",
    ),
    _mp(
        "mace-matpes-r2scan-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        "8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
        licence=ASL,
        theory="r2SCAN",
    ),
    PublishedModel(
        "mace-ani-cc",
        "https://github.com/ACEsuit/mace/raw/main/mace/calculators/foundations_models/ani500k_large_CC.model",
        MIT,
        "H C N O",
        None,
        "CCSD(T)*/CBS (ANI-1ccx)",
        "included",
        _CITE_ANI,
    ),
    _foundation(
        "mace-mh-0", "mace_mh_1/mace-mh-0.model", citation=_CITE_MH, level_of_theory="by head (PBE+U, r2SCAN, ...)",
        dispersion="by head", inputs="head", good_for="materials, surfaces and molecules, by head",
    ),
    _foundation(
        "mace-mh-1", "mace_mh_1/mace-mh-1.model", citation=_CITE_MH, level_of_theory="by head (PBE+U, r2SCAN, ...)",
        dispersion="by head", inputs="head", good_for="materials, surfaces and molecules, by head",
    ),
    _foundation(
        "mace-omol-0", "mace_omol_0/MACE-omol-0-extra-large-1024.model", citation=_CITE_OMOL, elements="83 elements",
        level_of_theory="wB97M-V/def2-TZVPD (OMol25)", dispersion="included", inputs="charge, spin",
        good_for="ions, radicals, metal complexes; slow",
    ),
    *(
        _foundation(
            f"mace-polar-1-{size.lower()}", f"mace_polar_1/MACE-POLAR-1-{size}.model", citation=_CITE_POLAR,
            elements="83 elements", level_of_theory="wB97M-V/def2-TZVPD (OMol25)", dispersion="included",
            inputs="charge, spin", range="long (charges, dipoles)", good_for="ions and polar liquids, fields",
        )
        for size in "SML"
    ),
)  # fmt: skip

# Names of models that are not at an address of their own here, with what to do about them.
ELSEWHERE = {
    "maceles": "MACELES-OFF (CC BY-NC 4.0: no commercial use) is in the repository ChengUCB/les_fit",
    "mace-les": "MACELES-OFF (CC BY-NC 4.0: no commercial use) is in the repository ChengUCB/les_fit",
    "mace-mdp": "MACE-MDP (dipoles and polarizabilities, ASL: no commercial use) is in the repository Nilsgoe/MACE-MDP",
    "mace-magnetic": "MagneticMACE cannot be read here; use it with mace-torch",
}


RECOMMENDED = ("mace-off23-medium", "mace-mpa-0-medium")  # of each use, the one to try first


def by_use() -> dict[tuple[str, str], list[PublishedModel]]:
    """The models under what they are for, with or without dispersion, and their elements."""
    found: dict[tuple[str, str], list[PublishedModel]] = {}
    for model in MODELS:
        use = "materials" if model.elements.endswith("elements") else "molecules, liquids, biomolecules"
        found.setdefault((f"{use}; dispersion {model.dispersion}", model.elements), []).append(model)
    return found


def find_model(name: str) -> PublishedModel:
    """The published model called `name`, in any case; raises InputError with the nearest names."""
    wanted = name.lower().replace("_", "-")
    for model in MODELS:
        if model.name == wanted:
            return model
    for start, text in ELSEWHERE.items():
        if wanted.startswith(start):
            raise InputError(f"{name}: {text}. Fetch the `.model` file, and give its path in place of the name.")
    near = difflib.get_close_matches(wanted, [model.name for model in MODELS], n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`mace-md models list` shows the published names."
    raise InputError(f"{name}: neither a file nor the name of a published model. {hint}")


def identify(sha256: str) -> PublishedModel | None:
    """The published model whose file has this SHA-256, wherever the file lies and whatever it is called."""
    return next((model for model in MODELS if model.sha256 == sha256), None)


def cache_folder() -> Path:
    """Where fetched models are kept: $MACE_MD_CACHE, or mace-md in the user's cache folder. It need not exist."""
    if os.environ.get("MACE_MD_CACHE"):
        return Path(os.environ["MACE_MD_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mace-md"


def fetch(model: PublishedModel, folder: Path | None = None, progress=None) -> Path:
    """The file of `model` in the cache (`folder` if given), fetched when it is not there; checked in either case.

    `progress(done, total)` is called with bytes; total is None when the server does not say. The file appears under its
    name only when it is complete and checked. Raises InputError that names address and place when it cannot be had.
    """
    target = model.path(folder)
    if target.exists():
        _check_file(target, model)
        return target
    if model.bundled:
        raise InputError(f"{target} is missing, which comes with the package: install mace-md again")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}{_PART}")
    try:
        with open(temporary, "wb") as file:
            _download(model, file, target, progress)
        problem = _problem(temporary, model)
        if problem:
            raise InputError(
                f"{model.name}: what {model.url} sent is not the model: {problem}. {_by_hand(model, target)}"
            )
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Make room, or give another folder (--cache or "
            "$MACE_MD_CACHE), and repeat the command."
        ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _log.info("model %s fetched to %s", model.name, target)
    return target


def _remove_leftovers(target: Path) -> None:
    """Take away what killed downloads of this file left: of processes that are gone, or, from other machines, old."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        node, _, pid = path.name.removesuffix(_PART).removeprefix(f".{target.name}.").rpartition(".")
        with contextlib.suppress(OSError):
            here = path.name.endswith(_PART) and node == platform.node() and pid.isdigit()
            gone = not _is_alive(int(pid)) if here else time.time() - path.stat().st_mtime > _OLD
            if gone:
                path.unlink()


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # this process has not begun yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


class _SameProtocol(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to the protocol that was asked for: https must not become http, ftp or a file."""

    def redirect_request(self, request, file, code, message, headers, address):
        before, after = (urllib.parse.urlsplit(url).scheme for url in (request.full_url, address))
        if before != after:
            raise urllib.error.URLError(f"it redirects from {before} to {after} ({address}), which is not followed")
        return super().redirect_request(request, file, code, message, headers, address)


def _download(model: PublishedModel, file, target: Path, progress) -> None:
    request = urllib.request.Request(model.url, headers={"User-Agent": "mace-md"})
    try:
        with urllib.request.build_opener(_SameProtocol).open(request, timeout=_TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise InputError(f"{model.name}: {model.url} sent a web page, not a model. {_by_hand(model, target)}")
            length = response.headers.get("Content-Length")
            total, done = int(length) if length and length.isdigit() else None, 0
            limit = model.size or min(total or _LARGEST, _LARGEST)
            _refuse_size(model, target, total or 0, limit)
            while block := response.read(1 << 18):
                done += len(block)
                _refuse_size(model, target, done, limit)
                file.write(block)
                if progress:
                    progress(done, total)
    except urllib.error.HTTPError as error:
        raise InputError(
            f"{model.name}: {model.url} answered {error.code} {error.reason}. {_by_hand(model, target)}"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{model.name}: cannot reach {model.url} ({reason}). {_by_hand(model, target)}") from None
    if total is not None and done != total:
        raise InputError(
            f"{model.name}: the download ended after {done} of {total} bytes. Try again. {_by_hand(model, target)}"
        )


def _refuse_size(model: PublishedModel, target: Path, size: int, limit: int) -> None:
    if size > limit:
        known = f"the file has {limit}" if model.size else f"no published model has more than {limit}"
        raise InputError(
            f"{model.name}: {model.url} sends {size} bytes or more, but {known}: not fetched. {_by_hand(model, target)}"
        )


def _by_hand(model: PublishedModel, target: Path) -> str:
    return f"Without a connection: fetch {model.url} elsewhere and put the file at {target}"


def _check_file(path: Path, model: PublishedModel) -> None:
    problem = _problem(path, model)
    if problem and model.bundled:
        raise InputError(f"{path}: not the file that came with the package: {problem}. Install mace-md again.")
    if problem:
        raise InputError(f"{path}: not the published {model.name}: {problem}. Remove the file and fetch it again.")


def _problem(path: Path, model: PublishedModel) -> str | None:
    """What is wrong with a fetched file, if anything can be told."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            return "it is a web page"
        if start.startswith(b"version https://git-lfs"):
            return "it is a Git LFS pointer"
        size = path.stat().st_size
        if model.size is not None and size != model.size:
            return f"it has {size} bytes instead of {model.size}"
        if not model.bundled and not start.startswith(b"pk\x03\x04"):
            return "it is not a torch file"
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if model.sha256 is not None and digest != model.sha256:
        return f"its SHA-256 is {digest} instead of {model.sha256}"
    return None
