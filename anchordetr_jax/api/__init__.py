"""The detector in Python: `Detector` with training and evaluation, `train`, and the run that they give back.

It is the room above `prediction/` and `training/`. So `prediction.Detector` need not know how one trains, and the class
that users get adds two methods to it.
"""
