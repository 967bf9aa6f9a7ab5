from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom.sr import _concepts_dict

from inference import structures
from inference.structures import Structure, find_in, find_structure, is_background, segments_of, table_digest
from study.codes import ANATOMICAL_STRUCTURE, TISSUE, Code

FILE = Path(structures.__file__).with_name("structures.json")
CONTENT: dict[str, Any] = json.loads(FILE.read_bytes())
ENTRIES: dict[str, dict[str, Any]] = CONTENT["structures"]

LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")

OUTSIDE_DICOM = {
    "110765007": "Portal vein and splenic vein",
    "15339008": "Fifth rib",
    "18639004": "Left kidney",
    "206007": "Gluteus maximus muscle",
    "22565002": "Ninth rib",
    "244849004": "Deep muscle of back",
    "24915002": "Seventh rib",
    "25523003": "Fourth rib",
    "25888004": "Third rib",
    "3341006": "Right lung",
    "3572006": "Vertebral body",
    "43993008": "Twelfth rib",
    "44029006": "Left lung",
    "48535007": "First rib",
    "50403003": "Renal cortex",
    "58830002": "Eleventh rib",
    "5953002": "Eighth rib",
    "59558009": "Sixth rib",
    "65985001": "S1 vertebra",
    "68455001": "Iliopsoas muscle",
    "74101002": "Both lungs",
    "74281007": "Myocardium",
    "75297007": "Gluteus minimus muscle",
    "77644006": "Tenth rib",
    "78247007": "Second rib",
    "78333006": "Gluteus medius muscle",
    "91381003": "Pleural cavity",
    "9846003": "Right kidney",
}
"""SNOMED CT concepts that pydicom's dictionary lacks; one more belongs here once it is checked elsewhere."""

KNOWN = cast("dict[str, dict[str, dict[str, tuple[str, list[int]]]]]", _concepts_dict.concepts)


def listed(text: str) -> list[str]:
    return text.split(", ") if ", " in text else text.split()


def both_sides(*bases: str) -> list[str]:
    return [f"{base}_{side}" for base in bases for side in ("left", "right")]


VERTEBRAE = [f"{level}{n}" for level, last in (("L", 5), ("T", 12), ("C", 7)) for n in range(last, 0, -1)]
RIBS = range(1, 13)
LUNG_LOBES = listed(
    "lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right"
)
MUSCLES = both_sides("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas")
BONES = both_sides("humerus", "scapula", "clavicula", "femur", "hip")
WHOLE_BODY = [
    *listed("spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava"),
    *listed("portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left"),
    *LUNG_LOBES,
    *(f"vertebrae_{level}" for level in VERTEBRAE),
    *listed("esophagus trachea heart_myocardium heart_atrium_left heart_ventricle_left heart_atrium_right"),
    *listed("heart_ventricle_right pulmonary_artery brain iliac_artery_left iliac_artery_right iliac_vena_left"),
    *listed("iliac_vena_right small_bowel duodenum colon"),
    *(f"rib_{side}_{n}" for side in ("left", "right") for n in RIBS),
    *BONES,
    *("sacrum", "face"),
    *MUSCLES,
    "urinary_bladder",
]

BRAIN_PAIRS = listed("""
Accumbens-Area Amygdala Caudate Cerebellum-Exterior Cerebellum-White-Matter Cerebral-White-Matter Hippocampus
Inf-Lat-Vent Lateral-Ventricle Pallidum Putamen Thalamus-Proper Ventral-DC Basal-Forebrain
ACgG--anterior-cingulate-gyrus AIns--anterior-insula AOrG--anterior-orbital-gyrus AnG---angular-gyrus
Calc--calcarine-cortex CO----central-operculum Cun---cuneus Ent---entorhinal-area FO----frontal-operculum
FRP---frontal-pole FuG---fusiform-gyrus GRe---gyrus-rectus IOG---inferior-occipital-gyrus
ITG---inferior-temporal-gyrus LiG---lingual-gyrus LOrG--lateral-orbital-gyrus MCgG--middle-cingulate-gyrus
MFC---medial-frontal-cortex MFG---middle-frontal-gyrus MOG---middle-occipital-gyrus MOrG--medial-orbital-gyrus
MPoG--postcentral-gyrus MPrG--precentral-gyrus MSFG--superior-frontal-gyrus MTG---middle-temporal-gyrus
OCP---occipital-pole OFuG--occipital-fusiform-gyrus OpIFG-opercular-part-of-the-IFG OrIFG-orbital-part-of-the-IFG
PCgG--posterior-cingulate-gyrus PCu---precuneus PHG---parahippocampal-gyrus PIns--posterior-insula
PO----parietal-operculum PoG---postcentral-gyrus POrG--posterior-orbital-gyrus PP----planum-polare
PrG---precentral-gyrus PT----planum-temporale SCA---subcallosal-area SFG---superior-frontal-gyrus
SMC---supplementary-motor-cortex SMG---supramarginal-gyrus SOG---superior-occipital-gyrus
SPL---superior-parietal-lobule STG---superior-temporal-gyrus TMP---temporal-pole TrIFG-triangular-part-of-the-IFG
TTG---transverse-temporal-gyrus
""")

LABELS: dict[str, list[str]] = {
    "spleen_ct_segmentation": ["spleen"],
    "spleen_deepedit_annotation": ["spleen"],
    "wholeBody_ct_segmentation": WHOLE_BODY,
    "pancreas_ct_dints_segmentation": ["pancreas", "pancreatic tumor"],
    "prostate_mri_anatomy": ["central gland", "peripheral zone"],
    "brats_mri_segmentation": ["Tumor core", "Whole tumor", "Enhancing tumor"],
    "swin_unetr_btcv_segmentation": [
        "spleen",
        "Right Kidney",
        "Left Kideny",
        "Gallbladder",
        "Esophagus",
        "Liver",
        "Stomach",
        "Aorta",
        "IVC",
        "Portal and Splenic Veins",
        "Pancreas",
        "Right adrenal gland",
        "Left adrenal gland",
    ],
    "pediatric_abdominal_ct_segmentation": ["liver", "spleen", "pancreas"],
    "renalStructures_CECT_segmentation": ["artery", "vein", "ureter", "neoplasm", "parenchyma", "cyst"],
    "renalStructures_UNEST_segmentation": ["kidney cortex", "medulla", "pelvicalyceal system"],
    "wholeBrainSeg_Large_UNEST_segmentation": [
        *("3rd-Ventricle", "4th-Ventricle", "Brain-Stem"),
        *(f"Cerebellar-Vermal-Lobules-{lobules}" for lobules in ("I-V", "VI-VII", "VIII-X")),
        *(f"{side}-{name}" for name in BRAIN_PAIRS for side in ("Right", "Left")),
    ],
    "multi_organ_segmentation": ["artery", "portal vein", "liver", "spleen", "stomach", "gallbladder", "pancreas"],
    "ventricular_short_axis_3label": ["lv_pool", "myocardium", "rv_pool"],
    "vista3d": [
        *listed("liver, kidney, spleen, pancreas, right kidney, aorta, inferior vena cava, right adrenal gland"),
        *listed(
            "left adrenal gland, gallbladder, esophagus, stomach, duodenum, left kidney, bladder, prostate or uterus"
        ),
        *listed("portal vein and splenic vein, rectum, small bowel, lung, bone, brain, lung tumor, pancreatic tumor"),
        *listed("hepatic vessel, hepatic tumor, colon cancer primaries, left lung upper lobe, left lung lower lobe"),
        *listed("right lung upper lobe, right lung middle lobe, right lung lower lobe, trachea, left iliac artery"),
        *(f"vertebrae {level}" for level in VERTEBRAE),
        *listed("right iliac artery, left iliac vena, right iliac vena, colon, sacrum, left atrial appendage"),
        *(f"{side} rib {n}" for side in ("left", "right") for n in RIBS),
        *(name.replace("_", " ") for name in (*BONES, *MUSCLES)),
        *listed("brachiocephalic trunk, left brachiocephalic vein, right brachiocephalic vein"),
        *listed("left common carotid artery, right common carotid artery, costal cartilages, heart, left kidney cyst"),
        *listed("right kidney cyst, prostate, pulmonary vein, skull, spinal cord, sternum, left subclavian artery"),
        *listed("right subclavian artery, superior vena cava, thyroid gland, vertebrae S1, bone lesion, kidney mass"),
        *listed("liver tumor, vertebrae L6, airway"),
    ],
}

FURTHER_NAMES = [
    *listed("vertebrae_S1 heart atrial_appendage_left pulmonary_vein brachiocephalic_trunk superior_vena_cava"),
    *both_sides("brachiocephalic_vein", "subclavian_artery", "common_carotid_artery", "kidney_cyst"),
    *listed("thyroid_gland prostate spinal_cord skull sternum costal_cartilages kidney adrenal_gland ribs"),
    *listed("lung right_lung left_lung lungs airway bladder bone muscle fat skin liver_vessels liver_tumor"),
    *listed("lung_vessels lung_trachea_bronchia vertebrae_body body_trunc body_extremities torso_fat"),
    *listed("pleural_effusion pericardial_effusion subcutaneous_fat skeletal_muscle coronary_arteries"),
    *("transition zone", "lung nodule", "vertebra body", "hepatic vessel", "hepatic tumor", "kidney tumor"),
    *("necrosis", "edema", "non-enhancing tumor", "renal pelvis", "left upper lobe of lung", "left ureter"),
]

UNPAIRED = {"right middle lobe of lung", "left ventricular myocardium"}
SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def codes_of(entry: dict[str, Any]) -> Iterator[Code]:
    for part in ("type", "category", "laterality", "region"):
        if part in entry:
            yield Code(*entry[part])


def resolved(name: str, bundle: str = "") -> Structure:
    structure = find_in(bundle, name)
    assert structure is not None, f"{name} of {bundle or 'any bundle'}"
    return structure


def check_digit_holds(number: str) -> bool:
    """SNOMED CT identifiers end in a digit after Verhoeff: a wrong or two exchanged digits show."""
    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for place, written in enumerate(map(int, reversed(number))):
        digit = written
        for _ in range(place % 8):
            digit = permutation[digit]
        # The product of the dihedral group of ten elements: five turns, and as many with a flip
        turned = check % 5 + (digit if check < 5 else -digit)
        check = turned % 5 + 5 * ((check < 5) != (digit < 5))
    return check == 0


@pytest.mark.parametrize(("number", "holds"), [("64033007", True), ("64033008", False), ("46033007", False)])
def test_the_check_of_identifiers_works(number: str, holds: bool) -> None:
    assert check_digit_holds(number) is holds


@pytest.mark.parametrize(("key", "entry"), ENTRIES.items(), ids=ENTRIES)
def test_each_entry_is_well_formed(key: str, entry: dict[str, Any]) -> None:
    assert set(entry) <= {"label", "category", "type", "laterality", "region", "colour", "names"}
    assert len(entry["colour"]) == 3
    assert all(0 <= part <= 255 for part in entry["colour"])
    assert max(entry["colour"]) >= 120, "too dark on an image"
    assert max(entry["colour"]) - min(entry["colour"]) >= 20, "grey on grey"
    for code in codes_of(entry):
        assert code.scheme in ("SCT", "DCM", "NCIt")
        assert 0 < len(code.value) <= 16
        assert 0 < len(code.meaning) <= 64
        assert (code.value + code.meaning).isascii()
        assert code.scheme != "SCT" or check_digit_holds(code.value)
    assert Code(*entry.get("laterality", ("7771000", "SCT", "Left"))) in (LEFT, RIGHT)
    structure = resolved(key)
    assert structure.label.isascii()
    assert 0 < len(structure.label) <= 64
    assert find_structure(structure.label) == structure, "a label must find what it is the label of"


@pytest.mark.parametrize(("key", "entry"), ENTRIES.items(), ids=ENTRIES)
def test_codes_have_the_meaning_that_dicom_gives_them(key: str, entry: dict[str, Any]) -> None:
    for code in codes_of(entry):
        meanings = {concept[code.value][0] for concept in KNOWN[code.scheme].values() if code.value in concept}
        assert code.meaning in (meanings or {OUTSIDE_DICOM.get(code.value, "of no checked code")})


def test_one_code_has_one_meaning() -> None:
    named = {(code.value, code.scheme, code.meaning) for entry in ENTRIES.values() for code in codes_of(entry)}
    assert max(Counter((value, scheme) for value, scheme, _ in named).values()) == 1


def test_no_code_is_listed_that_the_table_does_not_use() -> None:
    assert set(OUTSIDE_DICOM) <= {code.value for entry in ENTRIES.values() for code in codes_of(entry)}


def test_names_are_unique_and_normal() -> None:
    names = [name for key, entry in ENTRIES.items() for name in (key, *entry.get("names", ()))]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if structures._normalised(name) != name] == []
    assert not any(is_background(name) for name in names)


def test_labels_and_colours_are_unique() -> None:
    found = [resolved(key) for key in ENTRIES]
    assert len({structure.label.lower() for structure in found}) == len(found)
    assert len({structure.rgb for structure in found}) == len(found)


@pytest.mark.parametrize(("key", "entry"), ENTRIES.items(), ids=ENTRIES)
def test_a_side_is_said_once_and_is_the_side_of_the_name(key: str, entry: dict[str, Any]) -> None:
    named = SIDE.findall(key)
    said = [side for code in codes_of(entry) for side in SIDE.findall(code.meaning)]
    assert [side.lower() for side in said] == named


@pytest.mark.parametrize("key", [key for key in ENTRIES if SIDE.search(key) and key not in UNPAIRED])
def test_left_and_right_differ_in_their_side_alone(key: str) -> None:
    other = re.sub(SIDE, lambda side: {"left": "right", "right": "left"}[side[0]], key)
    here, there = resolved(key), resolved(other)
    assert here.rgb != there.rgb
    assert here.category == there.category
    for ours, theirs in ((here.property_type, there.property_type), (here.region, there.region)):
        if ours is None or theirs is None:
            assert ours is theirs
        elif SIDE.search(ours.meaning):
            assert SIDE.sub("", ours.meaning).lower() == SIDE.sub("", theirs.meaning).lower()
            assert ours.value != theirs.value
        else:
            assert ours == theirs
    assert (here.laterality is None) is (there.laterality is None)
    names = {SIDE.sub("*", name) for name in ENTRIES[key].get("names", ()) if SIDE.search(name)}
    assert names == {SIDE.sub("*", name) for name in ENTRIES[other].get("names", ()) if SIDE.search(name)}


@pytest.mark.parametrize("bundle", LABELS)
def test_the_labels_of_zoo_bundles_resolve(bundle: str) -> None:
    found = [resolved(name, bundle) for name in LABELS[bundle]]
    assert len({structure.label for structure in found}) == len(found), "a segment's label names one segment"
    colours = [structure.rgb for structure in found]
    assert all(math.dist(one, other) >= 5 for one, other in itertools.combinations(colours, 2))
    assert [resolved(structure.label, bundle) for structure in found] == found


def test_the_lists_of_this_test_are_whole() -> None:
    assert len(LABELS["wholeBody_ct_segmentation"]) == 104
    assert len(LABELS["wholeBrainSeg_Large_UNEST_segmentation"]) == 132
    assert len(LABELS["vista3d"]) == 132


@pytest.mark.parametrize("name", FURTHER_NAMES)
def test_further_names_resolve(name: str) -> None:
    resolved(name)


@pytest.mark.parametrize(
    "name",
    [
        *("left kidney", "kidney_left", "kidney left", "Left Kidney", "LEFT-KIDNEY", "kidney, left", "lkidney"),
        *("L. kidney", "lt kidney", "Kidney (left)", "left kidney (native)", "kidney [left, transplant]"),
        *("  left   kidney ", "left kidney (left)"),
    ],
)
def test_spellings_of_one_name(name: str) -> None:
    structure = resolved(name)
    assert structure.label == "Left kidney"
    assert structure.category == ANATOMICAL_STRUCTURE
    assert structure.property_type == Code("64033007", "SCT", "Kidney")
    assert structure.laterality == LEFT
    assert structure.region is None


def test_a_type_that_says_its_side_has_no_modifier() -> None:
    lung, kidney = resolved("lung_right"), resolved("kidney_right")
    assert (lung.property_type, lung.laterality) == (Code("3341006", "SCT", "Right lung"), None)
    assert kidney.laterality == RIGHT


def test_british_spelling() -> None:
    assert find_structure("Hepatic tumour") == resolved("hepatic tumor")
    assert find_structure("Oesophagus") == resolved("esophagus")


@pytest.mark.parametrize(
    "name", ["", "(left)", "left", "kidneyish", "left left", "label 7", "left and right kidney", "é"]
)
def test_unknown_names_give_nothing(name: str) -> None:
    assert find_structure(name) is None
    assert find_in("spleen_ct_segmentation", name) is None
    assert find_in("no_such_bundle", name) is None


def test_a_name_can_mean_something_else_in_a_bundle() -> None:
    plain = resolved("tumor")
    pancreatic = resolved("Tumour", "pancreas_ct_dints_segmentation")
    assert plain.region is None
    assert (pancreatic.category, pancreatic.property_type) == (ABNORMAL, NEOPLASM)
    assert pancreatic.region == Code("15776009", "SCT", "Pancreas")
    assert resolved("neoplasm", "pancreas_ct_dints_segmentation") == pancreatic, "another word for the same"
    assert resolved("tumor", "some_other_bundle") == plain
    assert resolved("artery", "renalStructures_CECT_segmentation").region == Code("64033007", "SCT", "Kidney")
    assert resolved("artery", "multi_organ_segmentation").region == Code("818981001", "SCT", "Abdomen")
    assert resolved("artery").region is None
    assert "Left Ventricle" in resolved("myocardium", "ventricular_short_axis_3label").property_type.meaning


@pytest.mark.parametrize("name", LABELS["brats_mri_segmentation"])
def test_brain_tumors_are_in_the_brain(name: str) -> None:
    structure = resolved(name, "brats_mri_segmentation")
    assert structure.category == ABNORMAL
    assert structure.region == Code("12738006", "SCT", "Brain")


def test_what_has_no_code_of_its_own_has_a_region() -> None:
    general = [resolved(key) for key in ENTRIES if resolved(key).property_type == TISSUE]
    assert general
    assert all(structure.region is not None and structure.category == TISSUE for structure in general)


@pytest.mark.parametrize("bundle", CONTENT["bundles"])
def test_a_bundles_own_names_lead_to_structures(bundle: str) -> None:
    own = CONTENT["bundles"][bundle].get("names", {})
    assert set(own.values()) <= set(ENTRIES)
    for name, meant in own.items():
        assert structures._normalised(name) == name
        assert find_in(bundle, name) == find_structure(meant)


@pytest.mark.parametrize("bundle", [bundle for bundle, entry in CONTENT["bundles"].items() if "segments" in entry])
def test_segments_are_those_of_the_zoo_in_its_order(bundle: str) -> None:
    segments = segments_of(bundle)
    assert segments is not None
    assert [value for value, _ in segments] == list(range(1, len(LABELS[bundle]) + 1))
    assert [find_in(bundle, name) for _, name in segments] == [find_in(bundle, name) for name in LABELS[bundle]]


def test_bundles_go_by_several_names() -> None:
    assert segments_of("Spleen CT segmentation") == segments_of("spleen_ct_segmentation") == ((1, "spleen"),)
    assert segments_of("spleen_ct_segmentation_v0.5.3") == ((1, "spleen"),)
    assert segments_of("Whole body CT segmentation") == segments_of("wholeBody_ct_segmentation")
    assert segments_of("CT-Ped-Abdominal-Seg") == ((1, "liver"), (2, "spleen"), (3, "pancreas"))


@pytest.mark.parametrize("bundle", ["", "no_such_bundle", "renalStructures_CECT_segmentation", "vista3d"])
def test_other_bundles_have_no_segments_here(bundle: str) -> None:
    assert segments_of(bundle) is None


@pytest.mark.parametrize(
    "name", ["background", "Background", "BG", "everything else", "none", "unlabeled", "Unlabelled", "background (0)"]
)
def test_background(name: str) -> None:
    assert is_background(name)


@pytest.mark.parametrize("name", ["", "spleen", "background tissue of breast", "image", "other"])
def test_not_background(name: str) -> None:
    assert not is_background(name)


def test_the_digest_is_that_of_the_file() -> None:
    assert table_digest() == hashlib.sha256(FILE.read_bytes()).hexdigest()


def test_looking_up_needs_no_torch() -> None:
    code = "import sys; from inference.structures import find_structure; find_structure('liver'); "
    code += "sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
