"""Folders with exactly their owners' layout, phantoms for pixels, and the traps of each.

Every function writes below a folder and returns the image ids that an adapter must find. Kept for tests of evaluation.
"""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from dicoms import dicom
from PIL import Image

from chexworld_ray.phantoms.dataset import Phantom, make_phantom
from chexworld_ray.shards.sources.chestdr import LABELS as CHESTDR_LABELS
from chexworld_ray.shards.sources.mimic import CHEXPERT_LABELS

SIZE = 96
VINDR_GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
VINDR_LOCAL = ("Aortic enlargement", "Atelectasis", "Cardiomegaly", "Pleural effusion")


def phantom(number: int) -> Phantom:
    return make_phantom(11, number, SIZE)


def write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]], packed: bool = False) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    data = text.getvalue().encode()
    write(file, gzip.compress(data) if packed else data)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def finding(number: int, name: str) -> bool:
    return phantom(number).findings.get(name, False)


def chexpert_cells(number: int) -> list[str]:
    """14 cells: 1.0, 0.0, -1.0 or empty."""
    values = ("1.0", "0.0", "-1.0", "")
    return [values[(number + column) % 4] for column in range(len(CHEXPERT_LABELS))]


def mimic(root: Path, images: int = 8) -> list[str]:
    """Two images a study, two studies a patient; 2.1.0's radiologists' labels name only the study."""
    metadata, split, labels, ids = [], [], [], []
    for number in range(images):
        subject, study = 10000032 + number // 4, 50414267 + number // 2
        name = f"{number:08x}-d9b29e7a-1ae8a2a9-5e4ce6d4-a4ed2ba4"
        path = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{name}.jpg"
        write(root / path, jpeg(phantom(number).image_HW))
        write(root / path.replace(".jpg", ".txt"), b"a report that is not read")
        of_split = ("train", "validate", "test")[number // 4 % 3]
        metadata.append(
            [name, subject, study, "CHEST (PA AND LAT)", ("PA", "LATERAL", "AP", "")[number % 4], SIZE, SIZE]
        )
        split.append([name, study, subject, of_split])
        if number % 2 == 0:
            labels.append([subject, study, *chexpert_cells(number)])
        ids.append(name)
    metadata_header = ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"]
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", [*metadata_header, "Rows", "Columns"], metadata, packed=True)
    table(root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], split, packed=True)
    header = ["subject_id", "study_id", *CHEXPERT_LABELS]
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", header, labels[:-1], packed=True)  # some studies have no labels
    table(root / "mimic-cxr-2.0.0-negbio.csv.gz", header, labels, packed=True)
    radiologists = ["study_id", *("Airspace Opacity" if name == "Lung Opacity" else name for name in CHEXPERT_LABELS)]
    table(root / "mimic-cxr-2.1.0-test-set-labeled.csv", radiologists, [row[1:] for row in labels[1:2]])
    return ids


def chexpert(root: Path, small: bool = False, images: int = 8, test: int = 2) -> list[str]:
    """Path starts with the release's folder name, which the user has renamed."""
    release = "CheXpert-v1.0-small" if small else "CheXpert-v1.0"
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS]
    ids = []
    for split, of_split in (("train", range(images)), ("valid", range(images, images + test))):
        rows = []
        for number in of_split:
            view = "lateral" if number % 4 == 3 else "frontal"
            path = f"{split}/patient{number // 2 + 1:05d}/study1/view{number % 2 + 1}_{view}.jpg"
            write(root / path, jpeg(phantom(number).image_HW))
            position = "" if view == "lateral" else ("AP", "PA")[number % 2]
            rows.append(
                [f"{release}/{path}", "Female", 40 + number, view.capitalize(), position, *chexpert_cells(number)]
            )
            ids.append(path)
        table(root / f"{split}.csv", header, rows)
    return ids


def chexpert_in_batches(root: Path, images: int = 8, test: int = 2) -> list[str]:
    """As Stanford AIMI ships it now: four folders, training patients without `train/`."""
    ids = chexpert(root, images=images, test=test)
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    for name in ("train.csv", "valid.csv", "valid"):
        (root / name).rename(first / name)
    for number, patient in enumerate(sorted((root / "train").iterdir())):
        batch = root / f"CheXpert-v1.0 batch {2 + number % 3} (train {1 + number % 3})"
        batch.mkdir(exist_ok=True)
        patient.rename(batch / patient.name)
    (root / "train").rmdir()
    return ids


def nih14(root: Path, images: int = 10, version: str = "", one_folder: bool = False, test: int = 2) -> list[str]:
    """Findings joined by |, a trailing comma in the header, a broken header of boxes, and two lists of splits."""
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    lines = [header + "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"]
    names = []
    for number in range(images):
        name = f"{number // 2 + 1:08d}_{number % 2:03d}.png"
        folder = "images" if one_folder else f"images_{number % 2 + 1:03d}/images"
        write(root / folder / name, png(phantom(number).image_HW))
        labels = ("Cardiomegaly|Emphysema", "No Finding", "Pleural_Thickening|Infiltration")[number % 3]
        age = f"{40 + number:03d}Y" if number % 2 else str(40 + number)
        position = ("PA", "AP")[number % 2]
        lines.append(f"{name},{labels},{number % 2},{number // 2 + 1},{age},F,{position},2682,2749,0.143,0.143,")
        names.append(name)
    write(root / f"Data_Entry_2017{version}.csv", ("\n".join(lines) + "\n").encode())
    write(root / "train_val_list.txt", "\n".join(names[:-test]).encode())
    write(root / "test_list.txt", "\n".join(names[-test:]).encode())
    boxes = f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{names[2]},Infiltrate,10.5,20.25,30,12.5,,,\n"
    write(root / "BBox_List_2017.csv", boxes.encode())
    return names


def vindr(root: Path, images: int = 4, test: int = 1) -> list[str]:
    """Three readers an image in train, who disagree; their consensus in test; boxes of each reader."""
    labels = [*VINDR_LOCAL, *VINDR_GLOBAL]
    ids, train, boxes = [], [], []
    for number in range(images):
        name = f"{number:032x}"
        # PatientID in the header of a public file is of no use, and not read
        write(root / "train" / f"{name}.dicom", dicom(phantom(number).image_HW, PatientID=""))
        agreed = [column == 0 or (number >= 4 and (number + column) % 2 == 0) for column in range(len(labels))]
        alone = [(number + column) % 3 == 0 for column in range(len(labels))]
        for reader in range(3):
            said = map(int, agreed if reader < 2 else alone)
            train.append([name, f"R{reader + 8}", *said])
        boxes += [
            [name, "R8", "Aortic enlargement", 10, 20, 40.5, 60],
            [name, "R9", "Aortic enlargement", 12, 20, 40, 60],
        ]
        boxes.append([name, "R10", "No finding", "", "", "", ""])
        ids.append(name)
    header = ["image_id", "rad_id", *labels]
    table(root / "annotations" / "image_labels_train.csv", header, train)
    corners = ["class_name", "x_min", "y_min", "x_max", "y_max"]
    table(root / "annotations" / "annotations_train.csv", ["image_id", "rad_id", *corners], boxes)
    names = [f"{images + 95 + number:032x}" for number in range(test)]
    consensus = []
    for number, name in enumerate(names):
        write(root / "test" / f"{name}.dicom", dicom(phantom(images + 5 + number).image_HW, PatientID=""))
        consensus.append([name, *(int((number + column * (number > 0)) % 2 == 0) for column in range(len(labels)))])
    table(root / "annotations" / "image_labels_test.csv", ["image_id", *labels], consensus)
    marks = [[names[0], "Atelectasis", 1, 2, 3, 4]]
    table(root / "annotations" / "annotations_test.csv", ["image_id", *corners], marks)
    return [*ids, *names]


def rsna(root: Path, images: int = 6) -> list[str]:
    """Several boxes an image mean several rows; the class table repeats them."""
    rows, classes, ids = [], [], []
    for number in range(images):
        patient = f"{number:08d}-16d7-4c9e-8f3d-e981aaaa0000"
        write(root / "stage_2_train_images" / f"{patient}.dcm", dicom(phantom(number).image_HW, PatientID=patient))
        kind = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")[number % 3]
        boxes = [[20, 30, 25, 20], [55.0, 30.0, 20.0, 40.0]] if number % 3 == 0 else [["", "", "", ""]]
        rows += [[patient, *box, int(number % 3 == 0)] for box in boxes]
        classes += [[patient, kind] for _ in boxes]
        ids.append(patient)
    write(root / "stage_2_test_images" / "unlabelled.dcm", dicom(phantom(50).image_HW))
    table(root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], rows)
    table(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    return ids


def runs(mask_HW: np.ndarray) -> str:
    """Relative run lengths, column-major, of one region."""
    flat = mask_HW.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    numbers, end = [], 0
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        numbers += [start - end, stop - start]
        end = stop
    return " ".join(map(str, numbers))


def siim_masks() -> list[np.ndarray]:
    """Two regions of one image, 1024 x 1024."""
    masks = [np.zeros((1024, 1024), bool) for _ in range(2)]
    masks[0][100:300, 200:260] = True
    masks[1][500:520, 700:900] = True
    return masks


def siim(root: Path, images: int = 4) -> list[str]:
    """A column name that starts with a blank, -1 for none, and one image whose two regions stand in two rows."""
    lines, ids = ["ImageId, EncodedPixels"], []
    for number in range(images):
        uid = f"1.2.276.0.7230010.3.1.4.8323329.{number}.1517875197.{number}"
        path = root / "dicom-images-train" / f"{uid}.st" / f"{uid}.se" / f"{uid}.dcm"
        pixels = cv2.resize(phantom(number).image_HW, (1024, 1024))
        write(path, dicom(pixels, SOPInstanceUID=uid, PatientID=f"pseudonym-{number // 2}"))
        lines += [f"{uid}, {runs(mask)}" for mask in siim_masks()] if number % 4 == 0 else [f"{uid}, -1"]
        ids.append(uid)
    write(root / "train-rle.csv", ("\n".join(lines) + "\n").encode())
    return ids


def shenzhen(root: Path, images: int = 4) -> list[str]:
    """The class is the last digit of the name; some images have no mask."""
    names = [f"CHNCXR_{number:04d}_{number % 2}" for number in range(1, images + 1)]
    readings = (
        "male 45yrs\nPTB in the left upper field",
        "Female, 32 yrs\nnormal",
        "male 6 months",
        "female  70yrs\n\nSTB",
    )
    for number, (name, reading) in enumerate(zip(names, cycle(readings), strict=False)):
        write(root / "CXR_png" / f"{name}.png", png(phantom(number).image_HW))
        write(root / "ClinicalReadings" / f"{name}.txt", reading.encode())
        if number < images - 1:
            write(root / "mask" / f"{name}_mask.png", png(phantom(number).masks["lung"].astype(np.uint8) * 255))
    return names


def montgomery(root: Path) -> list[str]:
    """Each lung has its own mask, under the image's name."""
    names = [f"MCUCXR_{number:04d}_{number % 2}" for number in range(1, 4)]
    for number, name in enumerate(names):
        lung = phantom(number).masks["lung"].astype(np.uint8) * 255
        write(root / "CXR_png" / f"{name}.png", png(phantom(number).image_HW))
        reading = f"Patient's Sex: {'FM'[number % 2]}\nPatient's Age: {26 + number:03d}Y\nnormal\n\n"
        write(root / "ClinicalReadings" / f"{name}.txt", reading.encode())
        for side, columns in (("left", slice(SIZE // 2, None)), ("right", slice(None, SIZE // 2))):
            half = np.zeros_like(lung)
            half[:, columns] = lung[:, columns]
            write(root / "ManualMask" / f"{side}Mask" / f"{name}.png", png(half))
    return names


def jsrt(root: Path) -> list[str]:
    """Raw, inverted, big-endian; masks of half the side."""
    names = ["JPCLN001", "JPCNN002"]
    for number, name in enumerate(names):
        pixels = cv2.resize(phantom(number).image_HW, (2048, 2048)).astype(np.uint16) * 16
        write(root / f"{name}.IMG", (4095 - pixels).astype(">u2").tobytes())
        lung = cv2.resize(phantom(number).masks["lung"].astype(np.uint8) * 255, (1024, 1024))
        heart = cv2.resize(phantom(number).masks["heart"].astype(np.uint8) * 255, (1024, 1024))
        left, right = lung.copy(), lung.copy()
        left[:, :512], right[:, 512:] = 0, 0
        organs = {
            "heart": heart,
            "left lung": left,
            "right lung": right,
            "left clavicle": heart,
            "right clavicle": heart,
        }
        for organ, mask in organs.items():
            buffer = io.BytesIO()
            Image.fromarray(mask).save(buffer, "GIF")
            write(root / "masks" / organ / f"{name}.gif", buffer.getvalue())
    return names


def chestdr(root: Path, images: int = 12, test: int = 3) -> list[str]:
    """Published draws overlap: an image trains in one and validates in another."""
    names = [f"{number:04d}_{number}.png" for number in range(images)]
    lines = {}
    for number, name in enumerate(names):
        write(root / "images" / name, png(phantom(number).image_HW))
        labels = ",".join(str(int((number + column) % 5 == 0)) for column in range(len(CHESTDR_LABELS)))
        lines[name] = f"{name} {labels}"
    training, tested = names[:-test], names[-test:]
    for shots in (1, 5, 10):
        for draw in range(1, 6):
            turned = training[draw:] + training[:draw]
            parts = {"train": turned[: 1 + shots // 5], "val": turned[4:7]}
            for part, members in parts.items():
                text = "\n".join(lines[name] for name in members) + "\n"
                write(root / f"chest_{shots}-shot_{part}_exp{draw}.txt", text.encode())
    write(root / "trainval.txt", "\n".join(lines[name] for name in training).encode())
    write(root / "test.txt", "\n".join(lines[name] for name in tested).encode())
    return names
