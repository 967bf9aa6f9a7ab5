"""Coded concepts that more than one wing names: a value, its scheme and its meaning (PS3.16, PS3.3 8)."""

from __future__ import annotations

from dataclasses import dataclass

PRIVATE_SCHEME = "99HILUM"
PRIVATE_SCHEME_NAME = "Hilum private codes"
LABEL_SCHEME = "99HILUMLABEL"
LABEL_SCHEME_NAME = "Names that models give their classes, coded by a digest of the name"


@dataclass(frozen=True)
class Code:
    """A coded concept: Code Value, Coding Scheme Designator, Code Meaning."""

    value: str
    scheme: str
    meaning: str


# Kinds of algorithm (CID 7162)
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
MORPHOLOGICAL_OPERATIONS = Code("123104", "DCM", "Morphological Operations")
ALGORITHM_FAMILIES = (ARTIFICIAL_INTELLIGENCE, MORPHOLOGICAL_OPERATIONS)

# Measured quantities
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
LAA_950 = Code("LAA950", PRIVATE_SCHEME, "LAA-950")
PERCENTILE_15 = Code("PERC15", PRIVATE_SCHEME, "Perc15")

CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")

# Derivations
MEAN = Code("373098007", "SCT", "Mean")

# Units, in UCUM
MILLILITRE = Code("mL", "UCUM", "milliliter")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "percent")

# Anatomy and categories
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
RIGHT_LUNG = Code("3341006", "SCT", "Right lung")
LEFT_LUNG = Code("44029006", "SCT", "Left lung")
BOTH_LUNGS = Code("74101002", "SCT", "Both lungs")

# For what nobody gave a code of its own
TISSUE = Code("85756007", "SCT", "Tissue")

ANATOMY = frozenset({ANATOMICAL_STRUCTURE, TISSUE})
"""Categories of what has a place in the body by itself, and a side if it is one of two (CID 7150)."""


def is_anatomy(category: Code) -> bool:
    """Tell whether what is of this category is a part of the body, and no abnormality; whatever its meaning says."""
    return any(category.value == each.value for each in ANATOMY)
