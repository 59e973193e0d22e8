"""The official archive layouts, with their quirks, as reproducible bytes (fixed times, owners and order)."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
from PIL import Image

import mat


def tar(entries):
    """An uncompressed tar of (name, bytes) in the order given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_gz(entries):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        file.write(tar(entries))
    return out.getvalue()


def zip_file(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


def shuffled(items, seed):
    """So that neither file numbers nor lists are sorted by class, as in the real sets."""
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def png(data, alpha):
    """A JPEG's pixels as PNG, with a full alpha channel on request: files that are not what their name says."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGBA" if alpha else "RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def grey(data):
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("L").save(out, "JPEG", quality=88, optimize=True)
    return out.getvalue()


# Cats have capital initials in the real set; here the animals that fell on that side by hand. Class ids follow the
# case-insensitive order of the names.
PET_NAMES = {
    "dog": "dog", "rabbit": "Rabbit", "pig": "pig", "frog": "Frog", "panda": "panda", "tiger": "Tiger",
    "monkey": "monkey", "lion": "Lion", "fox": "fox", "owl": "Owl",
}


def pets(items):
    names = sorted(set(PET_NAMES.values()), key=str.lower)
    index = {name: i + 1 for i, name in enumerate(names)}
    species = {name: 1 if name[0].isupper() else 2 for name in names}
    breed = {name: 1 + [n for n in names if species[n] == species[name]].index(name) for name in names}
    counters, entries, lists = {}, [], {"pool": [], "test": []}
    for item in shuffled(items, 1):
        name = PET_NAMES[item.cls]
        counters[name] = counters.get(name, 0) + 1
        stem = f"{name}_{counters[name]}"
        item.id = f"images/{stem}.jpg"
        if stem in ("Tiger_5", "Owl_7"):  # really PNG, the second one with alpha, as a few of the real files are
            item.data = png(item.data, alpha=stem == "Owl_7")
        entries.append((item.id, item.data))
        lists[item.role].append((stem, f"{stem} {index[name]} {species[name]} {breed[name]}"))
    unlisted = np.random.default_rng(2).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(unlisted).save(out, "JPEG", quality=30)
    entries += [("images/Lion_999.jpg", out.getvalue()), ("images/Tiger_1.mat", mat.file([mat.numbers([1], "x")]))]
    header = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:10 Class ids\n#SPECIES: 1: capital initial 2: small initial\n"
    header += "#BREED ID: 1:5 within a species\n#All images of one class carry its name as prefix\n#........\n"
    body = lambda rows: "".join(line + "\n" for _, line in sorted(rows, key=lambda r: r[0].lower()))
    annotations = [
        ("annotations/README", b"Miniature of the Oxford-IIIT Pet layout. SPECIES follows the case of the initial and means nothing else.\n"),
        ("annotations/list.txt", (header + body(lists["pool"] + lists["test"])).encode()),
        ("annotations/test.txt", body(lists["test"]).encode()),
        ("annotations/trainval.txt", body(lists["pool"]).encode()),
    ]
    files = [
        ("images", "images.tar.gz", tar_gz(sorted(entries))),
        ("annotations", "annotations.tar.gz", tar_gz(annotations)),
    ]
    return files, None


def cars(items):
    names = sorted({item.cls for item in items})
    box = lambda: [mat.numbers([v]) for v in (2, 3, 46, 47)]
    images, rows, unlabelled = {"pool": [], "test": []}, {"pool": [], "test": []}, []
    for role, folder in (("pool", "cars_train"), ("test", "cars_test")):
        for number, item in enumerate(shuffled([i for i in items if i.role == role], 3), 1):
            name = f"{number:05}.jpg"
            item.id = f"{folder}/{name}"
            images[role].append((item.id, item.data))
            rows[role].append(box() + [mat.numbers([names.index(item.cls) + 1]), mat.text(name)])
            if role == "test":
                unlabelled.append(box() + [mat.text(name)])
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    without = [f for f in fields if f != "class"]
    devkit = [
        ("devkit/README.txt", b"Miniature of the Stanford Cars layout.\n"),
        ("devkit/cars_meta.mat", mat.file([mat.cell([mat.text(n) for n in names], "class_names")])),
        ("devkit/cars_test_annos.mat", mat.file([mat.struct_array(unlabelled, without, "annotations")])),
        ("devkit/cars_train_annos.mat", mat.file([mat.struct_array(rows["pool"], fields, "annotations")])),
    ]
    files = [
        ("train-images", "cars_train.tgz", tar_gz(images["pool"])),
        ("test-images", "cars_test.tgz", tar_gz(images["test"])),
        ("devkit", "car_devkit.tgz", tar_gz(devkit)),
        ("test-labels", "cars_test_annos_withlabels.mat", mat.file([mat.struct_array(rows["test"], fields, "annotations")])),
    ]
    return files, None


def flowers(items):
    names = sorted({item.cls for item in items})
    numbered = list(enumerate(shuffled(items, 4), 1))
    for number, item in numbered:
        item.id = f"jpg/image_{number:05}.jpg"
    labels = [names.index(item.cls) + 1 for _, item in numbered]
    train, valid, test = [], [], []
    for name in names:
        pool = [n for n, item in numbered if item.cls == name and item.role == "pool"]
        train, valid = train + pool[::2], valid + pool[1::2]
        test += [n for n, item in numbered if item.cls == name and item.role == "test"]
    variables = [mat.numbers(v, k) for k, v in (("trnid", train), ("valid", valid), ("tstid", test))]
    files = [
        ("images", "102flowers.tgz", tar_gz([(item.id, item.data) for _, item in numbered])),
        ("labels", "imagelabels.mat", mat.file([mat.numbers(labels, "labels")])),
        ("splits", "setid.mat", mat.file(variables)),
    ]
    return files, names


# Mixed case, as in the real set, where a byte-wise sort puts the capitals first.
CALTECH_FOLDERS = {"butterfly": "Butterfly", "umbrella": "Umbrella"}


def caltech(items, background):
    """`background` are drawings of no class, for the folder that the protocol leaves out."""
    names = sorted({item.cls for item in items})
    counters, entries, split = {}, [], {"train": [], "val": [], "test": []}
    for item in shuffled(items, 5):
        folder = CALTECH_FOLDERS.get(item.cls, item.cls.replace(" ", "_"))
        counters[folder] = counters.get(folder, 0) + 1
        item.id = f"{folder}/image_{counters[folder]:04}.jpg"
        if item.id in ("anchor/image_0003.jpg", "crab/image_0008.jpg"):  # single-channel files, as in the real set
            item.data = grey(item.data)
        entries.append((f"101_ObjectCategories/{item.id}", item.data))
    for name in names:
        rows = lambda role: [[i.id, names.index(name), name] for i in sorted(items, key=lambda i: i.id) if i.cls == name and i.role == role]
        split["train"] += rows("pool")[4:]
        split["val"] += rows("pool")[:4]
        split["test"] += rows("test")
    for number, data in enumerate(background, 1):
        entries.append((f"101_ObjectCategories/BACKGROUND_Google/image_{number:04}.jpg", data))
    entries.append(("101_ObjectCategories/BACKGROUND_Google/tmp", b"not an image\n"))
    inner = tar_gz(sorted(entries))
    outer = zip_file([
        ("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"\0\5\x16\7"),
        ("caltech-101/101_ObjectCategories.tar.gz", inner),
        ("caltech-101/Annotations.tar", tar([("Annotations/README", b"not part of the miniature\n")])),
        ("caltech-101/show_annotation.m", b"% not part of the miniature\n"),
    ])
    files = [
        ("archive", "caltech-101.zip", outer),
        ("coop-split", "split_zhou_Caltech101.json", (json.dumps(split) + "\n").encode()),
    ]
    return files, None


def folders(items):
    """`item.id` is set already: train/<class>/<file> or test/<class>/<file>."""
    return [("archive", "mini-fashion.tar.gz", tar_gz(sorted((item.id, item.data) for item in items)))], None
