"""Images and videos to detections."""
