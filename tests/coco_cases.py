"""Ground truth, detections and click lists made by hand or at random, for the tests of everything that is scored."""

import numpy as np
import torch

from dealkit.baselines.detector import Objects
from dealkit.clicks import make_clicks


def truth(*boxes: list[float], image_id: int = 1, category_id: int = 1) -> dict:
    """One image (or the one named) with these xywh objects, ids from 1."""
    anns = [{"id": i, "image_id": image_id, "category_id": category_id, "bbox": b} for i, b in enumerate(boxes, start=1)]
    images = [{"id": i, "width": 1000, "height": 1000} for i in (1, 2)]
    return {"images": images, "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}], "annotations": anns}


def found(bbox: list[float], score: float, image_id: int = 1, category_id: int = 1) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def click(coco: dict, *ids: int) -> dict:
    """A click list that clicks these annotations, all of one image and category."""
    by_id = {a["id"]: a for a in coco["annotations"]}
    points = [[by_id[i]["bbox"][0] + by_id[i]["bbox"][2] / 2, by_id[i]["bbox"][1] + by_id[i]["bbox"][3] / 2] for i in ids]
    prompt = {"image_id": by_id[ids[0]]["image_id"], "category_id": by_id[ids[0]]["category_id"], "points": points}
    prompt |= {"labels": [1] * len(ids), "annotation_ids": list(ids)}
    return {"setting": "1/category", "seed": 0, "kind": "centre", "prompts": [prompt]}


def random_case(seed: int, images: int = 12) -> tuple[dict, list[dict], dict]:
    """Several categories, crowds, empty images, equal scores, areas on and off the bins, boxes of 2 to 60 px."""
    rng = np.random.default_rng(seed)
    anns, rows = [], []
    for image_id in range(images):
        for category_id in range(3):
            for _ in range(int(rng.integers(0, 14))):
                w, h = np.exp(rng.uniform(np.log(2), np.log(60), 2)).round(1).tolist()
                x, y = rng.uniform(0, 200, 2).round(1).tolist()
                crowd = {"iscrowd": int(rng.random() < 0.1)} if rng.random() < 0.5 else {"ignore": int(rng.random() < 0.1)}
                ann = {"id": len(anns), "image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h]} | crowd
                anns.append(ann | ({"area": float(rng.choice([64, 256, 1024, w * h]))} if rng.random() < 0.5 else {}))
                for _ in range(int(rng.integers(0, 4))):
                    shift, grow = rng.normal(0, 0.12, 2) * [w, h], np.exp(rng.normal(0, 0.12, 2)) * [w, h]
                    box = [x + shift[0], y + shift[1], *grow.tolist()]
                    rows.append(found(box, float(rng.random().__round__(1)), image_id, category_id))
            for _ in range(int(rng.integers(0, 4))):
                rows.append(found(rng.uniform(1, 100, 4).tolist(), float(rng.random()), image_id, category_id))
    coco = {"images": [{"id": i, "width": 300, "height": 300} for i in range(images)], "annotations": anns}
    coco["categories"] = [{"id": k, "name": str(k)} for k in range(3)]
    rng.shuffle(rows)
    return coco, rows, make_clicks(coco, setting="3/category", seed=seed)


def labels_of(*boxes: list[float], crowd: list[list[float]] = ()) -> Objects:
    """Labels of one image as a detector learns them: xyxy boxes, all of class 0, and crowd regions."""
    boxes, crowd = (torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in (boxes, crowd))
    return Objects(boxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.int64), crowd=crowd)
