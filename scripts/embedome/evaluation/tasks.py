"""The tasks as data: where each is from, what it asks, how it is scored, and what others published.

Sources of the figures: FLIP (Dallago et al. 2021, doi:10.1101/2021.11.09.467890); BioNeMo 1.7, `docs/bionemo/models/
model-benchmarks.md` and `examples/protein/esm1nv/conf/downstream_flip_*.yaml`; Ankh (Elnaggar et al. 2023,
arXiv:2301.06568) and the README of its repository; light attention (Stärk et al. 2021, doi:10.1093/bioadv/vbab035);
DeepLoc (Almagro Armenteros et al. 2017, doi:10.1093/bioinformatics/btx431).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedome.common.errors import UserError

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
# What has a label: each residue, or the protein as a whole.
RESIDUE, PROTEIN = "residue", "protein"
# What a label is: one of several classes, any number of them, or a number.
CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"
ACCURACY, ACCURACY_BY_PROTEIN, MACRO_F1 = "accuracy", "accuracy_by_protein", "macro_f1"
SPEARMAN, MSE = "spearman", "mse"


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that others published.

    Parameters
    ----------
    model, metric : str
    value : float
        Fractions of 1 for accuracies and correlations.
    source : str
        Where.
    """

    model: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task's row.

    Parameters
    ----------
    name, about : str
    reader : str
        Of `readers.READERS`: the form of the files.
    files : mapping of str to str
        Names of files, plain or compressed, by what is in them.
    level : str
        ``residue`` or ``protein``.
    kind : str
        ``classes``, ``labels`` or ``numbers``.
    metric : str
        By which layers are compared.
    head : str
        Of `head_recipes.RECIPES`: the one of the published figures.
    source : str
        Address, or repository, path and commit.
    licence : str
    counts : tuple of int
        Proteins of train, validation and test, as published; empty where nobody published them.
    counts_by : str
        Who did.
    sha256 : tuple of str
        Of files that embedome's own figures were measured on.
    column : str
        Of the target, where the form has several.
    classes : tuple of str
        In order; empty for numbers, and where they are those that occur.
    longest : int or None
        Residues of a protein above which the published figures leave it out.
    wild_type : str
        Of variants.
    published : tuple of Published
        For this split alone.
    note : str
    """

    name: str
    about: str
    reader: str
    files: Mapping[str, str]
    level: str
    kind: str
    metric: str
    head: str
    source: str
    licence: str
    counts: tuple[int, ...] = ()
    counts_by: str = ""
    sha256: tuple[str, ...] = ()
    column: str = ""
    classes: tuple[str, ...] = ()
    longest: int | None = None
    wild_type: str = ""
    published: tuple[Published, ...] = field(default_factory=tuple)
    note: str = ""


FLIP = "FLIP, J-SNACKKB/FLIP"
FLIP_LICENCE = "AFL-3.0 (split); the data as their publishers have it"
BIONEMO = "BioNeMo 1.7, docs/bionemo/models/model-benchmarks.md"
ANKH = "README of agemagician/Ankh"
CARD = "the model card of ESM-1nv"
# Models of BioNeMo's tables, in the order of the rows below.
BIONEMO_MODELS = ("one-hot", "ESM-1nv", "ProtT5nv", "ProtBERT", "ProtT5", "ESM-2 650M")
LOCATIONS = (
    *("Cell.membrane", "Cytoplasm", "Endoplasmic.reticulum", "Extracellular", "Golgi.apparatus", "Lysosome/Vacuole"),
    *("Mitochondrion", "Nucleus", "Peroxisome", "Plastid"),
)
# metl-pub, data/dms_data/datasets.yml: PDB 1GFL without its first residue.
AVGFP = (
    "SKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDGNYKTRAEV"
    "KFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLSTQSALSKDPNEKRDHMVLLEF"
    "VTAAGITHGMDELYK"
)


def bionemo(metric: str, *values: float) -> tuple[Published, ...]:
    """Return a row of BioNeMo's tables."""
    return tuple(Published(model, metric, value, BIONEMO) for model, value in zip(BIONEMO_MODELS, values, strict=True))


def ankh(metric: str, value: float) -> tuple[Published, ...]:
    """Return a figure of Ankh's README."""
    return (Published("Ankh2-large", metric, value, ANKH),)


def structure(states: int, name: str, about: str, file: str, proteins: int, q: float) -> Task:
    """Return the row of a secondary structure task as Ankh is tested: trained on NetSurfP-2.0's set."""
    return Task(
        name=name,
        about=f"secondary structure in {states} states, {about}",
        reader="netsurfp",
        files={TRAIN: "training_hhblits.csv", TEST: file},
        level=RESIDUE,
        kind=CLASSES,
        metric=ACCURACY,
        head="convbert",
        source="NetSurfP-2.0 (Klausen et al. 2019, doi:10.1002/prot.25674); tests in omarperacha/ps4-dataset and "
        "Rostlab/pbc",
        licence="CC0-1.0 (PS4), AFL-3.0 (PBC)",
        counts=(10_792, 0, proteins),
        counts_by="NetSurfP-2.0's files",
        column=f"dssp{states}",
        classes=tuple("CEH") if states == 3 else tuple("BCEGHIST"),
        published=ankh(ACCURACY, q),
        note="of another train set than training_hhblits.csv, figures are not comparable with those published",
    )


TASKS = {
    task.name: task
    for task in (
        Task(
            name="secondary_structure",
            about="FLIP secondary structure, split sampled: helix, strand or coil of each residue",
            reader="flip",
            files={"sequences": "sequences.fasta", "labels": "sampled.fasta", "mask": "mask.fasta"},
            level=RESIDUE,
            kind=CLASSES,
            metric=ACCURACY,
            head="convolutions",
            source=f"{FLIP} splits/secondary_structure/splits.zip; the 648 test proteins are those of September 2022, "
            "commit 08ac7cb, FLIP has 364 today",
            licence=FLIP_LICENCE,
            counts=(9_712, 1_080, 648),
            counts_by=CARD,
            sha256=(
                "2e9bbbfd18a055bcac7edd4e059a6bf4bb35ca3ad8f8fa4fc3106422652a4726",
                "20ccc9376579f5abc50d7d11529faef756348240bff9ac69be456f6ca08fc843",
                "0cd3d6bbde46a5f6a11997f0e3e8edaceaebf26047ad07b1daff80cf7f2cc780",
                "b904316b5b2224f7f603a8bd6b8a2af460395cbcbbe44cbc54a88e4ca4b430ac",
            ),
            classes=tuple("CEH"),
            longest=510,
            published=bionemo(ACCURACY_BY_PROTEIN, 0.643, 0.773, 0.793, 0.818, 0.854, 0.855),
        ),
        Task(
            name="conservation",
            about="FLIP conservation, split sampled: how conserved each residue is, from 1 to 9",
            reader="flip",
            files={"sequences": "sequences.fasta", "labels": "sampled.fasta"},
            level=RESIDUE,
            kind=CLASSES,
            metric=ACCURACY,
            head="convolutions",
            source=f"{FLIP} splits/conservation/splits.zip, commit 62cace8",
            licence=FLIP_LICENCE,
            counts=(9_392, 555, 519),
            counts_by=CARD,
            sha256=("9b364ba2a378a7abd9b8cf992d38c61b33dff17854fe37997760c8972ce921c5",),
            classes=tuple("123456789"),
            longest=510,
            published=bionemo(ACCURACY_BY_PROTEIN, 0.202, 0.249, 0.256, 0.326, 0.343, 0.329),
        ),
        Task(
            name="scl",
            about="FLIP subcellular localisation, split mixed_soft: one of ten places (DeepLoc 1.0)",
            reader="flip",
            files={"records": "mixed_soft.fasta"},
            level=PROTEIN,
            kind=CLASSES,
            metric=ACCURACY,
            head="mlp-256",
            source=f"{FLIP} splits/scl/splits.zip",
            licence=FLIP_LICENCE,
            counts=(9_503, 1_678, 2_768),
            counts_by=CARD,
            classes=LOCATIONS,
            longest=510,
            published=bionemo(ACCURACY, 0.386, 0.720, 0.764, 0.740, 0.820, 0.791),
            note="23 validation proteins are of cytoplasm and nucleus, which is none of the ten",
        ),
        Task(
            name="meltome",
            about="FLIP meltome, split mixed: melting temperature in °C",
            reader="flip",
            files={"records": "mixed_split.fasta"},
            level=PROTEIN,
            kind=NUMBERS,
            metric=SPEARMAN,
            head="mlp-128",
            source=f"{FLIP} splits/meltome/splits.zip",
            licence=FLIP_LICENCE,
            counts=(22_335, 2_482, 3_134),
            counts_by=CARD,
            longest=510,
            published=bionemo(MSE, 128.21, 82.85, 77.39, 58.87, 44.76, 53.38),
        ),
        Task(
            name="meltome_2021",
            about="FLIP's first meltome split, clustered, of July 2021: melting temperature in °C",
            reader="flip-csv",
            files={"records": "clustered_task.csv"},
            level=PROTEIN,
            kind=NUMBERS,
            metric=SPEARMAN,
            head="mlp-128",
            source=f"{FLIP} tasks/meltome/tasks.zip, commit c64c205",
            licence=FLIP_LICENCE,
            counts=(2_940, 0, 1_504),
            counts_by="FLIP's file",
            sha256=("0841f461187e25dc3741f7d037426471f4957904ec86848d7c3a0c2f5fd7365b",),
            note="not the split of the published figures",
        ),
        Task(
            name="gb1",
            about="FLIP GB1, split two_vs_rest: binding of variants, trained on single and double ones",
            reader="flip",
            files={"records": "two_vs_rest.fasta"},
            level=PROTEIN,
            kind=NUMBERS,
            metric=SPEARMAN,
            head="mlp-128",
            source=f"{FLIP} splits/gb1/splits.zip, commit 62cace8",
            licence=FLIP_LICENCE,
            counts=(381, 43, 8_309),
            counts_by="FLIP's file",
            sha256=("00a3c3d5be56ce35adfbec838db8ff549be369525e151a6978133da34b9fd86f",),
            longest=510,
            published=bionemo(MSE, 2.56, 1.58, 1.60, 1.61, 1.69, 1.67),
        ),
        Task(
            name="gb1_sampled",
            about="FLIP GB1, split sampled: binding of variants",
            reader="flip",
            files={"records": "sampled.fasta"},
            level=PROTEIN,
            kind=NUMBERS,
            metric=SPEARMAN,
            head="mlp-128",
            source=f"{FLIP} splits/gb1/splits.zip, commit 62cace8",
            licence=FLIP_LICENCE,
            counts=(6_289, 699, 1_745),
            counts_by=CARD,
            sha256=("00a3c3d5be56ce35adfbec838db8ff549be369525e151a6978133da34b9fd86f",),
            note="the figures published for GB1 are of the split two_vs_rest, task gb1",
        ),
        structure(3, "ss3_casp12", "CASP12", "CASP12.csv", 20, 0.8418),
        structure(3, "ss3_ts115", "TS115", "TS115_HHblits.csv", 115, 0.8859),
        structure(3, "ss3_cb513", "CB513", "CB513_HHblits.csv", 511, 0.8878),
        structure(8, "ss8_casp12", "CASP12", "CASP12.csv", 20, 0.7290),
        structure(8, "ss8_ts115", "TS115", "TS115_HHblits.csv", 115, 0.7988),
        structure(8, "ss8_cb513", "CB513", "CB513_HHblits.csv", 511, 0.7901),
        Task(
            name="deeploc",
            about="DeepLoc 1.0 localisation: one of ten places",
            reader="deeploc",
            files={
                TRAIN: "deeploc_our_train_set.fasta",
                VAL: "deeploc_our_val_set.fasta",
                TEST: "deeploc_test_set.fasta",
            },
            level=PROTEIN,
            kind=CLASSES,
            metric=ACCURACY,
            head="light-attention",
            source="HannesStark/protein-localization data_files/, commit 7b0be1e",
            licence="MIT (split); DeepLoc 1.0's data",
            counts=(9_503, 1_678, 2_768),
            counts_by="light attention's files",
            column="location",
            classes=LOCATIONS,
            published=(
                Published("light attention on ProtT5", ACCURACY, 0.8601, "Stärk et al. 2021"),
                *ankh(ACCURACY, 0.8257),
            ),
        ),
        Task(
            name="deeploc_membrane",
            about="DeepLoc 1.0: bound to a membrane, or soluble",
            reader="deeploc",
            files={
                TRAIN: "deeploc_our_train_set.fasta",
                VAL: "deeploc_our_val_set.fasta",
                TEST: "deeploc_test_set.fasta",
            },
            level=PROTEIN,
            kind=CLASSES,
            metric=ACCURACY,
            head="convbert",
            source="HannesStark/protein-localization data_files/, commit 7b0be1e",
            licence="MIT (split); DeepLoc 1.0's data",
            column="membrane",
            classes=("M", "S"),
            note="proteins of unknown kind are left out",
        ),
        Task(
            name="solubility",
            about="DeepSol: soluble when expressed in E. coli, or not",
            reader="dsol",
            files={split: split for split in SPLITS},
            level=PROTEIN,
            kind=CLASSES,
            metric=ACCURACY,
            head="convbert",
            source="sameerkhurana10/DSOL_rv0.2 data/, commit 9cc5da7",
            licence="MIT",
            counts=(62_478, 6_942, 2_001),
            counts_by="DeepSol's files",
            classes=("0", "1"),
            published=ankh(ACCURACY, 0.7586),
        ),
        Task(
            name="fluorescence",
            about="avGFP: logarithm of fluorescence, trained on up to three mutations and tested on more",
            reader="variants",
            files={"records": "avgfp.tsv"},
            level=PROTEIN,
            kind=NUMBERS,
            metric=SPEARMAN,
            head="convbert",
            source="gitter-lab/metl-pub data/dms_data/avgfp/avgfp.tsv, commit 40d8fbf (Sarkisyan et al. 2016, "
            "doi:10.1038/nature17995)",
            licence="MIT",
            counts=(21_446, 5_362, 27_217),
            counts_by="TAPE (Rao et al. 2019)",
            sha256=("4d1d46654189d1237ac9d58ee32fbb728e70e93cef401a81b82ca53308d66ed1",),
            wild_type=AVGFP,
            note="TAPE's split in spirit: a fifth of the variants of up to three mutations is validation",
        ),
    )
}


def find_task(name: str) -> Task:
    """Return a task.

    Raises
    ------
    UserError
        Where there is none of the name; lists the names.
    """
    if name not in TASKS:
        raise UserError(f"no task is called {name!r}; expected one of {', '.join(TASKS)}, or own")
    return TASKS[name]
