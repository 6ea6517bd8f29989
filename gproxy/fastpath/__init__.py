"""Speed: every place that bends a library, with its reason, its measured gain and its switch."""
