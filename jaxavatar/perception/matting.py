"""The person's coverage: a coarse network, then the photo's own edges.

The segmentation network answers at 256 x 256. Its answer is refined with a guided filter, which
makes the matte a locally linear function of the photo's colours, so that edges and hair follow the
photo. Sources: MediaPipe selfie segmentation; He, Sun & Tang, "Guided Image Filtering" (2013);
He & Sun, "Fast Guided Filter" (2015).
"""
