"""Checkpoints to numbers: detections of every image of a data set, and COCO's own scores for them."""
