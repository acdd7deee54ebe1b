"""What a training step costs on machines that need not be at hand."""
