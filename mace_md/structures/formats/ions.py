"""Names of ions, of standard residues and of water, in force fields and in the Protein Data Bank. One table each."""

import re
from functools import cache

# Names that are not the symbol with or without a charge: CHARMM, GROMACS, Amber (old and new), OPLS, the Chemical
# Component Dictionary of the Protein Data Bank.
_NAMED = {
    "LIT": "Li", "SOD": "Na", "SDM": "Na", "POT": "K", "RUB": "Rb", "CES": "Cs", "CIO": "Cs", "MAG": "Mg", "CAL": "Ca",
    "C0": "Ca", "BAR": "Ba", "STR": "Sr", "ZIN": "Zn", "CAD": "Cd", "COP": "Cu", "FLU": "F", "CLA": "Cl", "CHL": "Cl",
    "CLO": "Cl", "BRO": "Br", "BRM": "Br", "IOD": "I", "IDO": "I", "IP": "Na", "IM": "Cl", "CIM": "Cl", "CIP": "Na",
    "LIO": "Li", "NIO": "Na", "KIO": "K", "MGO": "Mg", "SODI": "Na", "NAX": "Na", "NAP": "Na", "CLX": "Cl",
    "3CO": "Co", "3NI": "Ni", "4TI": "Ti", "4PU": "Pu", "ZCM": "Cm", "BS3": "Bi", "YT3": "Y", "LCO": "Co", "OS4": "Os",
    "TA0": "Ta", "RH3": "Rh", "IR3": "Ir", "U1": "U", "RE": "Re", "PT4": "Pt", "AU3": "Au", "ARS": "As", "SB": "Sb",
}  # fmt: skip
_SYMBOLS = (
    "Li Na K Rb Cs Be Mg Ca Sr Ba Ra Al Ga In Tl Sn Pb Bi Sc Y La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Ti Zr Hf V Nb "
    "Ta Cr Mo W Mn Tc Re Fe Ru Os Co Rh Ir Ni Pd Pt Cu Ag Au Zn Cd Hg F Cl Br I At Th U Pu Am Cm Cf He Ne Ar Kr Xe Rn "
    "Se Te Si Ge As Sb"
)
ION_SYMBOLS = {symbol.upper(): symbol for symbol in _SYMBOLS.split()}
ION_RESIDUES = frozenset(("ION", "IONS", "ION+", "ION-"))  # residues that hold several ions, in GROMACS

_WATERS = frozenset(
    "HOH WAT H2O SOL DOD D2O TIP TIP2 TIP3 TIP4 TIP5 TIP TP3 TP4 TP5 TP3M T3P T4P T4E T3H SPC SPCE SPCF OPC OPC3 TIP3P "
    "TIP4P TIP4PEW TIP5P SPC/E H2O1 HHO OHH OH2 FB3 FB4 TP4EW T4PE".split()
)
_AMINO_ACIDS = (
    "ALA ARG ARN ASN ASP ASH ASPP CYS CYX CYM CYSH CYS2 GLN GLU GLH GLUP GLY HIS HID HIE HIP HIN HSD HSE HSP HISA HISB "
    "HISH HISD HISE HISP HIS1 HIS2 ILE LEU LYS LYN LSN LYSH MET PHE PRO SER THR TRP TYR TYM VAL ACE NME NMA NHE NH2 "
    "CT3 CT2 CT1 NTER ORN PCA AIB HYP"
).split()
_NUCLEOTIDES = (
    "A C G U I T DA DC DG DT DU DI RA RC RG RU ADE CYT GUA URA THY DAD DCY DGU DTH A3 A5 AN C3 C5 CN G3 G5 GN U3 U5 UN "
    "DA3 DA5 DAN DC3 DC5 DCN DG3 DG5 DGN DT3 DT5 DTN RA3 RA5 RAN RC3 RC5 RCN RG3 RG5 RGN RU3 RU5 RUN"
).split()
_STANDARD = frozenset(_AMINO_ACIDS) | frozenset(_NUCLEOTIDES) | _WATERS
_TERMINI = frozenset("NC")  # Amber's NALA, CALA


@cache
def ion_of(*names: str) -> str | None:
    """The symbol of the ion that names of a one-atom residue stand for, the first name that is one; or None.

    Charges and numbers may be part of it: NA+, CL-, ZN2, CA2+, MG2P.
    """
    for name in names:
        upper = name.strip().upper()
        for text in (upper, re.sub(r"[\d+\-*]+(P|PLUS)?$", "", upper).strip("+-"), re.sub(r"[^A-Z]", "", upper)):
            if text in _NAMED:
                return _NAMED[text]
            if text in ION_SYMBOLS:
                return ION_SYMBOLS[text]
    return None


def is_water(residue: str) -> bool:
    """Whether a residue has one of the names of water."""
    return residue.upper() in _WATERS


@cache
def is_standard_residue(residue: str) -> bool:
    """Whether a residue is an amino acid, a cap, a nucleotide or water, whose atom names begin with their element."""
    upper = residue.upper()
    return upper in _STANDARD or (len(upper) == 4 and upper[0] in _TERMINI and upper[1:] in _AMINO_ACIDS)
