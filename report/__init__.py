"""Shows runs: TensorBoard, pictures and HTML pages. The only package that imports matplotlib."""
