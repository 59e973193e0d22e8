"""Writes mini-pets as the parquet files that the cookbook's recipe loads, below the working folder: cookbook_data.py REPOSITORY"""

import io
import sys
import tarfile

from datasets import ClassLabel, Dataset, Features, Image

mini = sys.argv[1] + "/datasets/mini/mini-pets/"
lists, images = {}, {}
with tarfile.open(mini + "annotations.tar.gz") as archive:
    for split, name in (("train", "trainval"), ("test", "test")):
        lines = archive.extractfile(f"annotations/{name}.txt").read().decode().split("\n")
        lists[split] = [line.split()[0] for line in lines if line and not line.startswith("#")]
with tarfile.open(mini + "images.tar.gz") as archive:
    for member in archive:
        if member.name.endswith(".jpg"):
            images[member.name.removeprefix("images/").removesuffix(".jpg")] = archive.extractfile(member).read()
names = sorted({name.rsplit("_", 1)[0] for names in lists.values() for name in names})
features = Features(image=Image(), label=ClassLabel(names=[name.lower() for name in names]))
for split, files in lists.items():
    rows = [{"image": {"bytes": images[name], "path": None}, "label": names.index(name.rsplit("_", 1)[0])} for name in files]
    Dataset.from_list(rows, features=features).to_parquet(f"dpdl-benchmark/oxford_iiit_pet/{split}-00000-of-00001.parquet")
    print(split, len(rows), "images of", len(names), "classes")
