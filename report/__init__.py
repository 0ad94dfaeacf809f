"""What is looked at: TensorBoard, pictures, pages."""
