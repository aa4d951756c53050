"""Images and boxes: COCO files, the drawn data set, views, batches."""
