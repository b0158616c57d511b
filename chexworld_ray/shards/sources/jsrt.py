"""JSRT with the masks of SCR: 247 posterior-anterior radiographs, 154 with a lung nodule, 93 without.

Release: JSRT 1997; SCR 2006. Layout: `JPCLN001.IMG` (nodule) and `JPCNN001.IMG` (none): raw 2048 x 2048, 16-bit
big-endian, 12 bits used, inverted (0 is white); `masks/{heart,left lung,right lung,left clavicle,right
clavicle}/JPCLN001.gif`. Labels: `nodule`. Masks: the five organs, and `lung`, both lungs. Splits: none by the owner,
hence by hash. Patient: each image is its own. Licence: free for research, with the citation; SCR for non-commercial
research. Citation: Shiraishi et al., AJR 2000; van Ginneken et al., Segmentation of anatomical structures in chest
radiographs using supervised methods, Medical Image Analysis 2006.
"""

from collections.abc import Iterator

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import Source, SourceRow, picture_masks
from chexworld_ray.shards.sources.listing import Listing, collect

ORGANS = ("heart", "left lung", "right lung", "left clavicle", "right clavicle")


def read_jsrt(listing: Listing, skip_missing: bool) -> Source:
    """One row for each .IMG file.

    Raises:
        UserError: there is none.
    """
    pictures = listing.matching(r"(?i)JPC[LN]N\d+\.IMG")
    if not pictures:
        raise UserError(f"{listing.root.url}: no JPCLN001.IMG or the like below it; a folder of JSRT has them")

    def rows() -> Iterator[SourceRow]:
        for path in pictures:
            name = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
            files = {organ.replace(" ", "_"): listing.find(f"{name}.gif", organ) for organ in ORGANS}
            yield SourceRow(
                image_id=name,
                path=path,
                dataset="jsrt",
                patient_id=name,
                view="PA",
                masks=picture_masks(files),
                labels={"nodule": float(name[3].upper() == "L")},
                encoding="jsrt",
                published=True,
            )

    columns = Columns(("nodule",), ("lung", *(organ.replace(" ", "_") for organ in ORGANS)))
    return collect(listing, rows(), columns, skip_missing, listing.root.url)
