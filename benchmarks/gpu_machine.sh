#!/usr/bin/env bash
# gpu.py on a machine that has a GPU, Python and torch for CUDA 13, but neither a network nor the other packages.
#
#   gpu_machine.sh collect FOLDER [PYTHON]     with a network: wheels, in sets: FOLDER/base, cueq1, cueq2, symmetrix
#   gpu_machine.sh install SITE FOLDER/SET...  there: sets into the folder SITE
#   gpu_machine.sh run SITE [OPTIONS]          there: builds the native kernels and runs gpu.py with OPTIONS
#
# PYTHON is the version there, 3.12 unless said. Every set is below 50 MiB, for machines that take so much at once; base is
# needed, the others are peers. CONTRIBUTING.md says what else is expected there. Nothing is written outside of SITE and
# this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

BASE="openmm OpenMM-CUDA-13 acellera-openmmtorch-cu13 openmmml ase e3nn==0.4.4 opt-einsum-fx dftd3 mace-torch==0.3.16 matscipy
torch-ema prettytable wcwidth lmdb orjson python-hostlist configargparse GitPython gitdb smmap"
CUEQ1="cuequivariance-ops-cu13==0.13.0 platformdirs"
CUEQ2="cuequivariance==0.13.0 cuequivariance-torch==0.13.0 cuequivariance-ops-torch-cu13==0.13.0"
SYMMETRIX="symmetrix-xl==0.1.1 symmetrix-xl-cuda13-sm90==0.1.1"

fetch() { # FOLDER VERSION PACKAGE...: wheels for Linux and that Python; pure Python packages without a wheel are built here
    local folder=$1 version=$2 platforms=() n package
    shift 2
    for n in 2_17 2_24 2_27 2_28 2_31 2_34 2_35 2_39; do platforms+=(--platform "manylinux_${n}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any)
    mkdir -p "$folder"
    for package in "$@"; do
        case $package in
        openmmml | python-hostlist) python3 -m pip wheel -q --no-deps -w "$folder" "$package" ;;
        *) python3 -m pip download -q --no-deps --only-binary :all: --implementation cp --python-version "$version" \
            "${platforms[@]}" -d "$folder" "$package" ;;
        esac
    done
    du -sh "$folder"
}

case ${1:-} in
collect)
    folder=${2:?a folder for the wheels} version=${3:-3.12}
    # shellcheck disable=SC2086
    { fetch "$folder/base" "$version" $BASE; fetch "$folder/cueq1" "$version" $CUEQ1
      fetch "$folder/cueq2" "$version" $CUEQ2; fetch "$folder/symmetrix" "$version" $SYMMETRIX; }
    ;;
install)
    site=${2:?a folder to install into}
    shift 2
    for folder in "$@"; do
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$folder"/*.whl
    done
    ls "$site" | wc -l
    ;;
run)
    site=${2:?the folder of install}
    shift 2
    export PYTHONPATH="$site:$PWD" MACE_MD_CACHE="${MACE_MD_CACHE:-$site/cache}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
    # The wheels look for CUDA's libraries beside themselves; here they are beside torch.
    libraries=$(python3 - <<'PYTHON'
import pathlib, torch
site = pathlib.Path(torch.__file__).parents[1]
print(":".join(map(str, [site / "torch" / "lib", *sorted(site.glob("nvidia/*/lib"))])))
PYTHON
    )
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    python3 setup.py -q build_ext --inplace 2>&1 | tail -3  # a minute; without a compiler, a library that came along serves
    exec python3 -u -W ignore -m benchmarks.gpu --minutes 8 "$@"  # what is given again counts
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
