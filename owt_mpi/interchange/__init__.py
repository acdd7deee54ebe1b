"""Trained networks as other programs have them: safetensors with PyTorch's names and order, ONNX."""
